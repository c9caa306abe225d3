"""Nearest neighbour, adding and copy: answers by brute force, chance by integration or counting."""

import math

import pytest
import torch

from openxlstm.tasks import TASKS


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_nearest_so_far():
    task = TASKS["nearest_neighbour"]()
    batch = task.sample(50, 20, rng())
    assert batch.inputs.shape == (50, 20, 3)
    assert not batch.scored[:, 0].any()
    assert batch.scored[:, 1:].all()
    assert torch.allclose(batch.inputs[..., :2].norm(dim=-1), torch.ones(50, 20))
    assert batch.inputs[:, 0, 2].eq(0).all()
    for inputs, targets in zip(batch.inputs.double(), batch.targets):
        for t in range(1, 20):
            distance = (inputs[1 : t + 1, :2] - inputs[0, :2]).norm(dim=1)
            assert targets[t, 0] == inputs[1 + distance.argmin(), 2].float()


def test_chance_of_the_nearest_neighbour_is_the_variance_of_the_values():
    task = TASKS["nearest_neighbour"]()
    batch = task.sample(4000, 10, rng())
    wanted = batch.targets[batch.scored]
    assert task.metric.points(torch.full_like(wanted, 0.5), wanted).mean().item() == pytest.approx(task.chance(10), rel=0.05)


def test_two_marked_numbers():
    task = TASKS["adding"]()
    batch = task.sample(500, 30, rng())
    numbers, marks = batch.inputs.unbind(-1)
    assert marks.sum(1).eq(2).all()
    assert set(marks.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(batch.targets[:, -1, 0], (numbers * marks).sum(1))
    assert batch.scored.sum(1).eq(1).all()
    places = marks.sum(0)  # 1000 marks over 30 places: 33 +- 6
    assert 5 < places.min() < places.max() < 70
    wanted = TASKS["adding"]().sample(20_000, 5, rng()).targets[:, -1]
    assert task.metric.points(torch.ones_like(wanted), wanted).mean().item() == pytest.approx(task.chance(5), rel=0.05)


def test_copying_after_a_blank():
    task = TASKS["copy"]()
    batch = task.sample(300, 50, rng())  # a blank of T = 30
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        digits = inputs[:10]
        assert set(digits) <= set(range(1, 9))
        assert inputs == [*digits, *[0] * 29, *[9] * 11]
        assert targets == [*[0] * 40, *digits]
    assert set(batch.inputs[:, :10].flatten().tolist()) == set(range(1, 9))
    # one who knows when to answer, and nothing else: certain of 0, then one of eight
    logits = torch.full((300, 50, 10), -50.0)
    logits[:, :40, 0] = 50.0
    logits[:, 40:, 1:9] = 0.0
    points = task.metric.points(logits.flatten(0, 1), batch.targets.flatten())
    assert points.mean().item() == pytest.approx(task.chance(50), abs=1e-6)
    assert task.chance(1020) == pytest.approx(0.0204, abs=1e-4), "which is where the published LSTM stays"
    assert task.chance(50) == pytest.approx(10 * math.log(8) / 50)


def test_anchors_are_for_the_published_lengths():
    assert not TASKS["adding"]().anchors
    assert {a.model: a.score for a in TASKS["adding"](eval_length="600").anchors} == {"LSTM": 0.164, "GRU": 5.3e-5}
    assert TASKS["copy"](eval_length="1020").anchors
