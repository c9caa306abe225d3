"""The same comparison at several values of one setting: how losses fall with size, what a state of some size can hold."""

import dataclasses
import statistics
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from openxlstm.experiments.question import Evidence, Rows
from openxlstm.experiments.scaling import draw, fit
from openxlstm.experiments.trained import Trained, machines, trainings
from openxlstm.recipes import recipe
from openxlstm.training.compare import Comparison, compare
from openxlstm.training.config import RunConfig
from openxlstm.training.options import override
from openxlstm.training.record import canvas

Points = tuple[list[float], list[float]]
"""Of a model, one number each a finished run: how large it was, and how good."""


@dataclass(frozen=True, kw_only=True)
class Sweep(Trained):
    """A comparison at each of several widths of the recipe's model, all else equal, the number of tokens too.

    widths: scale -> values of model.dim.
    dense: q, k and v of mlstm blocks are dense at each of them; else in blocks of the recipe's size.
    """

    widths: Mapping[str, tuple[int, ...]]
    dense: bool = False
    figure: ClassVar[str]

    def ask(self, scale: str, folder: Path, cells: Path, say: Callable[[str], None], jobs: int = 1) -> Evidence | None:
        setting = self.settings.get(scale)
        if setting is None or self.lacks:
            return None
        found: list[Comparison] = []
        for width in self.widths[scale]:
            options = {**self.options(setting), **self.at(str(width), str(2 * width))}
            base = dataclasses.replace(override(recipe(self.recipe), options), name=f"{self.name}-{width}")
            place = folder / f"width-{width}"
            found.append(compare(base, setting.models, range(setting.seeds), place, say, setting.lrs, jobs, cells))
            if found[-1].interrupted is not None:
                return Evidence(rows={}, table="", command="", interrupted=found[-1].interrupted)
        points = self.finished(found, setting.models)
        largest = found[self.widths[scale].index(max(self.widths[scale]))]
        self.draw(points, folder / self.figure)
        all_widths = " ".join(map(str, self.widths[scale]))
        in_shell = " ".join(f"--{name}={value}" for name, value in self.at("$width", "$((2 * width))").items())
        rows = self.rows(points, self.finished([largest], setting.models))
        return Evidence(
            rows={model: {**row, "failed": failed(found, model)} for model, row in rows.items()},
            table=self.table(points),
            command=f"for width in {all_widths}; do {self.command(setting)} {in_shell}; done",
            figure=self.figure if (folder / self.figure).exists() else None,
            failures=tuple(f"{c.model}, seed {c.seed}: {c.failure}" for one in found for c in one.cells if c.failure),
            trainings=trainings(*found),
            machines=machines(*found),
        )

    def at(self, width: str, doubled: str) -> dict[str, str]:
        """The settings of a width. doubled: twice as much, the inner width of an mlstm block."""
        return {"model.dim": width} | ({"model.qkv_block_size": doubled} if self.dense else {})

    @abstractmethod
    def points(self, found: Sequence[Comparison], model: str) -> Points:
        """The finished runs of a model, with its best learning rate at each width."""

    def finished(self, found: Sequence[Comparison], models: Sequence[str]) -> dict[str, Points]:
        """The points of the models that have any."""
        points = {model: self.points(found, model) for model in models}
        return {model: pair for model, pair in points.items() if pair[0]}

    @abstractmethod
    def rows(self, points: Mapping[str, Points], largest: Mapping[str, Points]) -> Rows:
        """What the checks read. largest: the points at the largest width that was asked for: a model that failed there is not
        compared at a smaller one."""

    @abstractmethod
    def table(self, points: Mapping[str, Points]) -> str:
        """The same for people."""

    @abstractmethod
    def draw(self, points: Mapping[str, Points], path: Path) -> None:
        """A PNG; nothing without matplotlib."""


