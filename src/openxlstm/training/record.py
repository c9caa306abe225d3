"""What a run leaves behind besides weights: configuration, environment, metrics, figure, report."""

import contextlib
import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from openxlstm import __version__
from openxlstm.files import atomic_path, write_atomic

COLUMNS = (
    "step",
    "loss",
    "lr",
    "grad_norm",
    "tokens",
    "seconds",
    "tokens_per_second",
    "skipped",
)
"""Columns of metrics.csv that every run has; those of its validations follow."""


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, with nothing in it that names a person or a path."""
    return {
        "openxlstm": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": _version("lightning"),
        "platform": platform.platform(terse=True),
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor(environment: Mapping[str, Any]) -> str:
    """What trained: the GPU, or else the processor."""
    return str(environment["gpu"] or environment["cpu"])


def commit() -> str | None:
    """The commit of the checkout this package runs from, with "+changes" if files differ; None when installed."""
    here = Path(__file__).resolve().parent
    if not any((folder / ".git").exists() for folder in here.parents[2:3]):  # src/openxlstm/training -> the repository
        return None
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+changes" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, whole or not at all."""
    write_atomic(path, json.dumps(content, indent=2, default=str) + "\n")


class Metrics:
    """metrics.csv, a row at a time, and the same curves for TensorBoard where that is installed.

    On resume, rows after the checkpoint's step are dropped, so the file is what an uninterrupted run would have written
    (but for times). The validation after the `last` step is made after its checkpoint, and so dropped too.
    """

    def __init__(
        self, folder: Path, resume_step: int = 0, last: int | None = None, *, columns: Sequence[str] = COLUMNS
    ) -> None:
        self.path = folder / "metrics.csv"
        rows = [row for row in read_metrics(self.path) if int(row["step"]) <= resume_step] if resume_step else []
        rows = [row for row in rows if not (row["val_loss"] and int(row["step"]) == last)]
        with atomic_path(self.path) as aside, open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._file = open(self.path, "a", newline="")  # noqa: SIM115 (lives as long as the run)
        self._writer = csv.DictWriter(self._file, columns)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)
        except ImportError:
            print("note: TensorBoard is not installed; metrics go to metrics.csv alone", file=sys.stderr)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One row. Floats keep every digit, so two runs can be compared bit for bit."""
        self._writer.writerow({"step": step, **{name: repr(value) for name, value in values.items()}})
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The complete rows of a metrics.csv; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(whole.splitlines()) if None not in row.values() and row["step"].isdigit()]


def curve(rows: Sequence[Mapping[str, str]], column: str) -> tuple[list[int], list[float]]:
    """Steps and values of one column, where it has a value."""
    found = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
    return [step for step, _ in found], [value for _, value in found]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values (fewer at the start)."""
    out, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        out.append(total / min(i + 1, width))
    return out


def loss_figure(path: Path, rows: Sequence[Mapping[str, str]], title: str, unit: str = "nats per token") -> None:
    """Training loss (each step pale, running mean dark) and validation loss over steps, as a PNG."""
    with canvas(path, title, (7.2, 4.2)) as figure:
        draw_losses(figure.add_subplot(), rows, unit)


def task_figure(path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
    """Loss over steps, and the score: over the length where there are several, else over steps. As a PNG."""
    with canvas(path, title, (10.4, 4.2)) as figure:
        left, right = figure.subplots(1, 2)
        draw_losses(left, rows, "loss")
        test = report["test"]
        tested = [*test["by_length"], *(part for other in report["other_lengths"] for part in other["by_length"])]
        if len(tested) > 1:
            draw_scores(right, {"test": [tested]}, report["train_length"], test["higher_is_better"])
        else:
            steps, scores = curve(rows, "val_score")
            right.plot(steps, scores, color="#c0392b", marker="o", markersize=4, label=f"validation (test {test['score']:.3f})")
            right.axhline(test["guess"], color="0.4", linestyle="--", linewidth=1.0, label="guessing")
            right.set_xlabel("optimiser step")
        right.set_ylabel(test["metric"])
        right.grid(alpha=0.25)
        right.legend(frameon=False)


def draw_scores(
    axes: Any, models: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], train_length: str, higher_is_better: bool
) -> None:
    """Scores over the length of the sequences. models: name -> for each seed the LengthScores, as dicts, of the same lengths.

    The line is the mean of the seeds, the band goes from their lowest to their highest; the dashed line is what guessing
    scores, and the lengths of training are shaded. Where more is better and scores are shares of right answers, the axis ends
    at 1.
    """
    places: list[float] = []
    for colour, (name, seeds) in enumerate(models.items()):
        places = [middle(part["lengths"]) for part in seeds[0]]
        columns = [[part["score"] for part in column] for column in zip(*seeds)]
        means = [sum(column) / len(column) for column in columns]
        axes.plot(places, means, color=f"C{colour}", marker="o", markersize=4, label=in_lines(name))
        if len(seeds) > 1:
            axes.fill_between(places, list(map(min, columns)), list(map(max, columns)), color=f"C{colour}", alpha=0.15)
    some = next(iter(models.values()))[0]
    axes.plot(places, [part["guess"] for part in some], color="0.4", linestyle="--", linewidth=1.0, label="guessing")
    low, _, high = train_length.partition("-")
    axes.axvspan(int(low) - 0.5, int(high or low) + 0.5, color="0.92", zorder=0, label="lengths of training")
    axes.set_xlabel("length")
    if higher_is_better:
        axes.set_ylim(min(-0.05, axes.get_ylim()[0]), max(1.05, axes.get_ylim()[1]))
    if max(places) > 8 * min(places):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda length, _: f"{length:g}")


def in_lines(model: str) -> str:
    """A model's name for a legend: with many settings one a line, so that it does not cover the curves."""
    return model.replace(",", ",\n") if len(model) > 30 else model


def middle(lengths: str) -> float:
    """Where "N" or "N-M" lies on an axis."""
    low, _, high = lengths.partition("-")
    return (int(low) + int(high or low)) / 2


def plain(text: str) -> str:
    """A user's text for matplotlib, which would read what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


@contextlib.contextmanager
def canvas(path: Path, title: str, size: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure to draw on, which is then saved as a PNG. title: taken literally. Raises ImportError without
    matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    figure.suptitle(plain(title), fontsize=10)
    with atomic_path(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def draw_losses(axes: Any, rows: Sequence[Mapping[str, str]], unit: str) -> None:
    """Training loss (each step pale, running mean dark) and validation loss over steps."""
    steps, losses = curve(rows, "loss")
    finite = [v for v in losses if v == v and abs(v) != float("inf")]
    if steps:
        width = max(len(losses) // 50, 1)
        if width > 1:
            axes.plot(steps, losses, color="#9ab8d6", linewidth=0.6, label="training, each step")
        axes.plot(
            steps,
            smooth(losses, width),
            color="#1f4e79",
            linewidth=1.6,
            label=f"training, mean of {width}" if width > 1 else "training",
        )
    at, values = curve(rows, "val_loss")
    if at:
        label = f"validation (last {values[-1]:.3f})"
        axes.plot(at, values, color="#c0392b", marker="o", markersize=4, linewidth=1.2, label=label)
    if finite:
        shown = [*smooth(finite, max(len(finite) // 50, 1)), *values]
        low, high = min(*shown, min(finite)), max(shown)
        axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
