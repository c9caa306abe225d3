"""Scores of a task: every sample of a split once, by length, next to what guessing scores on the same samples."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.tasks import Batch, Split, Task
from openxlstm.training.loss import TaskLoss, autocast, target_loss
from openxlstm.training.progress import shown


@dataclass(frozen=True)
class LengthScore:
    """Result for sequences of one length, or of a range of lengths.

    lengths: "N" or "N-M". score; guess: what needs no skill scores on the same samples, which is the better of the task's
    chance level and the best answer that is always the same; loss: mean of the training loss; num_targets that were scored.
    """

    lengths: str
    score: float
    guess: float
    loss: float
    num_targets: int


@dataclass(frozen=True)
class TaskEvaluation:
    """Result of one pass over a split: of all its targets together, and by length. Fields as in LengthScore, and the metric's
    name and direction. others: the task's other metrics, by name. by_loss: the task's weights are chosen by the loss."""

    split: str
    lengths: str
    metric: str
    higher_is_better: bool
    score: float
    guess: float
    loss: float
    num_targets: int
    by_length: tuple[LengthScore, ...]
    others: dict[str, float] = dataclasses.field(default_factory=dict)
    by_loss: bool = False

    @property
    def objective(self) -> float:
        """What training minimises by its choice of weights: the score, turned round where higher is better; or the loss. inf
        where the loss is not finite: such a model is never the best, whatever its score."""
        if not math.isfinite(self.loss):
            return math.inf
        if self.by_loss:
            return self.loss
        return -self.score if self.higher_is_better else self.score

    def columns(self) -> dict[str, float]:
        """The row of metrics.csv."""
        return {"val_loss": self.loss, "val_score": self.score}

    def line(self) -> str:
        """One line for people."""
        others = "".join(f", {name} {score:.4f}" for name, score in self.others.items())
        return f"{self.metric} {self.score:.4f} (guessing {self.guess:.4f}){others}, loss {shown(self.loss)}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@torch.no_grad()
def evaluate_task(
    model: nn.Module,
    task: Task,
    split: Split,
    lengths: str | None = None,
    *,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
) -> TaskEvaluation:
    """Score `model` (a SequenceModel, or a TaskLoss around one) on a split of `task`.

    lengths: "N" or "N-M", None for those that the task's score is about.
    rank, world_size: this process answers every world_size-th sample; the sums are added up over the default process group.

    The model is put in evaluation mode and left in the mode it had. Raises UserError for lengths the task does not have.
    """
    loss = model if isinstance(model, TaskLoss) else task_loss(model, task)
    device = next(loss.parameters()).device
    lengths = lengths or task.reports[0]
    metrics = (task.metric, *task.other_metrics)
    sums: dict[str, Tensor] = {}  # loss, points of each metric
    targets: dict[str, list[Tensor]] = {}
    chances: dict[str, float] = {}
    was_training = loss.training
    loss.eval()
    try:
        for label, batch in task.evaluation(split, lengths):
            targets.setdefault(label, []).append(batch.targets[batch.scored])
            chances[label] = chances.get(label, 0.0) + chance_points(task, batch)
            idle = rank >= len(batch.lengths)  # has no row, but takes part: sharded weights are gathered by all together
            mine = batch.rows(slice(0 if idle else rank, None, world_size)).to(device)
            with autocast(precision, device):
                outputs, _ = loss(mine.inputs, mine.targets, predict=True)
            wanted = mine.targets[mine.scored]
            total = sums.setdefault(label, torch.zeros(1 + len(metrics), dtype=torch.float64, device=device))
            if not idle:
                total[0] += target_loss(outputs, wanted, bits=loss.bits).sum(dtype=torch.float64)
                for place, metric in enumerate(metrics, 1):
                    total[place] += metric.points(outputs, wanted).sum(dtype=torch.float64)
    finally:
        loss.train(was_training)
    stacked = torch.stack(list(sums.values()))  # [labels, 1 + metrics]
    if world_size > 1:
        torch.distributed.all_reduce(stacked)
    found = stacked.cpu()
    answers = {label: torch.cat(pieces) for label, pieces in targets.items()}
    by_length = tuple(
        LengthScore(label, **measured(task, found[number], answers[label], chances[label]))
        for number, label in enumerate(answers)
    )
    every, sum_of_all = torch.cat(list(answers.values())), found.sum(0)
    together = measured(task, sum_of_all, every, sum(chances.values()))
    count = len(every)
    others = {
        metric.name: metric.score(float(points) / count, count) for metric, points in zip(task.other_metrics, sum_of_all[2:])
    }
    facts = (split, lengths, task.metric.name, task.metric.higher_is_better)
    return TaskEvaluation(*facts, **together, by_length=by_length, others=others, by_loss=task.chosen_by_loss)


def task_loss(model: nn.Module, task: Task) -> TaskLoss:
    """The model together with the loss of the task."""
    return TaskLoss(model, bits=task.signature.num_bits is not None)


def measured(task: Task, sums: Tensor, targets: Tensor, chance: float) -> dict[str, Any]:
    """score, guess, loss and num_targets of `targets` [N] or [N, G], from the sums of loss and points and chance's points."""
    count = len(targets)
    metric = task.metric
    guess = metric.better(metric.score(chance / count), metric.score(metric.constant(targets)))
    return {
        "score": metric.score(float(sums[1]) / count),
        "guess": guess,
        "loss": float(sums[0]) / count,
        "num_targets": count,
    }


def chance_points(task: Task, batch: Batch) -> float:
    """What the task's guesser would get for a batch, summed over its scored targets."""
    scored = batch.scored.sum(1)  # [B]
    return sum(task.chance(int(n)) * int(scored[batch.lengths == n].sum()) for n in batch.lengths.unique())
