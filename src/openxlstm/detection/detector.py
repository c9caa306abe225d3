"""AnomalyDetector: learns from the first rows of a series, and scores each further row in constant time and memory."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.series import FARTHEST, Step, Table, find_step, spell, too_far
from openxlstm.detection.settings import DetectorSettings
from openxlstm.detection.surprise import Surprise, score_of
from openxlstm.errors import UserError
from openxlstm.forecasting.fit import Fitted, fit_model
from openxlstm.forecasting.rows import Rows, rows_at_a_time
from openxlstm.forecasting.streams import Unit, unit_of
from openxlstm.models.checkpoint import check_device
from openxlstm.models.forecast import ForecastModel, ForecastState

Array = NDArray[np.float64]


@dataclass
class Stream:
    """What is known of a series after its last row; its size never changes."""

    state: ForecastState | None  # of the model
    ahead: Tensor  # [horizon, horizon] the last `horizon` forecasts, oldest first; NaN where there was none
    surprise: Surprise
    rows: int = 0
    last: Any = None  # time of the last row
    step: Step | None = None


class AnomalyDetector:
    """Scores from 0 to 1 for the rows of one series; 0.5 is usual, 0.95 nine deviations above what surprises usually are.

    AnomalyDetector(distances=(1, 6, 24), ...) takes the fields of DetectorSettings. `fit` trains a forecaster on first rows,
    mostly without anomalies if possible, and reads them; `score` takes each further row as it comes, `scores` many at once.
    Nothing is learnt from a row before it is scored, and no score looks at a later row.
    """

    def __init__(self, settings: DetectorSettings | None = None, **values: Any) -> None:
        if settings is not None and values:
            raise UserError("give either DetectorSettings or its fields")
        try:
            self.settings = settings if settings is not None else DetectorSettings(**values)
        except TypeError as error:
            known = ", ".join(DetectorSettings.__dataclass_fields__)
            raise UserError(f"{str(error).removeprefix('DetectorSettings.__init__() ')}; have {known}") from None
        self.model: ForecastModel | None = None
        self.unit: Unit | None = None
        self.fitted: Fitted | None = None
        self.stream: Stream | None = None
        self.training_scores: Array = np.zeros(0)
        """Of the rows of `fit`, which the forecaster was trained on; they are not saved."""

    def fit(self, values: Any, times: Any = None, *, say: Callable[[str], None] = lambda line: None) -> Self:
        """Train on the first rows of a series and read them.

        values: [T] numbers. times: [T] datetimes, those with a zone as UTC, or whole numbers; None where rows have none. say:
        takes a line a validation.
        Raises UserError for too few rows, for what is not a number, and for times with gaps or out of order; what was trained
        before then stays.
        """
        trained = AnomalyDetector(self.settings)
        trained._fit(values, times, say)
        vars(self).update(vars(trained))
        return self

    def _fit(self, values: Any, times: Any, say: Callable[[str], None]) -> None:
        settings = self.settings
        numbers = checked(values, 0)
        if len(numbers) < settings.least_rows:
            raise UserError(
                f"{len(numbers)} rows to train on; distances to {settings.horizon} rows need at least {settings.least_rows}"
            )
        step, last = self._first_times(times, len(numbers))
        unit = scale_of(numbers)
        check_near(numbers, unit, 0)
        self.unit = unit
        rows = Rows(unit.into(numbers[:, None]))
        check_device(settings.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.fit.seed)
            model = ForecastModel(settings.model_config(len(numbers))).to(settings.device)
        self.fitted = fit_model(model, [rows], settings.held(len(numbers)), settings.fit, say)
        self.model = model
        empty = torch.full((settings.horizon, settings.horizon), torch.nan)
        self.stream = Stream(None, empty, Surprise(len(settings.distances)), step=step)
        self.training_scores = self._read(numbers)[0]
        self.stream.last = last

    def score(self, value: float, time: Any = None) -> float:
        """The score of the next row. Raises UserError for a value that is no number, or no reading (FARTHEST in data.series),
        and a time that does not follow."""
        return float(self.scores([value], None if time is None else [time])[0])

    def scores(self, values: Any, times: Any = None) -> Array:
        """Scores [T] of the next rows, those of `score` for one after the other, to rounding. When a row is refused, none of
        them was read."""
        return self.scores_and_forecasts(values, times)[0]

    def scores_and_forecasts(self, values: Any, times: Any = None) -> tuple[Array, Array]:
        """The same, and what was forecast for each of these rows after the one before it [T]."""
        stream = self._fitted()
        numbers = checked(values, stream.rows)
        assert self.unit is not None
        check_near(numbers, self.unit, stream.rows)
        last = self._next_times(times, len(numbers))
        found = self._read(numbers)
        stream.last = last
        return found

    @property
    def expected(self) -> float:
        """The forecast for the next row."""
        stream = self._fitted()
        assert self.unit is not None
        return float(self.unit.back(stream.ahead[-1, :1])[0])

    def save(self, folder: str | Path) -> None:
        """Write the detector, with what it remembers of the series, to a folder."""
        from openxlstm.detection.files import save

        self._fitted()
        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "AnomalyDetector":
        """Read a folder that `save` wrote. Raises UserError, which names the file, for what is missing or damaged."""
        from openxlstm.detection.files import load

        return load(Path(folder), device)

    # What follows is not for callers.

    def _fitted(self) -> Stream:
        if self.stream is None:
            raise UserError("this detector is not fitted: call fit(values) or AnomalyDetector.load(folder) first")
        return self.stream

    def _read(self, numbers: Array) -> tuple[Array, Array]:
        """Scores and forecasts of rows that were checked, which are then read."""
        model, unit, stream = self.model, self.unit, self._fitted()
        assert model is not None
        assert unit is not None
        horizon, distances = self.settings.horizon, self.settings.distances
        x = unit.into(numbers[:, None])  # [T, 1]
        found, expected = np.empty(len(x)), np.empty(len(x))
        with torch.no_grad():
            for start in range(0, len(x), chunk := rows_at_a_time(model.config, 1)):
                part = x[start : start + chunk]
                forecast, stream.state = model(part[None].to(self.settings.device), stream.state)
                ahead = torch.cat([stream.ahead, forecast.point[0, :, :, 0].float().cpu()])  # [horizon + T, horizon]
                # the forecast for row t from h rows before stands in row horizon + t - h of `ahead`, at h - 1
                for_now = [ahead[horizon - h : len(ahead) - h, h - 1] for h in distances]
                errors = (torch.stack(for_now, 1) - part).tolist()  # [T, distances]
                for place, row in enumerate(errors, start):
                    found[place] = score_of(stream.surprise.step(row))
                expected[start : start + len(part)] = unit.back(ahead[horizon - 1 : -1, :1])[:, 0]
                stream.ahead = ahead[-horizon:].clone()
        stream.rows += len(x)
        return found, expected

    def _first_times(self, times: Any, rows: int) -> tuple[Step | None, Any]:
        """The step of the training rows, and their last time."""
        if times is None:
            return None, None
        stamps = as_times(times, rows)
        step = find_step(Table("the times", {}, "row", 0), stamps, np.arange(rows), self.settings.steps)
        return step, stamps[-1]

    def _next_times(self, times: Any, rows: int) -> Any:
        """The last time of rows that come next. Raises UserError where one does not."""
        stream = self._fitted()
        if times is None or not rows:
            if rows and stream.last is not None:
                raise UserError(f"row {stream.rows + 1} has no time; the rows before it had")
            return stream.last
        stamps = as_times(times, rows)
        if stream.last is None or stream.step is None:
            raise UserError("the rows before had no times")
        stream.step.check_kind(f"row {stream.rows + 1}", stamps[0])
        equal = self.settings.steps == "equal"
        expected = stream.step.after(stream.last, rows)
        before = np.concatenate([[stream.last], stamps[:-1]]).astype(stamps.dtype)
        wrong = np.flatnonzero(stamps != expected if equal else stamps <= before)
        if wrong.size:
            row = int(wrong[0])
            should = spell(expected[row]) if equal else f"a time after {spell(before[row])}"
            raise UserError(f"row {stream.rows + row + 1}: the time is {spell(stamps[row])}, expected {should}")
        return stamps[-1]


def checked(values: Any, before: int) -> Array:
    """Values as float64 [T]. Raises UserError, which counts rows on from `before`, for what is not a finite number."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"values must be numbers: {error}") from None
    if found.ndim != 1:
        raise UserError(f"values must be one number a row [T], got the shape {list(found.shape)}")
    wrong = np.flatnonzero(~np.isfinite(found))
    if wrong.size:
        raise UserError(f"row {before + int(wrong[0]) + 1}: the value is {found[wrong[0]]}; it must be a finite number")
    return found


