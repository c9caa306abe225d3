"""What a run is about. Text and tasks are trained by the same loop; whatever differs between them is a Job."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from openxlstm.training.config import ModelSettings, RunConfig


class Measured(Protocol):
    """Result of a validation."""

    @property
    def objective(self) -> float:
        """The best weights are those at which it is lowest; those at which it is not finite never are."""
        ...

    def columns(self) -> dict[str, float]:
        """The row of metrics.csv."""
        ...

    def line(self) -> str:
        """One line for people."""
        ...


class Job(ABC):
    """Data, model, loss and score of a run. `rank` and `world` are a process and their number; methods that take them are
    called on every process at the same time."""

    config: RunConfig
    description: str
    """The data in one line."""
    fingerprint: str
    """Changes with whatever the data is besides its settings."""
    facts: Mapping[str, Any]
    """Kept in checkpoints, for `check`."""
    columns: tuple[str, ...]
    """What validations write into metrics.csv."""
    ending: str
    """What is done after the last step, in one line."""
    tokenizer: Any = None
    """Of text: generation needs it."""

    @abstractmethod
    def check(self, stored: Mapping[str, Any]) -> None:
        """Raise UserError where a checkpoint was trained on something else."""

    @abstractmethod
    def model_config(self, settings: ModelSettings) -> Any:
        """The configuration of a model for this data. Raises UserError for what the model refuses."""

    @abstractmethod
    def new_model(self) -> Any:
        """The untrained model; its weights depend on the run's configuration alone."""

    @abstractmethod
    def loss(self, model: nn.Module) -> nn.Module:
        """The model with its loss: `forward(inputs, targets, state, reset) -> (loss of every target [B, T], state)`."""

    @abstractmethod
    def source(self) -> Any:
        """Training batches, by `batch(step, rank, world)`. Raises UserError where there are none."""

    @abstractmethod
    def validate(self, loss: nn.Module, rank: int, world: int) -> Measured:
        """A validation during training."""

    @abstractmethod
    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        """What report.json says of the finished model; "validation_line" and "validation" are among it. What is done to the
        model here is saved with it."""

    def save(self, folder: Path) -> None:
        """Write beside the finished model what it takes to use it."""
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    @abstractmethod
    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        """What report.json says of the scores, for people."""

    @abstractmethod
    def figure(self, path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
        """Draw the run. Raises ImportError without matplotlib."""


def open_job(config: RunConfig, say: Callable[[str], None] | None = None) -> Job:
    """The job of a configuration: text is prepared, files are read. Raises UserError for whatever the user can mend."""
    from openxlstm.data import TextConfig, prepare
    from openxlstm.tasks import DynamicsTask, ProgramEvaluation, SequencePairs, TextClassification
    from openxlstm.tasks.speech import DigitSequences
    from openxlstm.training.jobs.classifier import ClassifierJob
    from openxlstm.training.jobs.dynamics import DynamicsJob
    from openxlstm.training.jobs.pairs import PairsJob
    from openxlstm.training.jobs.programs import ProgramJob
    from openxlstm.training.jobs.speech import SpeechJob
    from openxlstm.training.jobs.task import TaskJob
    from openxlstm.training.jobs.text import TextJob, cache_dir

    if isinstance(config.data, TextConfig):
        return TextJob(config, prepare(config.data, cache_dir(), report=say))
    kinds: dict[type, Any] = {
        DynamicsTask: DynamicsJob,
        TextClassification: ClassifierJob,
        ProgramEvaluation: ProgramJob,
        DigitSequences: SpeechJob,
        SequencePairs: PairsJob,
    }
    job = next((job for kind, job in kinds.items() if isinstance(config.data, kind)), TaskJob)
    return job(config, config.data)
