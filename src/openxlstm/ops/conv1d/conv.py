"""The one door to the causal depthwise convolution."""

from torch import Tensor

from openxlstm.ops import gpu as triton
from openxlstm.ops import native
from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.checks import check_same_device, check_shape, check_time_mask
from openxlstm.ops.conv1d import cpu, gpu, reference, taps
from openxlstm.ops.numerics import clear_padding

ACTIVATIONS = (None, "silu")

CPU = Backend("cpu", cpu.scan, cpu.refuses, native.missing)
TRITON = Backend("triton", gpu.scan, gpu.refuses, triton.missing)
TORCH = Backend("torch", taps.scan)
REFERENCE = Backend("reference", reference.scan)
BACKENDS = (CPU, TRITON, TORCH, REFERENCE)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Each channel is filtered over time by its own W taps: y_t = bias + sum_w weight[:, w] * x_{t - (W - 1) + w}.

    x: [B, T, D], any T from 0 up, any strides. weight: [D, W]; the last tap meets the current input, as in
    torch.nn.Conv1d(D, D, W, groups=D). bias: [D] or None.
    state: [B, W - 1, D], the inputs before the first one, oldest first; None means zeros. It is not modified.
    reset: [B, T] bool, the taps of this and later steps do not reach behind it.
    mask: [B, T] bool, False = padding: the step is skipped as if it were not there, and its output is 0.
    activation: "silu" returns silu(y) = y * sigmoid(y), which some backends do in the same pass.
    backend: "auto", or a name out of BACKENDS.

    Returns y [B, T, D] and the last W - 1 valid inputs of the current document [B, W - 1, D], both in x's dtype.
    Products are added up in float32, or float64 if x is. Raises ValueError for shapes, dtypes or a backend that cannot
    serve them.
    """
    if x.dim() != 3:
        raise ValueError(f"x must be [B, T, D], got {list(x.shape)}")
    if weight.dim() != 2:
        raise ValueError(f"weight must be [D, W], got {list(weight.shape)}")
    B, T, D = x.shape
    W = weight.shape[1]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
    if W < 1:
        raise ValueError("weight must have at least one tap")
    check_shape("x", x, (B, T, D))
    check_shape("weight", weight, (D, W))
    if bias is not None:
        check_shape("bias", bias, (D,))
    check_time_mask("reset", reset, B, T)
    check_time_mask("mask", mask, B, T)
    if state is None:
        state = x.new_zeros(B, W - 1, D)
    else:
        check_shape("state", state, (B, W - 1, D))
        state = state.to(x.dtype)
    check_same_device(x=x, weight=weight, bias=bias, state=state, reset=reset, mask=mask)
    x = clear_padding(x, mask)
    args = (x, weight, bias, state)
    options = dict(reset=reset, mask=mask, activation=activation)
    return choose(BACKENDS, backend, *args, **options).run(*args, **options)
