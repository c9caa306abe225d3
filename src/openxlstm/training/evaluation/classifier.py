"""Scores of a text classifier: accuracy, calibration, and what is taken for what."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openxlstm.tasks import Split, TextClassification
from openxlstm.training.evaluation.calibration import Bin, calibration_error, confusion, reliability
from openxlstm.training.evaluation.task import LengthScore, TaskEvaluation, measured
from openxlstm.training.loss import ClassifierLoss, autocast, target_loss


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(TaskEvaluation):
    """Result of one pass over a split; what a TaskEvaluation has, and:

    classes: their names. calibration_error: expected, over 15 bins. confusion: how often texts of a class (rows) were taken for
    each (columns). reliability: what calibration_error is made of.
    """

    classes: tuple[str, ...]
    calibration_error: float
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[Bin, ...]

    def line(self) -> str:
        return f"{super().line()}, calibration error {self.calibration_error:.4f}"


@torch.no_grad()
def answers(
    model: nn.Module, task: TextClassification, split: Split, lengths: str | None = None, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and targets [N] of all texts of a split, on the CPU. model: a SequenceClassifier, or a ClassifierLoss.

    The model is put in evaluation mode and left in the mode it had."""
    loss = model if isinstance(model, ClassifierLoss) else ClassifierLoss(model)
    device = next(loss.parameters()).device
    was_training = loss.training
    loss.eval()
    logits, targets = [], []
    try:
        for _, batch in task.evaluation(split, lengths or task.reports[0]):
            on_device = batch.to(device)
            with autocast(precision, device):
                outputs, _ = loss(on_device.inputs, on_device.targets, predict=True)
            logits.append(outputs.cpu())
            targets.append(batch.targets[batch.scored])
    finally:
        loss.train(was_training)
    return torch.cat(logits), torch.cat(targets)


def evaluate_classifier(
    model: nn.Module, task: TextClassification, split: Split, lengths: str | None = None, *, precision: str = "fp32"
) -> ClassifierEvaluation:
    """Score `model` (a SequenceClassifier, or a ClassifierLoss around one) on a split of `task`.

    lengths: "N" or "N-M" tokens, None for all. Every process of several answers every text: such splits are small.
    Raises UserError for lengths that no text has.
    """
    lengths = lengths or task.reports[0]
    return score_answers(task, split, lengths, *answers(model, task, split, lengths, precision))


def score_answers(
    task: TextClassification, split: Split, lengths: str, logits: Tensor, targets: Tensor
) -> ClassifierEvaluation:
    """The scores of logits [N, C] for targets [N]."""
    sums = torch.stack([target_loss(logits, targets).double().sum(), task.metric.points(logits, targets).double().sum()])
    found = measured(task, sums, targets, task.chance(0) * len(targets))
    bins = reliability(logits, targets)
    return ClassifierEvaluation(
        split,
        lengths,
        task.metric.name,
        task.metric.higher_is_better,
        **found,
        by_length=(LengthScore(lengths, **found),),
        classes=task.format.classes,
        calibration_error=calibration_error(bins),
        confusion=confusion(logits, targets),
        reliability=bins,
    )
