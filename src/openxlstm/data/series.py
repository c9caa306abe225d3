"""Series of numbers over time: long frames and wide CSV files in, checked arrays out.

Nothing is dropped, filled or sorted in silence: what is wrong with a file ends in one line that names file, line and reason.
pandas, which reads the many ways to write a time, comes with the extra `series`.
"""

import codecs
import csv
import gzip
import math
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.data.zone import Zone, import_pandas, zone_of
from openxlstm.errors import UserError

ID, TIME, TARGET = "unique_id", "ds", "y"
"""Columns of a long frame, under the names that forecasting libraries agree on."""
STEPS = ("equal", "rows")
DAY = np.timedelta64(1, "D")
FARTHEST = 1e12
"""Deviations from the mean beyond which a number is no reading but a filler such as 9.96921e36, and is refused: float32 squares
it in the variance of a window, which is infinite from about 1e19 on, and a state that has seen infinity says NaN for ever."""


@dataclass(frozen=True)
class Step:
    """From one row of a series to the next.

    size: a duration, a whole number (integer times), or a number of months. weekdays: rows fall on Monday to Friday alone, so
    that the day after a Friday is a Monday. Holidays are not known to it. day: of months, the day from 29 to 31 that all rows
    fall on, or the last of months that are shorter (31: the last of all); 0 is the day of the row before.
    """

    size: Any
    months: bool = False
    weekdays: bool = False
    day: int = 0

    @property
    def dates(self) -> bool:
        """Whether rows have dates, and not whole numbers."""
        return self.months or isinstance(self.size, np.timedelta64)

    def check_kind(self, name: str, time: Any) -> None:
        """Raise UserError where a time of these rows is no date and the step is one of dates, or the other way round."""
        if isinstance(time, np.datetime64) != self.dates:
            kind = "dates" if self.dates else "whole numbers"
            raise UserError(f"{name}: a row has the time {spell(time)}; the times of the rows before are {kind}")

    @property
    def season(self) -> int:
        """Rows of the season that such series usually have: a day, a week of days, a year of months; 1 for none."""
        if self.months:
            return 12 // int(self.size) if 12 % int(self.size) == 0 else 1
        if self.weekdays:
            return 5
        if not isinstance(self.size, np.timedelta64):
            return 1
        if self.size == DAY:
            return 7
        return int(DAY // self.size) if self.size < DAY and DAY % self.size == np.timedelta64(0) else 1

    def after(self, last: Any, count: int) -> NDArray[Any]:
        """The next `count` times."""
        return self.times(last, np.arange(1, count + 1))

    def before(self, last: Any, count: int) -> NDArray[Any]:
        """The `count` times up to `last`; a guess where the time between rows differs."""
        return self.times(last, np.arange(1 - count, 1))

    def times(self, start: Any, steps: NDArray[np.int64]) -> NDArray[Any]:
        """The times that are so many steps from `start`."""
        if self.months:
            month = start.astype("datetime64[M]")
            months = month + steps * int(self.size)
            hour = start - start.astype("datetime64[D]")
            day = (self.day - 1) * DAY + hour if self.day else start - month
            return np.minimum(months + day, (months + 1) - DAY + hour).astype("datetime64[ns]")
        if self.weekdays:
            day = start.astype("datetime64[D]")
            return np.busday_offset(day, steps, roll="backward").astype("datetime64[ns]") + (start - day)
        return start + steps * self.size

    def __str__(self) -> str:
        if self.months:
            on = {0: "", 31: " on its last day"}.get(self.day, f" on day {self.day}")
            return (f"{self.size} months" if self.size != 1 else "1 month") + on
        if not isinstance(self.size, np.timedelta64):
            return str(self.size)
        seconds = self.size / np.timedelta64(1, "s")
        for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
            if seconds >= length:
                return f"{seconds / length:g} {name}" + ("s" if seconds != length else "")
        return f"{seconds:g} s"


@dataclass(frozen=True)
class Series:
    """One series, oldest row first."""

    name: str
    times: NDArray[Any]  # [T] datetime64[ns] or int64
    values: NDArray[np.float64]  # [T]; NaN where missing values are allowed and one is missing
    covariates: NDArray[np.float64]  # [T, K]
    static: NDArray[np.float64]  # [S]

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Panel:
    """Series with one step and the same covariates. zone: of the times that were given."""

    series: tuple[Series, ...]
    step: Step
    covariates: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    zone: Zone | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the series."""
        return tuple(one.name for one in self.series)

    def in_zone(self, zone: Zone | None, what: str) -> "Panel":
        """With times that are kept as those of another zone. Raises UserError where times have a zone on one side alone."""
        if zone == self.zone:
            return self
        if zone is None or self.zone is None:
            here, there = ("without a time zone" if one is None else f"in {one.name}" for one in (self.zone, zone))
            raise UserError(f"{what} has times {here}; those before are {there}")
        moved = tuple(replace(one, times=zone.strip(self.zone.add(one.times))) for one in self.series)
        return replace(self, series=moved, zone=zone)


@dataclass(frozen=True)
class Table:
    """Columns of text or numbers, and where their rows stand."""

    source: str
    columns: dict[str, Any]  # name -> cells
    row: str
    first: int

    def place(self, index: int) -> str:
        """File and line of a row."""
        return f"{self.source}, {self.row} {index + self.first}"

    def column(self, name: str) -> Sequence[Any]:
        """A column. Raises UserError where there is none of that name."""
        if name not in self.columns:
            raise UserError(f"{self.source}: no column {name!r}; have {', '.join(map(str, self.columns))}")
        return self.columns[name]

    def numbers(self, name: str, missing: bool) -> NDArray[np.float64]:
        """A column as numbers; an empty cell is NaN. Raises UserError for text, infinity, and NaN unless `missing`."""
        cells = self.column(name)
        try:
            found = np.asarray(["nan" if cell == "" else cell for cell in cells], dtype=np.float64)
        except (TypeError, ValueError):
            found = np.asarray([self._number(name, index, cell) for index, cell in enumerate(cells)])
        if (bad := np.flatnonzero(np.isinf(found))).size:
            raise UserError(f"{self.place(bad[0])}: {name!r} is infinite")
        if not missing and (bad := np.flatnonzero(np.isnan(found))).size:
            raise UserError(
                f"{self.place(bad[0])}: {name!r} has no value ({bad.size} such rows); fill them, or allow missing values"
            )
        return found

    def _number(self, name: str, index: int, cell: Any) -> float:
        try:
            return math.nan if cell is None or cell == "" else float(cell)
        except (TypeError, ValueError):
            raise UserError(f"{self.place(index)}: {name!r} is {cell!r}, which is not a number") from None

    def times(self, name: str) -> tuple[NDArray[Any], Zone | None]:
        """A column of times: datetime64[ns], or int64 where all are whole numbers; and their zone.

        Raises UserError for anything else.
        """
        cells, zone = self.column(name), None
        array = np.asarray(cells)
        if array.dtype.kind == "i":
            return array.astype(np.int64), zone
        if array.dtype.kind == "M":
            times = array.astype("datetime64[ns]")
        else:
            whole = self._whole(name, cells)
            if whole is not None:
                return whole, zone
            times, zone = self._dates(name, cells)
        if (bad := np.flatnonzero(np.isnat(times))).size:
            like = " like those before" if bad[0] else ""
            raise UserError(f"{self.place(bad[0])}: {name!r} is {cells[bad[0]]!r}, which is not a time{like}")
        return times, zone

    def _whole(self, name: str, cells: Sequence[Any]) -> NDArray[np.int64] | None:
        """Cells as whole numbers, None where one reads as none. Raises UserError for fractions and more than 64 bits."""
        found = []
        for index, cell in enumerate(cells):
            try:
                found.append(int(cell))
            except (TypeError, ValueError):
                return None
            except OverflowError:  # infinity
                found.append(2**63)
            fraction = not isinstance(cell, str) and found[-1] != cell
            if fraction or not -(2**63) <= found[-1] < 2**63:
                raise UserError(f"{self.place(index)}: {name!r} is {cell}; a time is a date or a whole number of 64 bits")
        return np.asarray(found, dtype=np.int64)

    def _dates(self, name: str, cells: Sequence[Any]) -> tuple[NDArray[Any], Zone | None]:
        """Cells as datetime64[ns], and their zone; what is no date is NaT. Where offsets change, that is UTC."""
        pandas = import_pandas()
        series = pandas.Series(list(cells))
        with warnings.catch_warnings(record=True) as said:  # raised as errors, they would end inside of pandas
            warnings.simplefilter("always", UserWarning)
            try:
                found = pandas.to_datetime(series, errors="coerce")
                mixed = found.dtype.kind != "M"
            except ValueError:
                mixed = True
            if mixed:
                found = pandas.to_datetime(series, errors="coerce", utc=True)
        noise = [one for one in said if not issubclass(one.category, UserWarning) or "dayfirst" in str(one.message)]
        if len(noise) < len(said):  # the first cell has no format known for times
            raise UserError(f"{self.place(0)}: {name!r} is {cells[0]!r}, which is not a time")
        if mixed and found.isna().any():
            row = int(found.isna().argmax())
            stamp = pandas.to_datetime(cells[row], errors="coerce")
            if stamp is not pandas.NaT and stamp.tzinfo is None:
                raise UserError(f"{self.place(row)}: {name!r} is {cells[row]!r}, without a time zone, unlike other rows")
        zone = zone_of(found)
        return found.to_numpy(dtype="datetime64[ns]") if zone is None else zone.strip(found), zone


def too_far(x: NDArray[np.float64], offset: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row and column [N, 2] of the numbers in [T, C] that are beyond FARTHEST; NaN is not. offset, scale: mean and deviation
    [C]; where these are not finite, the largest number is the one that has no place in float64."""
    with np.errstate(all="ignore"):
        size = np.abs(x)
        finite = np.isfinite(offset) & np.isfinite(scale)
        beyond = np.where(finite, np.abs(x - offset) / scale > FARTHEST, size == np.fmax.reduce(size, 0, initial=0.0))
    return np.argwhere(beyond)


def read_series(
    path: str | Path,
    *,
    time: str | None = None,
    targets: Sequence[str] = (),
    covariates: Sequence[str] = (),
    static: Sequence[str] = (),
    steps: str = "equal",
    missing: bool = False,
    encoding: str = "utf-8",
    known: Sequence[str] = (),
) -> Panel:
    """The series of a CSV file (or .csv.gz) with a header.

    A file with the columns unique_id, ds and y is long: one row a series and time. Any other is wide: a column of times, by
    default the first, and one column a series (the layout of the ETT files).
    time: the column of times. targets: columns that are series; () takes all others of a wide file, "y" of a long one.
    covariates: columns of numbers that are known in advance. static: columns that are constant within a series (long files).
    steps: "equal" refuses gaps; "rows" takes rows as they follow each other, whatever time lies between them (trading days).
    missing: allow empty cells in the targets; they become NaN.
    encoding: of the text. known: columns that are series of a wide file where `targets` names none.
    Raises UserError, which names file and line, for: missing or doubled columns, lines with too many or few cells, text in a
    column of numbers, times that are no times, unsorted or doubled times, gaps, and mixed steps.
    """
    table = read_table(Path(path), encoding)
    long = ID in table.columns
    if long:
        time, targets = time or TIME, targets or (TARGET,)
        if len(targets) > 1:
            raise UserError(f"{table.source}: a long file has one target, got {', '.join(targets)}")
        return from_table(table, table.column(ID), time, targets[0], covariates, static, steps, missing)
    if static:
        raise UserError(f"{table.source}: static columns need a long file ({ID}, {TIME}, {TARGET})")
    time = time or next(iter(table.columns))
    targets = targets or known or [name for name in table.columns if name not in (time, *covariates)]
    if not targets:
        raise UserError(f"{table.source}: no column is left to forecast besides {time!r}")
    times, zone = table.times(time)
    table = replace(table, columns=table.columns | {time: times})  # read once, not once a series
    series = [from_table(table, None, time, name, covariates, (), steps, missing) for name in targets]
    return Panel(tuple(panel.series[0] for panel in series), series[0].step, tuple(covariates), zone=zone)


def read_table(path: Path, encoding: str = "utf-8") -> Table:
    """The columns of a CSV file as text. UTF-8 may begin with a mark, as in files of spreadsheets."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
        with opened(path, "rt", encoding=encoding, newline="") as file:
            rows = list(csv.reader(file))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: the text is not {encoding.removesuffix('-sig')} ({error.reason}); give its encoding, for example latin-1"
        ) from None
    except (LookupError, gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from None
    if not rows or not rows[0]:
        raise UserError(f"{path}: the first line must name the columns; it is empty")
    header = [name.strip() for name in rows[0]]
    if doubled := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{path}, line 1: two columns are named {doubled[0]!r}")
    while len(rows) > 1 and not rows[-1]:
        rows.pop()  # empty lines at the end
    for line, cells in enumerate(rows[1:], 2):
        if len(cells) != len(header):
            raise UserError(f"{path}, line {line}: {len(cells)} cells, but the header names {len(header)} columns")
    if len(rows) < 2:
        raise UserError(f"{path}: no rows after the header")
    return Table(str(path), dict(zip(header, zip(*rows[1:]))), "line", 2)


def from_frame(
    frame: Any,
    *,
    covariates: Sequence[str] = (),
    static: Sequence[str] = (),
    steps: str = "equal",
    missing: bool = False,
    target: str | None = TARGET,
) -> Panel:
    """The series of a long pandas frame: unique_id, ds, y, covariates, static columns. target None: covariates alone.

    Rows of different series may be mixed; those of a series must be in order. Raises UserError as `read_series`, with rows
    counted from 0.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "to_dict"):
        raise UserError(f"expected a pandas DataFrame with {ID}, {TIME}, {TARGET}, got {type(frame).__name__}")
    table = Table("the frame", {str(name): frame[name].to_numpy() for name in frame.columns}, "row", 0)
    return from_table(table, table.column(ID), TIME, target, covariates, static, steps, missing)


