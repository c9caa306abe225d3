"""NASA's C-MAPSS files of turbofan engines (Saxena et al., PHM 2008): a row a flight, from new to failure or to a cut."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openxlstm.data.sensors.text import finite, lines_of, whole
from openxlstm.errors import UserError

CHANNELS = (*(f"setting {number}" for number in range(1, 4)), *(f"sensor {number}" for number in range(1, 22)))
"""What is measured in a flight."""


class Engine(NamedTuple):
    """One engine."""

    unit: int
    rows: NDArray[np.float64]  # [T, 24]: the settings and sensors of cycles 1 to T


def read_engines(path: str | Path) -> tuple[Engine, ...]:
    """The engines of a train_*.txt or test_*.txt: 26 columns parted by spaces, which are unit, cycle and CHANNELS.

    Raises UserError, with file, line and reason, for: lines with other than 26 columns, text among the numbers, cycles that do
    not count up from 1 (gaps, doubled and unsorted rows), and units that come back after another.
    """
    path = Path(path)
    found: dict[int, list[list[float]]] = {}
    last = 0
    for number, line in enumerate(lines_of(path), 1):
        place = f"{path}, line {number}"
        unit, cycle, row = parse_row(line, place)
        if unit != last and unit in found:
            raise UserError(f"{place}: unit {unit} comes back after unit {last}; the rows of a unit must follow each other")
        rows = found.setdefault(unit, [])
        check_cycle(unit, cycle, len(rows), place)
        rows.append(row)
        last = unit
    return tuple(Engine(unit, np.asarray(rows)) for unit, rows in found.items())


def parse_row(line: str, place: str) -> tuple[int, int, list[float]]:
    """Unit, cycle and the 24 channels of a line. Raises UserError, which begins with `place`."""
    cells = line.split()
    if len(cells) != 2 + len(CHANNELS):
        raise UserError(f"{place}: {len(cells)} columns, expected {2 + len(CHANNELS)}: unit, cycle, 3 settings, 21 sensors")
    unit, cycle = whole(cells[0], place, "the unit"), whole(cells[1], place, "the cycle")
    return unit, cycle, [finite(cell, place, name) for cell, name in zip(cells[2:], CHANNELS)]


def check_cycle(unit: int, cycle: int, before: int, place: str) -> None:
    """Raise UserError unless `cycle` comes next after `before` cycles."""
    if cycle == before + 1:
        return
    if cycle == before:
        reason = f"cycle {cycle} of unit {unit} is there twice"
    elif cycle > before:
        missing = f"cycle {before + 1}" if cycle == before + 2 else f"cycles {before + 1} to {cycle - 1}"
        reason = (
            f"unit {unit} goes from cycle {before} to {cycle}: {missing} of it {'is' if cycle == before + 2 else 'are'} missing"
        )
    else:
        reason = f"not sorted: cycle {cycle} of unit {unit} comes after cycle {before}"
    raise UserError(f"{place}: {reason}")


def read_remaining(path: str | Path, engines: int) -> NDArray[np.float64]:
    """A RUL_*.txt: the cycles that each of so many test engines has left after its last row, one a line."""
    path = Path(path)
    lines = lines_of(path)
    if len(lines) != engines:
        raise UserError(f"{path}: {len(lines)} lines, but the test file has {engines} engines")
    return np.asarray(
        [whole(line, f"{path}, line {n}", "the remaining life", 0) for n, line in enumerate(lines, 1)], np.float64
    )
