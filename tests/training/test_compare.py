import json
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.files import held
from openxlstm.training import compare as module
from openxlstm.training.cells import Children, Order
from openxlstm.training.compare import compare, write
from openxlstm.training.record import cpu_name, in_lines

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def base(changed):
    return changed(model={"dim": 96, "pattern": "slstm"}, steps=3, validate_every=2)


def test_a_table_of_equal_models_that_is_not_computed_twice(base, tmp_path):
    models = ["slstm", "lstm", "transformer"]
    found = compare(base, models, [0, 1], tmp_path / "cmp")
    assert [(c.model, c.seed) for c in found.cells] == [(m, s) for m in models for s in (0, 1)]
    for row in found.rows():
        assert row["num_parameters"] == pytest.approx(found.target, rel=0.01)
        assert row["seeds"] == 2
    table = found.table()
    assert table.count("\n") == 1 + len(models)
    assert "±" in table
    assert json.loads((tmp_path / "cmp" / "compare.json").read_text())["rows"] == found.rows()
    assert (tmp_path / "cmp" / "compare.png").stat().st_size > 0
    said = []
    again = compare(base, models, [0, 1], tmp_path / "cmp", said.append)
    assert again.rows() == found.rows()
    assert sum("finished before" in line for line in said) == 6
    said.clear()
    compare(replace(base, trainer=replace(base.trainer, steps=4)), ["lstm"], [0], tmp_path / "cmp", said.append)
    assert not any("finished before" in line for line in said), "other settings are another cell"


def test_what_is_written_of_a_cell_outlives_its_folder(base, tmp_path, monkeypatch):
    """Also where the next comparison is stopped before it comes to it; not with other settings."""
    monkeypatch.setattr(module, "write", lambda found: (written.append(len(found.cells)), write(found)))
    written = []
    folder = tmp_path / "cmp"
    found = compare(base, ["slstm", "lstm"], [0], folder)
    curves = [cell.validations("val_loss") for cell in found.cells]
    assert [len(steps) for steps, _ in curves] == [2, 2]
    assert {cell.machine for cell in found.cells} == {torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()}
    for cell in found.cells:
        shutil.rmtree(cell.folder)
    (folder / "compare.png").unlink()
    said = []
    written.clear()
    again = compare(base, ["mlstm", "slstm", "lstm"], [0], folder, said.append)
    assert written[0] == 3
    assert sum("finished before" in line for line in said) == 2
    assert [row for row in again.rows() if row["model"] != "mlstm"] == found.rows()
    assert [cell.validations("val_loss") for cell in again.cells[1:]] == curves
    assert [cell.machine for cell in again.cells[1:]] == [cell.machine for cell in found.cells]
    assert (folder / "compare.png").exists()
    assert not any(cell.folder.exists() for cell in again.cells[1:])
    said.clear()
    compare(replace(base, trainer=replace(base.trainer, steps=4)), ["lstm"], [0], folder, said.append)
    assert not any("finished before" in line for line in said)


def test_what_is_not_asked_for_is_remembered_and_not_shown(base, tmp_path):
    """One model and seed after the other in one folder: none is trained twice, though the run folders are gone."""
    folder, asked = tmp_path / "cmp", [(["slstm"], [0]), (["lstm"], [0]), (["lstm"], [1])]
    for models, seeds in asked:
        found = compare(base, models, seeds, folder)
        (cell,) = found.cells
        stored = json.loads((folder / "compare.json").read_text())
        assert [row["model"] for row in stored["rows"]] == models
        assert (folder / "compare.md").read_text() == found.table() + "\n"
        shutil.rmtree(cell.folder)
    assert [(cell["model"], cell["seed"]) for cell in stored["cells"]] == [("lstm", 1), ("lstm", 0), ("slstm", 0)]
    said = []
    both = compare(base, ["slstm", "lstm"], [0], folder, said.append)
    assert sum("finished before" in line for line in said) == len(both.cells) == 2
    assert len(json.loads((folder / "compare.json").read_text())["cells"]) == 3
    compare(replace(base, trainer=replace(base.trainer, steps=4)), ["lstm"], [0], folder)
    assert len(json.loads((folder / "compare.json").read_text())["cells"]) == 1, "those of other settings cannot be used"