def from_table(
    table: Table,
    ids: Sequence[Any] | None,
    time: str,
    target: str | None,
    covariates: Sequence[str],
    static: Sequence[str],
    steps: str,
    missing: bool,
) -> Panel:
    """Check columns and cut them into series. ids None: all rows are one series, named as its target."""
    if steps not in STEPS:
        raise UserError(f"steps must be one of {', '.join(STEPS)}, got {steps!r}")
    times, zone = table.times(time)
    values = table.numbers(target, missing) if target is not None else np.full(len(times), np.nan)
    known = np.stack([table.numbers(name, False) for name in covariates], 1) if covariates else np.zeros((len(times), 0))
    fixed = np.stack([table.numbers(name, False) for name in static], 1) if static else np.zeros((len(times), 0))
    if not len(times):
        raise UserError(f"{table.source}: no rows")
    names = np.asarray([target] * len(times) if ids is None else [str(name) for name in ids])
    series, found = [], None
    for name in dict.fromkeys(names.tolist()):
        where = np.flatnonzero(names == name) if ids is not None else np.arange(len(times))
        step = find_step(table, times[where], where, steps)
        if step is not None and found is not None and step != found:
            raise UserError(
                f"{table.place(where[0])}: mixed frequencies: {name!r} has a row every {step}, others every {found}"
            )
        found = found or step
        if (bad := np.flatnonzero((fixed[where] != fixed[where[0]]).any(1))).size:
            raise UserError(f"{table.place(where[bad[0]])}: the static columns of {name!r} change")
        series.append(Series(name, times[where], values[where], known[where], fixed[where[0]]))
    step = found or Step(DAY if times.dtype.kind == "M" else 1)  # all series are of one row
    return Panel(tuple(series), step, tuple(covariates), tuple(static), zone)


