"""What tasks about sensors share: channels on a common scale, files, padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.generated import length_range

STEPS_AT_ONCE = 16_384  # in a batch for evaluation


class Standard(NamedTuple):
    """Mean and deviation of each of C channels in the training part: models read (x - mean) / std."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def normal(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows [..., C] as models read them."""
        return (rows - self.mean) / self.std


def standard(rows: Sequence[NDArray[np.float64]]) -> Standard:
    """Of all rows [T, C] together; NaN does not count, and a channel that never changes has deviation 1."""
    every = np.concatenate(rows)
    known = ~np.isnan(every)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, every, 0.0).sum(0) / count
    std = np.sqrt((np.where(known, every - mean, 0.0) ** 2).sum(0) / count)
    return Standard(mean, np.where(std > 1e-9 * np.abs(mean), std, 1.0))


@dataclass(frozen=True, kw_only=True)
class SensorTask(FileTask):
    """Rows of sensors, step by step.

    source: where the files are.
    noise: standard deviation of noise on what models read in training, over that of the channel.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise UserError(f"data.noise={self.noise:g} must not be negative")

    def noisy(self, inputs: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Inputs of training."""
        return inputs + self.noise * torch.randn(inputs.shape, generator=rng) if self.noise else inputs


def grouped(lengths: Sequence[int], wanted: str) -> list[list[int]]:
    """Places of the sequences whose length is in "N" or "N-M", shortest first, in groups that are evaluated together."""
    within = length_range(wanted)
    groups: list[list[int]] = []
    for place in sorted((place for place, length in enumerate(lengths) if length in within), key=lambda place: lengths[place]):
        if not groups or (len(groups[-1]) + 1) * lengths[place] > STEPS_AT_ONCE:
            groups.append([])
        groups[-1].append(place)
    return groups


def padded(rows: Sequence[NDArray[np.float64]]) -> torch.Tensor:
    """Sequences [T, C] as one float32 batch with 0 behind the shorter ones."""
    found = torch.zeros(len(rows), max(map(len, rows)), rows[0].shape[1])
    for place, one in enumerate(rows):
        found[place, : len(one)] = torch.from_numpy(one)
    return found


def spelled(lengths: Sequence[int]) -> str:
    """ "N", or "N-M" from the shortest to the longest."""
    return str(min(lengths)) if min(lengths) == max(lengths) else f"{min(lengths)}-{max(lengths)}"
