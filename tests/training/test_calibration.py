"""Temperature, calibration error and confusion, against numbers worked out by hand or by search."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openxlstm.training.evaluation.calibration import (
    Bin,
    best_temperature,
    calibration_error,
    confusion,
    divide_head,
    reliability,
)


def drawn(number, classes, sharpness, seed=0):
    """Logits, and targets that are drawn from softmax(logits / sharpness)."""
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(number, classes, generator=rng)
    return logits, torch.multinomial((logits / sharpness).softmax(-1), 1, generator=rng)[:, 0]


def test_error_by_hand():
    """Three answers of confidence 0.9, of which two are right, and one of 0.6, which is."""
    confident, unsure = math.log(9.0), math.log(1.5)
    logits = torch.tensor([[confident, 0.0], [0.0, confident], [confident, 0.0], [unsure, 0.0]], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1, 0])
    found = reliability(logits, targets)
    assert [one.count for one in found] == [1, 3]
    assert found[0] == Bin(pytest.approx(0.6), 1.0, 1)
    assert calibration_error(found) == pytest.approx(0.75 * abs(0.9 - 2 / 3) + 0.25 * 0.4)
    assert confusion(logits, targets) == ((2, 0), (1, 1))


def test_edges_belong_to_one_bin_each():
    """Certain answers are in the last bin, not beyond it, and a guess among 15 classes in the first."""
    certain = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert reliability(certain, torch.tensor([0, 0])) == (Bin(1.0, 0.5, 2),)
    assert [one.count for one in reliability(torch.zeros(4, 15), torch.zeros(4, dtype=torch.int64))] == [4]


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_the_temperature_is_found_and_helps(sharpness):
    logits, targets = drawn(4000, 3, sharpness)
    temperature = best_temperature(logits, targets)
    assert temperature == pytest.approx(sharpness, rel=0.1)
    loss = F.cross_entropy(logits.double() / temperature, targets)
    for other in (0.9 * temperature, 1.1 * temperature):
        assert F.cross_entropy(logits.double() / other, targets) > loss
    fresh, answers = drawn(4000, 3, sharpness, seed=1)
    assert calibration_error(reliability(fresh / temperature, answers)) < 0.03
    if sharpness != 1.0:
        assert calibration_error(reliability(fresh, answers)) > 0.06


def test_where_all_is_right_confidence_grows_with_the_number_of_texts():
    """(N + 1) / (N + 2), the rule of succession, and not 1."""
    for number in (2, 50):
        logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]]).repeat(number // 2, 1)
        temperature = best_temperature(logits, torch.tensor([0, 1] * (number // 2)))
        confidence = (logits / temperature).softmax(-1).max(-1).values
        assert confidence.tolist() == pytest.approx([(number + 1) / (number + 2)] * number, rel=1e-6)


def test_where_all_is_wrong_it_is_as_hot_as_can_be():
    assert best_temperature(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([1, 0])) == pytest.approx(20.0, rel=1e-6)


def test_the_head_is_divided():
    head, x = nn.Linear(4, 3), torch.randn(5, 4)
    before = head(x)
    divide_head(head, 2.5)
    assert torch.allclose(head(x), before / 2.5, atol=1e-6)
