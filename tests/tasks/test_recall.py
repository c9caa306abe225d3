"""Multi-query associative recall against the published generator's description, and against numpy's drawing."""

from collections import Counter

import numpy as np
import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS

MQAR = TASKS["mqar"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("pairs", "length", "vocabulary"), [(4, 64, 8192), (2, 16, 12), (8, 32, 40), (1, 4, 8)])
def test_pairs_then_queries(pairs, length, vocabulary):
    task = MQAR(num_pairs=pairs, vocab_size=vocabulary, train_length=str(length), eval_length=str(length), report_lengths=())
    batch = task.sample(200, length, rng())
    assert batch.inputs.shape == (200, length)
    assert batch.lengths.eq(length).all()
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        keys, values = inputs[: 2 * pairs : 2], inputs[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert set(keys) <= set(range(1, vocabulary // 2))
        assert set(values) <= set(range(vocabulary // 2, vocabulary))
        remembered = dict(zip(keys, values))
        asked = [place for place, target in enumerate(targets) if target >= 0]
        assert sorted(inputs[place] for place in asked) == sorted(keys), "each key is asked for once"
        assert all(place >= 2 * pairs and place % 2 == 0 for place in asked)
        assert all(targets[place] == remembered[inputs[place]] for place in asked)
        assert all(inputs[place] == 0 for place in range(2 * pairs, length) if place not in asked)


def test_random_tokens_between_queries():
    """They stand where the zeros stood; the rest is the same."""
    plain = MQAR(vocab_size=64, num_pairs=4).sample(100, 64, rng())
    noisy = MQAR(vocab_size=64, num_pairs=4, random_non_queries=True).sample(100, 64, rng())
    assert torch.equal(plain.targets, noisy.targets)
    told = plain.inputs != 0
    assert torch.equal(plain.inputs[told], noisy.inputs[told])
    counts = Counter(noisy.inputs[~told].tolist())
    assert set(counts) == set(range(64))
    assert max(counts.values()) < 2 * min(counts.values())


def test_gaps_follow_the_power_law_without_replacement():
    """Where queries stand, against numpy's `choice(p, replace=False)`, which the published generator uses.

    Both are counts of 4000 draws: six standard deviations of a difference of binomials are the tolerance.
    """
    pairs, length, draws = 3, 24, 4000
    batch = MQAR(num_pairs=pairs, vocab_size=64, train_length="24", eval_length="24", report_lengths=()).sample(
        draws, length, rng()
    )
    ours = Counter(((batch.scored.nonzero()[:, 1] - 2 * pairs) // 2).tolist())
    space = (length - 2 * pairs) // 2
    p = 0.01 * np.arange(1, space + 1) ** (0.01 - 1.0)
    other = np.random.RandomState(0)
    theirs = Counter(int(gap) for _ in range(draws) for gap in other.choice(space, pairs, replace=False, p=p / p.sum()))
    assert set(ours) == set(range(space))
    assert ours[0] > 2 * ours[space - 1]
    for gap in range(space):
        assert abs(ours[gap] - theirs[gap]) < 6 * (2 * theirs[gap]) ** 0.5, gap


def test_the_first_key_has_the_first_gap():
    """Keys get their gaps in the order in which these were drawn, so the first key comes back soonest on average."""
    task = MQAR(vocab_size=512)
    batch = task.sample(2000, 64, rng())
    places = torch.stack([(batch.inputs[:, 8:] == batch.inputs[:, 2 * n : 2 * n + 1]).int().argmax(1) for n in range(4)], 1)
    means = places.double().mean(0).tolist()
    assert means == sorted(means)


def test_chance_and_anchors():
    task = MQAR()
    assert task.chance(64) == 0.25
    assert any(anchor.model == "attention, dim 64" and anchor.score == 1 for anchor in task.anchors)
    assert MQAR(num_pairs=8, train_length="128", eval_length="128", report_lengths=()).anchors
    assert not MQAR(vocab_size=512).anchors, "published numbers are for 8192 tokens"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_pairs": 17}, "17 pairs need even lengths of 68 or more"),
        ({"train_length": "65"}, "need even lengths"),
        ({"vocab_size": 8}, "too few keys"),
        ({"num_pairs": 0}, "num_pairs=0 must be at least 1"),
        ({"power_a": 0.0}, "power_a=0.0 must be positive"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        MQAR(**settings)
