"""Forecaster: fit, predict, update; each new row costs one step, whatever the length of the history."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from openxlstm.data.series import ID, TARGET, TIME, Panel, Step, from_frame
from openxlstm.data.zone import Zone, import_pandas
from openxlstm.errors import UserError
from openxlstm.forecasting.baselines import baselines
from openxlstm.forecasting.calibration import calibrate, calibrated
from openxlstm.forecasting.fit import Fitted, fit_model
from openxlstm.forecasting.rows import Rows, walk
from openxlstm.forecasting.settings import ForecasterSettings
from openxlstm.forecasting.streams import (
    Bundle,
    Stream,
    Unit,
    bundles,
    by_length,
    check_follows,
    check_near,
    head,
    read,
    rows_ahead,
    tail,
    together,
    unit_of,
)

NAME = "xlstm"
"""Column of the point forecast; intervals are `xlstm-lo-80`, `xlstm-hi-80`."""
CUTOFF = "cutoff"


class Forecaster:
    """Forecasts of one or many series, with intervals.

    Forecaster(horizon=24, ...) takes the fields of ForecasterSettings. Frames are long: unique_id, ds, y, and the columns of
    covariates and static values.

    `fit` trains on the beginning of each series, chooses weights and calibrates intervals on the rows held out at its end, and
    then reads all rows. `update` reads further rows, `predict` forecasts what comes after the last row read. The state after
    any number of updates is that of reading the history at once, to rounding.
    """

    def __init__(self, settings: ForecasterSettings | None = None, **values: Any) -> None:
        if settings is not None and values:
            raise UserError("give either a ForecasterSettings or its fields")
        if settings is None and "horizon" not in values:
            raise UserError("a Forecaster needs a horizon: Forecaster(horizon=24)")
        try:
            self.settings = settings if settings is not None else ForecasterSettings(**values)
        except TypeError as error:
            known = ", ".join(ForecasterSettings.__dataclass_fields__)
            raise UserError(f"{str(error).removeprefix('ForecasterSettings.__init__() ')}; have {known}") from None
        self.model: Any = None
        self.step: Step | None = None
        self.zone: Zone | None = None
        self.fitted: Fitted | None = None
        self.margins = torch.zeros(0)
        self.units: dict[tuple[str, ...], Unit] = {}
        self.covariate_unit = self.static_unit = unit_of(np.zeros((1, 0)))
        self.streams: dict[tuple[str, ...], Stream] = {}

    def fit(self, data: Any, *, held: int | None = None, say: Callable[[str], None] = lambda line: None) -> Self:
        """Train. data: a long pandas frame, or a Panel (openxlstm.data.series).

        held: rows at the end of each series that choose the weights and calibrate the intervals; default a fifth of the
        shortest series, at least the horizon. say: takes a line a validation.
        Raises UserError for frames that are malformed and series that are too short; what was trained before then stays.
        """
        trained = Forecaster(self.settings)
        trained._fit(data, held, say)
        vars(self).update(vars(trained))
        return self

    def _fit(self, data: Any, held: int | None, say: Callable[[str], None]) -> None:
        settings = self.settings
        panel = self._panel(data, check_step=False)
        shortest = min(panel.series, key=len)
        held, need = self._held(len(shortest), held)
        if held < settings.horizon:
            raise UserError(f"held must be at least the horizon of {settings.horizon} rows, got {held}")
        if len(shortest) < need:
            raise UserError(
                f"series {shortest.name!r} has {len(shortest)} rows; a horizon of {settings.horizon} with {held} rows held out "
                f"needs at least {need}"
            )
        found = bundles(panel, settings.multivariate)
        training = [bundle.covariates[: len(bundle.times) - held] for bundle in found]
        self.covariate_unit = unit_of(np.concatenate(training))
        self.static_unit = unit_of(np.stack([bundle.static for bundle in found]))
        self.units = {bundle.names: unit_of(bundle.values[: len(bundle.times) - held]) for bundle in found}
        self.step, self.zone = panel.step, panel.zone
        rows = [self._rows(bundle, self.units[bundle.names]) for bundle in found]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.fit.seed)
            model = settings.build(found[0].values.shape[1])
        self.fitted = fit_model(model, rows, held, settings.fit, say)
        self.model = model
        if settings.quantiles:
            self.margins = calibrate(walk(model, rows, held, every=settings.fit.validate_rows), settings.quantiles, held)
        self.streams = self._read(found, {})

    def update(self, data: Any) -> Self:
        """Read further rows: of known series those that come next, or the beginning of new ones (some 64 rows).

        Nothing is changed when any of them is refused. Raises UserError for rows that do not follow.
        """
        self._check_fitted()
        assert self.step is not None
        found = self._bundles(self._panel(data, check_step=False))
        for bundle in found:
            if bundle.names in self.streams:
                check_follows(bundle, self.streams[bundle.names], self.step, self.settings.steps)
        self.streams = self.streams | self._read(found, self.streams)
        return self

    def predict(self, h: int | None = None, *, data: Any = None, future: Any = None) -> Any:
        """Forecast the next `h` rows of each series as a frame: unique_id, ds, xlstm, xlstm-lo-80, xlstm-hi-80, ...

        h: at most the horizon, which is the default. data: forecast after these histories instead, read from their beginning;
        what the Forecaster remembers stays. future: unique_id, ds and the covariates of the next h rows. Their ds is that of
        the forecast; without a future and with steps "rows" the times are a guess. Times have the zone of those of `fit`.
        """
        pandas = import_pandas()
        columns = self._predict(h, data, future)
        return pandas.DataFrame(columns if self.zone is None else columns | {TIME: self.zone.add(columns[TIME])})

    def cross_validation(
        self, data: Any, *, windows: int = 1, every: int | None = None, refit: bool = False, held: int | None = None
    ) -> Any:
        """Forecasts of the end of each series beside what came: unique_id, ds, cutoff, y, the forecast's columns, baselines.

        The model is trained on what comes before the first cutoff, and then reads on from cutoff to cutoff. windows: cutoffs;
        the last is `horizon` rows before the end. every: rows between cutoffs, default the horizon. refit: train at each
        cutoff. Covariates of the rows ahead are taken as known. Baselines: naive, drift, seasonal_naive.
        """
        pandas = import_pandas()
        settings, panel = self.settings, self._panel(data)
        every = settings.horizon if every is None else every
        if windows < 1 or every < 1:
            raise UserError(f"windows and every must be at least 1, got {windows} and {every}")
        shortest = min(panel.series, key=len)
        if windows > (most := self._most_windows(len(shortest), every, held)):
            raise UserError(
                f"series {shortest.name!r} has {len(shortest)} rows, too few to train before {windows} windows, one every "
                f"{every} rows; at most {most} are possible"
            )
        model = Forecaster(settings)
        parts = []
        for window in range(windows):
            back = settings.horizon + (windows - 1 - window) * every
            before = replace(panel, series=tuple(head(one, len(one) - back) for one in panel.series))
            if window == 0 or refit:
                model = Forecaster(settings).fit(before, held=held)
            else:
                model.update(
                    replace(panel, series=tuple(head(tail(one, len(one) - back - every), every) for one in panel.series))
                )
            ahead = replace(panel, series=tuple(head(tail(one, len(one) - back), settings.horizon) for one in panel.series))
            columns = model._predict(None, None, ahead if settings.covariates else None)
            columns[CUTOFF] = np.repeat([one.times[-1] for one in before.series], settings.horizon)
            columns[TIME] = np.concatenate([one.times for one in ahead.series])
            columns[TARGET] = np.concatenate([one.values for one in ahead.series])
            for name, forecast in baselines(settings.season).items():
                columns[name] = np.concatenate([forecast(filled(one.values), settings.horizon) for one in before.series])
            parts.append(pandas.DataFrame(columns))
        frame = pandas.concat(parts, ignore_index=True)
        if panel.zone is not None:
            for column in (TIME, CUTOFF):
                frame[column] = panel.zone.add(frame[column].to_numpy())
        first = [ID, TIME, CUTOFF, TARGET]
        return frame[[*first, *(name for name in frame.columns if name not in first)]]

    def save(self, folder: str | Path) -> None:
        """Write the Forecaster, with what it remembers of each series, to a folder. Raises UserError (a full disk)."""
        from openxlstm.forecasting.files import save

        self._check_fitted()
        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "Forecaster":
        """Read a folder that `save` wrote. Raises UserError, which names the file, for what is missing or damaged."""
        from openxlstm.forecasting.files import load

        return load(Path(folder), device)

    def plot(self, path: str | Path, forecast: Any = None, *, most: int = 4) -> None:
        """Draw the last rows of the first `most` series with their forecast (default: `predict()`), as a PNG.

        Raises UserError without matplotlib (extra `plot`)."""
        from openxlstm.forecasting.figure import draw

        self._check_fitted()
        if forecast is None:
            columns = self._predict(None, None, None)
        else:
            columns = {name: forecast[name].to_numpy() for name in forecast.columns}
            columns |= {} if self.zone is None else {TIME: self.zone.strip(forecast[TIME])}
        draw(self, Path(path), columns, most)

    # What follows is not for callers.

    def _check_fitted(self) -> None:
        if self.model is None:
            raise UserError("this Forecaster is not fitted: call fit(data) or Forecaster.load(folder) first")

    def _held(self, rows: int, held: int | None) -> tuple[int, int]:
        """Rows held out of a series of so many, and how many it must have."""
        settings = self.settings
        held = max(settings.horizon, rows // 5) if held is None else held
        return held, max(settings.first_rows, settings.horizon + 1) + held

    def _most_windows(self, rows: int, every: int, held: int | None) -> int:
        """How many windows of a cross-validation leave enough of so many rows to train on."""
        windows = 0
        while (before := rows - self.settings.horizon - windows * every) >= 0 and before >= self._held(before, held)[1]:
            windows += 1
        return windows

    def _panel(self, data: Any, check_step: bool = True) -> Panel:
        """A frame as a panel with the columns that the settings name."""
        settings = self.settings
        if isinstance(data, Panel):
            panel = data
            for what in ("covariates", "static"):
                if getattr(panel, what) != getattr(settings, what):
                    raise UserError(f"the data has the {what} {getattr(panel, what)}, the Forecaster {getattr(settings, what)}")
            if not settings.missing and any(np.isnan(one.values).any() for one in panel.series):
                raise UserError("the data has missing values; build the Forecaster with missing=True")
        else:
            panel = from_frame(
                data,
                covariates=settings.covariates,
                static=settings.static,
                steps=settings.steps,
                missing=settings.missing,
            )
        many = any(len(one) > 1 for one in panel.series)
        if check_step and self.step is not None and settings.steps == "equal" and many and panel.step != self.step:
            raise UserError(f"the data has a row every {panel.step}, the Forecaster was fitted to one every {self.step}")
        return panel if self.model is None else panel.in_zone(self.zone, "the data")

    def _bundles(self, panel: Panel) -> list[Bundle]:
        """The bundles of a panel for the fitted model, whatever the order of the panel's series."""
        assert self.step is not None
        for one in panel.series:
            self.step.check_kind(repr(one.name), one.times[0])
        together = self.settings.multivariate
        return bundles(panel, together, next(iter(self.units)) if together else ())

    def _rows(self, bundle: Bundle, unit: Unit) -> Rows:
        """A bundle as tensors in units near 1. Raises UserError for numbers that are too far from that."""
        check_near(bundle.values, unit, bundle.times, bundle.names)
        check_near(bundle.covariates, self.covariate_unit, bundle.times, self.settings.covariates)
        check_near(bundle.static[None], self.static_unit, bundle.times, self.settings.static)
        covariates = self.covariate_unit.into(bundle.covariates) if self.settings.covariates else None
        static = self.static_unit.into(bundle.static) if self.settings.static else None
        return Rows(unit.into(bundle.values), covariates, static)

    def _read(self, found: Sequence[Bundle], streams: dict[tuple[str, ...], Stream]) -> dict[tuple[str, ...], Stream]:
        """The streams after new rows; `streams` is where known ones stand."""
        done = {}
        for bundle in found:
            if bundle.names not in streams and len(bundle.times) < self.settings.first_rows:
                raise UserError(
                    f"series {bundle.names[0]!r} is new and begins with {len(bundle.times)} rows; "
                    f"{self.settings.first_rows} are needed"
                )
        for group in by_length(found, streams).values():
            units = [streams[b.names].unit if b.names in streams else self._unit(b) for b in group]
            rows = [self._rows(bundle, unit) for bundle, unit in zip(group, units)]
            states = [streams[b.names].state if b.names in streams else None for b in group]
            read_on = read(self.model, rows, states, self.settings.device)
            for bundle, unit, (state, reading) in zip(group, units, read_on, strict=True):
                done[bundle.names] = Stream(bundle.names, unit, bundle.times[-1], state, reading)
        return {bundle.names: done[bundle.names] for bundle in found}

    def _unit(self, bundle: Bundle) -> Unit:
        """That of the training, or of the first rows of a series that was not there: either way it never changes."""
        return self.units.get(bundle.names) or unit_of(bundle.values[: self.settings.first_rows])

    def _predict(self, h: int | None, data: Any, future: Any) -> dict[str, NDArray[Any]]:
        """The columns of `predict`."""
        self._check_fitted()
        assert self.step is not None
        settings = self.settings
        h = settings.horizon if h is None else h
        if not 1 <= h <= settings.horizon:
            raise UserError(f"h must be from 1 to the horizon of {settings.horizon} that the Forecaster was built for, got {h}")
        streams = self.streams if data is None else self._read(self._bundles(self._panel(data)), {})
        known, times = self._future(streams, h, future)
        readings = together([stream.reading for stream in streams.values()])
        with torch.no_grad():
            ahead = None if known is None else known.to(settings.device)
            forecast = self.model.answer(readings, ahead)
            if settings.quantiles:
                forecast = calibrated(forecast, self.margins)
        columns: dict[str, list[Any]] = {ID: [], TIME: [], NAME: []}
        for i, stream in enumerate(streams.values()):
            point = stream.unit.back(forecast.point[i, 0, :h])  # [h, C]
            ends = {q: stream.unit.back(forecast.quantiles[i, 0, :h, :, j]) for j, q in enumerate(settings.quantiles)}
            for c, name in enumerate(stream.names):
                columns[ID].append(np.repeat(np.asarray([name], dtype=object), h))
                columns[TIME].append(times[i])
                columns[NAME].append(point[:, c])
                for level in settings.levels:
                    columns.setdefault(f"{NAME}-lo-{level}", []).append(ends[(100 - level) / 200][:, c])
                    columns.setdefault(f"{NAME}-hi-{level}", []).append(ends[(100 + level) / 200][:, c])
        return {name: np.concatenate(parts) for name, parts in columns.items()}

    def _future(
        self, streams: dict[tuple[str, ...], Stream], h: int, future: Any
    ) -> tuple[torch.Tensor | None, list[NDArray[Any]]]:
        """Covariates of the next rows [B, H, K], 0 beyond row h: a row's covariates touch that row's forecast alone; and the
        times of these rows [h], for each stream, which are those of `future` where it is given."""
        settings, step = self.settings, self.step
        assert step is not None
        if not settings.covariates:
            if future is not None:
                raise UserError("the Forecaster has no covariates, so there is no future to give")
            return None, [step.after(stream.last, h) for stream in streams.values()]
        if future is None:
            raise UserError(
                f"predict needs future=, a frame with {ID}, {TIME}, {', '.join(settings.covariates)} of the next rows"
            )
        if not isinstance(future, Panel):
            future = from_frame(future, covariates=settings.covariates, steps="rows", target=None)
        future = future.in_zone(self.zone, "future")
        times = []
        known = torch.zeros(len(streams), settings.horizon, len(settings.covariates))
        for i, stream in enumerate(streams.values()):
            given = rows_ahead(future, stream.names, stream.last, h, step, settings.steps)
            check_near(given.covariates[:h], self.covariate_unit, given.times, settings.covariates)
            known[i, :h] = self.covariate_unit.into(given.covariates[:h])
            times.append(given.times[:h])
        return known, times


def filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last known value in place of missing ones, for baselines, which need one; leading ones are left out."""
    known = np.flatnonzero(~np.isnan(values))
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return values[last][known[0] if known.size else 0 :]
