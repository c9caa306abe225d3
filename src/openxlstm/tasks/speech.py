"""Speech: spoken digits, one at a time and in sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.alphabet import Alphabet, of_letters, of_words
from openxlstm.data.log_mel import LogMel
from openxlstm.data.spoken_digits import Recording, read_recordings
from openxlstm.data.windows import IGNORE, mix
from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.generated import length_range
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, Split, nothing_scored

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OFFICIAL_TEST = 5  # recordings 0 to 4 of each digit by each speaker
STEPS_AT_ONCE = 16_384  # in a batch for evaluation
WINDOW, HOP = 0.032, 0.010  # seconds of a frame, and from frame to frame
MASKS = 2  # of each kind, in a training sample


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """A number between the two."""
    return low + (high - low) * float(torch.rand((), generator=rng))


@dataclass(frozen=True, kw_only=True)
class SpeechTask(FileTask):
    """Speech as log-mel features, with the recordings of the Free Spoken Digit Dataset.

    source: the folder with the recordings <digit>_<speaker>_<number>.wav, or with .tar.gz files of them, or one such file.
    split: "official" (recordings 0 to 4 of each digit by each speaker are the test part), or the name of a speaker, who is then
        the test part alone and is heard nowhere else.
    validation_recordings: of each digit by each speaker of the rest, from recording 5 on, are kept for validation.
    rate: samples a second; recordings at another rate are brought to it.
    num_mels: bands of the features.
    mel_scale: "slaney" or "htk".
    stack: frames of 32 ms, one every 10 ms, that are a step of the model together.
    speed: training recordings are played faster or slower by up to this share, in pitch too.
    gain: and louder or softer by up to so many decibels.
    noise: and with white noise of up to this standard deviation, where 1 is full scale.
    time_mask: SpecAugment: up to so many steps of training features are blanked, twice; at most a fifth of them at once.
    mel_mask: SpecAugment: up to so many bands are blanked, twice.
    """

    needs: ClassVar[str] = "a folder with the recordings of the Free Spoken Digit Dataset, or with .tar.gz files of them"

    split: str = "official"
    validation_recordings: int = 4
    rate: int = 8000
    num_mels: int = 40
    mel_scale: Literal["slaney", "htk"] = "slaney"
    stack: int = 2
    speed: float = 0.1
    gain: float = 6.0
    noise: float = 0.003
    time_mask: int = 2
    mel_mask: int = 4

    def __post_init__(self) -> None:
        if self.validation_recordings < 1:
            raise UserError(f"data.validation_recordings={self.validation_recordings} must be at least 1")
        for name in ("gain", "noise", "time_mask", "mel_mask"):
            if not getattr(self, name) >= 0:
                raise UserError(f"data.{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.speed < 1:
            raise UserError(f"data.speed={self.speed} must be from 0 to below 1")
        if self.mel_mask > self.num_mels:
            raise UserError(f"data.mel_mask={self.mel_mask} is more than data.num_mels={self.num_mels}")
        self.features  # noqa: B018 (refuses what no filters can be made of)

    @property
    def features(self) -> LogMel:
        """What models read."""
        try:
            return LogMel(
                rate=self.rate,
                window=round(WINDOW * self.rate),
                hop=round(HOP * self.rate),
                num_mels=self.num_mels,
                scale=self.mel_scale,
                stack=self.stack,
            )
        except ValueError as error:
            raise UserError(f"data: {error}") from None

    def recordings(self, split: Split) -> tuple[Recording, ...]:
        """One of the three parts. Raises UserError for files that are missing or malformed, and an unknown speaker."""
        self.check_source()
        return self._parts[split]

    @cached_property
    def _parts(self) -> dict[Split, tuple[Recording, ...]]:
        found = read_recordings(self.source, self.rate)
        speakers = sorted({recording.speaker for recording in found})
        if self.split != "official" and self.split not in speakers:
            raise UserError(f"data.split={self.split!r}: expected official or a speaker: {', '.join(speakers)}")
        parts: dict[Split, tuple[Recording, ...]] = {
            split: tuple(recording for recording in found if self.part_of(recording) == split)
            for split in ("train", "validation", "test")
        }
        for split, part in parts.items():
            if not part:
                raise UserError(f"{self.source}: no recording belongs to the {split} part of data.split={self.split}")
        return parts

    def part_of(self, recording: Recording) -> Split:
        """The part that a recording belongs to."""
        official = self.split == "official"
        if recording.number < OFFICIAL_TEST if official else recording.speaker == self.split:
            return "test"
        kept = OFFICIAL_TEST <= recording.number < OFFICIAL_TEST + self.validation_recordings
        return "validation" if kept else "train"

    @property
    def description(self) -> str:
        train = self.recordings("train")
        speakers = len({recording.speaker for recording in train})
        return f"task {self.name}: {len(train):,} recordings of {self.source} to train on, {speakers} speakers"

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        found = self.recordings(split)
        names = [f"{one.digit} {one.speaker} {one.number}" for one in found]
        yield from (*(one.samples.numpy() for one in found), np.array(names))

    def spoken(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """A recording as it might have been: at another speed."""
        if not self.speed:
            return samples
        length = max(round(len(samples) / uniform(rng, 1 - self.speed, 1 + self.speed)), 2)
        return F.interpolate(samples[None, None], size=length, mode="linear", align_corners=True)[0, 0]

    def louder(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """Louder or softer."""
        return samples * 10 ** (uniform(rng, -self.gain, self.gain) / 20)

    def noisy(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """With noise, from none to the most."""
        return samples + uniform(rng, 0, self.noise) * torch.randn(len(samples), generator=rng)

    def heard(self, sounds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features [B, T, F] of sounds of any lengths, zeros behind their ends, and their steps [B]."""
        features = self.features
        # one at a time, which is faster than together: what is in between stays in the cache
        found = [features(F.pad(sound, (0, max(features.sight - len(sound), 0)))) for sound in sounds]  # a step at least
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), torch.tensor([len(steps) for steps in found])

    def masked(self, inputs: Tensor, lengths: Tensor, rng: torch.Generator) -> Tensor:
        """SpecAugment (Park et al. 2019) of features [B, T, F]: steps and bands at random are set to 0, the mean."""
        bands = inputs.unflatten(-1, (self.stack, self.num_mels)).clone()  # [B, T, stack, mels]
        for row, length in enumerate(lengths.tolist()):
            for _ in range(MASKS):
                begin, end = span(length, min(self.time_mask, length // 5), rng)
                bands[row, begin:end] = 0
                begin, end = span(self.num_mels, self.mel_mask, rng)
                bands[row, :length, :, begin:end] = 0
        return bands.flatten(-2)


def span(length: int, most: int, rng: torch.Generator) -> tuple[int, int]:
    """Begin and end of up to `most` places out of `length`."""
    width = int(torch.randint(most + 1, (), generator=rng))
    begin = int(torch.randint(length - width + 1, (), generator=rng))
    return begin, begin + width


@dataclass(frozen=True, kw_only=True)
class SpokenDigits(SpeechTask):
    """Which digit was said? Known at the last step of the recording. 3,000 recordings of 6 speakers."""

    name: ClassVar[str] = "spoken_digits"
    lengths: ClassVar[str] = "6-113"  # steps of the recordings, with the default features

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=self.features.dim, num_classes=len(DIGITS))

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """Of a random split of four of the speakers."""
        return (Anchor("BiLSTM", 0.9841, "github.com/eonu/fsdd", checked=False),)

    def chance(self, length: int) -> float:
        """One of the digits."""
        return 1 / len(DIGITS)

    @property
    def reports(self) -> tuple[str, ...]:
        if not self.source:
            return (self.lengths,)
        sizes = [self.steps(recording) for part in self._parts.values() for recording in part]
        return (f"{min(sizes)}-{max(sizes)}",)

    def steps(self, recording: Recording) -> int:
        """Steps of a recording as it is."""
        return max(self.features.num_steps(len(recording.samples)), 1)

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        pool = self.recordings("train")
        chosen = [pool[number] for number in torch.randint(len(pool), (batch,), generator=rng).tolist()]
        sounds = [self.noisy(self.louder(self.spoken(one.samples, rng), rng), rng) for one in chosen]
        inputs, lengths = self.heard(sounds)
        return self.asked(self.masked(inputs, lengths, rng), lengths, chosen)

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        wanted = length_range(lengths)
        pool = sorted((one for one in self.recordings(split) if self.steps(one) in wanted), key=self.steps)
        if not pool:
            raise UserError(f"{self.source}: no recording of the {split} part is {lengths} steps long")
        rows = max(STEPS_AT_ONCE // self.steps(pool[-1]), 1)
        for start in range(0, len(pool), rows):
            chosen = pool[start : start + rows]
            yield lengths, self.asked(*self.heard([one.samples for one in chosen]), chosen)

    def asked(self, inputs: Tensor, lengths: Tensor, recordings: Sequence[Recording]) -> Batch:
        """A batch that asks for the digit at the last step."""
        targets = nothing_scored(*inputs.shape[:2])
        targets[torch.arange(len(lengths)), lengths - 1] = torch.tensor([one.digit for one in recordings])
        return Batch(inputs, targets, lengths)


class TranscriptBatch(Batch):
    """Speech with its text. The labels are not aligned with the steps: targets are [B, 1 + U] int64, the number of steps of a
    row, which a loss by CTC must know, then its labels, and IGNORE behind them."""

    @property
    def scored(self) -> Tensor:
        """[B, U] bool: the labels."""
        return self.targets[:, 1:] != IGNORE

    def labels(self) -> list[list[int]]:
        """The labels of each row."""
        return [row[chosen].tolist() for row, chosen in zip(self.targets[:, 1:], self.scored)]


def _of_texts(*_: Any) -> Any:
    raise TypeError("the word error rate is of whole texts: training.evaluate_speech measures it")


WORD_ERRORS = Metric(name="word error rate", higher_is_better=False, points=_of_texts, constant=_of_texts)


@dataclass(frozen=True, kw_only=True)
class DigitSequences(SpeechTask):
    """What was said? Sequences of spoken digits with pauses, as text by CTC; scored by the word error rate.

    Each sequence is put together from recordings of one speaker and of one part of the split. Pauses and loudness are drawn for
    every recording, in training, validation and test; the other changes of `SpeechTask` are for training alone.

    stack: frames of 32 ms, one every 10 ms, that are a step of the model together.
    units: what the labels of CTC are, "words" or "letters".
    train_length: digits of a training sequence, N or N-M.
    eval_length: of the sequences that the score is about.
    report_lengths: further lengths to report.
    max_pause: seconds of silence before, between and behind the digits, at most.
    validation_samples: sequences in a validation.
    test_samples: sequences for every reported length or range.
    """

    name: ClassVar[str] = "digit_sequences"

    stack: int = 3
    units: Literal["words", "letters"] = "words"
    train_length: str = "3-7"
    eval_length: str = "3-7"
    report_lengths: tuple[str, ...] = ("15",)
    max_pause: float = 0.4
    validation_samples: int = 200
    test_samples: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        for lengths in (self.train_length, self.eval_length, *self.report_lengths):
            length_range(lengths)
        for name in ("validation_samples", "test_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.max_pause <= 60:
            raise UserError(f"data.max_pause={self.max_pause:g} must be from 0 to 60 seconds")

    @property
    def alphabet(self) -> Alphabet:
        """What the labels mean."""
        return of_words(DIGITS) if self.units == "words" else of_letters(DIGITS)

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=self.features.dim, num_classes=len(self.alphabet))

    @property
    def metric(self) -> Metric:
        """Of whole texts; its points cannot be taken step by step."""
        return WORD_ERRORS

    def chance(self, length: int) -> float:
        """Who says nothing misses every word."""
        return 1.0

    @property
    def trained(self) -> str:
        return self.train_length

    @property
    def reports(self) -> tuple[str, ...]:
        return (self.eval_length, *self.report_lengths)

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        lengths = length_range(self.train_length)
        sizes = torch.randint(lengths[0], lengths[-1] + 1, (batch,), generator=rng).tolist()
        pools = by_speaker(self.recordings("train"))
        rows = [self.sequence(pools, size, rng, training=True) for size in sizes]
        sounds = [self.noisy(sound, rng) for sound, _ in rows]
        inputs, steps = self.heard(sounds)
        return self.transcribed(self.masked(inputs, steps, rng), steps, [digits for _, digits in rows])

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        wanted = length_range(lengths)
        samples = self.validation_samples if split == "validation" else self.test_samples
        pools = by_speaker(self.recordings(split))
        for place, size in enumerate(wanted):
            rng = torch.Generator().manual_seed(mix(self.name, split, size))
            number = samples // len(wanted) + (place < samples % len(wanted))
            rows = [self.sequence(pools, size, rng) for _ in range(number)]
            longest = max((self.features.num_steps(len(sound)) for sound, _ in rows), default=1)
            at_once = max(STEPS_AT_ONCE // max(longest, 1), 1)
            for start in range(0, number, at_once):
                part = rows[start : start + at_once]
                inputs, steps = self.heard([sound for sound, _ in part])
                yield str(size), self.transcribed(inputs, steps, [digits for _, digits in part])

    def sequence(
        self, pools: Sequence[Sequence[Recording]], size: int, rng: torch.Generator, training: bool = False
    ) -> tuple[Tensor, list[int]]:
        """One sequence: its samples, and its digits."""
        pool = pools[int(torch.randint(len(pools), (), generator=rng))]
        parts, digits = [self.pause(rng)], []
        for number in torch.randint(len(pool), (size,), generator=rng).tolist():
            samples = pool[number].samples
            parts += [self.louder(self.spoken(samples, rng) if training else samples, rng), self.pause(rng)]
            digits.append(pool[number].digit)
        return torch.cat(parts), digits

    def pause(self, rng: torch.Generator) -> Tensor:
        """Silence."""
        return torch.zeros(round(uniform(rng, 0, self.max_pause) * self.rate))

    def transcribed(self, inputs: Tensor, steps: Tensor, digits: Sequence[Sequence[int]]) -> TranscriptBatch:
        """A batch that asks for the text of these digits."""
        labels = [self.alphabet.labels([DIGITS[digit] for digit in row]) for row in digits]
        targets = torch.full((len(labels), 1 + max(map(len, labels))), IGNORE)
        targets[:, 0] = steps
        for row, wanted in enumerate(labels):
            targets[row, 1 : 1 + len(wanted)] = torch.tensor(wanted)
        return TranscriptBatch(inputs, targets, steps)


def by_speaker(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """The recordings of each speaker."""
    speakers = dict.fromkeys(recording.speaker for recording in recordings)
    return [[one for one in recordings if one.speaker == speaker] for speaker in speakers]
