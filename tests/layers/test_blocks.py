"""Parameter counts, start values and numbers of the blocks."""

import math

import pytest
import torch
import torch.nn.functional as F

from openxlstm.layers import (
    BLOCKS,
    HeadNorm,
    HeadwiseLinear,
    LayerNorm,
    MLSTMBlock,
    MLSTMLargeBlock,
    RMSNorm,
    SLSTMBlock,
    SSDBlock,
)
from openxlstm.layers.attention import keep_recent
from openxlstm.layers.feedforward import hidden_size
from openxlstm.layers.init import power_law_init
from openxlstm.ops import state as states
from openxlstm.testing import relative_error
from openxlstm.testing.conformance import shake


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("d", "h"), [(768, 4), (1024, 4), (2560, 5), (96, 2)])
def test_parameter_counts_are_the_published_ones(d: int, h: int) -> None:
    u, big = 64 * math.ceil(1.3 * d / 64), 64 * math.ceil(2.6667 * d / 64)
    with torch.device("meta"):
        mlstm, slstm, large = (count(block(d, h)) for block in (MLSTMBlock, SLSTMBlock, MLSTMLargeBlock))
    assert mlstm == 2 * d * 2 * d + 3 * 2 * d * 4 + 2 * d * 5 + 2 * (6 * d * h + h) + 4 * d + 2 * d * d + d
    assert slstm == 5 * d + 8 * d * d // h + 4 * d + 3 * d + 3 * d * u
    assert large == 2 * d * d // 2 + 3 * d * d + 2 * (d * h + h) + 3 * d + 3 * d * big


def test_7b_feed_forward_is_10944_wide() -> None:
    assert hidden_size(4096, 2.667) == 10944


@pytest.mark.parametrize("name", BLOCKS)
def test_dropout_is_on_the_residual_branch(name: str) -> None:
    x = torch.randn(2, 5, 16)
    block = BLOCKS[name](16, 2, dropout=1.0).train()
    kept = torch.zeros_like(x) if name == "lstm_plain" else x  # which has no residual branch
    assert torch.equal(block(x)[0], kept)
    assert not torch.equal(block.eval()(x)[0], x)


def test_rungs_of_the_lstm_differ_by_one_part() -> None:
    """With equal weights and an FFN that writes nothing `lstm` is `lstm_residual`, which is x + norm(lstm_plain(norm(x)))."""
    torch.manual_seed(0)
    full, residual, plain = BLOCKS["lstm"](16), BLOCKS["lstm_residual"](16), BLOCKS["lstm_plain"](16)
    assert count(full) - count(residual) == 16 + 3 * 16 * 64
    assert count(residual) - count(plain) == 16 + 16
    assert count(plain) == 8 * 16 * 16 + 4 * 16
    residual.load_state_dict({n: full.state_dict()[n] for n in residual.state_dict()})
    plain.load_state_dict({n: full.state_dict()[n] for n in plain.state_dict()})
    torch.nn.init.zeros_(full.ffn.down.weight)
    x = torch.randn(2, 7, 16)
    assert torch.equal(full(x)[0], residual(x)[0])
    h, _ = plain(residual.norm(x))
    torch.testing.assert_close(residual(x)[0], x + residual.head_norm(h[:, :, None]))
    assert not torch.allclose(full(x)[0], plain(x)[0])
    with pytest.raises(ValueError, match="ffn_factor=None"):
        type(full)(16, residual=False)


def test_lstm_plain_is_torch_nn_lstm() -> None:
    torch.manual_seed(0)
    block, theirs = BLOCKS["lstm_plain"](6), torch.nn.LSTM(6, 6, batch_first=True)
    with torch.no_grad():  # [gate * to, from], gates in our order
        theirs.weight_ih_l0.copy_(block.W[:, 0].flatten(0, 1))
        theirs.weight_hh_l0.copy_(block.R[0].permute(1, 2, 0).flatten(0, 1))
        theirs.bias_ih_l0.copy_(block.b.flatten())
        theirs.bias_hh_l0.zero_()
    x = torch.randn(2, 9, 6)
    torch.testing.assert_close(block(x)[0], theirs(x)[0])


GATE_PARAMETERS = {"learned": 3 * 32 * 2 + 2, "bias": 2, "fixed": 0, "one": 0}
"""Of one gate of a block of width 16 with two heads."""


