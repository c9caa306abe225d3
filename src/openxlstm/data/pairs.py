"""Pairs of texts: aligned files, line by line, and .jsonl with a source and its targets in each line."""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openxlstm.data.utf8 import utf8
from openxlstm.errors import UserError

PART_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation", "dev"), "test": ("test",)}
"""What the files of a folder may be called; `test_2016_flickr.de` is a test file too."""

SHARE = 0.1
"""Of the pairs of one file, for validation and as much for testing."""

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)


class Pair(NamedTuple):
    """A text and what it is to become. lead: its first sentence. targets: at least one; training takes the first."""

    source: str
    targets: tuple[str, ...]
    lead: str


class PairParts(NamedTuple):
    """Pairs to train on, to choose by and to report."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def read_aligned(source: Path, target: Path) -> tuple[Pair, ...]:
    """The pairs of two files of which line n of one belongs to line n of the other.

    Raises UserError, with file, line and reason: another number of lines, an empty line, a line that is not UTF-8.
    """
    sources, targets = ([*_texts(path)] for path in (source, target))
    if len(sources) != len(targets):
        raise UserError(
            f"{target}: has {len(targets):,} lines and {source} has {len(sources):,}; in aligned files line n belongs to line n"
        )
    return tuple(Pair(one, (other,), first_sentence(one)) for one, other in zip(sources, targets))


def read_json_pairs(path: Path, source_key: str, target_key: str) -> tuple[Pair, ...]:
    """The pairs of a .jsonl file. A source is a text or a list of its sentences; a target a text, or a list of several that are
    all right. Raises UserError, with file, line and reason, for anything else."""
    pairs = []
    for number, line in _texts(path, numbered=True):
        place = f"{path}:{number}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or nested too deeply
            raise UserError(f"{place}: is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise UserError(f"{place}: expects an object with {source_key!r} and {target_key!r}")
        sentences, targets = (_strings(found, key, place) for key in (source_key, target_key))
        lead = sentences[0] if isinstance(found[source_key], list) else first_sentence(sentences[0])
        pairs.append(Pair(" ".join(sentences), tuple(targets), lead))
    return tuple(pairs)


def aligned_parts(where: str, source_suffix: str, target_suffix: str) -> PairParts:
    """The parts of aligned files.

    where: a folder with train*.SUFFIX, val*.SUFFIX (or valid, validation, dev) and test*.SUFFIX, one of each for both suffixes;
        or two files "A,B", the source first, which are split by a hash of the source.
    """
    path = Path(where)
    if path.is_dir():
        files = ((_part_file(path, part, source_suffix), _part_file(path, part, target_suffix)) for part in PairParts._fields)
        return _checked(where, PairParts(*(read_aligned(*both) for both in files)))
    names = where.split(",")
    if len(names) != 2:
        raise UserError(f"{where}: no such folder; expects one, or two aligned files as SOURCE,TARGET")
    return _checked(where, split_by_hash(read_aligned(Path(names[0]), Path(names[1]))))


def json_parts(where: str, source_key: str, target_key: str) -> PairParts:
    """The parts of .jsonl files. where: a folder with train*.jsonl, val*.jsonl (or valid, validation, dev) and test*.jsonl; or
    one file, which is split by a hash of the source."""
    path = Path(where)
    if path.is_dir():
        files = (_part_file(path, part, "jsonl") for part in PairParts._fields)
        return _checked(where, PairParts(*(read_json_pairs(file, source_key, target_key) for file in files)))
    return _checked(where, split_by_hash(read_json_pairs(path, source_key, target_key)))


def split_by_hash(pairs: Sequence[Pair]) -> PairParts:
    """Parts in which equal sources stay together, whatever else the file holds and in whatever order."""
    parts: tuple[list[Pair], ...] = ([], [], [])
    for pair in pairs:
        digest = hashlib.blake2b(pair.source.encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        parts[0 if place >= 2 * SHARE else 1 if place >= SHARE else 2].append(pair)
    return PairParts(*map(tuple, parts))


def first_sentence(text: str) -> str:
    """The first sentence of a text, which ends at the end of a line at the latest."""
    line = text.strip().split("\n")[0].strip()
    found = _SENTENCE.match(line)
    return found[0] if found else line


def _checked(where: str, parts: PairParts) -> PairParts:
    for name, part in zip(PairParts._fields, parts):
        if not part:
            raise UserError(f"{where}: there is no pair for {name}; are there enough pairs?")
    return parts


def _part_file(folder: Path, part: str, suffix: str) -> Path:
    found = sorted({file for name in PART_NAMES[part] for file in folder.glob(f"{name}*.{suffix}") if file.is_file()})
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(f"{name}*.{suffix}" for name in PART_NAMES[part])
    have = ", ".join(file.name for file in found) or "none"
    raise UserError(f"{folder}: expects one file {wanted} for {part}, has {have}")


def _texts(path: Path, numbered: bool = False) -> Iterator[Any]:
    """The lines of a file, or (number, line) from 1; none of them empty. Only \\n ends a line: U+2028 may stand in a text. A
    byte order mark at the beginning is left out."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: is not UTF-8: {error.reason} at byte {error.start} of the line") from None
        if not line:
            raise UserError(f"{path}:{number}: the line is empty, and every text needs its pair; remove it, in all files alike")
        yield (number, line) if numbered else line


def _strings(found: dict[str, Any], key: str, place: str) -> list[str]:
    """One text or more under `key`, stripped; empty ones in a list are left out, where one remains."""
    if key not in found:
        raise UserError(f"{place}: there is no {key!r}, only {', '.join(map(repr, found)) or 'nothing'}")
    values = found[key] if isinstance(found[key], list) else [found[key]]
    if not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{place}: {key!r} must be a text or a list of texts")
    texts = [text for value in values if (text := value.strip())]
    if not texts:
        raise UserError(f"{place}: {key!r} is empty")
    for text in texts:
        utf8(text, f"{place}: {key!r}")
    return texts
