"""Text in, documents out: the standard library's source, files, folders, Hugging Face datasets; split three ways."""

import dataclasses
import gzip
import hashlib
import itertools
import json
import lzma
import os
import platform
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from openxlstm.data.utf8 import utf8
from openxlstm.errors import UserError, missing_extra

SPLITS = ("train", "validation", "test")
TOKENIZERS = ("bytes", "chars", "words", "bpe")
STDLIB = "stdlib"
HUGGING_FACE = "hf:"
PREPARED = "prepared.json"  # in a folder of tokens, see `tokens`

# Folders of the standard library that are tests, other people's packages, or generated tables rather than written text.
_STDLIB_LEFT_OUT = frozenset(
    ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")
    + ("idlelib", "lib2to3", "encodings", "pydoc_data", "__phello__")
)
_GIVEN_SPLIT = {
    "train": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
# Words in the names of files that lie beside the parts of a data set and are none of its text.
_BESIDE_TEXT = frozenset(
    ("readme", "license", "licence", "copying", "copyright", "notice", "citation", "authors", "changelog")
    + ("vocab", "vocabulary", "tokenizer", "merges", "metadata", "infos", "checksums", "sums", "requirements")
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_BYTE_ORDER_MARK = "\ufeff"
_ROWS_ARE_LINES = frozenset({"wikitext"})  # data sets published with one line, not one document, a row


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which text, how it is split and how it becomes tokens."""

    source: str = STDLIB
    """`stdlib` (source of the running Python's standard library), a text, .jsonl or .parquet file (.gz and .xz are unpacked on
    the way), a folder, a prepared folder (its own settings then hold, not these), or `hf:NAME[:CONFIG]` for a Hugging Face
    dataset."""
    tokenizer: str = "bytes"
    """`bytes`, `chars`, `words`, `bpe`, or the path of a `tokenizer.json` or of a folder with one."""
    vocab_size: int | None = None
    """Size of a vocabulary that is built here: bpe (None: 8192) and words (None: all words)."""
    validation: float = 0.05
    """Share of the text for validation, where the source has no validation part of its own."""
    test: float = 0.05
    """Share of the text for testing, where the source has no test part of its own."""
    validation_path: str | None = None
    """A file with the validation text; `source` is then not split for it."""
    test_path: str | None = None
    """A file with the test text; `source` is then not split for it."""
    text_key: str = "text"
    """The key (.jsonl) or column (.parquet, Hugging Face) that holds the text."""
    separator: str | None = None
    """A string that parts the documents of a text file, such as `<|endoftext|>`; None: one file, one document."""
    rows: Literal["auto", "documents", "lines"] = "auto"
    """What a row of a Hugging Face dataset is; `auto`: a line for WikiText, a document for all others."""
    encoding: str = "utf-8"
    """Character encoding of text files."""
    seed: int = 0
    """Chooses which documents go to validation and test (not for `stdlib`, whose split is fixed)."""
    max_bytes: int | None = None
    """Stop after about this many bytes of text, at the end of a document where one comes in time; None: all."""
    streaming: bool = False
    """Read documents when they are needed instead of holding the text in memory."""
    fill_in: float = 0.0
    """Share of the training windows that ask for their middle, prefix and suffix given; above 0, the vocabulary of `bytes` or
    `bpe` gets marks for that."""
    fill_in_order: Literal["spm", "psm"] = "spm"
    """What is read before a middle: its suffix, then its prefix (`spm`: the middle goes on from what was read last, which suits
    a model with a state), or the prefix first (`psm`)."""

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name}={getattr(self, name)} is not a share between 0 and 1")
        if self.validation + self.test >= 1.0:
            raise UserError(f"validation={self.validation} and test={self.test} leave nothing to train on")
        for name in ("max_bytes", "vocab_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0.0 <= self.fill_in <= 1.0:
            raise UserError(f"fill_in={self.fill_in} is not a share between 0 and 1")
        if self.fill_in_order not in ("spm", "psm"):
            raise UserError(f"fill_in_order={self.fill_in_order!r} is none of 'spm', 'psm'")
        if self.fill_in and self.tokenizer in ("chars", "words"):
            raise UserError(f"fill_in={self.fill_in} needs the tokenizer 'bytes' or 'bpe', or a file that has marks for it")
        if self.rows not in ("auto", "documents", "lines"):
            raise UserError(f"rows={self.rows!r} is none of 'auto', 'documents', 'lines'")
        if self.separator == "":
            raise UserError("separator is empty; leave it out to take each file as one document")
        if not self.source:
            raise UserError("source is empty; name a file, a folder, 'stdlib' or 'hf:NAME'")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise UserError(f"encoding={self.encoding!r} is unknown to Python") from None


@dataclass(frozen=True)
class Corpus:
    """Documents of the three parts; each part can be iterated again and again and may be empty."""

    train: Iterable[str]
    validation: Iterable[str]
    test: Iterable[str]
    description: str
    num_bytes: int | None  # UTF-8 bytes of all parts; None when the text is streamed and so not counted yet

    def split(self, name: str) -> Iterable[str]:
        """The part called `name`: train, validation or test."""
        if name not in SPLITS:
            raise UserError(f"no split {name!r}; have {', '.join(SPLITS)}")
        return getattr(self, name)


class Documents:
    """Documents that are read anew at each iteration."""

    def __init__(self, read: Callable[[], Iterator[str]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[str]:
        return self._read()


def load_corpus(config: TextConfig) -> Corpus:
    """The documents that `config` asks for.

    Raises UserError for a missing, unreadable, wrongly encoded, empty or prepared source; with `streaming` faults inside the
    text come up when it is read. A byte order mark at the beginning of a file is none of its text. A text file is cut into
    stretches (first train, then validation, then test; shares of its bytes for the tokenizer `bytes`, else of its characters),
    a folder by files, all others by documents. The files of a folder called `*train*`, `*valid*` / `*val*` / `*dev*` and
    `*test*`, or all files of its folders `train`, `valid` and `test`, are taken as the split, and those like README, LICENSE or
    vocab beside them are left out. Where others lie beside
    them, as in a folder of code, all files are split, and the description says so."""
    check_not_prepared(config)
    if config.source == STDLIB:
        parts, description = _stdlib(config)
    elif config.source.startswith(HUGGING_FACE):
        parts, description = _hugging_face(config)
    else:
        parts, description = _local(config)
    for name, path in (("validation", config.validation_path), ("test", config.test_path)):
        if path is not None:
            parts[name] = _file_documents(Path(path), config)
    if not config.streaming:
        held = {name: list(documents) for name, documents in parts.items()}
        if not any(held["train"]):
            raise UserError(f"{config.source}: no text to train on")
        return Corpus(**held, description=description, num_bytes=sum(len(text.encode()) for d in held.values() for text in d))
    return Corpus(**parts, description=description, num_bytes=None)


def check_not_prepared(config: TextConfig) -> None:
    """Raises UserError where a path of `config` is a folder of tokens, whose files would be read as text."""
    for path in (config.source, config.validation_path, config.test_path):
        if path not in (None, STDLIB) and (Path(path) / PREPARED).is_file():
            raise UserError(f"{path}: is prepared already: train on it as it is, or name the text that it was made from")


def source_fingerprint(config: TextConfig) -> str:
    """16 hex digits that change with the settings, and with name, size or time of the files they lead to. No text is read,
    a tokenizer file counts by its content."""
    usual = dataclasses.asdict(type(config)())
    facts: dict[str, Any] = {name: value for name, value in dataclasses.asdict(config).items() if value != usual[name]}
    facts.pop("streaming", None)  # how the text is read, not what it says
    facts |= {"fill_in": config.fill_in_order} if config.fill_in else {}  # the marks; how many windows is for training alone
    facts.pop("fill_in_order", None)
    if config.tokenizer == "bytes":
        facts["cut"] = "bytes"  # by characters before
    if config.source == STDLIB:
        facts["stdlib"] = [platform.python_version(), [[path, place.stat().st_size] for path, place in _stdlib_files()]]
    for path in (config.source, config.validation_path, config.test_path):
        if path is not None and path != STDLIB and not path.startswith("hf:"):
            place = _existing(path)
            files = _folder_files(place) if place.is_dir() else [place]
            facts[f"files of {path}"] = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
            named, others = _named_parts(files, place) if place.is_dir() else (None, [])
            if named and (any(map(_is_beside_text, others)) or any(file.parent != place for file in files)):
                facts["cut of the folder"] = "as named"  # by chance before, where some files name no part or their folders do
    if config.tokenizer not in TOKENIZERS:  # by what it says, not where it lies: often in the folder of a model that grows
        place = Path(config.tokenizer)
        files = [place / name for name in _TOKENIZER_FILES] if place.is_dir() else [place]
        digests = [hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() for file in files if file.is_file()]
        facts["tokenizer"] = digests or config.tokenizer
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


def _existing(path: str) -> Path:
    place = Path(path)
    if not place.exists():
        raise UserError(f"{path}: no such file or folder (Hugging Face datasets are written hf:NAME)")
    return place


# The standard library --------------------------------------------------------------------------------------------------


def _stdlib(config: TextConfig) -> tuple[dict[str, Iterable[str]], str]:
    """Each file's part depends on its path alone, so a file keeps its part across Python versions and sizes of sample."""
    seen: set[bytes] = set()
    chosen: list[tuple[float, str, str]] = []  # place in the order, path, text
    for path, place in _stdlib_files():
        try:
            text = place.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue  # a few old files declare another encoding
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if text and digest not in seen:
            seen.add(digest)
            chosen.append((_uniform("order", path), path, text))
    chosen.sort()  # a sample of any size has files from everywhere
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    num_files = total = 0
    for _, path, text in chosen:
        size = len(text.encode())
        if config.max_bytes is not None and total + size > config.max_bytes and total:
            continue
        parts[_part_of(_uniform("split", path), config.validation, config.test)].append(text)
        num_files += 1
        total += size
    if not num_files:
        raise UserError(f"no Python source in {sysconfig.get_path('stdlib')}; name a text file or folder instead of 'stdlib'")
    description = (
        f"source of the standard library of Python {platform.python_version()}: {num_files} files, {total:,} bytes, "
        "split by file, without tests and generated tables"
    )
    return dict(parts), description


def _stdlib_files() -> list[tuple[str, Path]]:
    """(path relative to the library, file), sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _STDLIB_LEFT_OUT and not name.startswith("config-")]
        for name in files:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                place = Path(folder, name)
                found.append((place.relative_to(root).as_posix(), place))
    return sorted(found)


# Files and folders -----------------------------------------------------------------------------------------------------


def _local(config: TextConfig) -> tuple[dict[str, Iterable[str]], str]:
    place = _existing(config.source)
    if place.is_dir():
        return _folder(place, config)
    return _one_file(place, config)


def _one_file(place: Path, config: TextConfig) -> tuple[dict[str, Iterable[str]], str]:
    name = place.name
    if _kind(place) == "text" and config.separator is None:
        text = _limited_text(_read_text(place, config.encoding), config.max_bytes)
        if not text:
            raise UserError(f"{place}: the file is empty")
        shares = _shares(config)
        ends = _cuts(text, (1 - shares["validation"] - shares["test"], 1 - shares["test"]), config.tokenizer)
        stretches = dict(zip(SPLITS, (text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :])))
        parts: dict[str, Iterable[str]] = {split: [piece] if piece else [] for split, piece in stretches.items()}
        return parts, f"{name}: one text, cut into stretches"
    documents = Documents(lambda: _limited(_file_documents(place, config), config.max_bytes))
    return _split_documents(documents, config), f"{name}: split by document"


def _cuts(text: str, shares: Sequence[float], tokenizer: str) -> list[int]:
    """The characters before which these shares of a text end. Of bytes, where those are the tokens, as enwik8 is cut; a
    character stays whole. The small number keeps 1 - 0.1 - 0.05 from cutting one too early."""
    if tokenizer != "bytes" or text.isascii():
        return [int(len(text) * share + 1e-6) for share in shares]
    raw = text.encode("utf-8", "surrogatepass")
    return [len(raw[: int(len(raw) * share + 1e-6)].decode("utf-8", "ignore")) for share in shares]


def _folder(folder: Path, config: TextConfig) -> tuple[dict[str, Iterable[str]], str]:
    files = _folder_files(folder)
    readable = [file for file in files if _kind(file) != "text" or not _is_binary(file)]
    if not readable:
        raise UserError(f"{folder}: no text in {len(files)} files")
    named, others = _named_parts(readable, folder)
    groups: dict[str, list[Path]]
    if named and all(map(_is_beside_text, others)):
        groups = named
        description = f"{folder.name}: split as the files are named" + (f", without {_listed(others)}" if others else "")
    elif len(readable) == 1:
        return _one_file(readable[0], config)
    else:
        groups = _split_files(readable, folder, config)
        counts = ", ".join(f"{len(groups[split])} {split}" for split in SPLITS)
        description = f"{folder.name}: {len(readable)} files, split by file ({counts})"
        if named:
            strange = [file for file in others if not _is_beside_text(file)]
            description += (
                f", NOT as some are named (train, valid, test), because of {_listed(strange)}, which would be in no part, or "
                "in several; remove what is no text if the names are meant"
            )
    skipped = len(files) - len(readable)
    if skipped:
        description += f"; {skipped} binary files left out"
    limits = _limits(config)
    return {split: _files_documents(groups[split], config, limits[split]) for split in SPLITS}, description


def _named_parts(files: list[Path], folder: Path) -> tuple[dict[str, list[Path]] | None, list[Path]]:
    """The files that name one part, or lie in a folder train/, valid/ or test/ of `folder`, by part, and the others. None where
    the names are no split, which has train and another."""
    named: dict[str, list[Path]] = {split: [] for split in SPLITS}
    others: list[Path] = []
    for file in files:
        first, *below = file.relative_to(folder).parts
        words = [first.lower()] if below and first.lower() in _GIVEN_SPLIT else _name_words(file)
        parts = {_GIVEN_SPLIT[word] for word in words if word in _GIVEN_SPLIT}
        (named[parts.pop()] if len(parts) == 1 else others).append(file)
    return named if named["train"] and (named["validation"] or named["test"]) else None, others


def _is_beside_text(file: Path) -> bool:
    """Whether a file of a data set is about it, by its name: README, LICENSE, vocab."""
    words = set(_name_words(file))
    return bool(words & _BESIDE_TEXT) and not words & _GIVEN_SPLIT.keys()


def _listed(files: list[Path]) -> str:
    names = ", ".join(file.name for file in files[:3])
    return names + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def _split_files(files: list[Path], folder: Path, config: TextConfig) -> dict[str, list[Path]]:
    """By count, in an order drawn from `seed` and path; validation gets a file before test, train before both."""
    ranked = sorted(files, key=lambda file: _uniform("folder", str(config.seed), file.relative_to(folder).as_posix()))
    counts = {}
    left = len(ranked) - 1  # one at least for training
    for split in ("validation", "test"):
        share = _shares(config)[split]
        counts[split] = min(left, max(1, round(share * len(ranked)))) if share else 0
        left -= counts[split]
    cut = counts["validation"] + counts["test"]
    groups = {
        "validation": ranked[: counts["validation"]],
        "test": ranked[counts["validation"] : cut],
        "train": ranked[cut:],
    }
    return {split: sorted(group) for split, group in groups.items()}


def _files_documents(files: list[Path], config: TextConfig, max_bytes: int | None) -> Documents:
    return Documents(
        lambda: _limited(itertools.chain.from_iterable(_file_documents(file, config) for file in files), max_bytes)
    )


def _folder_files(folder: Path) -> list[Path]:
    """All files under the folder, sorted; hidden ones left out."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        found += [Path(here, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _name_words(file: Path) -> list[str]:
    return re.split(r"[^a-z]+", file.name.lower())


def _kind(place: Path) -> str:
    suffixes = [suffix for suffix in place.suffixes if suffix not in (".gz", ".xz")]
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(suffixes[-1] if suffixes else "", "text")


def _file_documents(place: Path, config: TextConfig) -> Iterator[str]:
    if not place.exists():
        raise UserError(f"{place}: no such file")
    if place.is_dir():
        raise UserError(f"{place}: is a folder, a file is wanted")
    kind = _kind(place)
    if kind == "jsonl":
        return _jsonl(place, config.text_key)
    if kind == "parquet":
        return _parquet(place, config.text_key)
    return _text_documents(place, config)


def _text_documents(place: Path, config: TextConfig) -> Iterator[str]:
    text = _read_text(place, config.encoding)
    pieces = [text] if config.separator is None else text.split(config.separator)
    yield from (piece for piece in pieces if piece.strip() or (piece and config.separator is None))


def _read_bytes(place: Path) -> bytes:
    try:
        with _open(place) as file:
            return file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{place}: cannot be read: {error}") from None


def _read_text(place: Path, encoding: str) -> str:
    try:
        return _read_bytes(place).decode(encoding).removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: byte {error.start}: not {encoding} ({error.reason})") from None


def _open(place: Path) -> IO[bytes]:
    """The bytes of the file, unpacked."""
    if place.suffix == ".gz":
        return cast(IO[bytes], gzip.open(place))
    if place.suffix == ".xz":
        return cast(IO[bytes], lzma.open(place))
    return open(place, "rb")


def _is_binary(place: Path) -> bool:
    """A zero byte early on: no text in any encoding that has ASCII as a part."""
    try:
        with _open(place) as file:
            return b"\0" in file.read(8192)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{place}: cannot be read: {error}") from None


def _jsonl(place: Path, key: str) -> Iterator[str]:
    try:
        with _open(place) as file:
            offset = 0
            for number, line in enumerate(file, 1):
                yield from _jsonl_line(line, f"{place}:{number}", key, offset)
                offset += len(line)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{place}: cannot be read: {error}") from None


def _jsonl_line(line: bytes, where: str, key: str, offset: int) -> Iterator[str]:
    try:
        content = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {offset + error.start} of the file: not utf-8 ({error.reason})") from None
    if not offset:
        content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.strip():
        return
    try:
        row = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested too deeply
        raise UserError(f"{where}: cannot be read as JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is wanted, not {type(row).__name__}")
    yield from _text_of(row, key, where)


def _parquet(place: Path, key: str) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "hf", "reading .parquet files") from None
    try:
        with pyarrow.parquet.ParquetFile(place) as file:
            if key not in file.schema_arrow.names:
                raise UserError(f"{place}: no column {key!r}; have {', '.join(file.schema_arrow.names)}")
            number = 0
            for batch in file.iter_batches(columns=[key]):
                for text in batch.column(0).to_pylist():
                    yield from _text_of({key: text}, key, f"{place}: row {number}")
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{place}: cannot be read as parquet: {_one_line(error)}") from None


def _text_of(row: dict[str, Any], key: str, where: str) -> Iterator[str]:
    if key not in row:
        raise UserError(f"{where}: no key {key!r}; have {', '.join(map(str, row))}")
    text = row[key]
    if not isinstance(text, str):
        raise UserError(f"{where}: {key!r} holds {type(text).__name__}, text is wanted")
    utf8(text, f"{where}: {key!r}")
    if text:
        yield text


# Hugging Face ----------------------------------------------------------------------------------------------------------


def _hugging_face(config: TextConfig) -> tuple[dict[str, Iterable[str]], str]:
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "hf", "a Hugging Face dataset") from None
    name, _, subset = config.source.removeprefix(HUGGING_FACE).partition(":")
    if not name:
        raise UserError(f"{config.source}: no dataset name; write hf:NAME or hf:NAME:CONFIG")
    try:
        loaded = datasets.load_dataset(name, subset or None, streaming=config.streaming)
    except Exception as error:  # the library and the network raise many kinds
        raise UserError(f"{config.source}: cannot be loaded: {type(error).__name__}: {_one_line(error)}") from None
    return _dataset_parts(loaded, config), f"Hugging Face dataset {name}{f' ({subset})' if subset else ''}"


