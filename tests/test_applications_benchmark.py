"""benchmarks/applications.py: commands, what is not there, tables on one page."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "applications.py"
QUICK = ("--trainer.steps=2", "--trainer.batch_size=4", "--model.dim=16", "--data.eval_length=5-12", "--data.test_samples=16")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)  # for its neighbours
    spec = importlib.util.spec_from_file_location("applications", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["applications"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["applications"]


def run(benchmark, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["applications.py", *map(str, words)])
    return benchmark.main()


def test_every_part_has_a_command(benchmark, tmp_path, monkeypatch, capsys):
    """With files of the right names; without them it says which are missing."""
    for part in benchmark.PARTS:
        for name in part.needs.values():
            (tmp_path / "data" / part.name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / part.name / name.replace("*", ".gz")).touch()
    (tmp_path / "empty").mkdir()
    assert run(benchmark, monkeypatch, "--data", tmp_path / "data", "--out", tmp_path / "out", "--list") == 0
    shown = capsys.readouterr().out
    assert shown.count("== ") == len(benchmark.PARTS)
    assert "not there" not in shown
    assert "{" not in shown
    assert not (tmp_path / "out").exists()
    assert run(benchmark, monkeypatch, "--data", tmp_path / "empty", "--out", tmp_path / "out", "--only", "music") == 0
    page = (tmp_path / "out" / "applications.md").read_text()
    assert "Not measured, not in the data: JSB_Chorales.mat." in page
    assert "## lorenz63" not in page
    assert page.endswith("program_evaluation.\n")
    assert "Not measured yet: ett, weather," in page
    for name in ("one", "two"):  # what was measured before stays, also where its data is not
        (tmp_path / "out" / "jsb_chorales").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "jsb_chorales" / "compare.md").write_text(f"| {name} |\n")
        assert run(benchmark, monkeypatch, "--data", tmp_path / "empty", "--out", tmp_path / "out", "--only", "nottingham") == 0
        page = (tmp_path / "out" / "applications.md").read_text()
        assert f"## jsb_chorales\n\n| {name} |\n" in page
        assert "jsb_chorales, " not in page


def test_tables_of_parts_and_failures_stand_on_one_page(benchmark, tmp_path, monkeypatch):
    good = benchmark.Part("parity", "text", benchmark.comparison("parity", "slstm,lstm", *QUICK), {}, "compare.md")
    wrong = benchmark.Part("wrong", "text", benchmark.comparison("parity", "nothing"), {}, "compare.md")
    monkeypatch.setattr(benchmark, "PARTS", (wrong, good))
    monkeypatch.setenv("PYTHONPATH", str(FILE.parents[1] / "src"))
    folders = ("--data", tmp_path, "--out", tmp_path / "out", "--cells", tmp_path / "trained")
    assert run(benchmark, monkeypatch, *folders, "--seeds", "0") == 1
    assert len(list((tmp_path / "trained" / "parity").iterdir())) == 2
    assert sorted(path.name for path in (tmp_path / "out" / "parity").iterdir()) == [
        "compare.json",
        "compare.md",
        "compare.png",
    ]
    page = (tmp_path / "out" / "applications.md").read_text()
    assert "## wrong\n\nFailed with exit code 2." in page
    assert "| slstm |" in page
    assert "openxlstm compare parity --trainer.steps=2" in page
    assert "--out OUT/parity --cells CELLS/parity" in page
    assert str(tmp_path) not in page


def test_what_is_reached_and_what_is_not(benchmark, tmp_path):
    """From the files of a benchmark with files of its own, of one that compares, and of one on texts."""

    def write(name, content):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))

    assert benchmark.bars.table(tmp_path) == ""
    for model, scores in {"xlstm": (0.37, 0.375, 0.38), "lstm": (0.378, 0.372, 0.377), "nlinear": (0.3,)}.items():
        for seed, score in enumerate(scores):
            covers = {"coverage": 0.84 - score / 10} if model == "xlstm" else {}
            write(f"ett/ETTh1-96-{model}-{seed}.json", {"test": {"mse": score} | covers})
    after = [{"rows": rows, "milliseconds": time, "difference": 1e-6 * time} for rows, time in ((1000, 2.0), (10**6, 2.4))]
    write("updates/updates-slstm.json", {"pattern": "slstm", "rows": after})
    rows = [{"model": model, "scores": scores} for model, scores in {"mlstm": [0.8199, 0.8199], "lstm": [0.81]}.items()]
    write("classification/sst2/compare.json", {"rows": rows})
    stored = {"test": {"scores": {"ROUGE-1": 20.0}}, "baselines": {"the first sentence": {"score": 19.0}}}
    write("scitldr/scitldr-slstm-0-0123456789ab.json", stored)
    write("scitldr/scitldr-slstm-bridge-state-0-0123456789ab.json", {"test": {"scores": {"ROUGE-1": 99.0}}})
    rows = [{"model": model, "scores": [score]} for model, score in (("slstm", 0.99), ("lstm", 0.98), ("transformer", 0.97))]
    write("speech/spoken_digits-official/compare.json", {"rows": rows})
    levels = lambda model, *scores: {  # noqa: E731
        "model": model,
        "report": {"test": {"by_length": [{"lengths": str(n + 1), "score": score} for n, score in enumerate(scores)]}},
    }
    cells = [levels("slstm", 0.99, 0.93), levels("lstm", 0.995, 0.91), {"model": "transformer", "report": None}]
    write("program_evaluation/compare.json", {"rows": [], "cells": cells})
    head, _, *lines = benchmark.bars.table(tmp_path).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["ETTh1, 96 hours, MSE", "xlstm", "0.3750 ± 0.0050", "3", "≤ 0.38", "lstm 0.3757 ± 0.0032, nlinear 0.3000",
         "no: not better than nlinear"],
        ["ETTh1, 96 hours, 80 % intervals, points off", "xlstm", "0.2500 ± 0.0500", "3", "≤ 3", "", "yes"],
        ["a new row, difference of forecasts to reading anew", "slstm", "2.4e-06", "1", "≤ 1e-05", "", "yes"],
        ["a new row, its time after the longest history over the shortest", "slstm", "1.200", "1", "≤ 1.1", "", "no: bar"],
        ["SST-2, accuracy", "mlstm", "0.8199 ± 0.0000", "2", "≥ 0.82", "lstm 0.8100", "no: bar"],
        ["SciTLDR, ROUGE-1", "slstm", "20.00", "1", "", "the first sentence 19.00",
         "not known: lstm, transformer not measured"],
        ["spoken digits, accuracy", "slstm", "0.9900", "1", "≥ 0.98", "lstm 0.9800, transformer 0.9700", "yes"],
        ["program evaluation, numbers of one digit, accuracy", "slstm", "0.9900", "1", "≥ 0.95", "lstm 0.9950",
         "no: not better than lstm"],
        ["program evaluation, numbers of two digits, accuracy", "slstm", "0.9300", "1", "≥ 0.95", "lstm 0.9100", "no: bar"],
    ]  # fmt: skip
    assert head.count("|") == 8
    names = {part.name for part in benchmark.PARTS}
    assert {bar.part for bar in benchmark.bars.BARS} <= names


def test_rows_that_follow_are_measured(benchmark, tmp_path, monkeypatch, capsys):
    import forecast_updates

    monkeypatch.setattr(sys, "argv", ["forecast_updates.py", "--out", str(tmp_path / "updates"), "--rows", "200,300"])
    forecast_updates.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["200", "300"]
    found = json.loads((tmp_path / "updates" / "updates-slstm.json").read_text())
    assert all(0 <= row["difference"] < 1e-5 and row["milliseconds"] > 0 for row in found["rows"])
    assert "| a new row, difference of forecasts to reading anew | slstm |" in benchmark.bars.table(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--data", "nowhere"], "--data nowhere: no such folder"), (["--data", ".", "--only", "musik"], "--only musik: have ")],
)
def test_mistakes(benchmark, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(benchmark, monkeypatch, *words, "--out", tmp_path / "out")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
