"""Training on sensors by the command line, and `openxlstm monitor` with what comes of it."""

import csv
import io
import json

import pytest

from openxlstm.cli import main as cli
from sensorfiles import write_engines, write_recordings

QUICK = ["--trainer.steps=3", "--trainer.batch_size=4", "--trainer.threads=1", "--model.dim=16", "--trainer.validate_every=2"]


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def fan(here, capsys):
    write_engines(here / "fan")
    train = ["train", "turbofan", "--data", "fan", *QUICK, "--data.validation_engines=2"]
    assert cli.main(train) == 0
    (run,) = (here / "runs").iterdir()
    return run


def test_remaining_life_from_training_to_stdin(fan, here, capsys, monkeypatch):
    out = capsys.readouterr().out
    assert "test: RMSE in flights" in out
    assert "PHM08 score" in out
    report = json.loads((fan / "report.json").read_text())
    assert set(report["test"]["others"]) == {"RMSE of the capped life", "PHM08 score"}
    assert cli.main(["eval", str(fan)]) == 0
    assert "RMSE of the capped life" in capsys.readouterr().out
    assert cli.main(["monitor", str(fan), "fan/test_FD001.txt", "--out", "life.csv", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [one["unit"] for one in summary["units"]] == [1, 2, 3, 4]
    errors = [one["left"] - 5 * one["unit"] for one in summary["units"]]
    rmse = (sum(error**2 for error in errors) / 4) ** 0.5
    assert rmse == pytest.approx(report["test"]["score"], abs=0.02), "what the report says of the test"
    answers = rows_of((here / "life.csv").read_text())
    lines = (here / "fan" / "test_FD001.txt").read_text().splitlines()
    mixed = [line for pair in zip(lines[:11], lines[11:23]) for line in pair]  # engines 1 and 2 in turns
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(mixed) + "\n"))
    assert cli.main(["monitor", str(fan), "-"]) == 0
    live = {(row["unit"], row["cycle"]): float(row["left"]) for row in rows_of(capsys.readouterr().out)}
    whole = {(row["unit"], row["cycle"]): float(row["left"]) for row in answers}
    assert len(live) == 22
    assert all(whole[key] == pytest.approx(left, abs=0.02) for key, left in live.items())


def test_activities(here, capsys, monkeypatch):
    write_recordings(here / "har")
    assert cli.main(["train", "activity", "--data", "har", *QUICK]) == 0
    (run,) = (here / "runs").iterdir()
    accuracy = json.loads((run / "report.json").read_text())["test"]["score"]
    capsys.readouterr()
    assert cli.main(["monitor", str(run), "har/Toy_TEST.ts"]) == 0
    assert f"10 cases, {accuracy:.1%} as labelled" in capsys.readouterr().out
    rows = rows_of((here / "monitor.csv").read_text())
    assert [row["label"] for row in rows] == ["Rest"] * 5 + ["Run"] * 5
    assert all(row["activity"] == max(("Rest", "Run"), key=lambda name: float(row[name])) for row in rows)
    monkeypatch.setattr("sys.stdin", io.StringIO("5.0,5.1\n\n6.0,6.5\n\n"))
    assert cli.main(["monitor", str(run), "-"]) == 0
    assert [row["step"] for row in rows_of(capsys.readouterr().out)] == ["1", "2"]
    monkeypatch.setattr("sys.stdin", io.StringIO("5.0,5.1\n6.0\n"))
    assert cli.main(["monitor", str(run), "-"]) == 2
    assert "stdin, line 2: 1 numbers, the model reads 2 channels" in capsys.readouterr().err
    assert cli.main(["eval", str(run)]) == 0, "tasks of sensors are evaluated like all others"
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], lines[2]], "stdin, line 2: unit 1 goes from cycle 1 to 3: cycle 2 of it is missing"),
        (lambda lines: [lines[0], lines[0]], "stdin, line 2: cycle 1 of unit 1 is there twice"),
        (lambda lines: ["1 1 x"], "stdin, line 1: 3 columns, expected 26"),
        (lambda lines: [lines[0], "", f"1 2 {'1e30 ' * 24}"], "stdin, line 3: row 2: channel 1 is 1e+30, more than"),
    ],
)
def test_rows_on_stdin_that_are_refused(fan, here, capsys, monkeypatch, change, message):
    lines = (here / "fan" / "test_FD001.txt").read_text().splitlines()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(change(lines)) + "\n"))
    assert cli.main(["monitor", str(fan), "-"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_other_mistakes(fan, here, capsys):
    for words, message in (
        ([str(fan), "none.txt"], "none.txt: no such file"),
        ([str(fan / "nothing"), "x"], "no such folder"),
        ([str(fan), "-", "--json"], "--json has no summary"),
    ):
        assert cli.main(["monitor", *words]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
