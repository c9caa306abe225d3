"""What stands around the cells, by Triton: the causal convolution and the head-wise norm, against their definitions."""

import pytest
import torch

from openxlstm.ops import causal_conv1d, gpu, head_norm
from openxlstm.testing import check_conv1d_backend, check_head_norm_backend, relative_error

# The interpreter cuts bfloat16 off where a GPU rounds, and only a GPU is fast enough for all lengths.
ON_A_GPU = pytest.mark.skipif(gpu.interpreted(), reason="needs a GPU")
LOW = [torch.float16, pytest.param(torch.bfloat16, marks=ON_A_GPU)]


def test_convolution(device):
    """30 steps and the 3 or 4 before them are two tiles of time for the backward pass, 150 channels three."""
    check_conv1d_backend(
        "triton", dtype=torch.float32, device=device, lengths=(0, 30) if gpu.interpreted() else (0, 1, 30, 150)
    )


def test_head_norm(device):
    """2 x 17 rows of heads 40 wide are two tiles."""
    check_head_norm_backend(
        "triton", dtype=torch.float32, device=device, lengths=(0, 17) if gpu.interpreted() else (0, 1, 17, 70)
    )


@pytest.mark.parametrize("dtype", LOW)
def test_low_precision(dtype, device):
    check_conv1d_backend("triton", dtype=dtype, device=device, lengths=(2,))
    check_head_norm_backend("triton", dtype=dtype, device=device, lengths=(3,))


def test_strides_and_what_stands_where_nobody_looks(device):
    """Channels of a wider tensor, an expanded gradient, NaN at padded steps and before a reset: as the plain code."""
    x = torch.randn(2, 9, 20, device=device)[..., 4:12]
    weight, bias = torch.randn(8, 4, device=device), torch.randn(8, device=device)
    reset, mask = torch.zeros(2, 9, dtype=torch.bool, device=device), torch.ones(2, 9, dtype=torch.bool, device=device)
    x[0, 2], x[1, 3] = torch.nan, torch.nan
    reset[0, 3], mask[1, 3] = True, False
    found = {}
    for backend in ("triton", "reference"):
        leaf = x.clone().requires_grad_()
        view = torch.cat([leaf, leaf], -1)[..., :8]
        y, last = causal_conv1d(view, weight, bias, reset=reset, mask=mask, activation="silu", backend=backend)
        y[:, 4:].sum().backward()
        found[backend] = (y[:, 4:], last, leaf.grad[:, 4:])
    for out, truth in zip(found["triton"], found["reference"], strict=True):
        assert relative_error(out, truth) < 1e-5
    h = torch.randn(2, 3, 5, 8, device=device).transpose(1, 2)
    gate = torch.randn(2, 5, 50, device=device)[..., 1:25]
    outs = [head_norm(h, torch.ones(24, device=device), gate=gate, backend=b) for b in ("triton", "reference")]
    assert relative_error(*outs) < 1e-5


def test_what_is_refused(device):
    x = torch.randn(1, 4, 8, device=device)
    with pytest.raises(ValueError, match="at most 8 taps"):
        causal_conv1d(x, torch.randn(8, 9, device=device), backend="triton")
    with pytest.raises(ValueError, match="float64"):
        causal_conv1d(x.double(), torch.randn(8, 4, device=device), backend="triton")
    with pytest.raises(ValueError, match="heads up to 8192 wide, not 8193"):
        head_norm(x.new_zeros(1, 1, 1, 8193), x.new_ones(8193), backend="triton")


@pytest.mark.parametrize("what", ["conv", "norm"])
def test_operators(what, device):
    """Schema, fake implementation and gradients as torch.compile expects them."""
    from openxlstm.ops.conv1d.gpu import conv1d_triton
    from openxlstm.ops.headnorm.gpu import head_norm_triton

    def random(*shape):
        return torch.randn(*shape, device=device, requires_grad=True)

    if what == "conv":
        reach = torch.rand(2, 1, 5, device=device) < 0.5
        torch.library.opcheck(conv1d_triton, (random(1, 5, 4), random(3, 4), random(4), random(1, 2, 4), reach, True))
    else:
        inputs = (random(1, 3, 2, 4), random(8), random(8), random(8), random(1, 3, 8), random(1, 3, 8))
        torch.library.opcheck(head_norm_triton, (*inputs, 1, 1e-5))
