"""Speech to text, as the sound comes in."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openxlstm.data.alphabet import Alphabet
from openxlstm.data.log_mel import LogMel
from openxlstm.data.resample import Resampler
from openxlstm.inference.ctc import decoder
from openxlstm.models.sequence import SequenceModel

STEPS_AT_ONCE = 256  # of the model: bounds the memory of long pieces
SILENCE = 0.4
"""Seconds of silence behind the last sample: a model names a word a moment after it has ended."""


class Latency(NamedTuple):
    """What the pieces of a stream cost: their number, and the mean and the largest seconds from a piece to its text."""

    num_pieces: int
    mean: float
    worst: float


class Recognizer:
    """Reads one stream of sound and gives out text: `feed(samples)` as often as there are samples, then `finish()`.

    Memory does not grow with the stream: what is kept is the state of the model (which grows with `attention` blocks alone), a
    few samples, and the labels that a beam search has not decided. The text is the same however the stream is cut into pieces.

    model: a SequenceModel trained with CTC on `features`, whose outputs are the labels of `alphabet`. rate: samples a second of
    what is fed; None is that of the features. beam: width of a prefix beam search; 0 takes the likeliest label of each step.
    Raises ValueError where the three do not fit together.
    """

    def __init__(
        self, model: SequenceModel, features: LogMel, alphabet: Alphabet, *, rate: int | None = None, beam: int = 0
    ) -> None:
        reads, answers = model.config.input_dim, model.config.num_outputs
        if (reads, answers) != (features.dim, len(alphabet)):
            raise ValueError(
                f"the model reads {reads} numbers and answers {answers}; the features have {features.dim} and the labels are "
                f"{len(alphabet)}"
            )
        self.model, self.features, self.alphabet = model.eval(), features, alphabet
        self.rate = rate or features.rate
        self._weight = next(model.parameters())
        self._resampler = Resampler(self.rate, features.rate)
        self._frames = features.stream()
        self._decoder = decoder(beam)
        self._state: Any = None
        self._begun = False  # some text was given out
        self._samples = 0
        self._pieces, self._spent, self._worst = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """How much was heard."""
        return self._samples / self.rate

    @property
    def latency(self) -> Latency:
        """Of the pieces that were fed."""
        return Latency(self._pieces, self._spent / max(self._pieces, 1), self._worst)

    def feed(self, samples: Tensor) -> str:
        """Hear samples [N], one channel from -1 to 1. Returns the text that is certain now, often "": all that `feed` and
        `finish` return, put together, is the text of the stream."""
        start = time.perf_counter()
        self._samples += len(samples)
        text = self._text(self._hear(self._resampler.feed(samples)))
        spent = time.perf_counter() - start
        self._pieces, self._spent, self._worst = self._pieces + 1, self._spent + spent, max(self._worst, spent)
        return text

    def finish(self) -> str:
        """The rest of the text, at the end of the stream."""
        rest = torch.cat([self._resampler.finish(), torch.zeros(round(SILENCE * self.features.rate))])
        return self._text([*self._hear(rest), *self._decoder.finish()])

    @torch.no_grad()
    def _hear(self, samples: Tensor) -> list[int]:
        """The labels that are certain after these samples, at the rate of the features."""
        found: list[int] = []
        for piece in samples.split(STEPS_AT_ONCE * self.features.step):
            steps = self._frames.feed(piece)
            if len(steps):
                x = steps[None].to(self._weight.device, self._weight.dtype)
                outputs, self._state = self.model(x, self._state)
                found += self._decoder.push(outputs[0].float().log_softmax(-1).cpu())
        return found

    def _text(self, labels: list[int]) -> str:
        if not labels:
            return ""
        text = (self.alphabet.joiner if self._begun else "") + self.alphabet.text(labels)
        self._begun = True
        return text
