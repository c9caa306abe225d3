"""Series that are being read: what a Forecaster keeps of each between calls, whatever its length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.series import FARTHEST, Panel, Series, Step, spell, too_far
from openxlstm.errors import UserError
from openxlstm.forecasting.rows import Rows, rows_at_a_time
from openxlstm.models.forecast import ForecastState, Reading
from openxlstm.ops.state import leaves, map_state


class Unit(NamedTuple):
    """Numbers are kept as (x - offset) / scale."""

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]

    def into(self, x: NDArray[np.float64]) -> Tensor:
        """Numbers in this unit, float32."""
        return torch.tensor((x - self.offset) / self.scale, dtype=torch.float32)

    def back(self, x: Tensor) -> NDArray[np.float64]:
        """Numbers as they were. x: the last dimension is that of the unit."""
        return x.double().cpu().numpy() * self.scale + self.offset


def unit_of(x: NDArray[np.float64]) -> Unit:
    """Mean and deviation of the columns of [T, C]; what does not vary, or has no value, has scale 1."""
    known = ~np.isnan(x)
    count = np.maximum(known.sum(0), 1)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that have no deviation are refused where they are read
        offset = np.where(known, x, 0.0).sum(0) / count
        scale = np.sqrt((np.where(known, x - offset, 0.0) ** 2).sum(0) / count)
    return Unit(offset, np.where(scale > 1e-12 * np.abs(offset), scale, 1.0))


@dataclass(frozen=True)
class Stream:
    """A series, or all of a multivariate forecaster, after its last row."""

    names: tuple[str, ...]
    unit: Unit
    last: Any  # time of the last row
    state: ForecastState  # of a batch of one
    reading: Reading  # of the last row


class Bundle(NamedTuple):
    """New rows of a stream."""

    names: tuple[str, ...]
    times: NDArray[Any]
    values: NDArray[np.float64]  # [T, C]
    covariates: NDArray[np.float64]  # [T, K]
    static: NDArray[np.float64]  # [S]


def bundles(panel: Panel, multivariate: bool, names: Sequence[str] = ()) -> list[Bundle]:
    """One bundle a series, or one of all. names: the channels of a multivariate model, in their order; () takes the panel's.

    Raises UserError where series that belong together are not those, or differ in what they have in common.
    """
    if not multivariate:
        return [Bundle((s.name,), s.times, s.values[:, None], s.covariates, s.static) for s in panel.series]
    by_name = {one.name: one for one in panel.series}
    names = names or panel.names
    if set(names) != set(by_name):
        raise UserError(f"a row needs all of {', '.join(names)}, got {', '.join(by_name)}")
    first, *others = series = [by_name[name] for name in names]
    for one in others:
        if len(one) != len(first) or (one.times != first.times).any():
            raise UserError(
                f"series {one.name!r} has other times than {first.name!r}; a multivariate model reads them together"
            )
        for what in ("covariates", "static"):
            if (getattr(one, what) != getattr(first, what)).any():
                kind = "static values" if what == "static" else what
                raise UserError(f"series {one.name!r} has other {kind} than {first.name!r}; a multivariate model reads one row")
    values = np.stack([one.values for one in series], 1)
    return [Bundle(tuple(names), first.times, values, first.covariates, first.static)]


def check_follows(bundle: Bundle, stream: Stream, step: Step, steps: str) -> None:
    """Raise UserError unless the rows come next after a stream."""
    name, first = bundle.names[0], bundle.times[0]
    if first <= stream.last:
        raise UserError(f"{name!r} was read to {spell(stream.last)}; a row of {spell(first)} comes too late")
    expected = step.after(stream.last, len(bundle.times))
    if steps == "equal" and (bundle.times != expected).any():
        wrong = int((bundle.times != expected).argmax())
        raise UserError(f"{name!r}: expected a row of {spell(expected[wrong])}, got {spell(bundle.times[wrong])}")


def rows_ahead(future: Panel, names: Sequence[str], last: Any, h: int, step: Step, steps: str) -> Series:
    """The rows to come of series that are read together, which all have the same. last: the time of the last row.

    Raises UserError where there are less than h, or do not come next.
    """
    rows = {one.name: one for one in future.series}
    given = rows.get(names[0])
    if given is None or len(given) < h:
        count = 0 if given is None else len(given)
        raise UserError(f"future has {count} rows of {names[0]!r}; {h} are needed")
    step.check_kind(f"future of {given.name!r}", given.times[0])
    expected = step.after(last, h)
    wrong = given.times[:h] != expected if steps == "equal" else given.times[:h] <= last
    if wrong.any():
        at = int(wrong.argmax())
        raise UserError(f"future of {names[0]!r}: expected a row of {spell(expected[at])}, got {spell(given.times[at])}")
    for other in (rows[name] for name in names[1:] if name in rows):
        if len(other) < h or (other.covariates[:h] != given.covariates[:h]).any():
            raise UserError(f"future has other covariates of {other.name!r} than of {given.name!r}, which are read together")
    return given


def check_near(x: NDArray[np.float64], unit: Unit, times: NDArray[Any], names: Sequence[str]) -> None:
    """Raise UserError for numbers [T, C] that are no readings. names: of the columns."""
    for row, column in too_far(x, *unit)[:1]:
        raise UserError(
            f"{names[column]!r}: {x[row, column]:g} at {spell(times[row])} is more than {FARTHEST:g} deviations from the mean; "
            "a number that stands for a missing value must be given as missing"
        )


def read(
    model: Any, rows: Sequence[Rows], states: Sequence[ForecastState | None], device: Any
) -> list[tuple[ForecastState, Reading]]:
    """The states and last readings after new rows, as many for each stream. rows: at least one each."""
    values = torch.stack([one.values for one in rows]).to(device)
    known = (
        None if rows[0].covariates is None else torch.stack([r.covariates for r in rows if r.covariates is not None]).to(device)
    )
    static = None if rows[0].static is None else torch.stack([r.static for r in rows if r.static is not None]).to(device)
    before = [state for state in states if state is not None]
    state = together(before) if before else None
    reading = None
    with torch.no_grad():
        for a in range(0, values.shape[1], chunk := rows_at_a_time(model.config, len(rows))):
            part = slice(a, a + chunk)
            present = None if known is None else known[:, part]
            reading, state = model.read(values[:, part], state, covariates=present, static=static)
    last = reading.at(slice(-1, None))  # type: ignore[union-attr]
    own = lambda tree, i: map_state(lambda leaf: leaf[i : i + 1].clone(), tree)  # noqa: E731
    return [(own(state, i), own(last, i)) for i in range(len(rows))]


def together(trees: Sequence[Any]) -> Any:
    """Batches of one as one batch."""
    joined = iter([torch.cat(column) for column in zip(*map(leaves, trees), strict=True)])
    return map_state(lambda leaf: next(joined), trees[0])


def by_length(found: Sequence[Bundle], streams: Mapping[tuple[str, ...], Stream]) -> dict[tuple[int, bool], list[Bundle]]:
    """Bundles that are read side by side: as many rows, and all known or all new."""
    groups: dict[tuple[int, bool], list[Bundle]] = {}
    for bundle in found:
        groups.setdefault((len(bundle.times), bundle.names in streams), []).append(bundle)
    return groups


def tail(series: Series, first: int) -> Series:
    """The series from row `first` on."""
    return Series(series.name, series.times[first:], series.values[first:], series.covariates[first:], series.static)


def head(series: Series, stop: int) -> Series:
    """The series before row `stop`."""
    return Series(series.name, series.times[:stop], series.values[:stop], series.covariates[:stop], series.static)
