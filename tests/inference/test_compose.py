"""Music step by step."""

import itertools

import pytest
import torch

from openxlstm import SequenceConfig, SequenceModel
from openxlstm.inference.compose import compose, draw, tempered


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SequenceModel(SequenceConfig(dim=16, num_heads=1, blocks=("slstm", "mlstm"), input_dim=12, num_outputs=12)).eval()


def first(count, *args, **options):
    return torch.stack(list(itertools.islice(compose(*args, **options), count)))


def test_each_step_is_drawn_from_what_the_model_says_of_all_before(model):
    begun = torch.eye(12)[:4]
    steps = first(9, model, begun, temperature=1.0, seed=3)
    assert steps.dtype == torch.uint8
    rng = torch.Generator().manual_seed(3)
    known = torch.cat([torch.zeros(1, 12), begun])
    for step in steps:
        logits, _ = model(known[None])
        assert torch.equal(draw(logits[0, -1].double(), 1.0, rng), step.bool())
        known = torch.cat([known, step[None].float()])


def test_seeds(model):
    nothing = torch.zeros(0, 12)
    one, same, other = (first(30, model, nothing, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(first(5, model, nothing, temperature=0, seed=1), first(5, model, nothing, temperature=0, seed=2))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 3.0])
def test_temperature_decides_which_keys_and_not_how_many(temperature):
    logits = 3 * torch.randn(88, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 4
    plain, found = logits.sigmoid(), tempered(logits, temperature)
    assert float(found.sum()) == pytest.approx(float(plain.sum()), rel=1e-6)
    assert (found[plain.argsort()].diff() >= 0).all(), "the order of keys stays"
    assert (found.square().sum() > plain.square().sum()) == (temperature < 1) or temperature == 1.0
    rng = torch.Generator().manual_seed(0)
    mean = torch.stack([draw(logits, temperature, rng) for _ in range(2000)]).double().mean(0)
    assert (mean - found).abs().max() < 4 * 0.5 / 2000**0.5


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([-1.0, 0.5, -0.2, -9.0], dtype=torch.float64)  # 0.27 + 0.62 + 0.45 = 1.34 keys
    assert draw(logits, 0, torch.Generator()).tolist() == [False, True, False, False]


def test_mistakes(model):
    with pytest.raises(ValueError, match="the piece begun has the shape"):
        next(compose(model, torch.zeros(3, 88)))
    with pytest.raises(ValueError, match="temperature=-1"):
        next(compose(model, torch.zeros(0, 12), temperature=-1))
