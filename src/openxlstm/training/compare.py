"""Several kinds of model on one task, with equal numbers of parameters: one table, one figure, resumable."""

import dataclasses
import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from openxlstm import __version__
from openxlstm.errors import UserError
from openxlstm.files import atomic_path
from openxlstm.tasks import Task
from openxlstm.training import compare_task, compare_text
from openxlstm.training.cells import Cell, Order, train_all
from openxlstm.training.config import ModelSettings, RunConfig
from openxlstm.training.options import override
from openxlstm.training.record import canvas, in_lines, write_json

Key = tuple[str, float, int]
"""Model, learning rate and seed of a training."""


@dataclass(frozen=True)
class Comparison:
    """The cells, model by model. `interrupted` is a signal number if the comparison was stopped before its end. others:
    finished cells of the same settings in compare.json that were not asked for this time: kept there, and shown nowhere.

    Where several learning rates were tried, a model is represented by the one that is best in validation, on average over its
    seeds, or over `lr_seeds` where those alone tried them all; one with which such a seed failed comes after all with which
    none did.
    """

    config: RunConfig
    target: int
    folder: Path
    cells: tuple[Cell, ...]
    interrupted: int | None = None
    others: tuple[Mapping[str, Any], ...] = ()
    lr_seeds: tuple[int, ...] = ()

    def chosen(self, model: str) -> tuple[Cell, ...]:
        """The cells of a model with its best learning rate."""
        mine = [cell for cell in self.cells if cell.model == model]
        by_lr = [tuple(cell for cell in mine if cell.lr == lr) for lr in dict.fromkeys(cell.lr for cell in mine)]

        def place(cells: Sequence[Cell]) -> tuple[int, float]:
            trials = [cell.report for cell in cells if not self.lr_seeds or cell.seed in self.lr_seeds]
            objectives = [objective(report) for report in trials if report is not None]
            return len(trials) - len(objectives), statistics.mean(objectives) if objectives else math.inf

        return min(by_lr, key=place)

    @property
    def kind(self) -> ModuleType:
        """How it is shown: as one on a task or on text."""
        return compare_task if isinstance(self.config.data, Task) else compare_text

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rates that were tried."""
        return tuple(dict.fromkeys(cell.lr for cell in self.cells))

    def rows(self) -> list[dict[str, Any]]:
        """One row a model, over the seeds that finished with its best learning rate; best first."""
        found = []
        for model in dict.fromkeys(cell.model for cell in self.cells):
            mine = self.chosen(model)
            reports = [cell.report for cell in mine if cell.report is not None]
            row: dict[str, Any] = {
                "model": model,
                "lr": mine[0].lr,
                "seeds": len(reports),
                "failed": len(mine) - len(reports),
                "machines": sorted({cell.machine or "" for cell in mine if cell.report is not None}),
            }
            if reports and isinstance(self.config.data, Task):
                row |= compare_task.row(model, reports)
            elif reports:
                row |= compare_text.row(reports)
            found.append(row)
        return sorted(found, key=lambda row: row.get("objective", row.get("nats_per_token", math.inf)))

    def table(self) -> str:
        """Markdown."""
        return self.kind.table(self.rows(), sweep=len(self.lrs) > 1)


def compare(
    base: RunConfig,
    models: Sequence[str],
    seeds: Sequence[int] = (0,),
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    lrs: Sequence[float] = (),
    jobs: int = 1,
    cells: Path | None = None,
    lr_seeds: Sequence[int] = (),
) -> Comparison:
    """Train each of `models` with each of `lrs` and `seeds`, all else as in `base`.

    models: patterns as in ModelSettings, with other settings of the model in braces: "mlstm{conv_width=0}".

    Each has as many parameters, to 1 %, as `base.model` (or as its `num_parameters` says). lrs: peak learning rates, of which
    each model is shown with the best (see Comparison); none = that of `base`. lr_seeds: the seeds that try them all, the others
    are trained with the best of these; none = every seed tries them all. jobs: trainings at a time; more than one, each in
    a process of its own. Every cell is a run folder under `cells` (default: `folder`, by default runs/compare-NAME-HASH), named
    by a hash of its configuration, the data and the version of this package: finished cells are not trained again, interrupted
    ones are resumed. Several comparisons may share `cells`. Writes compare.json, compare.md and compare.png to `folder`; what
    an earlier comparison with the same settings wrote there counts, though its run folders may be gone, and stays there
    whatever this one asks for.
    """
    from openxlstm.models.count import count_parameters
    from openxlstm.training.jobs.job import open_job

    check_choices(models, seeds, lrs, lr_seeds)
    settings = {model: variant(base.model, model) for model in models}  # a wrong name ends here
    job = open_job(base, say)
    target = base.model.num_parameters or count_parameters(job.model_config(base.model))
    configs = configurations(base, settings, target, lrs, seeds)
    for (model, _, _), config in configs.items():  # before hours of training, not after
        try:
            job.model_config(config.model)
        except UserError as error:
            raise UserError(f"{model}: {error}") from None
    if folder is None:
        folder = Path("runs", f"compare-{base.name}-{identity(base, job.fingerprint)}")
    folder.mkdir(parents=True, exist_ok=True)
    (cells or folder).mkdir(parents=True, exist_ok=True)
    before = kept(folder / "compare.json", base)
    tries = [key for key in configs if not lr_seeds or key[2] in lr_seeds]
    rest = [seed for seed in seeds if lr_seeds and seed not in lr_seeds]
    total = len(tries) + len(models) * len(rest)
    orders: dict[Key, Order] = {}
    done: dict[Key, Cell] = {}
    stopped: int | None = None

    def found() -> Comparison:
        asked = {order.place.name for order in orders.values()}
        others = tuple(cell for name, cell in before.items() if name not in asked)
        finished = tuple(done[key] for key in configs if key in done)
        return Comparison(base, target, folder, finished, stopped, others, tuple(lr_seeds))

    def train(keys: Sequence[Key]) -> None:
        nonlocal stopped
        now = {}
        for number, key in enumerate(keys, len(orders) + 1):
            (model, lr, seed), config = key, configs[key]
            title = f"[{number}/{total}] {model}, {f'lr {lr:g}, ' if lrs else ''}seed {seed}"
            place = (cells or folder) / f"{config.name}-{identity(config, job.fingerprint)}"
            now[key] = Order(model, lr, seed, config, place, title, before.get(place.name))
        orders.update(now)
        done.update({key: cell for key, order in now.items() if (cell := order.remembered()) is not None})
        for key, cell, signal in train_all(now, jobs, say):
            if signal is not None:
                stopped = signal
                continue
            done[key] = cell
            write(found())

    train(tries)
    if rest and stopped is None:
        best = {model: found().chosen(model)[0].lr for model in models}
        train([(model, lr, seed) for model, lr, seed in configs if lr == best[model] and seed in rest])
    return found()


def check_choices(models: Sequence[str], seeds: Sequence[int], lrs: Sequence[float], lr_seeds: Sequence[int]) -> None:
    """Raise UserError where nothing is to be compared, something twice, or the rates are tried by a seed that there is not."""
    if not models:
        raise UserError("compare needs at least one model")
    for what, given in (("model", models), ("seed", seeds), ("learning rate", lrs)):
        if len(set(given)) != len(given):
            raise UserError(f"a {what} is named twice in {', '.join(map(str, given))}")
    stranger = next((seed for seed in lr_seeds if seed not in seeds), None)
    if stranger is not None:
        raise UserError(f"seed {stranger} is to try the learning rates and is not among the seeds {', '.join(map(str, seeds))}")


def configurations(
    base: RunConfig, settings: Mapping[str, ModelSettings], target: int, lrs: Sequence[float], seeds: Sequence[int]
) -> dict[Key, RunConfig]:
    """Every training that may be asked for. settings: of each model. target: its number of parameters."""
    return {
        (model, lr, seed): dataclasses.replace(
            base,
            name=f"{slug(model)}-lr{lr:g}-{seed}" if lrs else f"{slug(model)}-{seed}",
            seed=seed,
            model=dataclasses.replace(settings[model], num_parameters=target),
            optimizer=dataclasses.replace(base.optimizer, lr=lr),
        )
        for model in settings
        for lr in lrs or (base.optimizer.lr,)
        for seed in seeds
    }


def kept(path: Path, base: RunConfig) -> dict[str, dict[str, Any]]:
    """The finished cells of a compare.json by the names of their folders; none where it is of other settings, or unreadable."""
    settings, cells = stored(path)
    return {name: cell for name, cell in cells.items() if cell.get("curve")} if settings == told(base) else {}


def check_same_settings(folder: Path, base: RunConfig) -> None:
    """Raise UserError where a folder holds finished trainings of a comparison with other settings, which would be lost."""
    settings, cells = stored(folder / "compare.json")
    there, here = flat(settings), flat(told(base))
    other = next((name for name in here if name in there and here[name] != there[name]), None)
    if cells and other is not None:
        values = f"{other} is {there[other]!r} there and {here[other]!r} here"
        raise UserError(f"{folder}: holds a comparison with other settings ({values}); name another folder with --out")


def stored(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of a compare.json, and its finished cells by their folders; both empty where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["task"]), {cell["folder"]: cell for cell in content["cells"] if cell["report"] is not None}
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}


def told(base: RunConfig) -> dict[str, Any]:
    """Settings as a compare.json has them."""
    return json.loads(json.dumps(base.to_dict(), default=str))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def variant(settings: ModelSettings, model: str) -> ModelSettings:
    """`settings` with the pattern of `model` and what stands in its braces; UserError for a setting that there is not."""
    from openxlstm.models.patterns import split_settings

    pattern, options = split_settings(model)
    for name in ("pattern", "num_parameters"):
        if name in options:
            raise UserError(f"{model}: {name} cannot stand in braces: models are compared at equal numbers of parameters")
    try:
        return override(dataclasses.replace(settings, pattern=pattern), options)
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def objective(report: dict[str, Any]) -> float:
    """What the weights of a finished run were chosen by in validation: lower is better."""
    found = report["validation"]
    if found.get("by_loss"):
        return found["loss"]
    if "score" in found:
        return -found["score"] if found["higher_is_better"] else found["score"]
    return found["nats_per_token"]


def identity(config: RunConfig, data: str) -> str:
    """Eight hex digits that change with the settings, the data's fingerprint and the version of this package."""
    return hashlib.sha256(f"{config.digest()} {data} {__version__}".encode()).hexdigest()[:8]


