"""A chaotic system through the trainer, comparisons, and `openxlstm simulate`."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from openxlstm import SequenceModel
from openxlstm.cli import main as cli
from openxlstm.cli.simulate import read_channels
from openxlstm.errors import UserError
from openxlstm.inference.free_run import free_run
from openxlstm.recipes import recipe
from openxlstm.training import train
from openxlstm.training.compare import compare
from openxlstm.training.evaluation.dynamics import evaluate_dynamics, model_runs
from openxlstm.training.run import load_config


def tiny(steps=6):
    base = recipe("lorenz63")
    data = replace(base.data, train_trajectories=4, train_samples=60, train_length=20, warmup=10, horizon=0.5)
    return replace(
        base,
        data=replace(data, validation_trajectories=2, test_trajectories=3),
        model=replace(base.model, dim=16, num_blocks=1),
        trainer=replace(base.trainer, steps=steps, batch_size=4, validate_every=3, checkpoint_every=2, threads=1),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny(), tmp_path_factory.mktemp("dynamics") / "run")


def samples(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_a_run_reports_free_runs_next_to_a_linear_model(run):
    report = json.loads((run.folder / "report.json").read_text())
    assert load_config(run.folder) == run.config
    assert (run.folder / "loss.png").stat().st_size > 10_000
    test = report["test"]
    assert test["metric"] == "median valid time in Lyapunov times"
    assert test["higher_is_better"]
    assert len(test["valid_times"]) == 3
    assert test["score"] == pytest.approx(np.median(test["valid_times"]))
    assert 0 <= test["spectrum_distance"] <= 1
    assert report["baselines"]["linear autoregression"]["score"] >= 0
    lines = "\n".join(run.lines())
    assert "test: median valid time in Lyapunov times" in lines
    assert "linear autoregression of order" in lines
    # the saved model is the reported one
    again = evaluate_dynamics(SequenceModel.from_pretrained(run.folder / "model"), run.config.data, "test")
    assert again.valid_times == pytest.approx(test["valid_times"])
    assert again.loss == pytest.approx(test["loss"], rel=1e-4)


def test_noise_falls_with_the_steps_of_the_run(run):
    source = run.job.source()
    again = [task_inputs - truth for task_inputs, truth in zip(inputs_of(source), inputs_of(source, noise=0.0))]
    assert [float(noise.std()) for noise in again] == pytest.approx([1e-3, 1e-3 * (1 - 5 / 6) ** 2], rel=0.2, abs=1e-7)


def inputs_of(source, **settings):
    task = replace(source.task, **settings)
    return [type(source)(task, source.rows, source.seed, source.steps).batch(step).inputs.double() for step in (0, 5)]


def test_a_resumed_run_is_the_same(run, tmp_path, losses, monkeypatch):
    from openxlstm.training.loss import TaskLoss

    original, calls = TaskLoss.forward, []

    def until(self, *args, **options):
        calls.append(self.training)
        if sum(calls) > 4:
            raise RuntimeError("stopped")
        return original(self, *args, **options)

    monkeypatch.setattr(TaskLoss, "forward", until)
    with pytest.raises(RuntimeError, match="stopped"):
        train(tiny(), tmp_path / "cut")
    monkeypatch.setattr(TaskLoss, "forward", original)
    resumed = train(resume=tmp_path / "cut")
    for column in ("loss", "val_loss", "val_score"):
        assert losses(resumed.folder, column) == losses(run.folder, column), column
    assert resumed.report["test"] == run.report["test"]


def test_models_are_compared_with_the_linear_one_below(tmp_path):
    found = compare(tiny(2), ["slstm", "lstm"], folder=tmp_path / "compare")
    table = found.table()
    assert "median valid time in Lyapunov times at 38" in table
    assert "| linear autoregression |" in table
    assert (tmp_path / "compare" / "compare.png").stat().st_size > 10_000
    widths = {row.count("|") for row in table.splitlines()}
    assert len(widths) == 1


def test_a_free_run_is_the_model_on_its_own_answers(run):
    """Step by step from the empty state each time, without carrying a state."""
    model = run.model.eval()
    prefix = torch.randn(2, 5, 3, dtype=torch.float64)
    scale = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = free_run(model, prefix, 4, scale)
    path = prefix
    with torch.no_grad():
        for _ in range(4):
            answer, _ = model(path.float())
            path = torch.cat([path, path[:, -1:] + scale * answer[:, -1:].double()], 1)
    assert found == pytest.approx(path[:, 5:], abs=1e-5)
    with pytest.raises(ValueError, match="prefix must be"):
        free_run(model, prefix[:, :0], 4, scale)


def test_simulate_writes_what_was_scored(run, tmp_path, capsys):
    out = tmp_path / "alone.csv"
    words = ["simulate", str(run.folder), "--steps=28", "--trajectory=2", f"--out={out}", "--device=cpu", "--json"]
    assert cli.main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    task = run.config.data
    found = samples(out)
    assert list(found) == ["step", "time", "lyapunov_time", "x", "y", "z", "x_system", "y_system", "z_system"]
    assert found["time"] == pytest.approx(0.02 * np.arange(1, 29))
    expected = task.scale.physical(model_runs(run.model, task, "test", 28)[2])
    truth = task.scale.physical(task.truth("test")[2, 10:])
    for place, name in enumerate("xyz"):
        assert found[name] == pytest.approx(expected[:, place], rel=1e-3)  # rounding in other company, amplified
        assert found[f"{name}_system"] == pytest.approx(truth[:, place], abs=1e-6)
    assert summary["valid_lyapunov_times"] == pytest.approx(run.report["test"]["valid_times"][2])
    assert (tmp_path / "alone.png").stat().st_size > 10_000


def test_simulate_goes_on_from_a_file(run, tmp_path, capsys):
    """With columns in another order and one too many; the same samples as a warm-up of the task."""
    task = run.config.data
    warm = task.scale.physical(task.measured("test")[1, :10])
    rows = "".join(f"{n},{z!r},{x!r},{y!r}\n" for n, (x, y, z) in enumerate(warm.tolist()))
    (tmp_path / "start.csv").write_text("n,z,x,y\n" + rows)
    out = tmp_path / "next.csv"
    words = ["simulate", str(run.folder), "--steps=5", f"--out={out}", "--device=cpu", "--no-figure"]
    assert cli.main([*words, f"--from={tmp_path / 'start.csv'}"]) == 0
    assert not (tmp_path / "next.png").exists()
    found = samples(out)
    assert list(found) == ["step", "time", "lyapunov_time", "x", "y", "z"]
    assert cli.main([*words, "--trajectory=1"]) == 0
    assert found["y"] == pytest.approx(samples(out)["y"], rel=1e-5)
    assert "5 steps, 0.1 Lyapunov times" in capsys.readouterr().out


def test_a_file_of_a_spreadsheet_is_read(tmp_path):
    """With a byte order mark, line ends of Windows and blank lines; mistakes are named by the lines of the file."""
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffx,y\r\n1,2\r\n\r\n3,4\r\n,\r\n\r\n".encode())
    assert read_channels(path, ("y", "x")).tolist() == [[2, 1], [4, 3]]
    path.write_bytes(b"x,y\n1,2\n\n3,four\n")
    with pytest.raises(UserError, match=r"a\.csv, line 4: column 'y' is not a number"):
        read_channels(path, ("x", "y"))
    path.write_bytes(b"x,y\n1,\xff\n")
    with pytest.raises(UserError, match=r"a\.csv: no CSV after line 0: 'utf-8' codec"):
        read_channels(path, ("x", "y"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "the following arguments are required: --steps"),
        (["RUN", "--steps=0"], "--steps: expects a whole number at least 1"),
        (["RUN", "--steps=5", "--trajectory=3"], "--trajectory 3: there are 3, counted from 0"),
        (["RUN", "--steps=5", "--out=a.png"], "name the CSV file"),
        (["RUN", "--steps=5", "--from=a.csv"], "a.csv has no column 'z'; the task's channels are x, y, z"),
        (["RUN", "--steps=5", "--from=b.csv"], "b.csv, line 3: column 'y' is not a number"),
        (["RUN", "--steps=5", "--from=c.csv"], "c.csv has no row below its header"),
        (["RUN", "--steps=5", "--from=d.csv"], "d.csv: no such file"),
        (["nowhere", "--steps=5"], "nowhere: no such folder"),
        (["parity", "--steps=5"], "parity is a run on task 'parity'; simulate takes runs on a chaotic system: lorenz63"),
    ],
)
def test_mistakes_are_one_line(run, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x,y,z\n1,2,3\n1,two,3\n")
    (tmp_path / "c.csv").write_text("x,y,z\n")
    (tmp_path / "parity").mkdir()
    (tmp_path / "parity" / "config.json").write_text(json.dumps(recipe("parity").to_dict()))
    assert cli.main(["simulate", *(str(run.folder) if word == "RUN" else word for word in words)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_head_is_the_best_for_what_is_before_it(run):
    """No other head has a smaller error on the training trajectories; found by trying nearby ones."""
    task, model = run.config.data, SequenceModel.from_pretrained(run.folder / "model").double().eval()
    batch = task.steps(torch.tensor(task.measured("train")), torch.zeros(4, 59, 3))

    def error():
        with torch.no_grad():
            answers, _ = model(batch.inputs.double())
        return float((answers - batch.targets)[:, 10:].square().mean())

    best = error()
    for seed in range(6):
        change = 1e-2 * torch.randn(model.output.weight.shape, generator=torch.Generator().manual_seed(seed)).double()
        for sign in (1, -1):
            model.output.weight.data += sign * change
            assert error() > best
            model.output.weight.data -= sign * change
