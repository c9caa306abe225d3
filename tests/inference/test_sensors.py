"""Monitors: row by row or all at once, each stream by itself, and what they say is what the task's score is about."""

import json

import numpy as np
import pytest
import torch

from openxlstm import SequenceConfig, SequenceModel
from openxlstm.data.sensors import read_engines
from openxlstm.errors import UserError
from openxlstm.inference.sensors import load_monitor
from openxlstm.tasks import TASKS
from sensorfiles import write_engines, write_recordings


def saved(task, folder):
    """An untrained model beside what a run on the task saves."""
    torch.manual_seed(0)
    signature = task.signature
    model = SequenceModel(
        SequenceConfig(
            dim=16, num_heads=2, blocks=("slstm", "mlstm"), input_dim=signature.input_dim, num_outputs=signature.num_outputs
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.output.bias.fill_(0.5)
    model.save_pretrained(folder / "model")
    (folder / "model" / "sensors.json").write_text(json.dumps(task.beside))
    return folder


@pytest.fixture
def fan(tmp_path):
    task = TASKS["turbofan"](source=str(write_engines(tmp_path / "fan")), cap=20, validation_engines=2, averages=(3, 9))
    return task, saved(task, tmp_path / "run")


def test_life_is_what_the_task_asks_for(fan):
    task, run = fan
    monitor = load_monitor(run)
    (batch,) = [batch for _, batch in task.evaluation("test", task.reports[0])]
    with torch.no_grad():
        outputs, _ = monitor.model(batch.inputs)
    by_unit = dict(zip(sorted(batch.lengths.tolist()), range(4)))
    for engine in task.fleet("test").engines:
        row, size = by_unit[len(engine.rows)], len(engine.rows)
        expected = np.maximum(20 * outputs[row, :size, 0].numpy(), 0)
        assert np.allclose(monitor.new().read(engine.rows), expected, atol=1e-4)


def test_a_row_at_a_time_and_several_engines_side_by_side(fan):
    _, run = fan
    monitor = load_monitor(run)
    first, second = (engine.rows for engine in read_engines(run.parent / "fan" / "test_FD001.txt")[:2])
    whole = [monitor.new().read(rows) for rows in (first, second)]
    one, other = monitor.new(), monitor.new()
    found = []
    for step in range(len(first)):
        found.append(one.step(first[step]))
        other.step(second[step])
    assert np.allclose(found, whole[0], atol=1e-4)
    assert np.allclose(other.read(second[len(first) :]), whole[1][len(first) :], atol=1e-4)
    assert whole[0].min() >= 0
    assert monitor.rows == 0, "new() leaves the first one alone"


def test_the_state_has_one_size(fan):
    from openxlstm.ops.state import leaves

    task, run = fan
    monitor = load_monitor(run)
    row = task.fleet("test").engines[0].rows[0]
    sizes = set()
    for _ in range(20):
        monitor.step(row)
        sizes.add(tuple(leaf.shape for leaf in leaves(monitor.state)))
    assert len(sizes) == 1


def test_activities(tmp_path):
    task = TASKS["activity"](source=str(write_recordings(tmp_path / "har", missing=True)), missing="mark")
    monitor = load_monitor(saved(task, tmp_path / "run"))
    case = task.parts.test.values[0]
    whole = monitor.new().read(case)
    assert whole.shape == (len(case), 2)
    assert np.allclose(whole.sum(1), 1)
    stream = monitor.new()
    found = [stream.step(row) for row in case]
    assert list(found[0]) == ["Rest", "Run"]
    assert np.allclose([list(one.values()) for one in found], whole, atol=1e-5)
    with pytest.raises(ValueError, match=rf"row {len(case) + 1}: channel 2 is 1e\+22, more than"):
        stream.step([float("nan"), 1e22])


def test_rows_that_are_none(fan):
    _, run = fan
    monitor = load_monitor(run)
    with pytest.raises(ValueError, match=r"rows must be \[T, 24\], got \[1, 3\]"):
        monitor.step([1, 2, 3])
    with pytest.raises(ValueError, match="row 1 has a number that is missing or infinite"):
        monitor.step([float("nan")] * 24)
    with pytest.raises(ValueError, match=r"row 1: channel 3 is 9.96921e\+36, more than 1e\+12 deviations from the mean"):
        monitor.step([0.0, 0.0, 9.96921e36, *[0.0] * 21])
    assert (monitor.rows, monitor.state, monitor.averages) == (0, None, None), "nothing was read"


def test_folders_that_are_none(fan, write_run, tmp_path):
    _, run = fan
    with pytest.raises(UserError, match=r"no sensors\.json beside the model; monitors come from runs on the tasks turbofan"):
        load_monitor(write_run(tmp_path / "text"))
    about = run / "model" / "sensors.json"
    facts = json.loads(about.read_text())
    about.write_text(json.dumps(facts | {"kind": "weather"}))
    with pytest.raises(UserError, match="kind 'weather', expected one of remaining life, activity"):
        load_monitor(run)
    del facts["cap"]
    about.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"sensors\.json: damaged: 'cap' is missing"):
        load_monitor(run)
