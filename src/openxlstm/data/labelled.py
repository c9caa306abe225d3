"""Texts with a label each: tables, lines that begin with a label, one class a file, folders of reviews. What is malformed is
refused with file, line and reason."""

import contextlib
import csv
import hashlib
import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from openxlstm.data.text_format import words_of
from openxlstm.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit of 131,072 is shorter than a long article


class Labelled(NamedTuple):
    """Texts and the names of their classes."""

    texts: list[str]
    labels: list[str]


class Place(NamedTuple):
    """A text, its label, and where both stand."""

    text: str
    label: str
    where: str  # "FILE, line N"


def checked(places: Iterator[Place], classes: tuple[str, ...] = ()) -> Labelled:
    """All of them. classes: the labels that there may be, none = any.

    Raises UserError, which says where, for an empty text, a missing label and one that is not among the classes."""
    found = Labelled([], [])
    for text, label, where in places:
        if not words_of(text):
            raise UserError(f"{where}: the text is empty" + (f", it has no word: {text[:40]!r}" if text.strip() else ""))
        if not label.strip():
            raise UserError(f"{where}: the label is missing")
        if classes and label not in classes:
            raise UserError(f"{where}: unknown label {label[:40]!r}; have {', '.join(classes)}")
        found.texts.append(text)
        found.labels.append(label)
    return found


def read_text(path: Path, fallback: str = "") -> str:
    """The whole file, UTF-8 with or without a byte order mark. fallback: another encoding for files that are not.

    Raises UserError, with line and byte, for what is neither, and for a file that is not there."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return decode(content, str(path), fallback)


def decode(content: bytes, name: str, fallback: str = "") -> str:
    """Bytes of a file called `name` as text; see `read_text`."""
    found: UnicodeDecodeError | None = None
    for encoding in filter(None, ("utf-8-sig", fallback)):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            found = error
    assert found is not None
    line = content.count(b"\n", 0, found.start) + 1
    also = f" nor {fallback}" if fallback else ""
    raise UserError(f"{name}, line {line}: byte {content[found.start]:#04x} is not UTF-8{also}; save it as UTF-8")


def read_lines(path: Path, fallback: str = "") -> Iterator[tuple[str, str]]:
    """Lines, each with where it stands. White space around them is left out."""
    for number, line in enumerate(read_text(path, fallback).removesuffix("\n").split("\n"), 1):
        yield line.strip(), f"{path}, line {number}"


def read_prefixed(path: Path) -> Iterator[Place]:
    """Lines of a label, a space and a text, as in the sentence files of the Stanford Sentiment Treebank."""
    for line, where in read_lines(path):
        label, _, text = line.partition(" ")
        yield Place(text, label, where)


def read_class(path: Path, label: str, fallback: str = "") -> Iterator[Place]:
    """A file whose lines all belong to one class."""
    for line, where in read_lines(path, fallback):
        yield Place(line, label, where)


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The given columns of a .csv (comma, quotes as in RFC 4180) or .tsv (tab, no quotes) with a header, row by row, each with
    where it stands. Empty lines are passed over.

    Raises UserError for a column that is not there, or there twice, and a row that has more or fewer fields than the header."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise UserError(f"{path}: expected a .csv or a .tsv file")
    quoting: Any = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    chosen: list[int] = []
    line = 1
    while True:
        line = reader.line_num + 1
        try:
            with _long_fields():
                row = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {line}: {error}") from None
        if row is None:
            break
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
            for name in columns:
                if name not in header:
                    raise UserError(f"{path}, line {line}: no column {name!r} in the header; have {', '.join(header)}")
                if header.count(name) > 1:
                    raise UserError(
                        f"{path}, line {line}: the header has {header.count(name)} columns {name!r}; rename all but one"
                    )
            chosen = [header.index(name) for name in columns]
        elif len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} fields where the header has {len(header)}")
        else:
            yield tuple(row[place] for place in chosen), f"{path}, line {line}"
    if header is None:
        raise UserError(f"{path}: is empty; expected a header with {' and '.join(map(repr, columns))}")


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module's limit is one for the whole process, so it is raised for a row at a time."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_table(path: Path, text_column: str, label_column: str) -> Iterator[Place]:
    """Two columns of a .csv or .tsv; see `read_rows`."""
    for (text, label), where in read_rows(path, (text_column, label_column)):
        yield Place(text, label.strip(), where)


def review_files(folder: Path, part: str) -> Iterator[tuple[Path, int]]:
    """The files of a part ("train" or "test") of the folder aclImdb, negative (0) and positive (1) in turn.

    Raises UserError where there is none of a class."""
    files = {name: sorted((folder / part / name).glob("*.txt")) for name in ("neg", "pos")}
    for name, found in files.items():
        if not found:
            raise UserError(f"{folder}: there is no .txt file in {part}/{name}")
    for both in zip_longest(*files.values()):
        yield from ((path, label) for label, path in enumerate(both) if path is not None)


def for_validation(name: str) -> bool:
    """Whether the training review in the file of this name is for validation: a tenth of them are."""
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] < 26
