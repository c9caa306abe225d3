"""The .ts format of the UEA and UCR archives: recordings of one or more channels, each with a label."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openxlstm.data.sensors.text import finite, lines_of, whole
from openxlstm.errors import UserError

SWITCHES = ("timestamps", "missing", "univariate", "equallength")
NUMBERS = ("dimensions", "serieslength")
MISSING = "?"


class Recordings(NamedTuple):
    """The cases of a file."""

    name: str
    values: tuple[NDArray[np.float64], ...]  # each [T, C]; NaN where the file has "?"
    labels: NDArray[np.int64]  # [N], places in `classes`
    classes: tuple[str, ...]


@dataclass
class Header:
    """What stands before @data; a value that is not given is None."""

    name: str = ""
    classes: tuple[str, ...] = ()
    switches: dict[str, bool] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)


def read_ts(path: str | Path) -> Recordings:
    """The labelled recordings of a .ts file. A case is a line: channels parted by ":", steps by ",", the label last.

    Cases may have other lengths than each other where the header says `@equalLength false` or nothing, and missing values,
    written "?", where it says `@missing true`.
    Raises UserError, with file, line and reason, for: unknown or malformed lines of the header; time stamps and numeric
    targets, which are not read; a number of channels or steps other than the header's or than the case's own first channel's;
    missing values where the header denies them; text among the numbers; labels that the header does not list.
    """
    path = Path(path)
    lines = lines_of(path)
    header, first = read_header(path, lines)
    values: list[NDArray[np.float64]] = []
    labels: list[int] = []
    for number in range(first, len(lines)):
        place = f"{path}, line {number + 1}"
        *channels, label = lines[number].strip().split(":")
        if label.strip() not in header.classes:
            raise UserError(f"{place}: the label is {label.strip()[:40]!r}, the header has {', '.join(header.classes)}")
        values.append(read_case(channels, header, place, len(values[0]) if values else None))
        labels.append(header.classes.index(label.strip()))
        if values[-1].shape[1] != values[0].shape[1]:
            raise UserError(f"{place}: {values[-1].shape[1]} channels, the case before has {values[0].shape[1]}")
    if not values:
        raise UserError(f"{path}: no case after @data")
    return Recordings(header.name or path.stem, tuple(values), np.asarray(labels, np.int64), header.classes)


def read_header(path: Path, lines: list[str]) -> tuple[Header, int]:
    """The header, and the index of the first line after @data."""
    header = Header()
    for number, line in enumerate(lines):
        place, words = f"{path}, line {number + 1}", line.split()
        if not words or words[0].startswith("#"):
            continue
        tag, rest = words[0].lower(), words[1:]
        if tag == "@data":
            if not header.classes:
                raise UserError(f"{place}: the header has no '@classLabel true' with the labels")
            return header, number + 1
        if not tag.startswith("@"):
            raise UserError(f"{place}: expected a line that begins with @ or #, got {line[:40]!r}; is @data missing?")
        read_tag(header, tag[1:], rest, place)
    raise UserError(f"{path}: no line @data")


def read_tag(header: Header, tag: str, rest: list[str], place: str) -> None:
    """One line of the header."""
    if tag == "problemname":
        header.name = " ".join(rest)
    elif tag in SWITCHES or tag in ("classlabel", "targetlabel"):
        if not rest or rest[0].lower() not in ("true", "false"):
            raise UserError(f"{place}: @{tag} must be true or false, got {' '.join(rest) or 'nothing'}")
        value = rest[0].lower() == "true"
        if value and tag in ("timestamps", "targetlabel"):
            raise UserError(f"{place}: files with @{tag} true are not read, only evenly sampled cases with class labels")
        if tag == "classlabel":
            header.classes = tuple(rest[1:]) if value else ()
            if value and len(set(header.classes)) != len(rest) - 1:
                raise UserError(f"{place}: a label is listed twice")
        header.switches[tag] = value
    elif tag in (*NUMBERS, "dimension"):
        if len(rest) != 1:
            raise UserError(f"{place}: @{tag} must be one number")
        header.numbers["dimensions" if tag == "dimension" else tag] = whole(rest[0], place, f"@{tag}")
    else:
        raise UserError(f"{place}: unknown line @{tag} in the header")


def read_case(channels: list[str], header: Header, place: str, steps_before: int | None) -> NDArray[np.float64]:
    """A case [T, C]. steps_before: of the first case of the file."""
    expected = header.numbers.get("dimensions", 1 if header.switches.get("univariate") else None)
    if not channels or (expected is not None and len(channels) != expected):
        raise UserError(f"{place}: {len(channels)} channels before the label, the header says {expected or 'at least 1'}")
    rows: list[list[float]] = []
    for number, channel in enumerate(channels, 1):
        cells = [cell.strip() for cell in channel.split(",")]
        if MISSING in cells and header.switches.get("missing") is not True:
            where = f"step {cells.index(MISSING) + 1} of channel {number}"
            raise UserError(f"{place}: {where} is missing ('?'), but the header does not say '@missing true'")
        if rows and len(cells) != len(rows[0]):
            raise UserError(f"{place}: channel {number} has {len(cells)} steps, channel 1 has {len(rows[0])}")
        rows.append([np.nan if cell == MISSING else number_of(cell, place, number, step) for step, cell in enumerate(cells, 1)])
    steps = header.numbers.get("serieslength", steps_before)
    if header.switches.get("equallength") and steps is not None and len(rows[0]) != steps:
        raise UserError(f"{place}: {len(rows[0])} steps, expected {steps} as the header says @equalLength true")
    return np.asarray(rows).T


def number_of(cell: str, place: str, channel: int, step: int) -> float:
    """A cell that is not missing."""
    return finite(cell, place, f"step {step} of channel {channel}")