def _dataset_parts(loaded: Any, config: TextConfig) -> dict[str, Iterable[str]]:
    """Parts of a DatasetDict or IterableDatasetDict; missing validation and test are cut from train."""
    have: dict[str, Any] = {}
    for split, rows in loaded.items():
        have.setdefault(_GIVEN_SPLIT.get(str(split), str(split)), rows)
    if "train" not in have:
        raise UserError(f"{config.source}: no split 'train'; have {', '.join(map(str, loaded))}")
    columns = have["train"].column_names
    if columns is not None and config.text_key not in columns:
        raise UserError(f"{config.source}: no column {config.text_key!r}; have {', '.join(columns)}")
    name = config.source.removeprefix(HUGGING_FACE).partition(":")[0].rstrip("/").rpartition("/")[2]
    lines = config.rows == "lines" or (config.rows == "auto" and name in _ROWS_ARE_LINES)
    if lines:
        return _line_parts(have, config)
    limits = _limits(config)
    parts = _split_documents(_dataset_documents(have["train"], "train", config, limits["train"]), config, have)
    for split in ("validation", "test"):
        if split in have:
            parts[split] = _dataset_documents(have[split], split, config, limits[split])
    return parts


def _line_parts(have: dict[str, Any], config: TextConfig) -> dict[str, Iterable[str]]:
    """Rows that are lines make one document a part."""
    limits = _limits(config)

    def joined(split: str) -> Iterator[str]:
        rows = _limited(_rows(have[split], split, config, keep_empty=True), limits[split])
        text = "".join(row if row.endswith("\n") else row + "\n" for row in rows)
        if text:
            yield text

    return {split: Documents(lambda split=split: joined(split)) if split in have else [] for split in SPLITS}  # type: ignore[misc]


