"""A task as a job: samples that are drawn step by step, and the task's own score."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openxlstm.data.windows import mix, share
from openxlstm.errors import UserError
from openxlstm.tasks import Batch, Task
from openxlstm.training.config import ModelSettings, RunConfig, build_sequence_config
from openxlstm.training.evaluation.task import TaskEvaluation, evaluate_task, task_loss
from openxlstm.training.jobs.job import Job
from openxlstm.training.record import task_figure, write_json

AT_ONCE = 16
"""Batches that are made together, of a task that can do that."""


class TaskBatches:
    """Training samples as a function of (seed, step, rank, world size).

    task: where they come from. rows: of the global batch. seed: chooses the samples. steps: of the whole run.
    """

    def __init__(self, task: Task, rows: int, seed: int, steps: int = 1) -> None:
        self.task, self.rows, self.seed, self.steps = task, rows, seed, steps
        self.made: tuple[int, list[Batch] | None] = (-1, None)  # a group of batches, and its number

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows of `rank` in global batch number `step` (from 0)."""
        if self.made[0] != step // AT_ONCE:
            self.made = step // AT_ONCE, self.task.train_batches(self.rows, AT_ONCE, self.rng(step // AT_ONCE))
        group = self.made[1]
        if group is not None:
            found = group[step % AT_ONCE]
        else:
            found = self.task.train_batch_at(self.rows, self.rng(step), min(step / self.steps, 1.0))
        return found.rows(share(self.rows, rank, world_size))

    def rng(self, number: int) -> torch.Generator:
        """Draws batch, or group of batches, `number`."""
        return torch.Generator().manual_seed(mix("train", self.seed, number))


class TaskJob(Job):
    """Training on the samples of a task; weights are chosen by the score on its validation samples, and reported are the scores
    on its test samples."""

    columns = ("val_loss", "val_score")

    def __init__(self, config: RunConfig, task: Task) -> None:
        """Raises UserError where files of the task are missing."""
        self.config, self.task = config, task
        self.description, self.fingerprint = task.description, task.fingerprint
        self.facts = {"task": task.name, "fingerprint": self.fingerprint}
        self.ending = f"testing at lengths {', '.join(task.reports)}"

    def check(self, stored: Mapping[str, Any]) -> None:
        if (stored.get("task"), stored.get("fingerprint")) != (self.task.name, self.fingerprint):
            raise UserError(f"the checkpoint was trained on other samples than task {self.task.name!r} has now")

    def model_config(self, settings: ModelSettings) -> Any:
        return build_sequence_config(settings, self.task)

    def model_type(self) -> Any:
        """The class of the model, which is built from `model_config`."""
        from openxlstm.models.sequence import SequenceModel

        return SequenceModel

    def new_model(self) -> Any:
        config = self.model_config(self.config.model)
        torch.manual_seed(self.config.seed)
        return self.model_type()(config)

    def loss(self, model: nn.Module) -> nn.Module:
        return task_loss(model, self.task)

    def source(self) -> TaskBatches:
        trainer = self.config.trainer
        return TaskBatches(self.task, trainer.batch_size, self.config.seed, trainer.steps)

    def validate(self, loss: nn.Module, rank: int, world: int) -> TaskEvaluation:
        precision = self.config.trainer.precision
        return evaluate_task(loss, self.task, "validation", precision=precision, rank=rank, world_size=world)

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        found = self.validate(loss, rank, world)
        precision = self.config.trainer.precision
        tests = [
            evaluate_task(loss, self.task, "test", lengths, precision=precision, rank=rank, world_size=world)
            for lengths in self.task.reports
        ]
        return self.told(found, *tests)

    def told(self, validation: TaskEvaluation, *tests: TaskEvaluation) -> dict[str, Any]:
        """What the report of every task has. tests: that of the task's own lengths, then those of others."""
        return {
            "task": self.task.name,
            "train_length": self.task.trained,
            "validation_line": validation.line(),
            "validation": validation.to_dict(),
            "test_line": tests[0].line(),
            "test": tests[0].to_dict(),
            "other_lengths": [test.to_dict() for test in tests[1:]],
            "anchors": [anchor._asdict() for anchor in self.task.anchors],
        }

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.task.beside:
            write_json(folder / "sensors.json", self.task.beside)

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        validation, test = report["validation"], report["test"]
        yield f"validation: {report['validation_line']} (step {report['step']}, {validation['num_targets']:,} answers)"
        yield f"test: {report['test_line']} (lengths {test['lengths']}, {test['num_targets']:,} answers)"
        parts = test["by_length"] if len(test["by_length"]) > 1 else []
        for part in (*parts, *report["other_lengths"]):
            yield f"  lengths {part['lengths']}: {part['score']:.4f} (guessing {part['guess']:.4f})"
        if report["anchors"]:
            yield "published: " + spell_anchors(report["anchors"])

    def figure(self, path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
        task_figure(path, rows, title, report)


def spell_anchors(anchors: Sequence[Mapping[str, Any]]) -> str:
    """Published scores for people, by their source; `~` is before those that were not read in the source itself."""
    by_source: dict[str, list[str]] = {}
    for anchor in anchors:
        by_source.setdefault(anchor["source"], []).append(
            f"{anchor['model']} {'' if anchor['checked'] else '~'}{anchor['score']:g}"
        )
    return "; ".join(f"{', '.join(scores)} ({source})" for source, scores in by_source.items())
