"""Several kinds of model on one task, with equal numbers of parameters: one table, one figure, resumable."""

import dataclasses
import hashlib
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openxlstm import __version__
from openxlstm.errors import UserError
from openxlstm.files import atomic_path
from openxlstm.training.config import RunConfig, build_model_config
from openxlstm.training.record import curve, read_metrics, write_json


@dataclass(frozen=True)
class Cell:
    """One model with one seed. report is None where the training failed, and then `failure` says why."""

    model: str
    seed: int
    folder: Path
    report: dict[str, Any] | None
    failure: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The cells, model by model. `interrupted` is a signal number if the comparison was stopped before its end."""

    config: RunConfig
    target: int
    folder: Path
    cells: tuple[Cell, ...]
    interrupted: int | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One row a model, over the seeds that finished, best first."""
        found = []
        for model in dict.fromkeys(cell.model for cell in self.cells):
            mine = [cell for cell in self.cells if cell.model == model]
            reports = [cell.report for cell in mine if cell.report is not None]
            row: dict[str, Any] = {"model": model, "seeds": len(reports), "failed": len(mine) - len(reports)}
            if reports:
                losses = [r["validation"]["nats_per_token"] for r in reports]
                words = [r["validation"]["word_perplexity"] for r in reports]
                bits = [r["validation"]["bits_per_byte"] for r in reports]
                row |= {
                    "num_parameters": reports[0]["num_parameters"],
                    "nats_per_token": statistics.mean(losses),
                    "spread": statistics.stdev(losses) if len(losses) > 1 else None,
                    "perplexity": math.exp(min(statistics.mean(losses), 700)),
                    "bits_per_byte": statistics.mean(bits) if None not in bits else None,
                    "word_perplexity": None if None in words else math.exp(statistics.mean(map(math.log, words))),
                    "tokens_per_second": statistics.mean(r["tokens_per_second"] for r in reports),
                }
            found.append(row)
        return sorted(found, key=lambda row: row.get("nats_per_token", math.inf))

    def table(self) -> str:
        """Markdown. Perplexities are exp of the mean loss; the spread is the standard deviation over seeds."""
        words = any(row.get("word_perplexity") for row in self.rows())
        head = ["model", "parameters", "seeds", "nats/token", "bits per byte", "perplexity"]
        head += ["word perplexity"] * words + ["tokens/s"]
        lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for row in self.rows():
            if "nats_per_token" not in row:
                lines.append(f"| {row['model']} | | 0 of {row['failed']} |" + " |" * (len(head) - 3))
                continue
            spread = f" ± {row['spread']:.4f}" if row["spread"] is not None else ""
            seeds = str(row["seeds"]) + (f" of {row['seeds'] + row['failed']}" if row["failed"] else "")
            values = [row["model"], f"{row['num_parameters']:,}", seeds, f"{row['nats_per_token']:.4f}{spread}"]
            values.append("" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}")
            values.append(f"{row['perplexity']:.2f}")
            if words:
                values.append("" if row["word_perplexity"] is None else f"{row['word_perplexity']:.1f}")
            values.append(f"{row['tokens_per_second']:,.0f}")
            lines.append("| " + " | ".join(values) + " |")
        return "\n".join(lines)


