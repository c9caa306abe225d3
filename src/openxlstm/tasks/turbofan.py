"""Remaining life of turbofan engines: how many flights are left, after each flight?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.sensors.averages import with_averages
from openxlstm.data.sensors.turbofan import CHANNELS, Engine, read_engines, read_remaining
from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks.sensors import SensorTask, Standard, grouped, padded, spelled, standard
from openxlstm.tasks.task import SQUARED_ERROR, Anchor, Batch, Metric, Signature, Split, nothing_scored

SUBSETS = ("FD001", "FD002", "FD003", "FD004")
KIND = "remaining life"


class Fleet(NamedTuple):
    """Engines, and the flights that each has left after its last row."""

    engines: tuple[Engine, ...]
    left: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Turbofan(SensorTask):
    """How many flights has a turbofan engine left? NASA's C-MAPSS simulations, read from the first flight on.

    The model answers after every flight, in units of `cap`. Training asks after each flight of engines that ran to failure, for
    min(flights left, cap): early on nothing is worn yet and nothing can be seen. The test asks after the last row of each
    engine of the test file, for all that RUL_*.txt says, without the cap.

    source: a folder with train_FD001.txt, test_FD001.txt and RUL_FD001.txt.
    subset: which of the four sets, FD001 to FD004.
    cap: most flights that training asks for.
    skip: training begins anywhere in this first share of an engine's life, so that the age of an engine, of which there are
        few, says less than its sensors.
    averages: half-lives, in flights, of running averages of all channels that models read beside the last row.
    validation_engines: engines of the training file that are kept for validation, after each of their flights.
    """

    name: ClassVar[str] = "turbofan"
    needs: ClassVar[str] = "a folder with train_FD001.txt, test_FD001.txt and RUL_FD001.txt"

    subset: str = "FD001"
    cap: int = 125
    skip: float = 0.0
    averages: tuple[int, ...] = (10, 30)
    validation_engines: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset not in SUBSETS:
            raise UserError(f"data.subset={self.subset!r} must be one of {', '.join(SUBSETS)}")
        if not 0 <= self.skip < 1:
            raise UserError(f"data.skip={self.skip:g} must be from 0 to below 1")
        if any(half_life < 1 for half_life in self.averages):
            raise UserError(f"data.averages={','.join(map(str, self.averages))} must be half-lives of at least 1 flight")
        if self.cap < 1 or self.validation_engines < 1:
            raise UserError(f"data.cap={self.cap} and validation_engines={self.validation_engines} must be at least 1")

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=len(CHANNELS) * (1 + len(self.averages)), num_values=1)

    @property
    def metric(self) -> Metric:
        """An answer below 0 is taken as 0."""
        squared = lambda outputs, targets: (self.cap * (outputs.clamp(min=0) - targets)).square().mean(-1)  # noqa: E731
        constant = lambda targets: self.cap**2 * SQUARED_ERROR.constant(targets)  # noqa: E731
        return replace(SQUARED_ERROR, name="RMSE in flights", points=squared, constant=constant, root=True)

    @property
    def other_metrics(self) -> tuple[Metric, ...]:
        """The RMSE where truths are capped as in training, as many papers have it, and the score of the PHM 2008 challenge."""
        plain = self.metric.points
        capped = replace(self.metric, name="RMSE of the capped life", points=lambda o, t: plain(o, t.clamp(max=1.0)))
        phm = lambda outputs, targets: phm08(self.cap * (outputs.clamp(min=0) - targets)[:, 0])  # noqa: E731
        return capped, replace(SQUARED_ERROR, name="PHM08 score", points=phm, total=True)

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        if self.subset != "FD001":
            return ()
        known = {"MLP": 37.56, "CNN": 18.45, "LSTM": 16.14}  # the set of three that papers quote from each other
        return tuple(Anchor(model, score, "Zheng et al. 2017", checked=False) for model, score in known.items())

    def chance(self, length: int) -> float:
        """Always half the cap, where lives are spread evenly over it."""
        return self.cap**2 / 12

    @property
    def trained(self) -> str:
        return spelled([len(engine.rows) for engine in self.fleet("train").engines]) if self.source else "128-362"

    @property
    def reports(self) -> tuple[str, ...]:
        """Validation has engines of other lengths than the test, so the range holds all."""
        if not self.source:
            return ("31-362",)
        return (
            spelled([len(engine.rows) for split in ("train", "validation", "test") for engine in self.fleet(split).engines]),
        )

    def fleet(self, split: Split) -> Fleet:
        """The engines of a split. Raises UserError, with file and reason, for files that are not C-MAPSS's."""
        self.check_source()
        return read_fleets(self.source, self.subset, self.validation_engines)[split]

    def seen(self, split: Split) -> Fleet:
        """The same with rows as models read them: on a common scale, with averages."""
        self.check_source()
        return prepared_fleet(self.source, self.subset, self.validation_engines, self.averages, split)

    @property
    def standard(self) -> Standard:
        """Of the engines to train on."""
        return standard([engine.rows for engine in self.fleet("train").engines])

    @property
    def description(self) -> str:
        engines = self.fleet("train").engines
        return (
            f"task {self.name}: {self.subset} of {self.source}, {len(engines)} engines to train on, "
            f"{sum(len(engine.rows) for engine in engines):,} flights"
        )

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        engines, left = self.fleet(split)
        yield from (*(engine.rows for engine in engines), left)

    @property
    def beside(self) -> Mapping[str, Any]:
        found = self.standard
        scale = {"mean": found.mean.tolist(), "std": found.std.tolist(), "averages": self.averages}
        return {"kind": KIND, "channels": CHANNELS, **scale, "cap": self.cap}

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        fleet = self.seen("train")
        rows = torch.randint(len(fleet.engines), (batch,), generator=rng).tolist()
        found = self.batch(self.later(fleet, rows, rng), list(range(batch)), "train")
        return found._replace(inputs=self.noisy(found.inputs, rng))

    def later(self, fleet: Fleet, rows: list[int], rng: torch.Generator) -> Fleet:
        """Some engines from a flight on that is drawn from the first `skip` of their lives."""
        engines = [fleet.engines[row] for row in rows]
        shares = (self.skip * torch.rand(len(rows), generator=rng)).tolist()
        cut = tuple(
            engine._replace(rows=engine.rows[int(share * len(engine.rows)) :]) for engine, share in zip(engines, shares)
        )
        return Fleet(cut, fleet.left[rows])

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        fleet = self.seen(split)
        groups = grouped([len(engine.rows) for engine in fleet.engines], lengths)
        if not groups:
            raise UserError(f"{self.source}: no engine of the {split} part has {lengths} flights")
        for rows in groups:
            yield lengths, self.batch(fleet, rows, split)

    def batch(self, fleet: Fleet, rows: list[int], split: Split) -> Batch:
        """Some engines from their first flight on. The test asks after the last flight, the other splits after each."""
        sizes = [len(fleet.engines[row].rows) for row in rows]
        inputs = padded([fleet.engines[row].rows for row in rows])
        targets = nothing_scored(len(rows), max(sizes), 1)
        for place, (row, size) in enumerate(zip(rows, sizes)):
            left = fleet.left[row] + np.arange(size)[::-1].copy()
            if split == "test":
                targets[place, size - 1, 0] = float(left[-1]) / self.cap
            else:
                targets[place, :size, 0] = torch.from_numpy(np.minimum(left, self.cap) / self.cap)
        return Batch(inputs, targets, torch.tensor(sizes))


