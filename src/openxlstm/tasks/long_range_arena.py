"""The text tasks of Long Range Arena (Tay et al. 2020, arXiv 2011.04006), from the files of its release."""

import gzip
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.labelled import for_validation, review_files
from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.list_operations import TOKENS
from openxlstm.tasks.published import LONG_RANGE_ARENA
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, Split, nothing_scored

STEPS_AT_ONCE = 65_536  # in a batch for evaluation
BYTES = 257  # 0 is padding, then the bytes
SEPARATOR = b"\x00"  # between two texts; a byte that text has not


class Sequences(NamedTuple):
    """Sequences of token ids and their classes."""

    ids: list[NDArray[np.uint16]]
    labels: Tensor  # [N] int64

    @property
    def longest(self) -> int:
        return max(map(len, self.ids))


@dataclass(frozen=True, kw_only=True)
class ArenaTask(FileTask):
    """Which class is the sequence? Known at its last step. The splits are those of the files.

    source: the folder with the task's files.
    max_length: longer sequences are cut to so many steps; 0 = none.
    test_samples: sequences of the test file, from its beginning; 0 = all.
    """

    max_length: int = 0
    test_samples: int = 0

    lengths: ClassVar[str]  # of the release
    classes: ClassVar[int]
    vocab_size: ClassVar[int]

    def __post_init__(self) -> None:
        for name in ("max_length", "test_samples"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name}={getattr(self, name)} must not be negative")

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=self.vocab_size, num_classes=self.classes)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return LONG_RANGE_ARENA[self.name]

    def chance(self, length: int) -> float:
        """One of the classes."""
        return 1 / self.classes

    @property
    def reports(self) -> tuple[str, ...]:
        return (self.lengths,)

    @property
    def description(self) -> str:
        found = self.sequences("train")
        return f"task {self.name}: {len(found.labels):,} sequences of {self.source} to train on, to {found.longest:,} steps"

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        found = self.sequences(split)
        yield from (*found.ids, found.labels.numpy())

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        found = self.sequences("train")
        return pad(found, torch.randint(len(found.labels), (batch,), generator=rng).tolist())

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        """lengths: those of `reports`; the parts are scored whole. Raises UserError for others."""
        if lengths not in self.reports:
            raise UserError(f"task {self.name} is scored on all lengths together, {self.lengths}, and not on {lengths!r}")
        found = self.sequences(split)
        rows: list[int] = []
        for row, ids in enumerate(found.ids):
            if rows and (len(rows) + 1) * max(len(ids), *(len(found.ids[r]) for r in rows)) > STEPS_AT_ONCE:
                yield lengths, pad(found, rows)
                rows = []
            rows.append(row)
        yield lengths, pad(found, rows)

    def sequences(self, split: Split) -> Sequences:
        """One of the three parts. Raises UserError, with file, line and reason, for files that are not the task's."""
        self.check_source()
        return _read(self, split)

    @abstractmethod
    def read(self, folder: Path, split: Split) -> Iterable[tuple[NDArray[np.uint16], int]]:
        """Token ids, from 1 on and cut to `max_length`, and class of every sequence of a part."""


@lru_cache(maxsize=6)
def _read(task: ArenaTask, split: Split) -> Sequences:
    folder = Path(task.source)
    if not folder.is_dir():
        raise UserError(f"{task.source}: no such folder; task {task.name} needs {task.needs}")
    few = task.test_samples if split == "test" and task.test_samples else None
    pairs = list(task.read(folder, split))[:few]  # all are read: a malformed line is refused wherever it stands
    if not pairs:
        raise UserError(f"{task.source}: there is nothing for {split} in it; task {task.name} needs {task.needs}")
    return Sequences([ids for ids, _ in pairs], torch.tensor([label for _, label in pairs]))


def pad(found: Sequences, rows: list[int]) -> Batch:
    """Some sequences as a batch; the answer is due at the last step of each."""
    lengths = torch.tensor([len(found.ids[row]) for row in rows])
    inputs = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        inputs[place, : lengths[place]] = torch.from_numpy(found.ids[row].astype(np.int64))
    targets = nothing_scored(*inputs.shape)
    targets[torch.arange(len(rows)), lengths - 1] = found.labels[rows]
    return Batch(inputs, targets, lengths)


