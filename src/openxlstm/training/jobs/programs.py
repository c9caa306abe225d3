"""Program evaluation as a job: a task whose scores make a table, length by nesting."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from openxlstm.tasks.program_evaluation import ProgramEvaluation
from openxlstm.training.jobs.task import TaskJob
from openxlstm.training.record import canvas, draw_losses


class ProgramJob(TaskJob):
    """Trained and scored as every task; reported by level."""

    task: ProgramEvaluation

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        found = super().report(loss, rank, world)
        levels = [self.task.length_and_nesting(int(part["lengths"])) for part in found["test"]["by_length"]]
        return {**found, "unit": "level", "levels": [{"length": length, "nesting": nesting} for length, nesting in levels]}

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        validation, test = report["validation"], report["test"]
        yield f"validation: {report['validation_line']} (step {report['step']}, {validation['num_targets']:,} characters)"
        yield f"test: {report['test_line']} (levels {test['lengths']}, {test['num_targets']:,} characters)"
        cells = table(report)
        yield "  nesting" + "".join(f"  length {length}" for length in range(1, len(cells[0]) + 1))
        for nesting, row in enumerate(cells, 1):
            yield f"  {nesting:>7}" + "".join(f"{score:>10.4f}" for score in row)

    def figure(self, path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
        with canvas(path, title, (10.4, 4.2)) as figure:
            left, right = figure.subplots(1, 2)
            draw_losses(left, rows, "loss")
            draw_levels(right, report)


def table(report: Mapping[str, Any]) -> list[list[float]]:
    """Test scores of a report, a row for each nesting, a column for each length."""
    scores = [part["score"] for part in report["test"]["by_length"]]
    columns = max(level["length"] for level in report["levels"])
    return [scores[start : start + columns] for start in range(0, len(scores), columns)]


def draw_levels(axes: Any, report: Mapping[str, Any]) -> None:
    """A heat map of the scores by length and nesting."""
    cells = table(report)
    axes.imshow(cells, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    for y, row in enumerate(cells):
        for x, score in enumerate(row):
            axes.text(x, y, f"{score:.3f}", ha="center", va="center", color="black" if score > 0.6 else "white")
    axes.set_xticks(range(len(cells[0])), [str(length) for length in range(1, len(cells[0]) + 1)])
    axes.set_yticks(range(len(cells)), [str(nesting) for nesting in range(1, len(cells) + 1)])
    axes.set_xlabel("length, digits of the numbers")
    axes.set_ylabel("nesting, operations")
    axes.set_title(f"test {report['test']['metric']}", fontsize=10)