def find_step(table: Table, times: NDArray[Any], where: NDArray[np.int64], steps: str) -> Step | None:
    """The step of one series, None if it has a single row. where: the rows of the table that it stands in."""
    gaps = np.diff(times)
    zero = gaps.dtype.type(0, "ns") if gaps.dtype.kind == "m" else 0
    if (bad := np.flatnonzero(gaps == zero)).size:
        raise UserError(f"{table.place(where[bad[0] + 1])}: the time {spell(times[bad[0] + 1])} is there twice")
    if (bad := np.flatnonzero(gaps < zero)).size:
        before, after = spell(times[bad[0]]), spell(times[bad[0] + 1])
        raise UserError(f"{table.place(where[bad[0] + 1])}: not sorted: {after} comes after {before}")
    if not gaps.size:
        return None
    sizes, counts = np.unique(gaps, return_counts=True)
    size = sizes[counts.argmax()]
    if times.dtype.kind == "M" and (months := whole_months(times)) is not None:
        return Step(months[0], months=True, day=months[1])
    if steps == "rows":
        weekdays = times.dtype.kind == "M" and size == DAY and bool(np.is_busday(times.astype("datetime64[D]")).all())
        return Step(size, weekdays=weekdays)
    if (bad := np.flatnonzero(gaps != size)).size:
        here, gap = table.place(where[bad[0] + 1]), gaps[bad[0]]
        hint = "fill them, or take rows as they follow each other (steps 'rows')"
        if gap % size == zero:
            between = f"{spell(times[bad[0]])} and {spell(times[bad[0] + 1])}"
            raise UserError(f"{here}: {int(gap // size) - 1} rows are missing between {between}; {hint}")
        raise UserError(f"{here}: mixed frequencies: {Step(gap)} after the row before, elsewhere {Step(size)}; {hint}")
    return Step(size)


