"""Encoder and decoder, with every bridge and kind of block."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from openxlstm import EncoderDecoder, EncoderDecoderConfig
from openxlstm.errors import UserError
from openxlstm.layers import AttentionBlock
from openxlstm.layers.slstm import SLSTMBlockState
from openxlstm.models.count import count_parameters
from openxlstm.models.match import match_parameters
from openxlstm.models.translate import joined
from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState, leaves, select

BRIDGES = ("cross_attention", "state", "prefix")
KINDS = (("mlstm", "slstm"), ("lstm", "lstm_residual"), ("attention", "attention"), ("mlstm_large", "ssd"))
CASES = list(itertools.product(BRIDGES, KINDS))
EXACT = dict(rtol=0, atol=1e-12)  # float64: rounding alone


def config(bridge, kinds=("mlstm", "slstm"), **more):
    encoder = () if bridge == "prefix" else kinds
    settings = dict(vocab_size=23, dim=16, num_heads=2, blocks=kinds, encoder_blocks=encoder, bridge=bridge)
    return EncoderDecoderConfig(**settings | more)


def build(*args, **more):
    torch.manual_seed(0)
    return EncoderDecoder(config(*args, **more)).double().eval()


def ids(rows, steps, seed=1):
    return torch.randint(23, (rows, steps), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bridge", "kinds"), CASES)
def test_padding_and_pieces_change_nothing(bridge, kinds):
    model = build(bridge, kinds)
    source, target = ids(3, 7), ids(3, 6, seed=2)
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    state = model.encode(source, mask)
    kept = [leaf.clone() for leaf in leaves(state)]
    whole, _ = model(target, state)
    for row, length in enumerate((7, 4, 1)):
        alone, _ = model(target[row : row + 1], model.encode(source[row : row + 1, :length]))
        torch.testing.assert_close(whole[row : row + 1], alone, **EXACT)
    first, between = model(target[:, :2], state)
    second, _ = model(target[:, 2:], between)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **EXACT)
    swapped, _ = model(target[[2, 0, 1]], select(state, [2, 0, 1]))
    torch.testing.assert_close(swapped, whole[[2, 0, 1]], **EXACT)
    assert all(torch.equal(a, b) for a, b in zip(kept, leaves(state))), "the caller's state is untouched"


@pytest.mark.parametrize(("bridge", "kinds"), CASES)
def test_all_parameters_learn_and_are_counted(bridge, kinds):
    model = build(bridge, kinds, tie_embeddings=True)
    assert model.num_parameters() == count_parameters(model.config)
    model(ids(2, 5), model.encode(ids(2, 4)))[0].square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("bridge", BRIDGES)
def test_what_sees_what(bridge):
    """Every token of the source reaches every step of the target, no token of the target an earlier one."""
    model = build(bridge)
    source, target = ids(1, 5), ids(1, 4, seed=2)
    base = model(target, model.encode(source))[0]
    for place in range(5):
        other = source.clone()
        other[0, place] = (other[0, place] + 1) % 23
        moved = (model(target, model.encode(other))[0] - base).abs().amax(-1)[0]
        assert (moved > 1e-9).all(), place
    for place in range(4):
        other = target.clone()
        other[0, place] = (other[0, place] + 1) % 23
        moved = (model(other, model.encode(source))[0] - base).abs().amax(-1)[0]
        assert (moved[:place] == 0).all()
        assert (moved[place:] > 1e-9).all()


def test_a_prefix_is_read_in_pieces():
    model = build("prefix")
    source, mask = ids(2, 9), torch.arange(9) < torch.tensor([9, 2])[:, None]
    whole, state = model.encode(source, mask), None
    for start in range(0, 9, 4):
        state = model.encode(source[:, start : start + 4], mask[:, start : start + 4], state)
    for a, b in zip(leaves(whole), leaves(state), strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    reader = build("cross_attention")
    with pytest.raises(ValueError, match="reads whole sources: it takes no state"):
        reader.encode(source, None, reader.encode(source))


@pytest.mark.parametrize("kind", [MLSTMState, SLSTMState])
def test_joined_memories_do_not_depend_on_their_scale(kind):
    """m only says in which scale a memory is kept."""
    rng = torch.Generator().manual_seed(0)

    def state():
        shapes = [(2, 3, 4, 4), (2, 3, 4), (2, 3)] if kind is MLSTMState else [(2, 3, 4)] * 4
        return kind(*(torch.randn(shape, dtype=torch.float64, generator=rng) for shape in shapes))

    kept = ("C", "n") if kind is MLSTMState else ("c", "n")

    def rescaled(state, shift):
        changed = {name: getattr(state, name) * math.exp(-shift) for name in kept}
        return state._replace(m=state.m + shift, **changed)

    def true(state):
        parts = (getattr(state, name) for name in kept)
        return [x * torch.exp(state.m).reshape(state.m.shape + (1,) * (x.dim() - state.m.dim())) for x in parts]

    a, b = state(), state()
    for found, other, one, two in zip(true(joined(a, b)), true(joined(rescaled(a, 2.0), rescaled(b, -1.5))), true(a), true(b)):
        torch.testing.assert_close(found, (one + two) / 2)
        torch.testing.assert_close(found, other)


def test_other_states_are_joined():
    a, b = (LSTMState(torch.full((1, 1, 2), x), torch.full((1, 1, 2), 3 * x)) for x in (1.0, 5.0))
    assert [float(leaf.mean()) for leaf in leaves(joined(a, b))] == [3.0, 9.0]
    block = SLSTMBlockState(torch.ones(1, 3, 2), a)  # type: ignore[arg-type]
    window, cell = joined(block, block._replace(cell=b))
    assert window.sum() == 0, "the window of a convolution starts empty"
    assert float(cell.h.mean()) == 3.0
    assert joined(a, None) is a, "a block that sees both sides"


def test_attention_to_both_sides():
    """The order of the steps is known by their positions alone: what comes later is seen as what came before."""
    torch.manual_seed(0)
    block = AttentionBlock(16, 2, causal=False).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    y, _ = block(x, mask=mask)
    alone, _ = block(x[1:, :3])
    torch.testing.assert_close(y[1:, :3], alone, **EXACT)
    changed = x.clone()
    changed[:, -1] += 1
    assert ((block(changed)[0] - block(x)[0]).abs().amax(-1) > 1e-9).all()
    with pytest.raises(ValueError, match="takes no state and no reset"):
        block(x, block(x)[1])


def test_saved_and_read_back(tmp_path):
    model = build("cross_attention", tie_embeddings=True)
    model.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert again.config == model.config
    source, target = ids(2, 4), ids(2, 3)
    assert torch.equal(again(target, again.encode(source))[0], model(target, model.encode(source))[0])


@pytest.mark.parametrize("bridge", BRIDGES)
def test_twins(bridge):
    base = config(bridge, vocab_size=400, dim=64)
    other = replace(base, blocks=("lstm", "lstm"), encoder_blocks=() if bridge == "prefix" else ("lstm", "lstm"))
    twin = match_parameters(other, count_parameters(base))
    assert abs(count_parameters(twin) / count_parameters(base) - 1) <= 0.01


def test_what_cannot_be_built():
    for settings, message in (
        (dict(bridge="bridge"), "bridge must be one of cross_attention, state, prefix"),
        (dict(bridge="prefix", encoder_blocks=("mlstm",)), "bridge=prefix has no encoder_blocks"),
        (dict(encoder_blocks=()), "bridge=cross_attention needs encoder_blocks"),
        (dict(bridge="state", encoder_blocks=("mlstm",)), "bridge=state hands states on block by block"),
        (dict(encoder_blocks=("lstm_plain",)), "lstm_plain is not residual"),
        (dict(encoder_blocks=("mlstn",)), "unknown block 'mlstn'"),
        (dict(checkpoint_activations=True), "checkpoint_activations is not there"),
    ):
        with pytest.raises(UserError, match=message):
            replace(config("cross_attention"), **settings)
    model = build("state")
    with pytest.raises(ValueError, match="begins from what `encode` returns"):
        model(ids(1, 2))
    with pytest.raises(ValueError, match="takes no reset"):
        model(ids(1, 2), model.encode(ids(1, 2)), reset=torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"ids must be in \[0, 23\)"):
        model.encode(ids(1, 2) + 23)
