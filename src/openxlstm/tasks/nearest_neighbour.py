"""Searching for the nearest neighbour: storage decisions that have to be revised."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.task import SQUARED_ERROR, Batch, Metric, Signature, nothing_scored


@dataclass(frozen=True, kw_only=True)
class NearestNeighbour(GeneratedTask):
    """The value of the vector, of those seen so far, that is nearest to the first one.

    Mean squared error, as in the xLSTM paper (arXiv 2405.04517, fig. 2 left): unit vectors in the plane with a value from
    U[0, 1], 3 numbers a step; the first vector is what is searched for and has no value (0). From the second step on the answer
    is due at every step. The paper trains on 8,192 fixed sequences, here each step draws its own. Its results are in a figure
    alone.
    """

    name: ClassVar[str] = "nearest_neighbour"
    min_length: ClassVar[int] = 2

    train_length: str = "2-64"
    eval_length: str = "2-64"
    report_lengths: tuple[str, ...] = ("128",)

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=3, num_values=1)

    @property
    def metric(self) -> Metric:
        return SQUARED_ERROR

    def chance(self, length: int) -> float:
        """Always 1/2: the variance of U[0, 1]."""
        return 1 / 12

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        angle = 2 * torch.pi * torch.rand(batch, length, generator=rng)
        value = torch.rand(batch, length, generator=rng)
        value[:, 0] = 0.0
        turn = (angle - angle[:, :1]).abs()[:, 1:]
        nearest = 1 + torch.minimum(turn, 2 * torch.pi - turn).cummin(1).indices
        targets = nothing_scored(batch, length, 1)
        targets[:, 1:, 0] = value.gather(1, nearest)
        return Batch(torch.stack([angle.cos(), angle.sin(), value], 2), targets, torch.full((batch,), length))
