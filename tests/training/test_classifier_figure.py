"""The figure of a text classifier."""

import pytest

from openxlstm.training.jobs.classifier_figure import draw_confusion


def test_names_of_classes_are_no_formulas(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_subplot()
    draw_confusion(axes, {"classes": ["cost_$_per_$^", "other"], "confusion": [[1, 0], [1, 2]], "score": 0.75})
    figure.savefig(tmp_path / "a.png")
