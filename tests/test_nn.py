"""The nn.LSTM-like modules: shapes as torch.nn.LSTM, states, packed sequences, both directions, against plain loops."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from openxlstm.nn import MLSTM, SLSTM, XLSTM
from openxlstm.ops import state as states
from openxlstm.testing import assert_close, conformance

KINDS = (SLSTM, MLSTM, XLSTM)


def build(kind, *args, **options):
    torch.manual_seed(0)
    return conformance.shake(kind(*args, **options).double())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_as_torch_lstm(kind, batch_first: bool, bidirectional: bool) -> None:
    args = dict(num_layers=2, batch_first=batch_first, bidirectional=bidirectional)
    ours, theirs = build(kind, 5, 8, **args), torch.nn.LSTM(5, 8, **args).double()
    for x in (torch.randn(7, 3, 5).double(), torch.randn(7, 5).double()):
        y, state = ours(x)
        assert y.shape == theirs(x)[0].shape
        assert len(state) == 2
        assert all(len(layer) == 1 + bidirectional for layer in state)
        again, _ = ours(x, states.detach(state))
        assert not torch.equal(again, y)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_agree(kind) -> None:
    x = torch.randn(3, 7, 5).double()
    batch_first = build(kind, 5, 8, batch_first=True)
    time_first = build(kind, 5, 8)
    y, _ = batch_first(x)
    assert_close("time first", time_first(x.transpose(0, 1))[0].transpose(0, 1), y)
    assert_close("no batch", time_first(x[1])[0], y[1])


@pytest.mark.parametrize("kind", KINDS)
def test_conformance(kind) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(8, 8, 2, batch_first=True, num_heads=2)

        def forward(self, x, state=None, **options):
            return self.rnn(x, state, **options)

    torch.manual_seed(0)
    conformance.check_layer(Layer().double(), 8)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequence_equals_each_row_alone(kind, bidirectional: bool, ordered: bool) -> None:
    rnn = build(kind, 5, 8, num_layers=2, bidirectional=bidirectional)
    lengths = [6, 4, 1] if ordered else [4, 1, 6]
    rows = [torch.randn(n, 5).double() for n in lengths]
    packed = pack_sequence(rows, enforce_sorted=ordered)
    y, state = rnn(packed)
    assert torch.equal(y.batch_sizes, packed.batch_sizes)
    padded, found = pad_packed_sequence(y, batch_first=True)
    assert found.tolist() == lengths
    for j, row in enumerate(rows):
        alone, end = rnn(row)
        assert_close(f"row {j}", padded[j, : len(row)], alone)
        for one, other in zip(states.leaves(states.select(state, [j])), states.leaves(end), strict=True):
            assert_close(f"state of row {j}", one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_direction_reads_time_backwards(kind) -> None:
    rnn = build(kind, 5, 8, bidirectional=True, batch_first=True)
    x = torch.randn(2, 7, 5).double()
    y, _ = rnn(x)
    backward = rnn.layers[0][1]
    expected, _ = backward(x.flip(1), None, reset=None, mask=None)
    assert_close("second half of the output", y[..., 8:], expected.flip(1))


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_keep_documents_apart(kind) -> None:
    rnn = build(kind, 5, 8, num_layers=2, bidirectional=True, batch_first=True)
    x = torch.randn(1, 9, 5).double()
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, [3, 7]] = True
    y, _ = rnn(x, reset=reset)
    apart = torch.cat([rnn(part)[0] for part in x.split([3, 4, 2], 1)], 1)
    assert_close("documents", y, apart)


def test_slstm_is_the_equations() -> None:
    rnn = build(SLSTM, 3, 4, batch_first=True, num_heads=2)
    x = torch.randn(1, 6, 3).double()
    y, _ = rnn(x)
    cell = rnn.layers[0][0]
    R = torch.zeros(4, 4, 4).double()  # from, gate, to: the two heads on the diagonal
    R[:2, :, :2], R[2:, :, 2:] = cell.R[0], cell.R[1]
    h, c, n = (torch.zeros(4).double() for _ in range(3))
    for t in range(6):
        pre = (cell.W.weight @ x[0, t]).view(4, 4) + cell.b.view(4, 4) + torch.einsum("d,dge->ge", h, R)
        i, f, z, o = pre[0].exp(), pre[1].sigmoid(), pre[2].tanh(), pre[3].sigmoid()
        c, n = f * c + i * z, f * n + i
        h = o * c / n
        assert_close(f"step {t}", y[0, t], h)


def test_mlstm_is_the_equations() -> None:
    rnn = build(MLSTM, 3, 4, batch_first=True, num_heads=1, gate_soft_cap=None)
    x = torch.randn(1, 6, 3).double()
    y, _ = rnn(x)
    cell = rnn.layers[0][0]
    C, n = torch.zeros(4, 4).double(), torch.zeros(4).double()
    for t in range(6):
        q, k, v, o = cell.qkvo(x[0, t]).chunk(4)
        i_pre, f_pre = cell.gates(x[0, t])
        C, n = f_pre.sigmoid() * C + i_pre.exp() * torch.outer(v, k), f_pre.sigmoid() * n + i_pre.exp() * k
        h = C @ (q / 2) / (n @ (q / 2)).abs().clamp(min=1.0)
        expected = o.sigmoid() * torch.nn.functional.layer_norm(h, (4,)) * cell.norm.weight
        assert_close(f"step {t}", y[0, t], expected, 1e-4)  # the cell and the norm add a small eps each


def test_dropout_only_between_layers_in_training() -> None:
    x = torch.randn(2, 5, 3)
    one = SLSTM(3, 4, 1, dropout=0.5, batch_first=True).train()
    assert torch.equal(one(x)[0], one(x)[0])
    two = SLSTM(3, 4, 2, dropout=0.5, batch_first=True).train()
    assert not torch.equal(two(x)[0], two(x)[0])
    two.eval()
    assert torch.equal(two(x)[0], two(x)[0])


def test_pattern_and_options() -> None:
    rnn = XLSTM(3, 8, 3, pattern="mlstm,slstm", block_options={"slstm": {"conv_width": 0}})
    assert rnn.pattern == ("mlstm", "slstm", "mlstm")
    assert rnn.layers[1][0].block.conv is None
    assert "pattern=mlstm,slstm,mlstm" in repr(rnn)
    with pytest.raises(ValueError, match="block_options name slstmm, and the layers are mlstm, slstm"):
        XLSTM(3, 8, 2, pattern="mlstm,slstm", block_options={"slstmm": {"conv_width": 0}})
    attention = build(XLSTM, 3, 8, 2, pattern=("attention", "mlstm_large"), batch_first=True)
    x = torch.randn(2, 6, 3).double()
    first, state = attention(x[:, :4])
    second, _ = attention(x[:, 4:], state)
    assert_close("hybrid cut in two", torch.cat([first, second], 1), attention(x)[0])


def test_reset_parameters_draws_again() -> None:
    for kind in KINDS:
        rnn = kind(3, 4, 2)
        before = [p.clone() for p in rnn.parameters()]
        rnn.reset_parameters()
        assert any(not torch.equal(a, b) for a, b in zip(before, rnn.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SLSTM(0, 4), "input_size must be a positive integer"),
        (lambda: SLSTM(3, 4, dropout=2.0), "dropout must be between 0 and 1"),
        (lambda: MLSTM(3, 6, num_heads=4), "hidden_size=6 is not divisible by num_heads=4"),
        (lambda: XLSTM(3, 4, pattern="gru"), "pattern must name blocks"),
        (lambda: SLSTM(3, 4)(torch.randn(2, 5, 4)), "input must be"),
        (lambda: SLSTM(3, 4, 2)(torch.randn(5, 2, 3), SLSTM(3, 4)(torch.randn(5, 2, 3))[1]), "state must have 2 layers"),
        (lambda: SLSTM(3, 4)(torch.randn(5, 2, 3), SLSTM(3, 4)(torch.randn(5, 1, 3))[1]), "state is for a batch of 1"),
        (
            lambda: SLSTM(3, 4)(pack_padded_sequence(torch.randn(5, 2, 3), [5, 2]), mask=torch.ones(2, 5).bool()),
            "PackedSequence has its own padding",
        ),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
