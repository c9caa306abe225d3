"""The adding problem."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.published import tcn_anchors
from openxlstm.tasks.task import SQUARED_ERROR, Anchor, Batch, Metric, Signature, nothing_scored


@dataclass(frozen=True, kw_only=True)
class Adding(GeneratedTask):
    """The sum of two marked numbers out of many, at the end of the sequence.

    Mean squared error. Hochreiter & Schmidhuber 1997, as in Bai et al. 2018 (arXiv 1803.01271): each step has a number from
    U[0, 1] and a mark, which is 1 at two steps anywhere and 0 elsewhere. Published numbers are for 600 steps.
    """

    name: ClassVar[str] = "adding"
    min_length: ClassVar[int] = 2

    train_length: str = "200"
    eval_length: str = "200"
    report_lengths: tuple[str, ...] = ("400",)

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=2, num_values=1)

    @property
    def metric(self) -> Metric:
        return SQUARED_ERROR

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(LSTM=0.164, GRU=5.3e-5) if self.eval_length == "600" else ()

    def chance(self, length: int) -> float:
        """Always 1: the variance of the sum of two numbers from U[0, 1]."""
        return 1 / 6

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        numbers = torch.rand(batch, length, generator=rng)
        places = torch.rand(batch, length, generator=rng).topk(2).indices  # two different ones
        marks = torch.zeros(batch, length).scatter_(1, places, 1.0)
        targets = nothing_scored(batch, length, 1)
        targets[:, -1, 0] = numbers.gather(1, places).sum(1)
        return Batch(torch.stack([numbers, marks], 2), targets, torch.full((batch,), length))
