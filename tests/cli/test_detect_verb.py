"""`openxlstm detect`: files, table, stdin, and each mistake in one line."""

import csv
import io
import json

import numpy as np
import pytest

from openxlstm.cli import main as cli
from openxlstm.cli.detect import lines_of
from openxlstm.errors import UserError

QUICK = ["--train-steps", "10", "--dim", "16", "--context", "24", "--threads", "1"]
ROWS, STRANGE = 250, 230


def lines():
    rng = np.random.default_rng(0)
    values = 10 + 3 * np.sin(np.arange(ROWS) * 2 * np.pi / 12) + rng.normal(0, 0.1, ROWS)
    values[STRANGE] = 60.0
    return [f"2024-01-{1 + row // 24:02} {row % 24:02}:00:00,{value:.4f}" for row, value in enumerate(values)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = lines()
    for name, part in (("all.csv", found), ("first.csv", found[:200]), ("rest.csv", found[200:])):
        (tmp_path / name).write_text("\n".join(["timestamp,value", *part]) + "\n")
    return tmp_path


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def give(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_scores_figure_and_table(file, capsys):
    assert cli.main(["detect", "all.csv", *QUICK, "--train", "200"]) == 0
    out = capsys.readouterr().out
    assert "2024-01-10 14:00:00 to " in out
    rows = rows_of((file / "anomalies.csv").read_text())
    assert len(rows) == ROWS
    assert [row["training"] for row in rows] == ["1"] * 200 + ["0"] * 50
    scores = [float(row["score"]) for row in rows]
    assert np.argmax(scores[200:]) == STRANGE - 200
    assert rows[STRANGE]["anomaly"] == "1"
    assert rows[STRANGE]["value"] == "60"
    assert abs(float(rows[STRANGE]["expected"])) < 40
    assert not any(row["anomaly"] == "1" for row in rows[:STRANGE])
    assert (file / "anomalies.png").read_bytes().startswith(b"\x89PNG")


def test_going_on_gives_the_same_scores(file, capsys, monkeypatch):
    assert cli.main(["detect", "all.csv", *QUICK, "--train", "200", "--no-figure", "--out", "whole.csv"]) == 0
    assert cli.main(["detect", "first.csv", *QUICK, "--train", "1.0", "--no-figure", "--save", "pump"]) == 0
    assert cli.main(["detect", "rest.csv", "--load", "pump", "--no-figure", "--out", "rest-scores.csv", "--json"]) == 0
    shown = capsys.readouterr().out
    events = json.loads(shown[shown.index("[") :])
    assert any(one["first"] == "2024-01-10 14:00:00" for one in events)
    whole = rows_of((file / "whole.csv").read_text())[200:]
    rest = rows_of((file / "rest-scores.csv").read_text())
    give(monkeypatch, (file / "rest.csv").read_text())
    assert cli.main(["detect", "-", "--load", "pump", "--save", "later"]) == 0
    shown = capsys.readouterr()
    live = rows_of(shown.out)
    assert "line 1 is taken as a header: timestamp,value" in shown.err
    for a, b, c in zip(whole, rest, live, strict=True):
        assert a["time"] == b["time"] == c["time"]
        assert float(a["score"]) == pytest.approx(float(b["score"]), abs=2e-4)
        assert float(a["score"]) == pytest.approx(float(c["score"]), abs=2e-4)
        assert a["anomaly"] == b["anomaly"] == c["anomaly"]
    assert (file / "later" / "detector.json").exists()


def test_times_keep_their_offset(file, capsys, monkeypatch, recwarn):
    """Those of a file and of stdin are the same, whatever zone they are written in."""
    for name in ("first.csv", "rest.csv"):
        (file / name).write_text((file / name).read_text().replace(":00:00,", ":00:00+01:00,"))
    assert cli.main(["detect", "first.csv", *QUICK, "--train", "1.0", "--no-figure", "--save", "pump"]) == 0
    assert (file / "anomalies.csv").read_text().splitlines()[1].startswith("2024-01-01 00:00:00+01:00,")
    assert cli.main(["detect", "rest.csv", "--load", "pump", "--no-figure"]) == 0
    assert "2024-01-10 14:00:00+01:00 to " in capsys.readouterr().out
    give(monkeypatch, "2024-01-09 08:00+01:00,10\n2024-01-09T08:00Z,11\n")
    assert cli.main(["detect", "-", "--load", "pump"]) == 0
    assert [row["time"] for row in rows_of(capsys.readouterr().out)] == ["2024-01-09 08:00+01:00", "2024-01-09T08:00Z"]
    assert not recwarn.list


def test_stdin_is_answered_line_by_line(file, capsys, monkeypatch):
    """Each answer is there before the next line is asked for."""
    shown = []

    def pipe():
        for number, line in enumerate(lines()):
            if number > 200:
                shown.append(capsys.readouterr().out)
                assert shown[-1].count("\n") == (202 if number == 201 else 1), "header and 201 rows, then one each"
            yield line.partition(",")[2] + "\n"

    monkeypatch.setattr("sys.stdin", pipe())
    assert cli.main(["detect", "-", *QUICK, "--train", "200"]) == 0
    rows = rows_of("".join(shown) + capsys.readouterr().out)
    assert len(rows) == ROWS
    assert rows[STRANGE]["anomaly"] == "1"
    assert rows[0]["time"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.csv"], "none.csv: no such file"),
        (["all.csv", "--value", "heat"], "no column 'heat'; have timestamp, value"),
        (["all.csv", "--train", "20"], "20 rows to train on; distances to 24 rows need at least 192"),
        (["all.csv", "--train", "20.5"], "--train 20.5: give a whole number of rows, or a share up to 1.0"),
        (["two.csv"], "0 rows to train on; distances to 24 rows need at least 192"),
        (["gap.csv"], "gap.csv, line 22: 1 rows are missing between 2024-01-01 19:00:00 and 2024-01-01 21:00:00"),
        (["twice.csv"], "twice.csv, line 4: the time 2024-01-01 01:00:00 is there twice"),
        (["mixed.csv"], "mixed.csv, line 12: mixed frequencies: 30 minutes after the row before, elsewhere 1 hour"),
        (["text.csv"], "text.csv, line 3: 'value' is 'x', which is not a number"),
        (["all.csv", "--load", "nowhere"], "no detector.json here"),
        (["all.csv", "--load", "nowhere", "--train", "9"], "leave out --train"),
        (["-", "--load", "nowhere", "--context", "9", "--lr", "1"], "leave out --context, --lr"),
        (["far.csv", "--train", "200"], "row 250: the value is 9.96921e+36, more than"),
        (["all.csv", "--train", "200", "--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
        (["all.csv", "--load", "nowhere", "--device", "toaster"], "device 'toaster' cannot be used here"),
        (["all.csv", "--threshold", "2"], "at most 1"),
        (["-"], "stdin has no end: give --train as a number of rows, or a trained detector with --load"),
        (["-", "--train", "200"], "stdin, line 2: the value is 'x', which is not a number"),
        (["-", "--train", "200", "--json"], "are for files"),
        (["all.csv", "--model", "gru", "--train", "200"], "unknown block 'gru'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes_are_one_line_and_exit_code_2(file, capsys, monkeypatch, options, message):
    good = lines()
    halves = [line.replace(":00:00,", ":30:00,", 1) if number == 10 else line for number, line in enumerate(good[:10])]
    bad = {
        "gap": good[:20] + good[21:],
        "twice": good[:2] + good[1:],
        "mixed": [*halves, "2024-01-01 09:30:00,1", *good[11:]],
        "far": [*good[:-1], f"{good[-1].partition(',')[0]},9.96921e36"],
        "two": good[:2],
        "text": ["2024-01-01 00:00:00,1", "2024-01-01 01:00:00,x"],
    }
    for name, rows in bad.items():
        (file / f"{name}.csv").write_text("\n".join(["timestamp,value", *rows]) + "\n")
    give(monkeypatch, "1\nx\n")
    assert cli.main(["detect", *options, "--no-figure"]) == 2
    shown = capsys.readouterr()
    last = shown.err.splitlines()[-1]
    assert last.startswith("openxlstm: error: ")
    assert message in last
    assert "Traceback" not in shown.err
    assert not (file / "anomalies.csv").exists()


def test_irregular_stamps_are_told(file, capsys):
    found = lines()
    (file / "gap.csv").write_text("\n".join(["timestamp,value", *found[:20], *found[21:]]) + "\n")
    assert cli.main(["detect", "gap.csv", *QUICK, "--train", "200", "--irregular", "--no-figure"]) == 0
    assert "note: irregular stamps: 1 out of step; first in line 22" in capsys.readouterr().err
    backward = [*found[:220], *found[215:]]  # an hour that comes twice, as in files of the NAB
    (file / "back.csv").write_text("\n".join(["timestamp,value", *backward]) + "\n")
    assert cli.main(["detect", "back.csv", *QUICK, "--train", "200", "--irregular", "--no-figure", "--save", "pump"]) == 0
    assert "1 going back; first in line 222" in capsys.readouterr().err
    assert len((file / "anomalies.csv").read_text().splitlines()) == 1 + len(backward)
    for more in ((), ("--irregular",)):
        assert cli.main(["detect", "back.csv", "--load", "pump", *more, "--no-figure"]) == 0
    assert cli.main(["detect", "all.csv", *QUICK, "--train", "200", "--no-figure", "--save", "even"]) == 0
    assert cli.main(["detect", "back.csv", "--load", "even", "--irregular", "--no-figure"]) == 2
    assert "even: was trained on rows at equal steps; --irregular is for training" in capsys.readouterr().err


def test_stamps_are_written_as_fine_as_they_are(file, capsys):
    start = np.datetime64("2024-01-01", "ms")
    text = "".join(f"{start + 100 * row},{line.rpartition(',')[2]}\n" for row, line in enumerate(lines()))
    (file / "fast.csv").write_text("time,value\n" + text)
    assert cli.main(["detect", "fast.csv", *QUICK, "--train", "200", "--no-figure"]) == 0
    assert "2024-01-01 00:00:23.000 to " in capsys.readouterr().out
    written = [row["time"] for row in rows_of((file / "anomalies.csv").read_text())]
    assert written[:2] == ["2024-01-01 00:00:00.000", "2024-01-01 00:00:00.100"]
    assert cli.main(["detect", "all.csv", *QUICK, "--train", "200", "--no-figure", "--out", "hours.csv"]) == 0
    assert rows_of((file / "hours.csv").read_text())[0]["time"] == "2024-01-01 00:00:00"
    assert cli.main(["detect", "hours.csv", *QUICK, "--train", "200", "--no-figure"]) == 0, "what was written can be read"


def test_lines_of_stdin(file, capsys):
    text = "\ufefftime,value\n\n5,1.5\n6,2\n  \n"
    assert [(row.text, row.time, row.value) for row in lines_of(io.StringIO(text))] == [("5", 5, 1.5), ("6", 6, 2.0)]
    assert "line 1 is taken as a header: time,value" in capsys.readouterr().err
    for second, what in (("7", "missing"), ("2024-01-01,3", "2024-01-01")):
        with pytest.raises(UserError, match=f"stdin, line 3: the time is {what}; in the rows before it was 5"):
            list(lines_of(io.StringIO(f"5,1.5\n\n{second}\n")))
