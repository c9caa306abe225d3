"""Speech as a job: trained by CTC, judged by the texts."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from openxlstm.tasks.speech import DigitSequences
from openxlstm.training.config import RunConfig
from openxlstm.training.evaluation.speech import SpeechEvaluation, evaluate_speech, jiwer_package
from openxlstm.training.jobs.task import TaskJob
from openxlstm.training.loss import TranscriptLoss

BEAM = 8  # width of the search in reports


class SpeechJob(TaskJob):
    """Weights are chosen by the word error rate of the validation sequences; reported are those of the test sequences, by the
    likeliest label of each step and by a beam search."""

    task: DigitSequences

    def __init__(self, config: RunConfig, task: DigitSequences) -> None:
        jiwer_package()  # before the training, not after it
        super().__init__(config, task)

    def loss(self, model: nn.Module) -> nn.Module:
        return TranscriptLoss(model)

    def validate(self, loss: nn.Module, rank: int, world: int) -> SpeechEvaluation:
        precision = self.config.trainer.precision
        return evaluate_speech(loss, self.task, "validation", precision=precision, rank=rank, world_size=world)

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        settings: dict[str, Any] = dict(precision=self.config.trainer.precision, rank=rank, world_size=world)
        found = self.validate(loss, rank, world)
        tests = [evaluate_speech(loss, self.task, "test", lengths, **settings) for lengths in self.task.reports]
        searched = evaluate_speech(loss, self.task, "test", self.task.reports[0], beam=BEAM, **settings)
        return {**self.told(found, *tests), "beam": searched.to_dict()}

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        yield from super().lines(report)
        searched = report["beam"]
        yield (
            f"with a beam of {searched['beam']}: word error rate {searched['score']:.4f}, "
            f"character error rate {searched['character_error_rate']:.4f}"
        )
