"""Likelihoods of continuations: those of the model read token by token, whatever the batches."""

import math

import pytest
import torch

from openxlstm.data import BPETokenizer, ByteTokenizer, CharTokenizer
from openxlstm.errors import UserError
from openxlstm.inference.likelihood import Likelihood, batches, likelihoods, split_text
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel

PAIRS = [
    ((7, 1, 2), (3, 4)),
    ((5,), (1,)),
    ((7, 1, 2), (9,)),
    ((2, 2, 2, 2, 2, 2, 2, 2, 1), (3, 4, 5, 6)),
    ((7, 1, 2), (3, 4)),
]


def model(blocks=("mlstm", "slstm", "attention")):
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(vocab_size=12, dim=16, num_heads=2, blocks=blocks)).eval()


@torch.inference_mode()
def by_hand(network, context, continuation):
    logits, _ = network(torch.tensor([[*context, *continuation]]))
    scores = logits[0, len(context) - 1 : -1].double().log_softmax(-1)
    nats = sum(float(row[token]) for row, token in zip(scores, continuation, strict=True))
    return Likelihood(nats, scores.argmax(-1).tolist() == list(continuation))


@pytest.mark.parametrize("tokens_at_once", [1, 8, 4096])
def test_they_are_those_of_reading_it_all_in_one_go(tokens_at_once):
    network = model()
    for found, pair in zip(likelihoods(network, PAIRS, tokens_at_once), PAIRS, strict=True):
        expected = by_hand(network, *pair)
        assert found.nats == pytest.approx(expected.nats, abs=1e-4)
        assert found.greedy == expected.greedy


def test_greedy_is_what_the_model_would_write():
    network = model(("slstm",))
    written = []
    for _ in range(3):
        logits, _ = network(torch.tensor([[4, 2, *written]]))
        written.append(int(logits[0, -1].argmax()))
    wrong = [*written[:2], (written[2] + 1) % 12]
    right, other = likelihoods(network, [((4, 2), tuple(written)), ((4, 2), tuple(wrong))])
    assert right.greedy
    assert not other.greedy


def test_a_context_is_read_once(monkeypatch):
    network, seen = model(), []
    hidden = network.hidden
    monkeypatch.setattr(network, "hidden", lambda ids, *rest, **how: seen.append(ids.shape) or hidden(ids, *rest, **how))
    likelihoods(network, [((1, 2, 3), (k,)) for k in range(12)])
    assert seen == [(1, 3)]  # and no continuation of one token is read at all


def test_all_next_tokens_sum_to_one():
    found = likelihoods(model(), [((1, 2, 3), (k,)) for k in range(12)])
    assert sum(math.exp(one.nats) for one in found) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("pair", [((), (1,)), ((1,), ()), ((99,), (1,))])
def test_what_cannot_be_scored_is_refused(pair):
    with pytest.raises(UserError, match=r"no token|knows 0 to 11"):
        likelihoods(model(), [pair])


def test_batches_hold_what_fits_and_lose_nothing():
    rows = [tuple(range(n)) for n in (1, 1, 2, 3, 3, 5, 9)]
    parts = list(batches(rows, 6))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) == 1 or max(map(len, part)) * len(part) <= 6 for part in parts)


def test_a_pair_is_cut_where_its_context_ends():
    assert split_text(ByteTokenizer(), "ab ", "c") == ((256, 97, 98), (32, 99))  # the space goes to what follows
    assert split_text(ByteTokenizer(), "", "c") == ((256,), (99,))
    with pytest.raises(UserError, match="end token"):
        split_text(CharTokenizer("abc"), "", "a")


def test_a_token_across_the_border_belongs_to_the_continuation():
    tokenizer = BPETokenizer.train(["banana band " * 200], vocab_size=280)
    context, continuation = split_text(tokenizer, "ban", "ana")
    assert tokenizer.decode([*context, *continuation]).endswith("banana") or len(continuation) > 0
    for cut in range(1, 12):
        text = "banana band b"
        context, continuation = split_text(tokenizer, text[:cut], text[cut:])
        assert continuation
