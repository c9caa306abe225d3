"""Token shards on disk, memory-mapped: written once, aside and renamed; found again by fingerprint; checked when read.

A prepared folder:

    prepared.json            settings, description, fingerprints, sizes of the three parts
    tokenizer/               as `Tokenizer.save` writes it
    train/index.json         dtype, counts, and for each shard its size and checksums
    train/00000.bin          token ids, little-endian uint16 or uint32
    train/00000.starts.bin   where documents start, little-endian int64, counted from the first token of the part
    validation/ test/        likewise; a part without text has no folder

The tokens of a part are `eos document eos document eos ...`: the end of one document is the beginning of the next, so that each
token of a document, the first included, is predicted from something, and a model with an empty state starts from `eos`. A
document starts at the `eos` before it. Without an `eos_id` the documents follow each other directly.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.data import tokenizer as tokenizers
from openxlstm.data.corpus import PREPARED, SPLITS, Corpus, TextConfig, check_not_prepared, load_corpus, source_fingerprint
from openxlstm.data.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from openxlstm.errors import UserError
from openxlstm.files import atomic_path, write_atomic

FORMAT = 1
INDEX = "index.json"
_PROGRESS = "progress.json"
_SHARD_TOKENS = 1 << 26  # 128 or 256 MiB
_PIECE = 1 << 20  # characters encoded at once
_TOKENIZER_BYTES = 1 << 26  # text a BPE vocabulary is learnt from
_DOCUMENT_STARTS = np.dtype("<i8")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Shard:
    """One file of tokens, as the index describes it."""

    name: str
    num_tokens: int
    num_documents: int
    crc32: int
    starts_crc32: int


class TokenDataset:
    """All tokens of one part, read from memory-mapped shards.

    Slicing reads across shards: `data[10:20]` is an int64 array. Sizes are compared at once, each shard's checksum when it is
    first touched. Raises UserError for a missing, truncated or changed file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index = _read_json(self.folder / INDEX)
        try:
            self.dtype = np.dtype(index["dtype"])
            self.vocab_size: int = index["vocab_size"]
            self.eos_id: int | None = index["eos_id"]
            self.num_bytes: int = index["num_bytes"]
            self.num_documents: int = index["num_documents"]
            self.tokenizer_fingerprint: str = index["tokenizer"]
            self.description: str = index["description"]
            self.shards = tuple(Shard(**shard) for shard in index["shards"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / INDEX}: not an index of token shards: {error}") from None
        for shard in self.shards:
            _check_size(self.folder / f"{shard.name}.bin", shard.num_tokens * self.dtype.itemsize)
            _check_size(self.folder / f"{shard.name}.starts.bin", shard.num_documents * _DOCUMENT_STARTS.itemsize)
        self._ends = np.cumsum([shard.num_tokens for shard in self.shards], dtype=np.int64)
        self._mapped: dict[int, NDArray[Any]] = {}
        self._starts: NDArray[np.int64] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens, `eos` included; one less can be predicted."""
        return int(self._ends[-1]) if self.shards else 0

    def __len__(self) -> int:
        return self.num_tokens

    def __getitem__(self, where: slice) -> NDArray[np.int64]:
        start, stop, step = where.indices(self.num_tokens)
        if step != 1:
            raise IndexError("tokens are read in order, without a step")
        return self.read(start, max(start, stop))

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens [start, stop) as int64; both must lie within the part."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens [{start}, {stop}) of {self.num_tokens}")
        pieces = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            first = int(self._ends[number - 1]) if number else 0
            piece = self._shard(number)[start - first : stop - first]
            pieces.append(piece)
            start += len(piece)
            number += 1
        return np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, np.int64)

    @property
    def document_starts(self) -> NDArray[np.int64]:
        """Where the documents start [num_documents], ascending."""
        if self._starts is None:
            parts = []
            for shard in self.shards:
                path = self.folder / f"{shard.name}.starts.bin"
                data = path.read_bytes()
                _check_sum(path, data, shard.starts_crc32)
                parts.append(np.frombuffer(data, _DOCUMENT_STARTS).astype(np.int64))
            self._starts = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return self._starts

    def starts_in(self, start: int, stop: int) -> NDArray[np.int64]:
        """Document starts within [start, stop)."""
        starts = self.document_starts
        return starts[np.searchsorted(starts, start) : np.searchsorted(starts, stop)]

    def document(self, number: int) -> NDArray[np.int64]:
        """Tokens of one document, without the `eos` around it."""
        starts = self.document_starts
        if not 0 <= number < len(starts):
            raise IndexError(f"document {number} of {len(starts)}")
        has_eos = self.eos_id is not None
        stop = int(starts[number + 1]) if number + 1 < len(starts) else self.num_tokens - has_eos
        return self.read(int(starts[number]) + has_eos, stop)

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Bits per UTF-8 byte of the text, from the mean loss over all `num_tokens - 1` predicted tokens."""
        if not self.num_bytes:
            return math.nan
        return nats_per_token * (self.num_tokens - 1) / math.log(2) / self.num_bytes

    def verify(self) -> None:
        """Compare every checksum now."""
        for number in range(len(self.shards)):
            self._shard(number)
        _ = self.document_starts

    def _shard(self, number: int) -> NDArray[Any]:
        if number not in self._mapped:
            shard = self.shards[number]
            path = self.folder / f"{shard.name}.bin"
            try:
                mapped = np.memmap(path, dtype=self.dtype, mode="r")
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: cannot be read: {error}") from None
            _check_sum(path, mapped, shard.crc32)
            self._mapped[number] = mapped
        return self._mapped[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}  # a copy in another process maps the files again


@dataclass(frozen=True)
class PreparedText:
    """A tokenizer and the tokens of the three parts; a part without text is None."""

    folder: Path
    tokenizer: Tokenizer
    train: TokenDataset
    validation: TokenDataset | None
    test: TokenDataset | None
    description: str
    fingerprint: str
    config: dict[str, Any]

    def split(self, name: str) -> TokenDataset:
        """The part called `name`; raises UserError where it has no text."""
        if name not in SPLITS:
            raise UserError(f"no split {name!r}; have {', '.join(SPLITS)}")
        data = getattr(self, name)
        if data is None:
            raise UserError(f"{self.description}: there is no {name} text")
        return data


def prepare(config: TextConfig, cache_dir: str | os.PathLike[str], *, report: Report | None = None) -> PreparedText:
    """The tokens that `config` asks for, from `cache_dir` where they were made before.

    A source that is a prepared folder is opened as it is. Processes that ask for the same text at the same time wait for the
    first (POSIX). `report` receives lines of progress."""
    if (Path(config.source) / PREPARED).is_file():
        return open_prepared(config.source)
    fingerprint = source_fingerprint(config)
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", config.source.rstrip("/\\").split("/")[-1]).strip("-.")[:40]
    return _prepare(config, Path(cache_dir) / f"{name or 'text'}-{fingerprint}", fingerprint, report)


def prepare_folder(
    config: TextConfig, folder: str | os.PathLike[str], *, force: bool = False, report: Report | None = None
) -> PreparedText:
    """As `prepare`, into exactly this folder. Raises UserError where it holds something else, unless `force`, which replaces
    it as soon as the new source is known to be good; and for a source that is prepared already."""
    check_not_prepared(config)
    place = Path(folder)
    fingerprint = source_fingerprint(config)
    mine = (place / PREPARED).is_file() or not place.exists()
    if not mine and (not place.is_dir() or (any(place.iterdir()) and not (place / ".lock").exists())):
        raise UserError(f"{place}: is not an empty folder")
    return _prepare(config, place, fingerprint, report, force=force)


def open_prepared(folder: str | os.PathLike[str]) -> PreparedText:
    """Open a prepared folder. Raises UserError where it is unfinished, damaged or does not fit together."""
    place = Path(folder)
    facts = _read_json(place / PREPARED)
    if facts.get("format") != FORMAT:
        raise UserError(f"{place / PREPARED}: format {facts.get('format')!r}, this version reads {FORMAT}; prepare it again")
    tokenizer = load_tokenizer(place / "tokenizer")
    parts: dict[str, TokenDataset | None] = {}
    for split in SPLITS:
        data = TokenDataset(place / split) if split in facts["splits"] else None
        if data is not None and data.tokenizer_fingerprint != facts["tokenizer"]:
            raise UserError(f"{place / split}: made with another tokenizer than {place / 'tokenizer'}; prepare it again")
        parts[split] = data
    if tokenizers.fingerprint(tokenizer) != facts["tokenizer"]:
        raise UserError(f"{place / 'tokenizer'}: is not the tokenizer that made the tokens; prepare the text again")
    train = parts.pop("train")
    if train is None:
        raise UserError(f"{place}: there is no train text")
    return PreparedText(
        folder=place,
        tokenizer=tokenizer,
        train=train,
        description=facts["description"],
        fingerprint=facts["fingerprint"],
        config=facts["config"],
        **parts,
    )


def write_shards(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    directory: str | os.PathLike[str],
    shard_tokens: int = _SHARD_TOKENS,
    *,
    description: str = "",
    fingerprint: str = "",
    report: Report | None = None,
) -> TokenDataset:
    """Tokenise documents into shards of at least `shard_tokens` tokens that end where documents end.

    An interrupted call that is repeated with the same `fingerprint` and tokenizer goes on after the last whole shard. The
    index is written last: a folder without one is unfinished. Empty documents are left out; no document gives 0 tokens."""
    if shard_tokens < 1:
        raise UserError(f"shard_tokens={shard_tokens} must be at least 1")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    facts: dict[str, Any] = {
        "format": FORMAT,
        "dtype": dtype.str,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "tokenizer": tokenizers.fingerprint(tokenizer),
        "fingerprint": fingerprint,
        "description": description,
    }
    (folder / INDEX).unlink(missing_ok=True)
    done = _resume(folder, facts)
    shards: list[Shard] = [Shard(**shard) for shard in done["shards"]]
    num_read, num_bytes, num_tokens = done["num_read"], done["num_bytes"], sum(shard.num_tokens for shard in shards)
    progress = _Progress(report, folder.name)
    source = iter(documents)
    for _ in range(num_read):
        next(source, None)
    finished = False
    while not finished:
        name = f"{len(shards):05d}"
        starts: list[int] = []
        with atomic_path(folder / f"{name}.bin") as aside:
            crc, written = 0, 0
            with open(aside, "wb") as file:
                for ids in _opening(tokenizer, num_tokens):
                    crc, written = _append(file, np.asarray([ids], dtype), crc, written)
                finished = True
                for text in source:
                    num_read += 1
                    if text:
                        starts.append(num_tokens + written - (tokenizer.eos_id is not None))
                        num_bytes += len(text.encode())
                        for piece in _encoded(text, tokenizer, dtype):
                            crc, written = _append(file, piece, crc, written)
                        progress.tell(num_bytes, num_tokens + written)
                    if written >= shard_tokens:
                        finished = False
                        break
            if not starts:
                break  # nothing came after the last shard; the empty file is dropped
        data = np.asarray(starts, _DOCUMENT_STARTS).tobytes()
        write_atomic(folder / f"{name}.starts.bin", data)
        shards.append(Shard(name, written, len(starts), crc, zlib.crc32(data)))
        num_tokens += written
        counts = {"shards": [dataclasses.asdict(shard) for shard in shards], "num_read": num_read, "num_bytes": num_bytes}
        write_atomic(folder / _PROGRESS, json.dumps(facts | counts))
    (folder / f"{len(shards):05d}.bin").unlink(missing_ok=True)
    index = facts | {
        "num_tokens": num_tokens,
        "num_documents": sum(shard.num_documents for shard in shards),
        "num_bytes": num_bytes,
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    write_atomic(folder / INDEX, json.dumps(index, indent=1) + "\n")
    (folder / _PROGRESS).unlink(missing_ok=True)
    return TokenDataset(folder)


def build_tokenizer(config: TextConfig, corpus: Corpus) -> Tokenizer:
    """The tokenizer that `config.tokenizer` names, built from the training text where it has to be built.

    `chars` takes its alphabet from all three parts (a closed alphabet is what the character-level benchmarks have) and gets an
    end token where there is more than one training document. `bpe` learns from the first 64 MiB of training text."""
    fill_in = config.fill_in_order if config.fill_in else None
    if config.tokenizer == "bytes":
        return tokenizers.ByteTokenizer(fill_in=fill_in)
    if config.tokenizer == "chars":
        several = len(list(_first(corpus.train, 2))) > 1
        texts = (text for split in SPLITS for text in corpus.split(split))
        return CharTokenizer.train(texts, eos=several)
    if config.tokenizer == "words":
        return WordTokenizer.train(corpus.train, config.vocab_size)
    if config.tokenizer == "bpe":
        return BPETokenizer.train(_pieces_up_to(corpus.train, _TOKENIZER_BYTES), config.vocab_size or 8192, fill_in=fill_in)
    return load_tokenizer(config.tokenizer)


def _prepare(config: TextConfig, folder: Path, fingerprint: str, report: Report | None, *, force: bool = False) -> PreparedText:
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        if (folder / PREPARED).is_file():
            if _read_json(folder / PREPARED).get("fingerprint") == fingerprint:
                return open_prepared(folder)
            if not force:
                raise UserError(f"{folder}: holds text of another source or prepared with other settings; --force replaces it")
        corpus = load_corpus(config)
        tokenizer = build_tokenizer(config, corpus)
        if not any(corpus.train):  # a stream, which nobody has read yet
            raise UserError(f"{config.source}: no text to train on")
        (folder / PREPARED).unlink(missing_ok=True)  # not before the new text is known to be good
        tokenizer.save(folder / "tokenizer")
        sizes = {}
        for split in SPLITS:
            data = write_shards(
                corpus.split(split),
                tokenizer,
                folder / split,
                description=corpus.description,
                fingerprint=fingerprint,
                report=report,
            )
            if data.num_tokens:
                sizes[split] = {name: getattr(data, name) for name in ("num_tokens", "num_documents", "num_bytes")}
            elif split == "train":
                raise UserError(f"{config.source}: no text to train on")
            else:
                shutil.rmtree(folder / split)
        facts = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "description": corpus.description,
            "config": dataclasses.asdict(config),
            "tokenizer": tokenizers.fingerprint(tokenizer),
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "splits": sizes,
        }
        write_atomic(folder / PREPARED, json.dumps(facts, indent=1) + "\n")
        return open_prepared(folder)


def _opening(tokenizer: Tokenizer, num_tokens: int) -> Sequence[int]:
    """The `eos` in front of the very first document."""
    return [] if num_tokens or tokenizer.eos_id is None else [tokenizer.eos_id]


def _encoded(text: str, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The ids of a document and its `eos`, which a text whose last line has been ended by a word tokenizer has already."""
    last = None
    for group in _grouped(_pieces(text)):
        encoded = tokenizer.encode_batch(group) if isinstance(tokenizer, BPETokenizer) else map(tokenizer.encode, group)
        for ids in encoded:
            if ids:
                last = ids[-1]
                yield np.asarray(ids, dtype)
    if tokenizer.eos_id is not None and last != tokenizer.eos_id:
        yield np.asarray([tokenizer.eos_id], dtype)


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces that are encoded as they would be within the whole: cut behind a single line end between characters
    that are not white space, where no pre-tokenizer of the GPT kind joins anything."""
    start = 0
    while len(text) - start > 2 * _PIECE:
        found = _CUT.search(text, start + _PIECE)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


_CUT = re.compile(r"(?<=\S\n)(?=\S)")


def _grouped(pieces: Iterator[str], size: int = 16) -> Iterator[list[str]]:
    while group := list(_first(pieces, size)):
        yield group


def _first(items: Iterable[str], count: int) -> Iterator[str]:
    for number, item in enumerate(items, 1):
        yield item
        if number == count:
            return


def _pieces_up_to(texts: Iterable[str], num_bytes: int) -> Iterator[str]:
    left = num_bytes
    for text in texts:
        for piece in _pieces(text):
            yield piece
            left -= len(piece.encode())
            if left <= 0:
                return


def _append(file: Any, data: NDArray[Any], crc: int, written: int) -> tuple[int, int]:
    raw = data.tobytes()
    file.write(raw)
    return zlib.crc32(raw, crc), written + len(data)


def _resume(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What an earlier, interrupted call with the same facts had finished; everything else in the folder is thrown away."""
    nothing: dict[str, Any] = {"shards": [], "num_read": 0, "num_bytes": 0}
    try:
        found = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        usable = {name: found[name] for name in facts} == facts
        shards = [Shard(**shard) for shard in found["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        usable, shards, found = False, [], nothing
    if usable:
        try:
            for shard in shards:
                size = shard.num_tokens * np.dtype(facts["dtype"]).itemsize
                _check_size(folder / f"{shard.name}.bin", size)
                _check_size(folder / f"{shard.name}.starts.bin", shard.num_documents * _DOCUMENT_STARTS.itemsize)
        except UserError:
            usable = False
    kept = {shard.name for shard in shards} if usable else set()
    for path in folder.iterdir():
        stale = re.fullmatch(r"\d{5}(\.starts)?\.bin", path.name) and path.name[:5] not in kept
        if stale or re.fullmatch(r"\..*\.part", path.name):
            path.unlink()
    return found if usable else nothing


class _Progress:
    """A line every few seconds."""

    def __init__(self, report: Report | None, name: str) -> None:
        self._report, self._name = report, name
        self._begin = self._last = time.monotonic()

    def tell(self, num_bytes: int, num_tokens: int) -> None:
        now = time.monotonic()
        if self._report is not None and now - self._last >= 2.0:
            self._last = now
            rate = num_bytes / 1e6 / (now - self._begin)
            self._report(f"{self._name}: {num_bytes / 1e6:,.1f} MB, {num_tokens:,} tokens, {rate:.1f} MB/s")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock dies with its process. Without fcntl (Windows) there is no lock."""
    try:
        import fcntl
    except ImportError:
        path.touch()
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the folder is not a finished set of prepared text") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is wanted")
    return content


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise UserError(f"{path}: missing; prepare the text again") from None
    if size != expected:
        raise UserError(
            f"{path}: {size:,} bytes where the index says {expected:,}; the file is damaged, prepare the text again"
        )


def _check_sum(path: Path, data: Any, expected: int) -> None:
    if zlib.crc32(data) != expected:
        raise UserError(f"{path}: the checksum differs from the index; the file is damaged, prepare the text again")
