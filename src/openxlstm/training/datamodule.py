"""Batches for Lightning: a function of the step, so that resuming needs no more than the step."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl


class Steps:
    """The batches of optimiser steps `start` to `stop`, this process's rows of each.

    source: what has `batch(step, rank, world_size)`: RandomWindows, SequentialStreams, TaskBatches.
    """

    def __init__(self, source: Any, start: int, stop: int, rank: int = 0, world: int = 1) -> None:
        self.source, self.start, self.stop, self.rank, self.world = source, start, stop, rank, world

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[Any]:
        for step in range(self.start, self.stop):
            yield self.source.batch(step, self.rank, self.world)


class TrainingData(pl.LightningDataModule):
    """Training batches from `source`; validation is an evaluation (evaluate, evaluate_task), not a loader."""

    def __init__(self, source: Any, steps: int) -> None:
        super().__init__()
        self.source, self.steps, self.start = source, steps, 0

    def train_dataloader(self) -> Steps:
        assert self.trainer is not None
        return Steps(self.source, self.start, self.steps, self.trainer.global_rank, self.trainer.world_size)
