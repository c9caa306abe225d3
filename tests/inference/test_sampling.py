"""Distributions worked out by hand."""

import math

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.inference import Sampling, probabilities, sample

P = torch.tensor([0.2, 0.5, 0.05, 0.25])
LOGITS = P.log()


def distribution(logits=LOGITS, **options):
    return [round(x, 6) for x in probabilities(logits, Sampling(**options)).tolist()]


def test_plain_sampling_is_the_softmax():
    assert distribution() == [0.2, 0.5, 0.05, 0.25]


def test_temperature_is_a_power_of_the_probabilities():
    squares = (P**2 / (P**2).sum()).tolist()
    assert distribution(temperature=0.5) == pytest.approx(squares, abs=1e-6)
    roots = (P.sqrt() / P.sqrt().sum()).tolist()
    assert distribution(temperature=2.0) == pytest.approx(roots, abs=1e-6)


def test_temperature_zero_is_greedy_and_tiny_ones_do_not_overflow():
    assert distribution(temperature=0) == [0, 1, 0, 0]
    assert distribution(LOGITS * 1e4, temperature=1e-30) == [0, 1, 0, 0]


def test_top_k_keeps_the_k_most_probable():
    assert distribution(top_k=1) == [0, 1, 0, 0]
    assert distribution(top_k=2) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=1e-6)
    assert distribution(top_k=99) == [0.2, 0.5, 0.05, 0.25]


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    assert distribution(top_p=0.5) == [0, 1, 0, 0]  # 0.5 reaches 0.5
    assert distribution(top_p=0.51) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=1e-6)
    assert distribution(top_p=0.75) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=1e-6)  # 0.5 + 0.25 reaches 0.75
    assert distribution(top_p=0.76) == pytest.approx([0.2 / 0.95, 0.5 / 0.95, 0, 0.25 / 0.95], abs=1e-6)
    assert distribution(top_p=1) == [0.2, 0.5, 0.05, 0.25]
    assert distribution(top_p=1e-9) == [0, 1, 0, 0]  # never empty


def test_top_p_sees_what_top_k_left_renormalised():
    # top_k=2 leaves 2/3 and 1/3; 2/3 alone reaches 0.6, although 0.5 would not
    assert distribution(top_k=2, top_p=0.6) == [0, 1, 0, 0]


def test_top_p_sees_the_distribution_after_temperature():
    # squared and normalised, token 1 has 0.25 / 0.355 = 0.704
    assert distribution(temperature=0.5, top_p=0.7) == [0, 1, 0, 0]


def test_ties_go_to_the_smaller_ids():
    assert distribution(torch.zeros(4), top_k=2) == [0.5, 0.5, 0, 0]
    assert distribution(torch.zeros(4), top_p=0.5) == [0.5, 0.5, 0, 0]
    many = probabilities(torch.zeros(50_000), Sampling(top_k=3))  # as many as a vocabulary has: sorts change method
    assert many.nonzero().flatten().tolist() == [0, 1, 2]


def test_banned_tokens_are_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0]]).expand(2000, 4)
    drawn = sample(logits, Sampling(), [torch.Generator().manual_seed(r) for r in range(2000)])
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (1 - 2**-53, 3)])
def test_the_ends_of_the_unit_interval(monkeypatch, u, token):
    """The least and the greatest number that torch.rand gives must not select a banned token beside them."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([u], dtype=torch.float64))
    logits = torch.tensor([[-math.inf, 0.3, 0.2, 0.1, -math.inf]])
    assert sample(logits, Sampling(), [torch.Generator()]).tolist() == [token]


def test_frequencies_follow_the_distribution():
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    counts = torch.zeros(4)
    for token in sample(LOGITS.expand(n, 4), Sampling(), [generator] * n).tolist():
        counts[token] += 1
    deviation = (counts / n - P).abs() / (P * (1 - P) / n).sqrt()
    assert deviation.max() < 4  # standard errors; the seed is fixed


def test_rows_do_not_depend_on_their_neighbours():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    together = sample(logits, Sampling(), [torch.Generator().manual_seed(r) for r in range(3)])
    alone = [sample(logits[r : r + 1], Sampling(), [torch.Generator().manual_seed(r)]).item() for r in range(3)]
    assert together.tolist() == alone


def test_inputs_are_not_modified():
    logits = LOGITS.double().clone()
    probabilities(logits, Sampling(top_k=1, top_p=0.5))
    assert torch.equal(logits, LOGITS.double())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_error(bad, temperature):
    with pytest.raises(UserError, match="NaN or infinite"):
        sample(torch.tensor([[0.0, bad]]), Sampling(temperature=temperature))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_settings_that_make_no_sense_are_an_error(options, message):
    with pytest.raises(UserError, match=message):
        Sampling(**options)
