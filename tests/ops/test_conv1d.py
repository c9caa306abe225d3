"""The causal convolution: every backend against the definition, and the definition against torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F

from openxlstm.ops import causal_conv1d
from openxlstm.ops.conv1d.conv import BACKENDS
from openxlstm.testing import check_conv1d_backend

NAMES = [b.name for b in BACKENDS if b.missing() is None and b.name != "triton"]  # which has tests/gpu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_definition(name: str, dtype: torch.dtype) -> None:
    if name == "cpu" and dtype == torch.float64:
        pytest.skip("the compiled kernels know float32 and bfloat16")
    check_conv1d_backend(name, dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch(name: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 9, 3), torch.randn(3, 4), torch.randn(3)
    y, state = causal_conv1d(x, weight, bias, backend=name)
    expected = F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), weight[:, None], bias, groups=3).transpose(1, 2)
    torch.testing.assert_close(y, expected)
    assert torch.equal(state, x[:, -3:])


def test_nan_in_padding_reaches_nothing() -> None:
    x = torch.randn(2, 5, 3)
    mask = torch.tensor([[True, False, True, True, False]] * 2)
    x[:, 1] = float("nan")
    x[:, 4] = float("inf")
    weight = torch.randn(3, 4, requires_grad=True)
    y, state = causal_conv1d(x, weight, None, mask=mask)
    y.sum().backward()
    assert y.isfinite().all()
    assert state.isfinite().all()
    assert weight.grad.isfinite().all()


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    x, weight, bias, state = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 6, 3), (3, 4), (3,), (2, 3, 3))
    )
    reset, mask = torch.rand(2, 6) < 0.3, torch.rand(2, 6) < 0.7
    for options in (dict(), dict(reset=reset), dict(mask=mask), dict(reset=reset, mask=mask)):
        assert torch.autograd.gradcheck(lambda *a, o=options: causal_conv1d(*a, **o), (x, weight, bias, state))


def test_second_derivatives_are_refused() -> None:
    x, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 6, 3), (3, 4)))
    (first,) = torch.autograd.grad(causal_conv1d(x, weight, None)[0].square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.randn(2, 3)), "x must be"),
        (dict(weight=torch.randn(4, 4)), "weight must have shape"),
        (dict(bias=torch.randn(4)), "bias must have shape"),
        (dict(state=torch.randn(2, 4, 3)), "state must have shape"),
        (dict(mask=torch.ones(2, 5)), "mask must be bool"),
        (dict(backend="fpga"), "no backend 'fpga'"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = dict(x=torch.randn(2, 5, 3), weight=torch.randn(3, 4))
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**arguments, **change})