def whole_months(times: NDArray[Any]) -> tuple[int, int] | None:
    """The number of months between rows, and `Step.day`, where the number is always the same and rows fall on the last day of
    every month, or on the same day, or the last of months that are too short for it."""
    month = times.astype("datetime64[M]")
    apart = np.unique(np.diff(month.astype(np.int64)))
    if apart.size != 1 or apart[0] <= 0:
        return None
    date = times.astype("datetime64[D]")
    days, lengths = ((x - month.astype("datetime64[D]")).astype(np.int64) for x in (date + 1, (month + 1).astype(date.dtype)))
    if (days == lengths).all():
        return int(apart[0]), 31
    day = int(days.max())
    if (days != np.minimum(day, lengths)).any() or np.unique(times - date).size > 1:
        return None
    return int(apart[0]), day if day > 28 else 0


def spell(time: Any) -> str:
    """A time as people write it."""
    return spell_all(np.asarray([time]))[0]


def spell_all(times: NDArray[Any]) -> list[str]:
    """A column of times as people write it, all to the same unit: days, seconds or what parts of them are needed."""
    if times.dtype.kind != "M":
        return [str(time) for time in times.tolist()]
    coarser = (times.astype(f"datetime64[{unit}]") for unit in ("D", "s", "ms", "us"))
    shown = next((found for found in coarser if (found == times).all()), times)
    return [text.replace("T", " ") for text in np.datetime_as_string(shown).tolist()]


def future_panel(
    path: str | Path, names: Sequence[str], covariates: Sequence[str], time: str | None = None, encoding: str = "utf-8"
) -> Panel:
    """Times and covariates of rows to come, from a CSV file. In a wide one they are those of all series, named here."""
    table = read_table(Path(path), encoding)
    if ID in table.columns:
        return from_table(table, table.column(ID), time or TIME, None, covariates, (), "rows", True)
    one = from_table(table, None, time or next(iter(table.columns)), None, covariates, (), "rows", True)
    rows = one.series[0]
    series = tuple(Series(name, rows.times, rows.values, rows.covariates, rows.static) for name in names)
    return replace(one, series=series)
