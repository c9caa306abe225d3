"""Comparisons on tasks: one table with what guessing scores and what was published, learning rates tried for each model."""

import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from openxlstm.errors import UserError
from openxlstm.recipes import recipe
from openxlstm.tasks import TASKS
from openxlstm.training.compare import Cell, Comparison, compare
from openxlstm.training.compare_task import draw


@pytest.fixture
def base():
    task = TASKS["parity"](
        train_length="3-6", eval_length="6-9", report_lengths=("12",), validation_samples=20, test_samples=30
    )
    start = recipe("majority")  # whose feed-forward network is no smaller than usual, so that twins can be found
    return replace(
        start,
        name="parity",
        data=task,
        model=replace(start.model, dim=16, num_blocks=2),
        trainer=replace(start.trainer, steps=3, batch_size=4, validate_every=2, threads=1),
    )


def test_models_by_rates(base, tmp_path):
    models, lrs = ["slstm", "transformer"], (1e-4, 1e-2)
    found = compare(base, models, [3], tmp_path / "cmp", lrs=lrs)
    assert [(c.model, c.lr, c.seed) for c in found.cells] == [(m, lr, 3) for m in models for lr in lrs]
    for row in found.rows():
        assert row["num_parameters"] == pytest.approx(found.target, rel=0.01)
        # the learning rate is the one that validation prefers, and the score that of the test
        mine = [cell for cell in found.cells if cell.model == row["model"]]
        assert row["validation_score"] == max(cell.report["validation"]["score"] for cell in mine)
        assert row["score"] in [cell.report["test"]["score"] for cell in mine if cell.lr == row["lr"]]
    table = found.table()
    assert "scaled accuracy at 6-9" in table
    assert "| at 12 |" in table
    assert "| guessing |" in table
    assert "| 1 |" in table, "xLSTM[0:1] in the paper"
    assert "| tokens/s |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
    elsewhere = tuple(replace(cell, machine="GPU") if cell.model == "slstm" else cell for cell in found.cells)
    table = replace(found, cells=elsewhere).table()
    assert "tokens/s" not in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "~0.03" in table, "Llama, from memory"
    written = json.loads((tmp_path / "cmp" / "compare.json").read_text())
    assert written["rows"] == found.rows()
    assert written["task"]["data"]["task"] == "parity"
    assert (tmp_path / "cmp" / "compare.png").stat().st_size > 0
    said = []
    assert compare(base, models, [3], tmp_path / "cmp", said.append, lrs=lrs).rows() == found.rows()
    assert sum("finished before" in line for line in said) == 4
    said.clear()
    compare(replace(base, data=replace(base.data, train_length="3-7")), ["slstm"], [3], tmp_path / "cmp", said.append)
    assert not any("finished before" in line for line in said), "other samples are another cell"


def cell(model, lr, seed, validation, test=0.0, failure=None):
    scored = {"metric": "accuracy", "higher_is_better": True, "lengths": "9", "guess": 0.5, "by_length": []}
    report = {
        "validation": {**scored, "score": validation},
        "test": {**scored, "score": test},
        "other_lengths": [],
        "anchors": [],
        "num_parameters": 10,
        "tokens_per_second": 1.0,
    }
    return Cell(model, lr, seed, None, None, None if failure else report, failure)


def test_the_best_rate_is_chosen_by_validation_alone(base):
    """And a score is the mean of its seeds."""
    cells = [cell("lstm", 0.1, 0, 0.9, 0.1), cell("lstm", 0.1, 1, 0.9, 0.3), cell("lstm", 0.2, 0, 0.8, 1.0)]
    (row,) = Comparison(base, 10, None, tuple(cells)).rows()
    assert (row["lr"], row["score"], row["seeds"]) == (0.1, 0.2, 2)


def test_the_best_rate_is_chosen_as_the_weights_are(base):
    """By the loss in validation, where a few samples leave many scores equal."""
    cells = [cell("lstm", 0.1, 0, 1.0), cell("lstm", 0.2, 0, 0.9)]
    for one, loss in zip(cells, (0.5, 0.4)):
        one.report["validation"] |= {"loss": loss, "by_loss": TASKS["activity"](source="none.ts").chosen_by_loss}
    assert Comparison(base, 10, None, tuple(cells)).chosen("lstm") == (cells[1],)
    for one in cells:
        one.report["validation"]["by_loss"] = base.data.chosen_by_loss
    assert Comparison(base, 10, None, tuple(cells)).chosen("lstm") == (cells[0],)