@pytest.mark.parametrize("forget", ["learned", "bias", "fixed", "one"])
@pytest.mark.parametrize("given", ["learned", "bias", "fixed"])
def test_gates_of_which_a_part_is_fixed(given: str, forget: str) -> None:
    torch.manual_seed(0)
    block = MLSTMBlock(16, 2, input_gate_mode=given, forget_gate_mode=forget)
    whole = MLSTMBlock(16, 2)
    expected = GATE_PARAMETERS[given] + GATE_PARAMETERS[forget]
    assert count(block) == count(whole) - 2 * GATE_PARAMETERS["learned"] + expected
    x = torch.randn(2, 9, 16)
    target = torch.randn(2, 9, 16)

    def gates() -> torch.Tensor:
        return torch.cat([block.gates.weight, block.gates.bias[:, None]], 1).detach().clone()  # [i i f f, width + 1]

    before = gates()
    (block(x)[0] - target).square().mean().backward()
    torch.optim.SGD(block.parameters(), lr=1.0).step()
    moved = (gates() != before).unflatten(0, (2, 2)).any(1)  # [gate, width + 1]
    for change, mode in zip(moved, (given, forget), strict=True):
        assert change[:-1].any() == (mode == "learned")
        assert change[-1] == (mode in ("learned", "bias"))
    others = {n: p for n, p in block.state_dict().items() if not n.startswith("gates.")}
    whole.load_state_dict({**others, "gates.weight": block.gates.weight, "gates.bias": block.gates.bias})
    torch.testing.assert_close(block(x)[0], whole(x)[0])


def test_start_of_fixed_gates() -> None:
    fixed = MLSTMBlock(16, 4, input_gate_mode="fixed", forget_gate_mode="fixed").gates
    assert fixed.bias.tolist() == [0, 0, 0, 0, 3, 4, 5, 6]
    assert not fixed.weight.any()
    one = MLSTMBlock(16, 4, forget_gate_mode="one").gates
    assert torch.sigmoid(one.bias[4:].double()).tolist() == [1, 1, 1, 1]
    assert 0 < MLSTMBlock(16, 4, input_gate_mode="bias").gates.bias[:4].abs().max() < 1
    with pytest.raises(ValueError, match="input_gate_mode must be one of learned, bias, fixed, got 'one'"):
        MLSTMBlock(16, 4, input_gate_mode="one")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_low_precision(name: str, dtype: torch.dtype) -> None:
    """As a low-precision module and under autocast: close to float32, cell states in float32, backward runs."""
    torch.manual_seed(0)
    block = BLOCKS[name](32, 2, num_blocks=2)
    low = BLOCKS[name](32, 2, num_blocks=2).to(dtype)
    low.load_state_dict(block.state_dict())
    x = torch.randn(2, 9, 32)
    truth, _ = block(x)
    y, state = low(x.to(dtype))
    assert y.dtype == dtype
    limit = 16 * torch.finfo(dtype).eps  # a dozen roundings in a row
    assert relative_error(y, truth) < limit
    with torch.autocast("cpu", dtype=dtype):
        cast, cast_state = block(x)
        first, carried = block(x[:, :4])
        second, _ = block(x[:, 4:], carried)
        narrow, _ = block(x.to(dtype))  # what comes out of a linear layer
    assert relative_error(cast, truth) < limit
    assert relative_error(torch.cat([first, second], 1), truth) < limit
    assert relative_error(narrow, truth) < limit
    cast.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    for s in (state, cast_state):
        if hasattr(s, "cell"):
            assert {leaf.dtype for leaf in states.leaves(s.cell)} == {torch.float32}


def test_start_of_the_paper_blocks() -> None:
    torch.manual_seed(0)
    m = MLSTMBlock(64, 4, num_blocks=3)
    assert m.gates.weight.count_nonzero() == 0
    torch.testing.assert_close(m.gates.bias[4:], torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert m.gates.bias[:4].abs().max() < 0.5
    assert m.up.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 64)), rel=0.05)
    assert m.q.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 64)), rel=0.1)
    assert m.down.weight.std().item() == pytest.approx(2 / (3 * math.sqrt(64)), rel=0.05)
    assert torch.equal(m.skip, torch.ones(128))
    s = SLSTMBlock(64, 4, num_blocks=3, block_index=2)
    assert s.R.count_nonzero() == 0
    assert s.b[[0, 2, 3]].count_nonzero() == 0
    place = torch.arange(16) / 15
    torch.testing.assert_close(s.b[1], (5 - 12 * place**1.6).expand(4, 16))
    normal = SLSTMBlock(256, 4, recurrent_init="normal")
    assert normal.R.std().item() == pytest.approx(1 / 8, rel=0.05)  # 64 units a head
    with pytest.raises(ValueError, match="recurrent_init must be zeros or normal"):
        SLSTMBlock(16, 4, recurrent_init="ones")