def test_a_cell_outlives_new_settings_but_not_a_new_default(base, tmp_path):
    """A version with more settings finds what one without them trained; a folder that says other settings is trained again."""
    place = compare(base, ["lstm"], [0], tmp_path / "cmp").cells[0].folder / "config.json"
    stored = json.loads(place.read_text())
    assert stored["trainer"].pop("patience") == 0
    place.write_text(json.dumps(stored))
    said = []
    compare(base, ["lstm"], [0], tmp_path / "cmp", said.append)
    assert any("finished before" in line for line in said)
    stored["trainer"]["patience"] = 7
    place.write_text(json.dumps(stored))
    said.clear()
    compare(base, ["lstm"], [0], tmp_path / "cmp", said.append)
    assert not any("finished before" in line for line in said)
    assert json.loads(place.read_text())["trainer"]["patience"] == 0


def test_a_cell_that_fails_is_reported_and_the_others_go_on(base, tmp_path):
    wild = replace(
        base,
        optimizer=replace(base.optimizer, lr=1e30, clip=0.0),
        trainer=replace(base.trainer, steps=20, max_bad_steps=2),
    )
    found = compare(wild, ["mlstm", "lstm"], [0], tmp_path / "cmp")
    assert len(found.cells) == 2
    failed = [cell for cell in found.cells if cell.failure]
    assert failed
    assert "not finite" in failed[0].failure
    assert "0 of 1" in found.table()


