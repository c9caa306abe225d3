"""What somebody who wears sensors does: one of several activities."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from openxlstm.data.sensors.recordings import Recordings, read_ts
from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks.sensors import SensorTask, Standard, grouped, padded, spelled, standard
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, Split, nothing_scored

KIND = "activity"


class Parts(NamedTuple):
    """The files, with validation taken out of the training file."""

    train: Recordings
    validation: Recordings
    test: Recordings


@dataclass(frozen=True, kw_only=True)
class Activity(SensorTask):
    """Which activity do sensors record? From .ts files of the UEA archive, such as BasicMotions.

    The test asks for the class after the last step of a recording, training after every step from `answer_from` on, so that a
    model names the activity while it goes on.

    source: a folder with one NAME_TRAIN.ts and its NAME_TEST.ts, or the first of the two files.
    validation_share: of the training recordings of each class, kept for validation; one of each at least.
    answer_from: where in a recording training begins to ask, 0 (first step) to 1 (last step alone).
    missing: "refuse" files with missing values, or "mark" them: the mean in their place, and a channel more for each channel
        that says where.
    """

    name: ClassVar[str] = "activity"
    needs: ClassVar[str] = "a folder with BasicMotions_TRAIN.ts and BasicMotions_TEST.ts, or other .ts files of the UEA archive"

    validation_share: float = 0.2
    answer_from: float = 0.25
    missing: Literal["refuse", "mark"] = "refuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.validation_share < 1:
            raise UserError(f"data.validation_share={self.validation_share:g} must be between 0 and 1")
        if not 0 <= self.answer_from <= 1:
            raise UserError(f"data.answer_from={self.answer_from:g} must be from 0 to 1")

    @property
    def parts(self) -> Parts:
        """The three parts. Raises UserError, with file and reason, for files that are malformed or do not belong together."""
        self.check_source()
        return read_parts(self.source, self.validation_share, self.missing)

    @property
    def signature(self) -> Signature:
        """Of BasicMotions, unless files say otherwise."""
        if not self.source:
            return Signature(input_dim=6, num_classes=4)
        train = self.parts.train
        return Signature(input_dim=self.read(train.values[0]).shape[1], num_classes=len(train.classes))

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def chosen_by_loss(self) -> bool:
        """Validation parts are so small that many models get every case right."""
        return True

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """Of BasicMotions: nearest neighbours by Euclidean distance and by dynamic time warping of all channels together."""
        if self.source and self.parts.train.name != "BasicMotions":
            return ()
        known = {"1-NN": 0.675, "1-NN DTW": 0.975}
        return tuple(Anchor(model, score, "arXiv 1811.00075", checked=False) for model, score in known.items())

    def chance(self, length: int) -> float:
        """One of the classes."""
        return 1 / self.signature.num_outputs

    @property
    def trained(self) -> str:
        return spelled([len(case) for case in self.parts.train.values]) if self.source else "100"

    @property
    def reports(self) -> tuple[str, ...]:
        return (spelled([len(case) for part in self.parts for case in part.values]),) if self.source else ("100",)

    @property
    def standard(self) -> Standard:
        """Of the recordings to train on."""
        return standard(self.parts.train.values)

    @property
    def description(self) -> str:
        train = self.parts.train
        return f"task {self.name}: {train.name}, {len(train.values)} recordings to train on, {len(train.classes)} classes"

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        part = getattr(self.parts, split)
        yield from (*part.values, part.labels)

    @property
    def beside(self) -> Mapping[str, Any]:
        found, classes = self.standard, self.parts.train.classes
        mark = self.missing == "mark"
        return {"kind": KIND, "mean": found.mean.tolist(), "std": found.std.tolist(), "classes": classes, "mark_missing": mark}

    def read(self, case: NDArray[np.float64]) -> NDArray[np.float64]:
        """A case as models read it."""
        rows = self.standard.normal(case)
        if self.missing == "refuse":
            return rows
        return np.concatenate([np.nan_to_num(rows), np.isnan(rows)], 1)

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        train = self.parts.train
        found = self.batch(train, torch.randint(len(train.values), (batch,), generator=rng).tolist(), self.answer_from)
        return found._replace(inputs=self.noisy(found.inputs, rng))

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        part = getattr(self.parts, split)
        groups = grouped([len(case) for case in part.values], lengths)
        if not groups:
            raise UserError(f"{self.source}: no recording of the {split} part has {lengths} steps")
        for rows in groups:
            yield lengths, self.batch(part, rows, 1.0)

    def batch(self, part: Recordings, rows: list[int], answer_from: float) -> Batch:
        """Some recordings, with a question at each step from that share of their steps on."""
        cases = [self.read(part.values[row]) for row in rows]
        targets = nothing_scored(len(cases), max(map(len, cases)))
        for place, (row, case) in enumerate(zip(rows, cases)):
            first = min(int(answer_from * len(case)), len(case) - 1)
            targets[place, first : len(case)] = int(part.labels[row])
        return Batch(padded(cases), targets, torch.tensor([len(case) for case in cases]))


@lru_cache(maxsize=8)
def read_parts(source: str, share: float, missing: str) -> Parts:
    """The two files of a problem, the first in two parts."""
    train_file, test_file = files_of(Path(source))
    train, test = read_ts(train_file), read_ts(test_file)
    if set(test.classes) != set(train.classes):
        raise UserError(f"{test_file}: its classes are {', '.join(test.classes)}, those of {train_file.name} are others")
    order = np.asarray([train.classes.index(name) for name in test.classes], np.int64)
    test = test._replace(labels=order[test.labels], classes=train.classes)
    channels = train.values[0].shape[1]
    if test.values[0].shape[1] != channels:
        raise UserError(f"{test_file}: {test.values[0].shape[1]} channels, {train_file.name} has {channels}")
    for file, part in ((train_file, train), (test_file, test)):
        lacking = sum(bool(np.isnan(case).any()) for case in part.values)
        if lacking and missing == "refuse":
            raise UserError(f"{file}: {lacking} cases have missing values; --data.missing=mark reads them with a mark")
    kept = held_out(train, share, train_file)
    return Parts(rows_of(train, ~kept), rows_of(train, kept), test)


def files_of(path: Path) -> tuple[Path, Path]:
    """The training file and the test file."""
    if path.is_dir():
        found = sorted(path.glob("*_TRAIN.ts"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise UserError(f"{path}: expected one file *_TRAIN.ts, found {names}; name the file itself")
        path = found[0]
    if not path.name.endswith("_TRAIN.ts"):
        raise UserError(f"{path}: expected a folder with, or the file NAME_TRAIN.ts")
    return path, path.with_name(path.name.removesuffix("_TRAIN.ts") + "_TEST.ts")


def held_out(train: Recordings, share: float, file: Path) -> NDArray[np.bool_]:
    """[N] which cases are for validation: that share of each class, always the same ones."""
    kept = np.zeros(len(train.values), bool)
    for label, name in enumerate(train.classes):
        cases = sorted(np.flatnonzero(train.labels == label).tolist(), key=lambda case: mix(KIND, case))
        if len(cases) < 2:
            raise UserError(f"{file}: {len(cases)} cases of the class {name!r}; 2 are needed, one of them for validation")
        kept[cases[: min(max(round(share * len(cases)), 1), len(cases) - 1)]] = True
    return kept


def rows_of(part: Recordings, which: NDArray[np.bool_]) -> Recordings:
    """Some of the cases."""
    values = tuple(case for case, chosen in zip(part.values, which) if chosen)
    return part._replace(values=values, labels=part.labels[which])
