"""Scaling: the same models at several sizes, and the law that their losses follow."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from openxlstm.experiments.question import Evidence, Rows
from openxlstm.experiments.scaling import draw, fit
from openxlstm.experiments.trained import Trained
from openxlstm.recipes import recipe
from openxlstm.training.compare import Comparison, compare
from openxlstm.training.options import override


@dataclass(frozen=True, kw_only=True)
class Scaling(Trained):
    """A comparison at each of several widths of the recipe's model, all else equal, the number of tokens too.

    widths: scale -> values of model.dim. The rows have, by model, `params` and `nats` of every run, and the law's `alpha`, `E`
    and `R2`; `largest` is the mean of the nats at the last width.
    """

    widths: Mapping[str, tuple[int, ...]]

    def ask(self, scale: str, folder: Path, say: Callable[[str], None], jobs: int = 1) -> Evidence | None:
        setting = self.settings.get(scale)
        if setting is None or self.lacks:
            return None
        found: list[Comparison] = []
        for width in self.widths[scale]:
            options = {**self.options(setting), "model.dim": str(width)}
            base = dataclasses.replace(override(recipe(self.recipe), options), name=f"{self.name}-{width}")
            place = folder / f"width-{width}"
            found.append(compare(base, setting.models, range(setting.seeds), place, say, setting.lrs, jobs))
            if found[-1].interrupted is not None:
                break
        runs = {model: runs_of(found, model) for model in setting.models}
        complete = found[-1].interrupted is None
        laws = {model: pair for model, pair in runs.items() if len(set(pair[0])) >= 3} if complete else {}
        draw(laws, folder / "scaling.png", f"{self.name}, {len(found)} sizes, equal numbers of tokens")
        all_widths = " ".join(map(str, self.widths[scale]))
        return Evidence(
            rows=rows(laws),
            table=table(laws),
            command=f"for width in {all_widths}; do {self.command(setting)} --model.dim=$width; done",
            figure="scaling.png" if (folder / "scaling.png").exists() else None,
            failures=tuple(f"{c.model}, seed {c.seed}: {c.failure}" for one in found for c in one.cells if c.failure),
            interrupted=found[-1].interrupted,
        )


Runs = tuple[list[float], list[float]]


def runs_of(found: list[Comparison], model: str) -> Runs:
    """Parameters and nats of all finished runs of a model, with its best learning rate at each size."""
    reports = [cell.report for one in found for cell in one.chosen(model) if cell.report is not None]
    return [float(r["num_parameters"]) for r in reports], [float(r["validation"]["nats_per_token"]) for r in reports]


def rows(runs: Mapping[str, Runs]) -> Rows:
    """What the checks read. A model whose losses do not fall has no law, and so no R2."""
    made: dict[str, dict[str, object]] = {}
    for model, (params, nats) in runs.items():
        largest = statistics.mean(loss for size, loss in zip(params, nats) if size > 0.98 * max(params))
        made[model] = {"params": params, "nats": nats, "largest": largest}
        try:
            made[model] |= {name: value for name, value in fit(params, nats)._asdict().items() if name != "A"}
        except ValueError as error:
            made[model]["no_law"] = str(error)
    return made


def table(runs: Mapping[str, Runs]) -> str:
    """One line a model: the mean loss at each size, and the law."""
    if not runs:
        return ""
    lines = ["| model | law, nats per token | nats at parameters |", "|---|---|---|"]
    for model, (params, nats) in runs.items():
        by_size = {size: [loss for other, loss in zip(params, nats) if other == size] for size in sorted(set(params))}
        means = ", ".join(f"{statistics.mean(losses):.3f} at {size / 1e3:,.0f}k" for size, losses in by_size.items())
        try:
            law = str(fit(params, nats))
        except ValueError as error:
            law = f"none: {error}"
        lines.append(f"| {model} | {law} | {means} |")
    return "\n".join(lines)
