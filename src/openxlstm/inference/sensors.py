"""Trained models of sensors on rows as they come: remaining life and activity. A row is a step, in constant time and memory."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from openxlstm.data.sensors.averages import Averages, with_averages
from openxlstm.data.series import FARTHEST, too_far
from openxlstm.errors import UserError
from openxlstm.inference.load import model_folder
from openxlstm.models.sequence import SequenceModel
from openxlstm.models.tensors import read_json

FILE = "sensors.json"
LIFE, ACTIVITY = "remaining life", "activity"


class SensorMonitor(ABC):
    """A model with what turns the rows of a sensor into what it reads, and its answers into what they are about.

    `step` reads one row, `read` many; what was read before is in the state, whose size never changes (but for `attention`
    blocks). After the same rows the answer is the same, to rounding, however they were cut.
    """

    def __init__(self, model: SequenceModel, facts: Mapping[str, Any]) -> None:
        """facts: mean and std of each channel, and what the subclass needs."""
        self.model = model.eval()
        self.mean, self.std = (np.asarray(facts[name], np.float64) for name in ("mean", "std"))
        self.channels: tuple[str, ...] = tuple(facts.get("channels", ()))
        self.state: Any = None
        self.rows = 0

    def new(self) -> Self:
        """A monitor of another engine or person, with the same model."""
        other = copy.copy(self)
        other.state, other.rows = None, 0
        return other

    def read(self, rows: Any) -> NDArray[np.float64]:
        """Answers after each of the rows [T, C], in the sensor's own units: [T] flights left, or [T, classes] probabilities.

        Raises ValueError for a shape or number that is none of the sensor's; then nothing was read.
        """
        found = np.asarray(rows, np.float64)
        if found.ndim != 2 or found.shape[1] != len(self.mean):
            raise ValueError(f"rows must be [T, {len(self.mean)}], got {list(found.shape)}")
        x = torch.tensor(self.prepare(found), dtype=torch.float32, device=next(self.model.parameters()).device)
        with torch.no_grad():
            outputs, self.state = self.model(x[None], self.state)
        self.rows += len(found)
        return self.answers(outputs[0].double().cpu())

    def prepare(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows as the model reads them."""
        wrong = np.flatnonzero(~np.isfinite(rows).all(1))
        if wrong.size:
            raise ValueError(f"row {self.rows + int(wrong[0]) + 1} has a number that is missing or infinite")
        return self.standard(rows)

    def standard(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows in deviations from the mean."""
        for row, channel in too_far(rows, self.mean, self.std)[:1]:
            raise ValueError(
                f"row {self.rows + int(row) + 1}: channel {channel + 1} is {rows[row, channel]:g}, more than {FARTHEST:g} "
                "deviations from the mean; it stands for a missing value"
            )
        return (rows - self.mean) / self.std

    @abstractmethod
    def answers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """What the outputs [T, O] mean."""


class LifeMonitor(SensorMonitor):
    """How long a machine will run on."""

    def __init__(self, model: SequenceModel, facts: Mapping[str, Any]) -> None:
        super().__init__(model, facts)
        self.cap = float(facts["cap"])
        self.half_lives = tuple(int(half_life) for half_life in facts["averages"])
        self.averages: Averages | None = None

    def step(self, row: Sequence[float]) -> float:
        """Flights left after one more flight; what is said for an engine without wear is about the cap of training."""
        return float(self.read(np.asarray(row, np.float64)[None])[0])

    def new(self) -> Self:
        other = super().new()
        other.averages = None
        return other

    def prepare(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        found, self.averages = with_averages(super().prepare(rows), self.half_lives, self.averages)
        return found

    def answers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        return np.maximum(self.cap * outputs[:, 0].numpy(), 0.0)


class ActivityMonitor(SensorMonitor):
    """What somebody does."""

    def __init__(self, model: SequenceModel, facts: Mapping[str, Any]) -> None:
        super().__init__(model, facts)
        self.classes: tuple[str, ...] = tuple(facts["classes"])
        self.mark_missing = bool(facts["mark_missing"])

    def step(self, row: Sequence[float]) -> dict[str, float]:
        """The probability of each activity after one more row."""
        return dict(zip(self.classes, self.read(np.asarray(row, np.float64)[None])[0].tolist()))

    def prepare(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.mark_missing:
            return super().prepare(rows)
        if np.isinf(rows).any():
            raise ValueError(f"row {self.rows + int(np.isinf(rows).any(1).argmax()) + 1} has an infinite number")
        return np.concatenate([np.nan_to_num(self.standard(rows)), np.isnan(rows)], 1)

    def answers(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        return outputs.softmax(-1).numpy()


def load_monitor(path: str | Path, device: str | None = None) -> LifeMonitor | ActivityMonitor:
    """The monitor in the folder of a run on a task of sensors. Raises UserError for any other folder, and for damaged ones."""
    folder = model_folder(path)
    if not (folder / FILE).is_file():
        raise UserError(f"{folder}: no {FILE} beside the model; monitors come from runs on the tasks turbofan and activity")
    facts = read_json(folder / FILE)
    kinds: dict[str, type[LifeMonitor | ActivityMonitor]] = {LIFE: LifeMonitor, ACTIVITY: ActivityMonitor}
    if facts.get("kind") not in kinds:
        raise UserError(f"{folder / FILE}: kind {facts.get('kind')!r}, expected one of {', '.join(kinds)}")
    model = SequenceModel.from_pretrained(folder, device=device)
    try:
        return kinds[facts["kind"]](model, facts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / FILE}: damaged: {error} is missing or of the wrong kind") from None