def phm08(late: Tensor) -> Tensor:
    """Points of the PHM 2008 challenge for a life that was forecast so many flights too long: exp(late / 10) - 1, and
    exp(-late / 13) - 1 where it was too short (Saxena et al., PHM 2008)."""
    return torch.where(late < 0, torch.exp(-late / 13), torch.exp(late / 10)) - 1


@lru_cache(maxsize=8)
def read_fleets(source: str, subset: str, validation: int) -> dict[Split, Fleet]:
    """The training file in two parts, by engines, and the test file. Which engines are for validation is always the same."""
    folder = Path(source)
    engines = read_engines(folder / f"train_{subset}.txt")
    if validation >= len(engines):
        raise UserError(f"{folder}: {len(engines)} engines to train on, data.validation_engines={validation} leaves none")
    order = sorted(engines, key=lambda engine: mix("turbofan", engine.unit))
    kept = {engine.unit for engine in order[:validation]}
    training = tuple(engine for engine in engines if engine.unit not in kept)
    held = tuple(engine for engine in engines if engine.unit in kept)
    test = read_engines(folder / f"test_{subset}.txt")
    left = read_remaining(folder / f"RUL_{subset}.txt", len(test))
    failed = lambda engines: Fleet(engines, np.zeros(len(engines)))  # noqa: E731
    return {"train": failed(training), "validation": failed(held), "test": Fleet(test, left)}


@lru_cache(maxsize=8)
def prepared_fleet(source: str, subset: str, validation: int, averages: tuple[int, ...], split: Split) -> Fleet:
    """A fleet as models read it; averages are those from the first flight on, wherever training begins."""
    fleets = read_fleets(source, subset, validation)
    scale = standard([engine.rows for engine in fleets["train"].engines])
    ready = [engine._replace(rows=with_averages(scale.normal(engine.rows), averages)[0]) for engine in fleets[split].engines]
    return Fleet(tuple(ready), fleets[split].left)
