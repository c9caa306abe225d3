"""Lines and numbers of text files, with errors that name file, line and reason."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from openxlstm.errors import UserError


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 file; those at its end that are empty are none. Raises UserError for a file that is no such text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text at byte {error.start}") from None
    found = text.splitlines()
    while found and not found[-1].strip():
        found.pop()
    if not found:
        raise UserError(f"{path}: is empty")
    return found


def numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of the lines of a pipe that are not empty, as they come. The mark that UTF-8 may begin with is
    no part of the first."""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix("\ufeff") if number == 1 else line
        if text.strip():
            yield number, text


def finite(text: str, place: str, name: str) -> float:
    """A cell as a number; UserError, which begins with the place, for text and for what is not finite."""
    try:
        value = float(text if "_" not in text else "")  # Python reads 1_000 too
    except ValueError:
        raise UserError(f"{place}: {name} is {text!r}, which is not a number") from None
    if not math.isfinite(value):
        raise UserError(f"{place}: {name} is {text}; it must be a finite number")
    return value


def whole(text: str, place: str, name: str, least: int = 1) -> int:
    """The same for whole numbers of at least `least`."""
    value = finite(text, place, name)
    if value != int(value) or value < least:
        raise UserError(f"{place}: {name} is {text}; it must be a whole number of at least {least}")
    return int(value)