def compare(
    base: RunConfig,
    models: Sequence[str],
    seeds: Sequence[int] = (0,),
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Train each of `models` (patterns, as in ModelSettings) with each of `seeds`, all else as in `base`.

    Each has as many parameters, to 1 %, as `base.model` (or as its `num_parameters` says). Every cell is a run folder under
    `folder` (default runs/compare-NAME-HASH), named by a hash of its configuration, the text and the version of this package:
    finished cells are not trained again, interrupted ones are resumed. Writes compare.json, compare.md and compare.png.
    """
    from openxlstm.data import prepare
    from openxlstm.training.run import cache_dir

    if not models:
        raise UserError("compare needs at least one model")
    for what, given in (("model", models), ("seed", seeds)):
        if len(set(given)) != len(given):
            raise UserError(f"a {what} is named twice in {', '.join(map(str, given))}")
    settings = {model: dataclasses.replace(base.model, pattern=model) for model in models}  # a wrong name ends here
    text = prepare(base.data, cache_dir(), report=say)
    vocabulary = text.tokenizer.vocab_size
    target = base.model.num_parameters or count(base, vocabulary)
    configs = {
        (model, seed): dataclasses.replace(
            base,
            name=f"{slug(model)}-{seed}",
            seed=seed,
            model=dataclasses.replace(settings[model], num_parameters=target),
        )
        for model in models
        for seed in seeds
    }
    for (model, _), config in configs.items():  # before hours of training, not after
        try:
            build_model_config(config.model, vocabulary)
        except UserError as error:
            raise UserError(f"{model}: {error}") from None
    if folder is None:
        folder = Path("runs", f"compare-{base.name}-{identity(base, text.fingerprint)}")
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    stopped: int | None = None
    for number, ((model, seed), config) in enumerate(configs.items(), 1):
        place = folder / f"{config.name}-{identity(config, text.fingerprint)}"
        say(f"[{number}/{len(configs)}] {model}, seed {seed}: {place}")
        cell, stopped = train_cell(model, seed, config, place, say)
        if stopped is not None:
            break
        cells.append(cell)
        write(Comparison(base, target, folder, tuple(cells)))
    return Comparison(base, target, folder, tuple(cells), stopped)


def train_cell(model: str, seed: int, config: RunConfig, place: Path, say: Callable[[str], None]) -> tuple[Cell, int | None]:
    """Train, resume, or take what is there. Also returns the signal that stopped the training, if one did."""
    from openxlstm.training.run import train

    finished = place / "report.json"
    if finished.exists():
        say("  finished before")
        return Cell(model, seed, place, json.loads(finished.read_text())), None
    try:
        if (place / "checkpoints" / "last.pt").exists():
            result = train(resume=place)
        else:
            if place.exists():  # stopped before its first checkpoint
                shutil.rmtree(place)
            result = train(config, run_dir=place)
    except UserError as error:
        say(f"  failed: {error}")
        return Cell(model, seed, place, None, str(error)), None
    return Cell(model, seed, place, result.report), result.interrupted


def count(config: RunConfig, vocabulary: int) -> int:
    """Parameters of the model that `config` describes."""
    from openxlstm.models.count import count_parameters

    return count_parameters(build_model_config(config.model, vocabulary))


def identity(config: RunConfig, text: str) -> str:
    """Eight hex digits that change with the settings, the text and the version of this package."""
    return hashlib.sha256(f"{config.digest()} {text} {__version__}".encode()).hexdigest()[:8]


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
            {"model": c.model, "seed": c.seed, "folder": c.folder.name, "failure": c.failure, "report": c.report}
            for c in comparison.cells
        ],
    }
    write_json(comparison.folder / "compare.json", content)
    with atomic_path(comparison.folder / "compare.md") as aside:
        aside.write_text(comparison.table() + "\n", encoding="utf-8")
    figure(comparison)


def figure(comparison: Comparison) -> None:
    """Validation loss over steps, one colour a model: the mean of its seeds, and from their lowest to their highest."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    canvas = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for place, row in enumerate(comparison.rows()):
        curves = []
        for cell in comparison.cells:
            if cell.model == row["model"] and cell.report is not None:
                curves.append(dict(zip(*curve(read_metrics(cell.folder / "metrics.csv"), "val_loss"))))
        if not curves:
            continue
        steps = sorted(set.intersection(*(set(c) for c in curves)))
        values = [[c[step] for c in curves] for step in steps]
        colour = f"C{place}"
        axes.plot(
            steps,
            [statistics.mean(v) for v in values],
            color=colour,
            marker="o",
            markersize=3,
            label=f"{row['model']} ({row['nats_per_token']:.3f})",
        )
        if len(curves) > 1:
            axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("validation loss, nats per token")
    axes.set_title(f"{comparison.config.name}: about {comparison.target:,} parameters each", fontsize=10)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, title="(finished model, whole text)", title_fontsize=8)
    with atomic_path(comparison.folder / "compare.png") as aside:
        canvas.savefig(aside, dpi=150, format="png")