def _dataset_documents(rows: Any, split: str, config: TextConfig, max_bytes: int | None) -> Documents:
    return Documents(lambda: _limited(_rows(rows, split, config), max_bytes))


def _rows(rows: Any, split: str, config: TextConfig, *, keep_empty: bool = False) -> Iterator[str]:
    number = 0
    try:
        for row in rows:
            if keep_empty and row.get(config.text_key) == "":
                yield ""
            else:
                yield from _text_of(row, config.text_key, f"{config.source}: {split} row {number}")
            number += 1
    except UserError:
        raise
    except Exception as error:  # the library and the network raise many kinds
        raise UserError(
            f"{config.source}: {split} row {number}: cannot be read: {type(error).__name__}: {_one_line(error)}"
        ) from None


# Splitting -------------------------------------------------------------------------------------------------------------


def _shares(config: TextConfig) -> dict[str, float]:
    """Shares to cut from the source: none for validation or test text that has a file of its own; a test file without a
    validation file leaves the validation share to be cut, a validation file alone means no test text is cut."""
    given = config.validation_path is not None
    return {
        "validation": 0.0 if given else config.validation,
        "test": 0.0 if given or config.test_path is not None else config.test,
    }


def _limits(config: TextConfig) -> dict[str, int | None]:
    """max_bytes where the parts come apart already: the small parts in proportion."""
    if config.max_bytes is None:
        return dict.fromkeys(SPLITS)
    return {
        "train": config.max_bytes,
        "validation": max(1, int(config.max_bytes * config.validation)),
        "test": max(1, int(config.max_bytes * config.test)),
    }


