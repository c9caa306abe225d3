"""The figure of a text classifier: the course of training, what is taken for what, and how sure and how right it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openxlstm.training.record import canvas, draw_losses, plain

NAMED = 12  # classes to which their names are written


def classifier_figure(path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
    """Losses over steps, confusion matrix and reliability of the test texts, as a PNG. Raises ImportError: no matplotlib."""
    with canvas(path, title, (14.4, 4.4)) as figure:
        left, middle, right = figure.subplots(1, 3)
        draw_losses(left, rows, "loss")
        draw_confusion(middle, report["test"])
        draw_reliability(right, report["test"])


def draw_confusion(axes: Any, test: Mapping[str, Any]) -> None:
    """Shares of each class (rows) that were taken for each (columns), with the counts."""
    classes, counts = test["classes"], test["confusion"]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= NAMED:
        names = [plain(str(name)) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=0 if len(classes) < 4 else 45)
        axes.set_yticks(range(len(classes)), names)
        for row, (line, parts) in enumerate(zip(counts, shares)):
            for column, (count, share) in enumerate(zip(line, parts)):
                axes.text(column, row, f"{count:,}", ha="center", va="center", color="white" if share > 0.5 else "black")
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(f"test accuracy {test['score']:.3f}", fontsize=10)


def draw_reliability(axes: Any, test: Mapping[str, Any]) -> None:
    """Accuracy over confidence; the size of a point is the number of its texts."""
    bins = test["reliability"]
    most = max(one["count"] for one in bins)
    axes.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1.0, label="as sure as right")
    places, scores = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
    axes.plot(places, scores, color="#1f4e79", linewidth=1.0)
    axes.scatter(places, scores, s=[12 + 120 * one["count"] / most for one in bins], color="#1f4e79", label="test")
    axes.set_xlim(1 / len(test["classes"]) - 0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("probability of the class that was chosen")
    axes.set_ylabel("share of right choices")
    axes.set_title(f"expected calibration error {test['calibration_error']:.3f}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