def test_a_rate_that_fails_with_a_seed_comes_last(base):
    cells = [cell("lstm", 0.1, 0, 0.99), cell("lstm", 0.1, 1, 0, failure="not finite"), cell("lstm", 0.2, 0, 0.6)]
    (row,) = Comparison(base, 10, None, tuple(cells)).rows()
    assert (row["lr"], row["failed"]) == (0.2, 0)
    (row,) = Comparison(base, 10, None, tuple(cells[1:2])).rows()
    assert "0 of 1" in Comparison(base, 10, None, tuple(cells[1:2])).table()


def test_models_come_best_first_in_the_direction_of_the_metric(base):
    cells = [cell("lstm", 0.1, 0, 0.9, 0.2), cell("slstm", 0.1, 0, 0.9, 0.8)]
    assert [row["model"] for row in Comparison(base, 10, None, tuple(cells)).rows()] == ["slstm", "lstm"]
    for one in cells:
        for part in ("validation", "test"):
            one.report[part]["higher_is_better"] = False
    assert [row["model"] for row in Comparison(base, 10, None, tuple(cells)).rows()] == ["lstm", "slstm"]


def test_a_picture_of_one_length_has_a_dot_for_each_seed():
    def report(score):
        parts = [{"lengths": "256", "score": score, "guess": 0.1}]
        test = {"score": score, "metric": "accuracy", "guess": 0.1, "higher_is_better": True, "by_length": parts}
        return {"test": test, "other_lengths": [], "train_length": "256"}

    axes = Figure().subplots()
    draw(axes, {"mlstm": [report(0.5), report(0.75)], "lstm": [report(0.25)]})
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [[[0, 0.5], [0, 0.75]], [[1, 0.25]]]
    assert [mean.get_segments()[0][0, 1] for mean in axes.collections] == [0.625, 0.25]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mlstm", "lstm"]
    assert set(axes.lines[2].get_ydata()) == {0.1}


def test_one_seed_tries_the_rates_for_all(base, tmp_path):
    said, place = [], tmp_path / "cmp"
    found = compare(base, ["slstm", "lstm"], [3, 4, 5], place, said.append, lrs=(1e-4, 1e-2), lr_seeds=(4,))
    best = {row["model"]: row["lr"] for row in found.rows()}
    for model in ("slstm", "lstm"):
        assert [c.seed for c in found.cells if c.model == model and c.lr == best[model]] == [3, 4, 5]
        assert [c.seed for c in found.cells if c.model == model and c.lr != best[model]] == [4]
        trial = {c.lr: c.report["validation"]["score"] for c in found.cells if c.model == model and c.seed == 4}
        assert best[model] == max(trial, key=trial.get)
    assert [row["seeds"] for row in found.rows()] == [3, 3]
    assert sum("/8]" in line for line in said) == 8
    # the others' scores have no say: with them the mean at the best rate may be below the one trial of another
    worse = [replace(c, report=None) if c.seed == 5 else c for c in found.cells]
    assert {row["model"]: (row["lr"], row["failed"]) for row in replace(found, cells=tuple(worse)).rows()} == {
        model: (lr, 1) for model, lr in best.items()
    }
    said.clear()
    again = compare(base, ["slstm", "lstm"], [3, 4, 5], place, said.append, lrs=(1e-4, 1e-2), lr_seeds=(4,))
    assert again.rows() == found.rows()
    assert sum("finished before" in line for line in said) == 8


def test_mistakes_are_found_before_training(base, tmp_path):
    with pytest.raises(UserError, match="seed 2 is to try the learning rates and is not among the seeds 0, 1"):
        compare(base, ["slstm"], [0, 1], tmp_path / "cmp", lrs=(0.1, 0.2), lr_seeds=(2,))
    with pytest.raises(UserError, match="a learning rate is named twice"):
        compare(base, ["slstm"], [0], tmp_path / "cmp", lrs=(0.1, 0.1))
    with pytest.raises(UserError, match="unknown block"):
        compare(base, ["slstm", "gru"], [0], tmp_path / "cmp")
    assert not (tmp_path / "cmp").exists()
