"""Remaining life and activities as tasks, from files written here."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openxlstm import SequenceConfig, SequenceModel
from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from openxlstm.tasks.sensors import standard
from openxlstm.tasks.turbofan import phm08
from openxlstm.training.evaluation.task import evaluate_task
from sensorfiles import write_engines, write_recordings


@pytest.fixture
def engines(tmp_path):
    return TASKS["turbofan"](source=str(write_engines(tmp_path / "fan")), cap=20, validation_engines=2, averages=(4,))


@pytest.fixture
def activity(tmp_path):
    return TASKS["activity"](source=str(write_recordings(tmp_path / "har")))


def only(task, split):
    """The one batch of a split."""
    (found,) = [batch for _, batch in task.evaluation(split, task.reports[0])]
    return found


def test_engines_belong_to_one_split(engines):
    units = {split: {engine.unit for engine in engines.fleet(split).engines} for split in ("train", "validation")}
    assert units["train"] | units["validation"] == set(range(1, 7))
    assert not units["train"] & units["validation"]
    assert len(units["validation"]) == 2


def test_training_asks_after_each_flight_and_the_test_after_the_last(engines):
    batch = only(engines, "train")
    for row, size in enumerate(batch.lengths.tolist()):
        expected = np.minimum(np.arange(size)[::-1], 20) / 20
        assert torch.equal(batch.targets[row, :size, 0], torch.tensor(expected.copy(), dtype=torch.float32))
        assert batch.scored[row].tolist() == [step < size for step in range(batch.inputs.shape[1])]
    test = only(engines, "test")
    assert test.scored.sum(1).tolist() == [1] * 4
    last = test.targets[torch.arange(4), test.lengths - 1, 0]
    assert last.tolist() == pytest.approx([5 / 20, 10 / 20, 15 / 20, 20 / 20]), "the lives of the RUL file"


def test_channels_of_small_numbers_are_standardised_too():
    found = standard([np.array([[1e-12, 5.0, 0.0, 1e5]]), np.array([[3e-12, 5.0, 0.0, 1e5 + 1e-6]])])
    assert found.std / [1e-12, 1, 1, 1] == pytest.approx([1, 1, 1, 1])


def test_inputs_are_standardised_by_the_training_engines_alone(engines):
    batch = only(engines, "train")
    rows = torch.cat([batch.inputs[row, :size, :24] for row, size in enumerate(batch.lengths.tolist())])
    assert rows[:, 3:].mean(0).abs().max() < 1e-5
    assert (rows[:, 3:].std(0, correction=0) - 1).abs().max() < 1e-4
    assert rows[:, :3].abs().max() < 1e-12, "settings that never change are not blown up"


def test_averages_are_those_of_all_rows_before(engines):
    (engine, *_), scale = engines.seen("train").engines, engines.standard
    x = scale.normal(next(one for one in engines.fleet("train").engines if one.unit == engine.unit).rows)
    for step in (0, 1, 9):
        weights = 0.5 ** (np.arange(step, -1, -1) / 4)
        assert np.allclose(engine.rows[step, 24:], weights @ x[: step + 1] / weights.sum())


def test_training_begins_later_in_a_life(engines):
    task = replace(engines, skip=0.5)
    batch = task.train_batch(200, torch.Generator().manual_seed(0))
    assert batch.lengths.min() < 20
    assert batch.lengths.min() >= 13
    for row, size in enumerate(batch.lengths.tolist()):
        assert batch.targets[row, size - 1] == 0, "all go on to the failure"
    noisy = replace(task, noise=1.0).train_batch(200, torch.Generator().manual_seed(0))
    assert torch.equal(noisy.targets.nan_to_num(-1), batch.targets.nan_to_num(-1))
    assert not torch.equal(noisy.inputs, batch.inputs)


def test_scores_of_lives(engines):
    """RMSE and PHM08 of a model that always says 7 flights, against sums by hand."""
    model = SequenceModel(SequenceConfig(dim=16, num_heads=1, blocks=("slstm",), input_dim=48, num_outputs=1)).eval()
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.fill_(7 / 20)
    found = evaluate_task(model, engines, "test")
    errors = [7 - life for life in (5, 10, 15, 20)]
    assert found.score == pytest.approx(math.sqrt(sum(e * e for e in errors) / 4), rel=1e-5)
    phm = sum(math.exp(e / 10) - 1 if e >= 0 else math.exp(-e / 13) - 1 for e in errors)
    assert found.others["PHM08 score"] == pytest.approx(phm, rel=1e-5)
    capped = evaluate_task(model, replace(engines, cap=20), "test").others["RMSE of the capped life"]
    assert capped == pytest.approx(found.score, rel=1e-5)
    assert found.guess == pytest.approx(math.sqrt(np.var([5, 10, 15, 20])), rel=1e-5), "the best constant, chosen in view"
    assert found.objective == found.score


def test_capped_lives():
    metrics = TASKS["turbofan"](cap=100)
    outputs, targets = torch.tensor([[0.9], [0.5]]), torch.tensor([[1.4], [0.5]])
    plain, capped = metrics.metric, metrics.other_metrics[0]
    assert plain.score(float(plain.points(outputs, targets).mean())) == pytest.approx(50 / math.sqrt(2), rel=1e-4)
    assert capped.score(float(capped.points(outputs, targets).mean())) == pytest.approx(10 / math.sqrt(2), rel=1e-4)


def test_phm08_punishes_late_answers_more():
    late = torch.tensor([0.0, 10.0, -13.0, 20.0, -26.0], dtype=torch.float64)
    assert torch.allclose(phm08(late), torch.tensor([0, math.e - 1, math.e - 1, math.e**2 - 1, math.e**2 - 1]).double())


def test_activities_are_asked_for_while_they_go_on(activity):
    train = activity.train_batch(20, torch.Generator().manual_seed(0))
    for row, size in enumerate(train.lengths.tolist()):
        asked = train.scored[row].nonzero()[:, 0].tolist()
        assert asked == list(range(int(0.25 * size), size))
        assert len(set(train.targets[row, asked].tolist())) == 1
    test = only(activity, "test")
    assert test.scored.sum(1).tolist() == [1] * 10
    assert test.scored[torch.arange(10), test.lengths - 1].all()
    assert sorted(set(test.lengths.tolist())) == [12, 15]


def test_validation_is_taken_out_of_each_class(activity):
    parts = activity.parts
    assert (len(parts.train.values), len(parts.validation.values), len(parts.test.values)) == (8, 2, 10)
    assert sorted(parts.validation.labels.tolist()) == [0, 1]
    seen = {case.tobytes() for case in parts.train.values}
    assert not seen & {case.tobytes() for part in (parts.validation, parts.test) for case in part.values}
    assert activity.signature.num_classes == 2
    assert activity.signature.input_dim == 2


def test_missing_values_are_refused_or_marked(tmp_path):
    folder = str(write_recordings(tmp_path, missing=True))
    with pytest.raises(UserError, match=r"Toy_TRAIN\.ts: 2 cases have missing values; --data\.missing=mark"):
        TASKS["activity"](source=folder).train_batch(1, torch.Generator())
    task = TASKS["activity"](source=folder, missing="mark")
    batch = only(task, "test")
    assert batch.inputs.shape[2] == task.signature.input_dim == 4
    marks = batch.inputs[..., 2:]
    assert marks.sum() == 2, "one value of one case of each class"
    row, step, channel = marks.nonzero()[0].tolist()
    assert (step, channel) == (2, 1)
    assert batch.inputs[row, step, 1] == 0, "the mean"


def test_weights_of_activities_are_chosen_by_the_loss(activity):
    torch.manual_seed(0)
    model = SequenceModel(SequenceConfig(dim=16, num_heads=1, blocks=("slstm",), input_dim=2, num_outputs=2)).eval()
    found = evaluate_task(model, activity, "validation")
    assert found.objective == found.loss != -found.score


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("turbofan", {}, "task turbofan needs --data: a folder with train_FD001"),
        ("turbofan", {"subset": "FD005"}, "must be one of FD001, FD002, FD003, FD004"),
        ("turbofan", {"skip": 1.0}, r"data\.skip=1 must be from 0 to below 1"),
        ("turbofan", {"averages": (0,)}, "half-lives of at least 1 flight"),
        ("turbofan", {"noise": -1.0}, r"data\.noise=-1 must not be negative"),
        ("activity", {}, "task activity needs --data"),
        ("activity", {"source": "none.ts"}, r"none\.ts: expected a folder with, or the file NAME_TRAIN\.ts"),
        ("activity", {"validation_share": 1.0}, "must be between 0 and 1"),
        ("activity", {"answer_from": 1.5}, "must be from 0 to 1"),
    ],
)
def test_mistakes(name, settings, message):
    with pytest.raises(UserError, match=message):
        TASKS[name](**settings).train_batch(1, torch.Generator())


def test_files_that_do_not_belong_together(tmp_path):
    folder = write_recordings(tmp_path)
    test = folder / "Toy_TEST.ts"
    text = test.read_text()
    test.write_text(text.replace("Run", "Fly"))
    with pytest.raises(UserError, match=r"Toy_TEST\.ts: its classes are Rest, Fly, those of Toy_TRAIN\.ts are others"):
        _ = TASKS["activity"](source=str(folder)).parts
    fan = write_engines(tmp_path / "fan")
    (fan / "RUL_FD001.txt").write_text("1\n2\n")
    with pytest.raises(UserError, match=r"RUL_FD001\.txt: 2 lines, but the test file has 4 engines"):
        TASKS["turbofan"](source=str(fan), validation_engines=2).fleet("test")
    with pytest.raises(UserError, match=r"6 engines to train on, data\.validation_engines=6 leaves none"):
        TASKS["turbofan"](source=str(write_engines(tmp_path / "other")), validation_engines=6).fleet("train")


def test_the_content_is_in_the_fingerprint(tmp_path):
    first = TASKS["turbofan"](source=str(write_engines(tmp_path / "a")), validation_engines=2)
    second = TASKS["turbofan"](source=str(write_engines(tmp_path / "b", tested=3)), validation_engines=2)
    assert first.fingerprint != second.fingerprint


@pytest.mark.skipif("OPENXLSTM_DATA" not in os.environ, reason="OPENXLSTM_DATA names no data folder")
def test_the_published_files():
    folder = Path(os.environ["OPENXLSTM_DATA"])
    fan = TASKS["turbofan"](source=str(folder / "cmapss"))
    assert [len(fan.fleet(split).engines) for split in ("train", "validation", "test")] == [80, 20, 100]
    assert fan.reports == ("31-362",)
    har = TASKS["activity"](source=str(folder / "har_basicmotions"))
    assert [len(part.values) for part in har.parts] == [32, 8, 40]
    assert har.signature.num_classes == 4
