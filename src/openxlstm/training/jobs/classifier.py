"""Text classification as a job: a model that answers once a text, whose probabilities are calibrated at the end."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from openxlstm.tasks import Split, TextClassification
from openxlstm.training.config import ModelSettings, RunConfig, build_classifier_config
from openxlstm.training.evaluation.calibration import best_temperature, calibration_error, divide_head, reliability
from openxlstm.training.evaluation.classifier import ClassifierEvaluation, answers, evaluate_classifier, score_answers
from openxlstm.training.jobs.classifier_figure import classifier_figure
from openxlstm.training.jobs.task import TaskJob
from openxlstm.training.loss import ClassifierLoss


class ClassifierJob(TaskJob):
    """Weights are chosen by the accuracy in validation; then the head is divided by the temperature that is best there, so
    that the model that is saved gives calibrated probabilities. Tokenizer and names of the classes are saved beside it."""

    task: TextClassification

    def __init__(self, config: RunConfig, task: TextClassification) -> None:
        super().__init__(config, task)
        self.ending = "calibrating, and testing on all test texts"

    def model_config(self, settings: ModelSettings) -> Any:
        return build_classifier_config(settings, self.task)

    def model_type(self) -> Any:
        from openxlstm.models.classify import SequenceClassifier

        return SequenceClassifier

    def loss(self, model: nn.Module) -> nn.Module:
        return ClassifierLoss(model, label_smoothing=self.task.label_smoothing)

    def validate(self, loss: nn.Module, rank: int, world: int) -> ClassifierEvaluation:
        return evaluate_classifier(loss, self.task, "validation", precision=self.config.trainer.precision)

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        precision, lengths = self.config.trainer.precision, self.task.reports[0]
        temperature = 1.0
        if world == 1 or self.config.trainer.strategy != "fsdp2":  # else no process has the whole head
            temperature = best_temperature(*answers(loss, self.task, "validation", precision=precision))
            divide_head(loss.model.classifier, temperature)  # type: ignore[union-attr, arg-type]
        found, before = {}, {}
        splits: tuple[Split, ...] = ("validation", "test")
        for split in splits:
            logits, targets = answers(loss, self.task, split, precision=precision)
            found[split] = score_answers(self.task, split, lengths, logits, targets)
            before[split] = calibration_error(reliability(logits * temperature, targets))
        return {
            **self.told(found["validation"], found["test"]),
            "temperature": temperature,
            "calibration_error_before": before,
        }

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        yield from super().lines(report)
        before = report["calibration_error_before"]["test"]
        yield f"temperature {report['temperature']:.3f}, of validation; calibration error without it {before:.4f} (test)"
        yield from confusion_lines(report["test"]["classes"], report["test"]["confusion"])

    def figure(self, path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
        classifier_figure(path, rows, title, report)

    def save(self, folder: Path) -> None:
        self.task.format.save(folder)


def confusion_lines(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Iterator[str]:
    """The confusion matrix as a table for people."""
    widths = [max(len(name), *(len(str(row[place])) for row in counts)) for place, name in enumerate(classes)]
    first = max(len("is, taken for"), *map(len, classes))
    yield "  ".join(["is, taken for".ljust(first), *(name.rjust(width) for name, width in zip(classes, widths))])
    for name, row in zip(classes, counts):
        yield "  ".join([name.ljust(first), *(str(count).rjust(width) for count, width in zip(row, widths))])
