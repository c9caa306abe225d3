"""The classic LSTM: every backend against the definition, and the definition against torch.nn.LSTM."""

import pytest
import torch

from openxlstm.ops import LSTMState, lstm_layer, lstm_scan
from openxlstm.ops.lstm.scan import BACKENDS, LAYER_BACKENDS
from openxlstm.testing import check_lstm_backend

NAMES = [b.name for b in BACKENDS]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_definition(name: str, dtype: torch.dtype) -> None:
    check_lstm_backend(name, dtype=dtype, lengths=(0, 1, 17, 40))


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch(name: str) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 6, batch_first=True)
    x, h0, c0 = torch.randn(2, 9, 5), torch.randn(1, 2, 6), torch.randn(1, 2, 6)
    expected, (h, c) = theirs(x, (h0, c0))
    gates = (x @ theirs.weight_ih_l0.T).view(2, 9, 4, 1, 6)
    R = theirs.weight_hh_l0.view(1, 4, 6, 6).permute(0, 3, 1, 2)  # gate, to, from -> head, from, gate, to
    b = (theirs.bias_ih_l0 + theirs.bias_hh_l0).view(4, 1, 6)
    y, state = lstm_scan(gates, R, b, LSTMState(h0.transpose(0, 1), c0.transpose(0, 1)), backend=name)
    torch.testing.assert_close(y[:, :, 0], expected)
    torch.testing.assert_close(state.h[:, 0], h[0])
    torch.testing.assert_close(state.c[:, 0], c[0])


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    shapes = ((2, 5, 4, 2, 3), (2, 3, 4, 3), (4, 2, 3), (2, 2, 3), (2, 2, 3))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    reset, mask = torch.rand(2, 5) < 0.3, torch.rand(2, 5) < 0.7

    for options in (dict(), dict(reset=reset), dict(mask=mask), dict(reset=reset, mask=mask)):

        def run(gates, R, b, h, c, options=options):
            y, state = lstm_scan(gates, R, b, LSTMState(h, c), **options)
            return y, *state

        assert torch.autograd.gradcheck(run, inputs)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="R must have shape"):
        lstm_scan(torch.randn(1, 2, 4, 2, 3), torch.randn(2, 3, 3, 4), torch.randn(4, 2, 3))
    with pytest.raises(ValueError, match="gates must be"):
        lstm_scan(torch.randn(1, 2, 4, 6), torch.randn(2, 3, 4, 3), torch.randn(4, 2, 3))


@pytest.mark.parametrize("with_state", [False, True])
def test_layer_backends_agree(with_state: bool) -> None:
    torch.manual_seed(0)
    shapes = ((2, 9, 5), (4, 1, 6, 5), (1, 6, 4, 6), (4, 1, 6), (2, 1, 6), (2, 1, 6))
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    weights = [torch.randn(s, dtype=torch.float64) for s in ((2, 9, 1, 6), (2, 1, 6), (2, 1, 6))]

    def run(backend: str) -> list[torch.Tensor]:
        state = LSTMState(*inputs[4:]) if with_state else None
        y, last = lstm_layer(*inputs[:4], state, backend=backend)
        loss = sum((a * w).sum() for a, w in zip((y, *last), weights, strict=True))
        return [y, *last, *torch.autograd.grad(loss, inputs if with_state else inputs[:4])]

    truth = run("reference")
    for backend in LAYER_BACKENDS:
        for one, other in zip(run(backend.name), truth, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("heads", "dtype", "options", "reason"),
    [
        (2, torch.float32, {}, "one head"),
        (1, torch.bfloat16, {}, "lower precision"),
        (1, torch.float32, {"mask": torch.ones(2, 3).bool()}, "neither reset nor mask"),
    ],
)
def test_torchs_kernel_refuses_what_it_cannot_do(heads: int, dtype: torch.dtype, options: dict, reason: str) -> None:
    x, W = torch.randn(2, 3, heads * 5, dtype=dtype), torch.randn(4, heads, 6, 5, dtype=dtype)
    R, b = torch.randn(heads, 6, 4, 6, dtype=dtype), torch.randn(4, heads, 6, dtype=dtype)
    with pytest.raises(ValueError, match=reason):
        lstm_layer(x, W, R, b, backend="aten", **options)
    y, state = lstm_layer(x, W, R, b, **options)
    assert y.isfinite().all()
    assert state.c.dtype == torch.float32


def test_a_sequence_that_cudnn_refuses_is_read_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(s, requires_grad=True) for s in ((2, 23, 5), (4, 1, 6, 5), (1, 6, 4, 6), (4, 1, 6))]
    kernel, lengths = torch._VF.lstm, []

    def run() -> list[torch.Tensor]:
        y, last = lstm_layer(*inputs, backend="aten")
        return [y, *last, *torch.autograd.grad((y * torch.arange(23)[:, None, None]).sum() + last.c.sum(), inputs)]

    def short(x: torch.Tensor, *args: object) -> object:
        if x.shape[1] > 6:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if ...")
        lengths.append(x.shape[1])
        return kernel(x, *args)

    expected = run()
    monkeypatch.setattr(torch._VF, "lstm", short)
    for found, whole in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, whole)
    assert sum(lengths) == 23
    assert len(lengths) == 4