def lines_of(folder: Path, name: str) -> Iterator[tuple[Path, int, str]]:
    """Path, number and text of the lines of a file that are not blank; its name may end in `.gz`."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise UserError(f"{folder}: there is no {name} or {name}.gz")
    path = found[0]
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip(" \r\n"):
                    yield path, number, line.rstrip("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read after line {number}: {error}") from None


def as_bytes(text: bytes) -> NDArray[np.uint16]:
    """Bytes as token ids."""
    return np.frombuffer(text, np.uint8).astype(np.uint16) + 1


@dataclass(frozen=True, kw_only=True)
class ArenaListOps(ArenaTask):
    """ListOps as in Long Range Arena: the value of nested lists of 500 to 2000 symbols.

    source: the folder with basic_train.tsv, basic_val.tsv and basic_test.tsv, as they are or with `.gz`.
    max_length: longer sequences are cut to so many steps; 0 = none.
    test_samples: sequences of the test file, from its beginning; 0 = all.
    """

    name: ClassVar[str] = "lra_listops"
    needs: ClassVar[str] = "the folder with basic_train.tsv, basic_val.tsv and basic_test.tsv"
    lengths: ClassVar[str] = "500-2000"
    classes: ClassVar[int] = 10
    vocab_size: ClassVar[int] = len(TOKENS)

    def read(self, folder: Path, split: Split) -> Iterator[tuple[NDArray[np.uint16], int]]:
        """The brackets `(` and `)`, which say nothing that the lists do not, are left out as usual."""
        number_of = {symbol: number for number, symbol in enumerate(TOKENS)}
        part = {"train": "train", "validation": "val", "test": "test"}[split]
        for path, number, line in lines_of(folder, f"basic_{part}.tsv"):
            source, tab, target = line.partition("\t")
            if number == 1 and (source, target) == ("Source", "Target"):
                continue
            try:
                ids = np.array([number_of[s] for s in source.split() if s not in "()"], np.uint16)
            except KeyError as error:
                raise UserError(f"{path}, line {number}: {error.args[0]!r} is no symbol of ListOps") from None
            if not tab or target not in {str(d) for d in range(10)} or not len(ids):
                raise UserError(f"{path}, line {number}: expected an expression, a tab and a digit, got {line[:60]!r}")
            yield ids[: self.max_length or None], int(target)


@dataclass(frozen=True, kw_only=True)
class ArenaText(ArenaTask):
    """Sentiment of film reviews, byte by byte, as in Long Range Arena.

    The reviews of IMDB (Maas et al. 2011). Validation is a tenth of the training files, by a hash of their names; Long Range
    Arena validates on the test files.

    source: the folder aclImdb, with train/pos, train/neg, test/pos and test/neg.
    max_length: longer reviews are cut to so many bytes.
    test_samples: reviews of the test folders, classes in turn; 0 = all.
    """

    name: ClassVar[str] = "lra_text"
    needs: ClassVar[str] = "the folder aclImdb, with train/pos, train/neg, test/pos and test/neg"
    lengths: ClassVar[str] = "1-4000"
    classes: ClassVar[int] = 2
    vocab_size: ClassVar[int] = BYTES

    max_length: int = 4000

    def read(self, folder: Path, split: Split) -> Iterator[tuple[NDArray[np.uint16], int]]:
        for path, label in review_files(folder, "test" if split == "test" else "train"):
            if split == "test" or for_validation(path.name) == (split == "validation"):
                text = path.read_bytes()
                if not text:
                    raise UserError(f"{path}: is empty")
                yield as_bytes(text[: self.max_length or None]), label


@dataclass(frozen=True, kw_only=True)
class ArenaRetrieval(ArenaTask):
    """Does one paper cite the other? Two texts, byte by byte, as in Long Range Arena.

    The pairs of the ACL Anthology Network (Radev et al. 2013). Long Range Arena reads each text by itself and compares; here
    one is read after the other, with a separator between, which a model with a state must answer from memory.

    source: the folder with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv.
    max_length: each text is cut to so many bytes; 0 = none.
    test_samples: pairs of the test file, from its beginning; 0 = all.
    """

    name: ClassVar[str] = "lra_retrieval"
    needs: ClassVar[str] = "the folder with new_aan_pairs.train.tsv, new_aan_pairs.eval.tsv and new_aan_pairs.test.tsv"
    lengths: ClassVar[str] = "3-8001"
    classes: ClassVar[int] = 2
    vocab_size: ClassVar[int] = BYTES

    max_length: int = 4000

    def read(self, folder: Path, split: Split) -> Iterator[tuple[NDArray[np.uint16], int]]:
        part = {"train": "train", "validation": "eval", "test": "test"}[split]
        for path, number, line in lines_of(folder, f"new_aan_pairs.{part}.tsv"):
            fields = line.split("\t")
            if len(fields) != 5 or fields[0] not in ("0", "1", "0.0", "1.0") or not fields[3] or not fields[4]:
                raise UserError(
                    f"{path}, line {number}: expected 0 or 1, two names and two texts between tabs, got {len(fields)} fields "
                    f"that begin with {fields[0][:20]!r}"
                )
            texts = (field.encode()[: self.max_length or None] for field in fields[3:])
            yield as_bytes(SEPARATOR.join(texts)), int(float(fields[0]))