def test_power_law_forget_bias() -> None:
    bias = power_law_init(torch.empty(2, 5), 0, 1)
    torch.testing.assert_close(bias[1], 5 - 12 * (torch.arange(5) / 4) ** 0.3)
    assert torch.equal(power_law_init(torch.empty(3, 1), 0, 4), torch.full((3, 1), 5.0))  # one unit a head: no 0 / 0
    torch.testing.assert_close(power_law_init(torch.empty(1, 5), 0, 1, forget_gate="exp"), F.logsigmoid(bias[:1]))
    assert SLSTMBlock(4, 4).b.isfinite().all()


def test_start_of_the_large_block() -> None:
    torch.manual_seed(0)
    block = MLSTMLargeBlock(64, 4, num_blocks=3)
    assert block.gates.weight.count_nonzero() == 0
    assert torch.equal(block.gates.bias[:4], torch.full((4,), -10.0))
    torch.testing.assert_close(block.gates.bias[4:], torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert block.qkvo.weight[:-64].std().item() == pytest.approx(math.sqrt(2 / (5 * 64)), rel=0.05)
    assert block.qkvo.weight[-64:].count_nonzero() == 0
    assert block.out.weight.std().item() == pytest.approx(2 / (3 * math.sqrt(64)), rel=0.05)
    assert block.ffn.down.weight.std().item() == pytest.approx(2 / (3 * math.sqrt(64)), rel=0.05)


def test_start_of_the_ssd_block() -> None:
    torch.manual_seed(0)
    block = SSDBlock(64, 64, num_blocks=3)
    A, dt = block.A_log.exp(), F.softplus(block.dt.bias)
    assert 1 <= A.min() < 3 < 14 < A.max() <= 16
    assert 0.001 <= dt.min() < 0.002 < 0.05 < dt.max() <= 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.5)  # as many in 0.001..0.01 as in 0.01..0.1
    assert torch.equal(block.D, torch.ones(64))
    assert block.up.weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 64)), rel=0.05)
    assert block.down.weight.std().item() == pytest.approx(2 / (3 * math.sqrt(64)), rel=0.05)


def test_ssd_is_the_equations_of_mamba_2() -> None:
    """Written out with the paper's names: x, B, C from a convolution, one step of the memory after another."""
    torch.manual_seed(0)
    block = shake(SSDBlock(6, 3, state_dim=5).double())
    u = torch.randn(1, 7, 6, dtype=torch.float64)
    inner, H = 12, 3
    normed = block.norm(u)
    z, xBC = block.up(normed)[0].split((inner, inner + 10), -1)
    taps = F.conv1d(F.pad(xBC.T, (3, 0)), block.conv.weight[:, None], block.conv.bias, groups=inner + 10)
    x, B, C = F.silu(taps).T.split((inner, 5, 5), -1)
    dt, A = F.softplus(block.dt(normed))[0], -block.A_log.exp()
    y, memory = [], torch.zeros(H, 4, 5, dtype=torch.float64)
    for t in range(7):
        x_t = x[t].view(H, 4)
        memory = (dt[t] * A).exp()[:, None, None] * memory + dt[t, :, None, None] * x_t[:, :, None] * B[t]
        y.append((memory @ C[t] + block.D[:, None] * x_t).flatten())
    y = torch.stack(y) * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.out_norm.weight
    torch.testing.assert_close(block(u)[0][0], u[0] + block.down(y))


def test_soft_cap_bounds_the_gates() -> None:
    torch.manual_seed(0)
    block = MLSTMLargeBlock(16, 2)
    torch.nn.init.constant_(block.gates.bias, 1000.0)
    _, state = block(torch.randn(1, 3, 16))
    assert state.cell.m.max() <= 15.0


@pytest.mark.parametrize("size", [1, 4, 16, 24, 64])
def test_headwise_is_block_diagonal(size: int) -> None:
    torch.manual_seed(0)
    layer = HeadwiseLinear(192, 192 // size, bias=True).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 192).double()
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight).T + layer.bias)