def slug(model: str) -> str:
    """A model's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def write(comparison: Comparison) -> None:
    """compare.json, compare.md and compare.png in the comparison's folder."""
    content = {
        "task": comparison.config.to_dict(),
        "target_parameters": comparison.target,
        "rows": comparison.rows(),
        "cells": [
            {
                **{"model": c.model, "lr": c.lr, "seed": c.seed, "folder": c.folder.name, "failure": c.failure},
                **{"report": c.report, "curve": c.validations(comparison.kind.CURVE) if c.report is not None else None},
                "machine": c.machine,
            }
            for c in comparison.cells
        ]
        + [*comparison.others],
    }
    write_json(comparison.folder / "compare.json", content)
    with atomic_path(comparison.folder / "compare.md") as aside:
        aside.write_text(comparison.table() + "\n", encoding="utf-8")
    figure(comparison)


def figure(comparison: Comparison) -> None:
    """What came of it, one colour a model: the loss, or score, over steps, and over the length of windows or samples, or by how
    rare a token is."""
    kind = comparison.kind
    title = f"{comparison.config.name}: about {comparison.target:,} parameters each"
    best = {row["model"]: [cell for cell in comparison.chosen(row["model"]) if cell.report] for row in comparison.rows()}
    finished = {model: cells for model, cells in best.items() if cells}
    reports = {model: [cell.report for cell in cells if cell.report] for model, cells in finished.items()}
    try:
        with canvas(comparison.folder / "compare.png", title, (11.0, 4.4)) as paper:
            left, right = paper.subplots(1, 2)
            draw_curves(left, finished, kind.CURVE, kind.final, kind.FINAL)
            left.set_ylabel(kind.CURVE_LABEL)
            kind.draw(right, reports)
    except ImportError:
        return


def draw_curves(axes: Any, models: Mapping[str, Sequence[Cell]], column: str, final: Callable[[Any], float], what: str) -> None:
    """A column of metrics.csv over steps: the mean of a model's seeds, and from their lowest to their highest. `final` is a
    number of each report, whose mean stands in the legend, and `what` says what it is."""
    for place, (model, cells) in enumerate(models.items()):
        curves = [dict(zip(*cell.validations(column))) for cell in cells]
        steps = sorted(set.intersection(*(set(c) for c in curves)))
        values = [[c[step] for c in curves] for step in steps]
        label = f"{in_lines(model)} ({statistics.mean(final(cell.report) for cell in cells):.3f})"
        axes.plot(steps, [statistics.mean(v) for v in values], color=f"C{place}", marker="o", markersize=3, label=label)
        if len(curves) > 1:
            axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=f"C{place}", alpha=0.15)
    axes.set_xlabel("optimiser step")
    axes.grid(alpha=0.25)
    if models:
        axes.legend(framealpha=0.8, edgecolor="none", title=f"({what})", title_fontsize=8)