def check_near(values: Array, unit: Unit, before: int) -> None:
    """Raise UserError, which counts rows on from `before`, for numbers that are no readings."""
    for row, _ in too_far(values[:, None], *unit)[:1]:
        raise UserError(
            f"row {before + int(row) + 1}: the value is {values[row]:g}, more than {FARTHEST:g} deviations from the mean; "
            "leave out rows whose number stands for a missing value"
        )


def as_times(times: Any, rows: int) -> NDArray[Any]:
    """Times as datetime64[ns] or int64 [T]. Raises UserError for anything else."""
    array = np.asarray(times)
    if array.shape != (rows,):
        raise UserError(f"{rows} values, but times of the shape {list(array.shape)}")
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise UserError(f"the time {array.max()} has more than 64 bits")
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    try:
        numbers = array.dtype.kind == "O" and any(isinstance(time, int | float) for time in array)
        if numbers or array.dtype.kind == "f":
            raise TypeError  # numpy would take them for nanoseconds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's, where it takes times with a zone to UTC, as it should
            found = array.astype("datetime64[ns]")
    except (TypeError, ValueError):
        raise UserError(f"times must be datetimes or whole numbers, all alike; got {next(iter(times))!r}") from None
    if np.isnat(found).any():
        raise UserError(f"the time of row {int(np.isnat(found).argmax()) + 1} is missing")
    return found


def scale_of(values: Array) -> Unit:
    """Mean and deviation; of what never changed a hundredth of its size, so that a small change is still seen."""
    unit = unit_of(values[:, None])
    if len(values) and np.ptp(values) == 0 and values[0] != 0:
        return unit._replace(scale=np.abs(unit.offset) / 100)
    return unit