@dataclass(frozen=True, kw_only=True)
class Scaling(Sweep):
    """Nats a token over parameters, and the law L = E + A N^-alpha.

    The rows have, by model, `params` and `nats` of every run, and the law's `alpha`, `E` and `R2` (none where the losses do not
    fall); `largest` is the mean of the nats at the largest width (none where the model failed there).
    """

    figure: ClassVar[str] = "scaling.png"

    def points(self, found: Sequence[Comparison], model: str) -> Points:
        reports = [cell.report for one in found for cell in one.chosen(model) if cell.report is not None]
        return [float(r["num_parameters"]) for r in reports], [float(r["validation"]["nats_per_token"]) for r in reports]

    def rows(self, points: Mapping[str, Points], largest: Mapping[str, Points]) -> Rows:
        made: dict[str, dict[str, object]] = {}
        for model, (params, nats) in points.items():
            made[model] = {"params": params, "nats": nats}
            if model in largest:
                made[model]["largest"] = statistics.mean(largest[model][1])
            try:
                made[model] |= {name: value for name, value in fit(params, nats)._asdict().items() if name != "A"}
            except ValueError as error:
                made[model]["no_law"] = str(error)
        return made

    def table(self, points: Mapping[str, Points]) -> str:
        lines = ["| model | law, nats per token | nats at parameters |", "|---|---|---|"]
        for model, pair in points.items():
            losses = ", ".join(f"{loss:.3f} at {size / 1e3:,.0f}k" for size, loss in means(pair).items())
            try:
                law = str(fit(*pair))
            except ValueError as error:
                law = f"none: {error}"
            lines.append(f"| {model} | {law} | {losses} |")
        return "\n".join(lines)

    def draw(self, points: Mapping[str, Points], path: Path) -> None:
        draw(points, path, "Loss over size, equal numbers of tokens")


@dataclass(frozen=True, kw_only=True)
class Capacity(Sweep):
    """The score on a task over the bytes that a model carries at the end of a sample.

    The rows have, by model, `bytes` and `scores` of every run, and `score`, the mean at the largest width (none where the model
    failed there).
    """

    figure: ClassVar[str] = "capacity.png"

    def points(self, found: Sequence[Comparison], model: str) -> Points:
        done = [cell for one in found for cell in one.chosen(model) if cell.report is not None]
        return [carried(cell.config) for cell in done], [float(cell.report["test"]["score"]) for cell in done if cell.report]

    def rows(self, points: Mapping[str, Points], largest: Mapping[str, Points]) -> Rows:
        return {
            model: {
                **{"bytes": sizes, "scores": scores},
                **({"score": statistics.mean(largest[model][1])} if model in largest else {}),
            }
            for model, (sizes, scores) in points.items()
        }

    def table(self, points: Mapping[str, Points]) -> str:
        lines = ["| model | score at kB of state |", "|---|---|"]
        for model, pair in points.items():
            scores = ", ".join(f"{score:.3f} at {size / 1000:.1f}" for size, score in means(pair).items())
            lines.append(f"| {model} | {scores} |")
        return "\n".join(lines)

    def draw(self, points: Mapping[str, Points], path: Path) -> None:
        try:
            with canvas(path, "Score over the state's size", (7.2, 4.4)) as paper:
                axes = paper.add_subplot()
                for place, (model, pair) in enumerate(points.items()):
                    mean = means(pair)
                    axes.plot(*pair, "o", color=f"C{place}", markersize=4)
                    axes.plot(list(mean), list(mean.values()), color=f"C{place}", label=model)
                axes.set_xscale("log")
                axes.set_xlabel("bytes of state at the end of a sample")
                axes.set_ylabel("score, test")
                axes.grid(alpha=0.25)
                axes.legend(frameon=False, fontsize=8)
        except ImportError:
            return


def failed(found: Sequence[Comparison], model: str) -> int:
    """Trainings of a model, with its best learning rate at each width, that failed."""
    return sum(cell.report is None for one in found for cell in one.chosen(model))


def means(pair: Points) -> dict[float, float]:
    """Size -> mean over its runs, the smallest size first."""
    return {size: statistics.mean(y for x, y in zip(*pair) if x == size) for size in sorted(set(pair[0]))}


def carried(config: RunConfig) -> float:
    """Bytes of state of a run's model, whatever its weights, after one sample of the length that it is tested at."""
    import torch

    from openxlstm.experiments.cost import state_bytes
    from openxlstm.models.sequence import SequenceModel
    from openxlstm.tasks import Task
    from openxlstm.training.config import build_sequence_config

    task: Any = config.data
    assert isinstance(task, Task)
    _, batch = next(iter(task.evaluation("test", task.reports[0])))
    with torch.inference_mode():
        _, state = SequenceModel(build_sequence_config(config.model, task))(batch.inputs[:1])
    return float(state_bytes(state))
