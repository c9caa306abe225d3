"""The copy memory task."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.published import tcn_anchors
from openxlstm.tasks.task import CROSS_ENTROPY, Anchor, Batch, Metric, Signature

DIGITS = 10  # to be remembered
DELIMITER = 9


@dataclass(frozen=True, kw_only=True)
class CopyMemory(GeneratedTask):
    """Ten digits, a long blank, then the same ten digits again.

    Cross-entropy over all steps, in nats. Hochreiter & Schmidhuber 1997, as in Bai et al. 2018 (arXiv 1803.01271): ten digits
    from 1..8, then 0, then eleven 9, of which the first ends the blank. The answer is 0 up to there and the digits in the last
    ten steps. T blank steps, as published, are a length of T + 20.
    """

    name: ClassVar[str] = "copy"
    min_length: ClassVar[int] = 2 * DIGITS + 1

    train_length: str = "120"
    eval_length: str = "120"
    report_lengths: tuple[str, ...] = ("220",)

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=10, num_classes=10)

    @property
    def metric(self) -> Metric:
        return CROSS_ENTROPY

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(LSTM=0.0204, TCN=3.5e-5) if self.eval_length == "1020" else ()

    def chance(self, length: int) -> float:
        """Knows when to answer, but not what: any of 8 digits."""
        return DIGITS * math.log(8) / length

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        digits = torch.randint(1, DELIMITER, (batch, DIGITS), generator=rng)
        inputs = torch.zeros(batch, length, dtype=torch.int64)
        inputs[:, :DIGITS], inputs[:, -DIGITS - 1 :] = digits, DELIMITER
        targets = torch.zeros_like(inputs)
        targets[:, -DIGITS:] = digits
        return Batch(inputs, targets, torch.full((batch,), length))
