"""The Numenta Anomaly Benchmark (Lavin and Ahmad, ICMLA 2015): series, and the windows around their anomalies."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openxlstm.data.series import Table, find_step, read_table, spell
from openxlstm.data.zone import Zone
from openxlstm.errors import UserError

STAMP, VALUE = "timestamp", "value"
WINDOWS = "labels/combined_windows.json"


class Labelled(NamedTuple):
    """A series and its anomalies."""

    name: str
    times: NDArray[Any]  # [T] datetime64[ns]
    values: NDArray[np.float64]  # [T]
    windows: tuple[tuple[int, int], ...] = ()  # first and last row of each
    oddities: str = ""  # what is irregular about its stamps, where that was allowed


def read_nab(folder: str | Path, *, irregular: bool = False) -> tuple[Labelled, ...]:
    """All series that labels/combined_windows.json names, from data/.

    irregular: take rows as they follow each other, with gaps, doubled and backward stamps; some of the published files have
    them, and the benchmark scores rows. What there is of that is said in `oddities`.
    Raises UserError, with file, line and reason, for: malformed files, stamps that are irregular, files without labels and
    labels without a file, windows that begin or end where there is no row, that overlap, or are in the wrong order.
    """
    folder = Path(folder)
    labels = read_windows(folder / WINDOWS)
    files = {path.relative_to(folder / "data").as_posix() for path in (folder / "data").rglob("*.csv")}
    if without := sorted(files - set(labels)):
        raise UserError(f"{folder / 'data' / without[0]}: {WINDOWS} says nothing of this file")
    if not labels:
        raise UserError(f"{folder / WINDOWS}: no series")
    return tuple(labelled(folder, name, windows, irregular) for name, windows in labels.items())


def read_windows(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Name of a series -> first and last stamp of each window."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a folder with data/ and {WINDOWS}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {error}") from None
    windows: dict[str, list[tuple[str, str]]] = {}
    for name, pairs in found.items() if isinstance(found, dict) else [("", None)]:
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs
        ):
            raise UserError(f"{path}: {name!r} must have a list of windows, each a list of two stamps")
        windows[name] = [(first, last) for first, last in pairs]
    return windows


def labelled(folder: Path, name: str, windows: list[tuple[str, str]], irregular: bool) -> Labelled:
    """One series with its windows as rows."""
    times, _, values, oddities = read_stamped(folder / "data" / name, irregular=irregular)
    rows: list[tuple[int, int]] = []
    for number, (first, last) in enumerate(windows, 1):
        place = f"{folder / WINDOWS}, window {number} of {name!r}"
        start = row_at(times, first, 0, place)
        rows.append((start, row_at(times, last, start, place)))
        if number > 1 and rows[-2][1] >= start:
            raise UserError(f"{place}: it begins before the window before it ends")
    return Labelled(name, times, values, tuple(rows), oddities)


def row_at(times: NDArray[Any], stamp: str, first: int, place: str) -> int:
    """The first row of this time from row `first` on."""
    try:
        time = np.datetime64(stamp, "ns")
    except ValueError:
        raise UserError(f"{place}: {stamp!r} is not a time") from None
    found = np.flatnonzero(times[first:] == time)
    if not found.size:
        raise UserError(f"{place}: the series has no row of {stamp}" + (" behind its beginning" if first else ""))
    return int(found[0]) + first


def read_stamped(
    path: str | Path, *, time: str | None = None, value: str | None = None, irregular: bool = False, encoding: str = "utf-8"
) -> tuple[NDArray[Any], Zone | None, NDArray[np.float64], str]:
    """Times [T] and their zone, values [T], and what is irregular, of a CSV file with a header.

    time: the column of times, by default the first. value: that of numbers, by default the first other one.
    Raises UserError as `read_nab`.
    """
    table = read_table(Path(path), encoding)
    names = list(table.columns)
    if any(is_number(name) for name in names):
        raise UserError(f"{table.source}, line 1: {','.join(names)} is no header; the first line must name the columns")
    if len(names) < 2:
        raise UserError(f"{table.source}: one column; expected times and numbers, such as {STAMP},{VALUE}")
    time = time or names[0]
    value = value or next(name for name in names if name != time)
    values, (times, zone) = table.numbers(value, False), table.times(time)
    if not irregular:
        find_step(table, times, np.arange(len(times)), "equal")
    return times, zone, values, oddities(table, times)


def is_number(text: str) -> bool:
    """Whether it reads as one."""
    try:
        float(text)
    except ValueError:
        return False
    return text.lower() not in ("nan", "inf", "infinity")  # these may be names


def oddities(table: Table, times: NDArray[Any]) -> str:
    """How many stamps are doubled, go back, or do not come after the usual time, and where the first is; "" for none."""
    gaps = np.diff(times).astype(np.int64)
    if not gaps.size:
        return ""
    sizes, counts = np.unique(gaps, return_counts=True)
    odd = np.flatnonzero(gaps != sizes[counts.argmax()])
    if not odd.size:
        return ""
    kinds = Counter("doubled" if gap == 0 else "going back" if gap < 0 else "out of step" for gap in gaps[odd])
    first = int(odd[0]) + 1
    return (
        ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        + f"; first in {table.row} {first + table.first}, "
        + (f"{spell(times[first])} after {spell(times[first - 1])}")
    )
