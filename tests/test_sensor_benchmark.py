"""benchmarks/sensors.py on tiny files: baselines, a detector, the table, and that what is there is not measured again."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openxlstm.detection import DetectorSettings
from openxlstm.forecasting import FitConfig
from openxlstm.tasks import TASKS
from sensorfiles import write_engines

FIT = FitConfig(steps=3, batch_size=4, length=8, validate_every=3)


@pytest.fixture
def benchmark(monkeypatch):
    path = Path(__file__).parents[1] / "benchmarks" / "sensors.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("sensors_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_nab(folder):
    """Two series of 400 rows; in one a window with a spike at its beginning."""
    (folder / "nab" / "data").mkdir(parents=True)
    (folder / "nab" / "labels").mkdir()
    rng = np.random.default_rng(0)
    stamps = [f"2014-01-{1 + row // 24:02} {row % 24:02}:00:00" for row in range(400)]
    labels = {}
    for name in ("calm.csv", "spike.csv"):
        values = rng.normal(50, 1, 400)
        if name == "spike.csv":
            values[300] = 90
        labels[name] = [[stamps[300], stamps[320]]] if name == "spike.csv" else []
        rows = [f"{stamp},{value:.3f}" for stamp, value in zip(stamps, values)]
        (folder / "nab" / "data" / name).write_text("\n".join(["timestamp,value", *rows]) + "\n")
    (folder / "nab" / "labels" / "combined_windows.json").write_text(json.dumps(labels))


def run(benchmark, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["sensors.py", *map(str, words)])
    benchmark.main()


def test_anomalies_go_on_where_they_were_interrupted(benchmark, tmp_path, monkeypatch, capsys):
    write_nab(tmp_path)
    small = lambda **more: DetectorSettings(distances=(1, 2), context=12, patch=6, dim=8, num_heads=1, fit=FIT, **more)  # noqa: E731
    monkeypatch.setattr(benchmark.detection, "small", small)
    words = ("--data", tmp_path, "--out", tmp_path / "out", "--sets", "NAB", "--seeds", "0,1")
    run(benchmark, monkeypatch, *words)
    table = (tmp_path / "out" / "table.md").read_text()
    rows = {line.split("|")[2].strip(): line.split("|") for line in table.splitlines()[2:]}
    assert set(rows) == {
        "slstm",
        "last_value",
        "null",
        "random",
        *(name for name in rows if name.startswith("moving_z_score of")),
    }
    assert float(rows["null"][5]) == 0
    assert rows["slstm"][4].strip() == rows["random"][4].strip() == "2"
    found = json.loads((tmp_path / "out" / "NAB-slstm-0.json").read_text())
    assert found["test"]["standard"] == pytest.approx(100), "one spike, at the first row of the one window"
    assert found["profiles"]["standard"]["found"] == found["profiles"]["standard"]["windows"] == 1
    (tmp_path / "out" / "NAB-slstm-1.json").unlink()
    monkeypatch.setattr(benchmark, "AnomalyDetector", None)  # the scores of each series are there
    run(benchmark, monkeypatch, *words)
    assert (tmp_path / "out" / "table.md").read_text() == table
    assert "| NAB | slstm |" in capsys.readouterr().out


def test_linear_lives_are_better_than_guessing(benchmark, tmp_path):
    write_engines(tmp_path, trained=8, tested=5)
    task = TASKS["turbofan"](source=str(tmp_path), cap=30, validation_engines=2)
    found = benchmark.linear_lives(task)["test"]
    assert list(found) == ["rmse", "rmse_capped", "phm08"]
    assert found["rmse"] < np.std([5, 10, 15, 20, 25])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sets", "NABB"), "have NAB, FD001, BasicMotions, not 'NABB'; did you mean 'NAB'?"),
        (("--seeds", "0,x"), "expects a whole number, got 'x'"),
        (("--sets", "NAB"), "no file combined_windows.json in it"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, message):
    script = Path(__file__).parents[1] / "benchmarks" / "sensors.py"
    command = [sys.executable, str(script), "--data", str(tmp_path), "--out", str(tmp_path / "out"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