def _split_documents(documents: Documents, config: TextConfig, given: Iterable[str] = ()) -> dict[str, Iterable[str]]:
    """By a hash of seed and number of the document, so that reading again, or more, moves nothing. Text in memory gives each
    part one document at least, while training has two. Nothing is cut for the parts that are `given`."""
    shares = {split: 0.0 if split in given else share for split, share in _shares(config).items()}

    def part_of(number: int) -> str:
        return _part_of(_uniform("document", str(config.seed), str(number)), shares["validation"], shares["test"])

    def reader(split: str) -> Documents:
        return Documents(lambda: (text for number, text in enumerate(documents) if part_of(number) == split))

    if config.streaming:
        return {split: reader(split) for split in SPLITS}
    held: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, text in enumerate(documents):  # one pass
        held[part_of(number)].append(text)
    for split in ("validation", "test"):  # chance leaves a part empty where there are few documents
        if shares[split] and not held[split] and len(held["train"]) > 1:
            held[split].append(held["train"].pop())
    return dict(held)


def _part_of(place: float, validation: float, test: float) -> str:
    if place < validation:
        return "validation"
    return "test" if place < validation + test else "train"


def _uniform(*words: str) -> float:
    """A number in [0, 1) that depends on the words alone."""
    digest = hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def _limited(texts: Iterator[str] | Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """Whole documents until the limit is reached; one that alone is longer than that is cut."""
    total = 0
    for text in texts:
        if max_bytes is not None and total >= max_bytes:
            return
        size = len(text.encode("utf-8", "surrogatepass"))
        yield text if max_bytes is None or size <= max_bytes else _limited_text(text, max_bytes - total)
        total += size


def _limited_text(text: str, max_bytes: int | None) -> str:
    if max_bytes is None or len(text) * 4 <= max_bytes:
        return text
    return text.encode("utf-8", "surrogatepass")[:max_bytes].decode("utf-8", "ignore")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
