"""The sequence classifier: pooling that honours padding, resets and states."""

from typing import Any

import pytest
import torch
from torch import Tensor

from openxlstm import ClassifierConfig, SequenceClassifier
from openxlstm.models.count import count_parameters

TOLERANCE = 1e-10  # float64
POOLINGS = ["mean", "max", "mean_max", "last"]
SHAPES = [(pooling, bidirectional) for pooling in POOLINGS for bidirectional in (False, True)]


def build(**changes: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    settings = dict(dim=16, num_heads=2, blocks=("mlstm", "slstm", "attention"), num_classes=3, input_dim=5, ffn_multiple=8)
    model = SequenceClassifier(ClassifierConfig(**settings | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def series(B: int, T: int, seed: int = 1) -> Tensor:
    return torch.randn(B, T, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("pooling", "bidirectional"), SHAPES)
def test_padding_has_no_influence(pooling: str, bidirectional: bool) -> None:
    """On either side, whatever stands in it."""
    model, x = build(pooling=pooling, bidirectional=bidirectional), series(2, 7)
    alone = model(x)[0]
    filler = 100 * series(2, 3, seed=2)
    padded = torch.cat([torch.cat([x[:1], filler[:1]], 1), torch.cat([filler[1:], x[1:]], 1)])
    mask = torch.tensor([[True] * 7 + [False] * 3, [False] * 3 + [True] * 7])
    logits, _ = model(padded, mask=mask)
    assert logits.shape == (2, 3)
    assert torch.allclose(logits, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("pooling", "bidirectional"), [shape for shape in SHAPES if shape[0] != "max"])
def test_every_step_counts(pooling: str, bidirectional: bool) -> None:
    model, x = build(pooling=pooling, bidirectional=bidirectional), series(1, 6).requires_grad_()
    model(x)[0].sum().backward()
    assert x.grad.abs().sum(-1).gt(0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("cuts", [[3, 5], [1] * 8, [8, 0]], ids=str)
def test_cutting_changes_nothing(pooling: str, cuts: list[int]) -> None:
    model, x = build(pooling=pooling), series(2, 8)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    whole, _ = model(x, mask=mask)
    state = None
    for piece, piece_mask in zip(x.split(cuts, 1), mask.split(cuts, 1), strict=True):
        logits, state = model(piece, state, mask=piece_mask)
    assert torch.allclose(logits, whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("pooling", "bidirectional"), SHAPES)
def test_reset_starts_a_new_sequence(pooling: str, bidirectional: bool) -> None:
    model, x = build(pooling=pooling, bidirectional=bidirectional), series(1, 9)
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, 4] = True
    assert torch.allclose(model(x, reset=reset)[0], model(x[:, 4:])[0], rtol=0, atol=TOLERANCE)
    if not bidirectional:
        _, state = model(series(1, 3, seed=3))
        assert torch.allclose(model(x, state, reset=reset)[0], model(x[:, 4:])[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_are_what_pooling_means(pooling: str) -> None:
    """Computed here from the steps themselves, one row at a time."""
    model, x = build(pooling=pooling), series(2, 7)
    mask = torch.tensor([[True] * 7, [False, True, True, True, False, True, False]])
    logits, _ = model(x, mask=mask)
    h, _ = model.stack(model.embed(x), mask=mask)
    for row in range(2):
        steps = h[row][mask[row]]
        parts = {"mean": [steps.mean(0)], "max": [steps.max(0).values], "last": [steps[-1]]}
        parts["mean_max"] = parts["mean"] + parts["max"]
        assert torch.allclose(logits[row], model.classifier(torch.cat(parts[pooling])), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_running_scores_are_those_of_every_prefix(pooling: str) -> None:
    model, x = build(pooling=pooling), series(2, 8)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, [0, 3, 6, 7]] = False
    running, state = model.running(x, mask=mask)
    for stop in range(1, 9):
        prefix, _ = model(x[:, :stop], mask=mask[:, :stop])
        assert torch.allclose(running[:, stop - 1], prefix, rtol=0, atol=TOLERANCE)
    _, known = model(x, mask=mask)
    more, more_mask = series(2, 3, seed=3), torch.tensor([[True, True, False], [False, False, True]])
    for start in (state, known):  # either state goes on in either way
        again, end = model.running(more, start, mask=more_mask)
        after, other_end = model(more, start, mask=more_mask)
        assert torch.allclose(again[:, -1], after, rtol=0, atol=TOLERANCE)
        assert torch.allclose(end.pooled, other_end.pooled, rtol=0, atol=TOLERANCE)
        assert torch.equal(end.steps, other_end.steps)
    whole, _ = model.running(torch.cat([x, more], 1), mask=torch.cat([mask, more_mask], 1))
    assert torch.allclose(torch.cat([running, again], 1), whole, rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="no running score"):
        build(pooling=pooling, bidirectional=True).running(x)


@pytest.mark.parametrize(("pooling", "bidirectional"), SHAPES)
def test_no_step_at_all(pooling: str, bidirectional: bool) -> None:
    """The features are 0, whether there is no step or nothing but padding."""
    model = build(pooling=pooling, bidirectional=bidirectional)
    for x, mask in ((series(2, 0), None), (series(2, 3), torch.zeros(2, 3, dtype=torch.bool))):
        assert torch.equal(model(x, mask=mask)[0], model.classifier.bias.expand(2, 3))


def test_counted_without_being_built() -> None:
    for pooling, bidirectional in SHAPES:
        model = build(pooling=pooling, bidirectional=bidirectional)
        assert count_parameters(model.config) == model.num_parameters()


def test_backward_stack_reads_backwards() -> None:
    """With equal stacks, reversing the sequence swaps the two halves of the features."""
    model, x = build(bidirectional=True, pooling="last"), series(1, 6)
    model.backward_stack.load_state_dict(model.stack.state_dict())
    forward = model(x)[0]
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.roll(16, 1))
    assert torch.allclose(model(x.flip(1))[0], forward, rtol=0, atol=TOLERANCE)
    assert model(x)[1] is None


def test_tokens_and_errors(tmp_path: Any) -> None:
    model = build(input_dim=None, vocab_size=11)
    assert model(torch.zeros(2, 4, dtype=torch.long))[0].shape == (2, 3)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 11\)"):
        model(torch.full((2, 4), 11))
    with pytest.raises(ValueError, match=r"x must be \[B, T, 5\]"):
        build()(torch.zeros(2, 4, 6, dtype=torch.float64))
    _, state = build()(series(1, 3))
    with pytest.raises(ValueError, match="takes no state"):
        build(bidirectional=True)(series(1, 3), state)


def test_save_and_load(tmp_path: Any) -> None:
    model, x = build(bidirectional=True, pooling="last"), series(2, 5)
    model.save_pretrained(tmp_path)
    loaded = SequenceClassifier.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(x)[0], model(x)[0])