def test_side_by_side_finds_the_same(base, tmp_path, monkeypatch):
    """In processes of their own, results in the order that was asked for; a cell that fails says why."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    models = ["slstm", "lstm"]
    said = []
    found = compare(base, models, [0, 1], tmp_path / "two", said.append, jobs=2)
    alone = compare(base, models, [0, 1], tmp_path / "one")
    assert [(c.model, c.seed) for c in found.cells] == [(c.model, c.seed) for c in alone.cells]
    for mine, other in zip(found.cells, alone.cells):
        assert mine.folder.name == other.folder.name
        assert mine.report["validation"]["nats_per_token"] == other.report["validation"]["nats_per_token"]
    assert sum(line.endswith("done") for line in said) == 4
    assert not [*(tmp_path / "two").glob("*.log"), *(tmp_path / "two").glob("lstm*.json")], "nothing is left of finished ones"
    said.clear()
    compare(base, models, [0, 1], tmp_path / "two", said.append, jobs=2)
    assert sum("finished before" in line for line in said) == 4
    wild = replace(base, optimizer=replace(base.optimizer, lr=1e30, clip=0.0), trainer=replace(base.trainer, max_bad_steps=1))
    (cell,) = compare(wild, ["mlstm"], [0], tmp_path / "wild", jobs=2).cells
    assert cell.report is None
    assert "not finite" in cell.failure


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_is_trained_elsewhere_is_left_alone(base, tmp_path, monkeypatch, jobs):
    """Not even emptied, though it has no checkpoint yet."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    short = replace(base, trainer=replace(base.trainer, steps=2))
    (cell,) = compare(short, ["lstm"], [0], tmp_path / "cmp").cells
    for name in ("report.json", "checkpoints/last.pt"):
        (cell.folder / name).unlink()
    with held(cell.folder):
        busy, other = compare(short, ["lstm", "slstm"], [0], tmp_path / "cmp", jobs=jobs).cells
        assert (cell.folder / "metrics.csv").exists()
    assert busy.failure == f"{cell.folder}: another process works in it; wait for it or stop it"
    assert other.report is not None
    (again,) = compare(short, ["lstm"], [0], tmp_path / "cmp", jobs=jobs).cells
    assert again.report is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_side_by_side_is_interrupted_and_goes_on(base, tmp_path, command, number):
    """A signal reaches the trainings, which keep their checkpoints; nobody is left behind, and the same command continues."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(replace(base, trainer=replace(base.trainer, steps=400, validate_every=400)).to_dict()))
    words = ("compare", "--config", path, "--models", "slstm,lstm", "--jobs", "2", "--out", tmp_path / "cmp")
    process = command(*words)
    until = time.monotonic() + 100
    while len([*(tmp_path / "cmp").glob("*/checkpoints/last.pt")]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted; the same command continues in" in err
    begun = {file: file.stat().st_mtime_ns for file in (tmp_path / "cmp").glob("*/config.json")}
    steps = [torch.load(file.parent / "checkpoints" / "last.pt", weights_only=True)["step"] for file in begun]
    assert len(steps) == 2
    assert all(0 < step < 400 for step in steps), "neither finished nor thrown away"
    process = command(*words)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert "| slstm |" in out
    assert {file: file.stat().st_mtime_ns for file in begun} == begun, "resumed, not begun again"


def test_a_child_that_a_signal_ends_badly_has_not_failed(base, tmp_path, monkeypatch):
    """Python that is hit while it starts may end with any exit code."""
    order = Order("slstm", 0.1, 0, base, tmp_path / "cell", "a cell")
    children = Children(1)

    def start(order):
        order.beside("log").write_text("Python runtime state: finalizing\n")
        return subprocess.Popen(
            ["sh", "-c", "trap 'exit 134' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
        )

    monkeypatch.setattr(children, "start", start)
    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(children.train, order, lambda line: None)
        while not children.running:
            time.sleep(0.01)
        (child,) = children.running
        assert child.stdout.readline() == b"ready\n"
        children.stop(signal.SIGTERM)
        cell, stopped = trained.result(timeout=30)
    child.stdout.close()
    assert (cell.report, cell.failure, stopped) == (None, None, signal.SIGTERM)


def test_one_comparison_holds_models_that_differ_in_a_setting(base, tmp_path):
    models = ["mlstm", "mlstm{conv_width=0}", "mlstm{input_gate_mode=fixed,forget_gate_mode=one}", "lstm_residual"]
    found = compare(base, models, [0], tmp_path / "cmp")
    assert {row["model"] for row in found.rows()} == set(models)
    for row in found.rows():
        assert row["num_parameters"] == pytest.approx(found.target, rel=0.01)
    ran = [json.loads((cell.folder / "config.json").read_text())["model"] for cell in found.cells]
    assert [model["pattern"] for model in ran] == ["mlstm", "mlstm", "mlstm", "lstm_residual"]
    assert [model["conv_width"] for model in ran] == [4, 0, 4, 4]
    assert [model["forget_gate_mode"] for model in ran] == ["learned", "learned", "one", "learned"]
    assert len({row["nats_per_token"] for row in found.rows()}) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mlstm{conv=0}", r"mlstm\{conv=0\}: unknown option --conv"),
        ("mlstm{conv_width=no}", r"mlstm\{conv_width=no\}: --conv_width must be a whole number, not 'no'"),
        ("mlstm{forget_gate_mode=off}", "must be one of learned, bias, fixed, one, not 'off'"),
        ("mlstm{num_parameters=3}", "num_parameters cannot stand in braces"),
        ("mlstm{conv_width=0", "not of the form"),
        ("gru{conv_width=0}", r"gru\{conv_width=0\}: model: unknown block 'gru'"),
    ],
)
def test_mistakes_in_braces(base, tmp_path, model, message):
    with pytest.raises(UserError, match=message):
        compare(base, [model], [0], tmp_path / "cmp")
    assert not (tmp_path / "cmp").exists()


def test_mistakes_are_found_before_training(base, tmp_path):
    nowhere = replace(base, data=replace(base.data, source=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="unknown block"):  # before the text is read, too
        compare(nowhere, ["mlstm", "gru"], [0], tmp_path / "cmp")
    with pytest.raises(UserError, match="named twice"):
        compare(base, ["mlstm"], [1, 1], tmp_path / "cmp")
    assert not (tmp_path / "cmp").exists()


def test_names_in_legends_are_narrow():
    assert in_lines("xlstm[7:1]") == "xlstm[7:1]"
    assert in_lines("mlstm{conv_width=0,dropout=0.1}").splitlines() == ["mlstm{conv_width=0,", "dropout=0.1}"]