def test_norms_are_their_definitions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12).double()
    weight = torch.randn(12).double()
    layer, rms, head = LayerNorm(12).double(), RMSNorm(12).double(), HeadNorm(3, 4).double()
    for norm in (layer, rms, head):
        norm.weight.data.copy_(weight)
    torch.testing.assert_close(
        layer(x), (x - x.mean(-1, True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * weight
    )
    torch.testing.assert_close(rms(x), x / (x.square().mean(-1, True) + 1e-6).sqrt() * weight)
    grouped = F.group_norm(x.reshape(6, 12), 3, weight, None, 1e-5).view(2, 3, 12)
    torch.testing.assert_close(head(x.unflatten(-1, (3, 4))), grouped)


def test_rms_norm_sums_in_float32() -> None:
    """In float16 the square of 300 is infinite."""
    y = RMSNorm(4).half()(torch.full((1, 4), 300.0).half())
    torch.testing.assert_close(y, torch.ones(1, 4).half())


def test_attention_positions_count_valid_steps() -> None:
    block = BLOCKS["attention"](8, 2)
    mask = torch.tensor([[False, True, True, True], [True, True, False, True]])
    reset = torch.tensor([[False, False, True, False], [False, False, False, False]])
    _, state = block(torch.randn(2, 4, 8), mask=mask, reset=reset)
    assert state.position.tolist() == [2, 3]
    assert state.alive.tolist() == [[False, False, True, True], [True, True, False, True]]


def test_attention_is_torch_attention_with_rope() -> None:
    """Against complex-number rotation and an explicit softmax."""
    torch.manual_seed(0)
    block = BLOCKS["attention"](8, 2).double()
    x = torch.randn(1, 5, 8).double()
    q, k, v = (y.view(5, 2, 4).transpose(0, 1) for y in block.qkv(block.norm(x))[0].split(8, -1))
    angle = torch.arange(5).double()[:, None] * torch.tensor([1.0, 10000**-0.5]).double()
    turn = torch.polar(torch.ones_like(angle), angle)
    q, k = (torch.view_as_complex(torch.stack([y[..., :2], y[..., 2:]], -1)) * turn for y in (q, k))
    score = (q[:, :, None] * k[:, None].conj()).real.sum(-1) / 2
    score = score.masked_fill(torch.ones(5, 5).bool().triu(1), -math.inf)
    h = x + block.out((score.softmax(-1) @ v).transpose(0, 1).reshape(1, 5, 8))
    torch.testing.assert_close(block(x)[0], h + block.ffn(block.ffn_norm(h)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SLSTMBlock(10, 4), "dim=10 is not divisible by num_heads=4"),
        (lambda: MLSTMBlock(7, 4), "projection_factor \\* dim=14 is not divisible by num_heads=4"),
        (lambda: SLSTMBlock(8, 0), "num_heads=0"),
        (lambda: MLSTMLargeBlock(12, 4), "qk_factor"),
        (lambda: SSDBlock(7, 4), "projection_factor \\* dim=14 is not divisible by num_heads=4"),
        (lambda: SSDBlock(8, 4, state_dim=0), "state_dim must be at least 1, got 0"),
        (lambda: BLOCKS["attention"](12, 4), "rotary"),
        (lambda: HeadwiseLinear(10, 3), "not divisible"),
    ],
)
def test_widths_that_do_not_fit_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_cut_cache_is_a_sliding_memory() -> None:
    """Cutting keys that nobody may see changes nothing; cutting others does; recurrent states stay as they are."""
    torch.manual_seed(0)
    block = BLOCKS["attention"](16, 2).double()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    _, state = block(x[:, :6])
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[:, 0] = True
    whole, _ = block(x[:, 6:], state, reset=reset)
    cut, _ = block(x[:, 6:], keep_recent(state, 2), reset=reset)
    torch.testing.assert_close(cut, whole)
    assert keep_recent(state, 2).k.shape[1] == 2
    assert not torch.allclose(block(x[:, 6:], keep_recent(state, 2))[0], block(x[:, 6:], state)[0])
    _, recurrent = BLOCKS["slstm"](16, 2)(x.float())
    assert keep_recent((recurrent,), 2)[0] is recurrent


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_compiled_is_eager(name: str, masked: bool) -> None:
    """Whole, with the recurrence as one node, and handing a state on; float32 sums may be taken in another order."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = BLOCKS[name](16, 2)
    x = torch.randn(2, 70, 16, requires_grad=True)
    masks = dict(reset=torch.rand(2, 70) < 0.05, mask=torch.rand(2, 70) < 0.8) if masked else {}

    def run(block: torch.nn.Module) -> tuple[torch.Tensor, ...]:
        y, state = block(x, **masks)
        z, _ = block(x, state, **masks)
        return torch.cat([y, z], 1), *torch.autograd.grad((y * y + z * y).sum(), [x, *block.parameters()])

    torch.testing.assert_close(run(torch.compile(block, fullgraph=True, backend="aot_eager")), run(block), rtol=1e-4, atol=1e-4)
