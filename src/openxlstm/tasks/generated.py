"""Tasks whose samples are made, at any length, and split by a hash of what the model reads."""

import itertools
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks.task import Batch, Split, Task, nothing_scored

QUARTERS: dict[Split, tuple[int, ...]] = {"train": (0, 1), "validation": (2,), "test": (3,)}
"""Which quarters of the hash values a split has. A large share for the small splits keeps sampling them cheap."""

GROUPS = 8  # a range of lengths is evaluated in so many parts, to see the score over the length
STEPS_AT_ONCE = 32_768  # in a batch for evaluation
ROUNDS = 50  # of sampling for a split before giving up


@dataclass(frozen=True, kw_only=True)
class GeneratedTask(Task):
    """Samples that are made afresh for every training step. A length is the number of steps that a model reads.

    What the model reads is hashed, and the hash chooses the split: half of all possible sequences are for training, a quarter
    each for validation and test. So no split ever sees a sample of another, whatever the seeds, also at lengths with few
    possible sequences; where one has none of a length, asking for it is an error.

    train_length: a length, or a range N-M of equally likely ones, of training sequences.
    eval_length: the same for validation and test.
    report_lengths: further lengths at which the finished model is tested.
    validation_samples: sequences in a validation.
    test_samples: sequences in the test of a length.
    """

    train_length: str = "3-40"
    eval_length: str = "40-256"
    report_lengths: tuple[str, ...] = ("512",)
    validation_samples: int = 512
    test_samples: int = 2048

    min_length: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("validation_samples", "test_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)} must be at least 1")
        for text in (self.train_length, *self.reports):
            self.check_lengths(length_range(text))

    def check_lengths(self, lengths: range) -> None:
        """Raise UserError where the task has no sequences of some of these lengths."""
        if lengths[0] < self.min_length:
            raise UserError(f"length {lengths[0]} is too short: {self.name} needs at least {self.min_length} steps")

    @abstractmethod
    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        """Samples of all splits together: [B, length], or a little less where no sequence of the task is exactly so long."""

    @property
    def trained(self) -> str:
        return self.train_length

    @property
    def reports(self) -> tuple[str, ...]:
        return self.eval_length, *self.report_lengths

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        return self.draw("train", draw_lengths(self.train_length, batch, rng), rng)

    def train_batches(self, batch: int, count: int, rng: torch.Generator) -> list[Batch]:
        """Sequences of one length are sampled together, and in many batches there are more of each."""
        drawn = self.train_batch(batch * count, rng)
        return [drawn.rows(slice(start, start + batch)).cut() for start in range(0, batch * count, batch)]

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        self.check_lengths(length_range(lengths))
        groups = parts(length_range(lengths))
        samples = self.validation_samples if split == "validation" else self.test_samples
        for number, group in enumerate(groups):
            label = spell(group)
            rng = torch.Generator().manual_seed(mix(self.name, split, label))
            left = samples // len(groups) + (number < samples % len(groups))
            while left:
                rows = min(left, max(STEPS_AT_ONCE // group[-1], 1))
                yield label, self.draw(split, draw_lengths(label, rows, rng), rng)
                left -= rows

    def draw(self, split: Split, lengths: Tensor, rng: torch.Generator) -> Batch:
        """One sample of a split for each of `lengths` [B], in their order. Raises UserError where there is none."""
        rows, pieces = [], []
        for length in lengths.unique().tolist():
            rows.append((lengths == length).nonzero()[:, 0])
            pieces.append(self._draw_alike(split, length, len(rows[-1]), rng))
        return join(pieces).rows(torch.cat(rows).argsort())

    def _draw_alike(self, split: Split, length: int, wanted: int, rng: torch.Generator) -> Batch:
        """`wanted` samples of one split and length: sampling from all, and keeping those whose hash is the split's."""
        quarters = torch.tensor(QUARTERS[split])
        found: list[Batch] = []
        missing = wanted
        for _ in range(ROUNDS):
            some = self.sample(5 * missing // len(quarters) + 4, length, rng)
            chosen = torch.isin(quarter(some.inputs), quarters).nonzero()[:missing, 0]
            found.append(some.rows(chosen))
            missing -= len(chosen)
            if not missing:
                return join(found)
        raise UserError(
            f"{self.name} has no {split} samples of length {length}: too few different sequences; choose longer ones with "
            f"--data.{'train_length' if split == 'train' else 'eval_length'}"
        )


def length_range(text: str) -> range:
    """The lengths that "N" or "N-M" means; UserError for anything else."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2] or found[1]):
        raise UserError(f"{text!r} is not a length N or a range N-M of lengths")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def spell(lengths: range) -> str:
    """A range of lengths as `length_range` reads it."""
    return f"{lengths[0]}-{lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}"


def parts(lengths: range) -> list[range]:
    """A range in at most GROUPS neighbouring parts that are equally long, to one."""
    cuts = np.linspace(0, len(lengths), min(GROUPS, len(lengths)) + 1).round().astype(int).tolist()
    return [lengths[a:b] for a, b in itertools.pairwise(cuts)]


def draw_lengths(text: str, batch: int, rng: torch.Generator) -> Tensor:
    """Equally likely lengths of a range, [B] int64."""
    lengths = length_range(text)
    return torch.randint(lengths[0], lengths[-1] + 1, (batch,), generator=rng)


def join(batches: list[Batch]) -> Batch:
    """The sequences of several batches one below the other, padded to the longest."""
    longest = max(batch.inputs.shape[1] for batch in batches)
    padded = []
    for inputs, targets, lengths in batches:
        rows, length = inputs.shape[:2]
        values = targets.shape[2] if targets.is_floating_point() else None
        inputs = torch.cat([inputs, inputs.new_zeros(rows, longest - length, *inputs.shape[2:])], 1)
        targets = torch.cat([targets, nothing_scored(rows, longest - length, values).to(targets.dtype)], 1)
        padded.append((inputs, targets, lengths))
    return Batch(*(torch.cat(column) for column in zip(*padded)))


def quarter(inputs: Tensor) -> Tensor:
    """[B] in 0..3: a hash of each row's numbers, the same on every machine. Zeros at the end, as padding has, change nothing.

    A sum of products with fixed odd 64-bit factors, finished like SplitMix64 (Steele et al. 2014).
    """
    numbers = inputs.flatten(1).contiguous().numpy()
    words = (numbers.view(np.uint32) if inputs.is_floating_point() else numbers).astype(np.uint64)
    mixed = (words * _factors(1 << max(words.shape[1] - 1, 0).bit_length())[: words.shape[1]]).sum(1, dtype=np.uint64)
    return torch.from_numpy((_finish(mixed) >> np.uint64(62)).astype(np.int64))


@lru_cache(maxsize=32)
def _factors(count: int) -> NDArray[Any]:
    golden = np.uint64(0x9E3779B97F4A7C15)
    return _finish(np.arange(1, count + 1, dtype=np.uint64) * golden) | np.uint64(1)


def _finish(x: NDArray[Any]) -> NDArray[Any]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
