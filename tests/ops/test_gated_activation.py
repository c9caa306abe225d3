import pytest
import torch

from openxlstm.ops import gated_activation, native

each = pytest.mark.parametrize("activation", ["gelu", "silu"])


@each
def test_the_definition_is_torchs(activation: str) -> None:
    x = 3 * torch.randn(4, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gate, up = x.chunk(2, -1)
    expected = getattr(torch.nn.functional, activation)(gate) * up
    for backend in ("reference", "torch"):
        torch.testing.assert_close(
            gated_activation(x, activation=activation, backend=backend), expected, rtol=1e-12, atol=1e-14
        )
    assert torch.autograd.gradcheck(
        lambda x: gated_activation(x, activation=activation, backend="reference"), x[0].requires_grad_()
    )


@each
def test_any_number_of_dimensions(activation: str) -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    y = gated_activation(x, activation=activation)
    assert y.shape == (2, 3, 5, 4)
    assert torch.equal(y[1, 2, 3], gated_activation(x[1, 2, 3], activation=activation))
    assert gated_activation(x[:0], activation=activation).shape == (0, 3, 5, 4)


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_gelu_has_digits_where_it_is_small() -> None:
    gate = torch.linspace(-9, 9, 10_001)
    x = torch.stack([gate, torch.ones_like(gate)], -1)
    truth = gated_activation(x.double(), backend="reference")
    error = (gated_activation(x, backend="cpu").double() - truth).abs() / truth.abs().clamp(min=1e-30)
    assert error.max() < 2e-5
    assert error[gate.abs() < 5].max() < 2e-6


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"x must be \[\.\.\., 2 \* hidden\], got \[3, 5\]"):
        gated_activation(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="activation must be one of gelu, silu, got 'relu'"):
        gated_activation(torch.zeros(3, 4), activation="relu")
    if native.missing() is None:
        with pytest.raises(ValueError, match="know float32 and bfloat16, not"):
            gated_activation(torch.zeros(3, 4, dtype=torch.float64), backend="cpu")
