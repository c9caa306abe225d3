"""The one door to the head-wise norm and what a block does with its result."""

from torch import Tensor

from openxlstm.ops import gpu as triton
from openxlstm.ops import native
from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.checks import check_same_device, check_shape
from openxlstm.ops.headnorm import cpu, gpu, plain, reference

GATES = ("silu", "sigmoid")

CPU = Backend("cpu", cpu.run, cpu.refuses, native.missing)
TRITON = Backend("triton", gpu.run, gpu.refuses, triton.missing)
TORCH = Backend("torch", plain.run)
REFERENCE = Backend("reference", reference.run)
BACKENDS = (CPU, TRITON, TORCH, REFERENCE)


def head_norm(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    skip: Tensor | None = None,
    a: Tensor | None = None,
    gate: Tensor | None = None,
    activation: str = "silu",
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """y = (norm(h) * weight + bias + skip * a) * activation(gate), where norm is a LayerNorm inside each head.

    h: [B, T, H, V], any strides. weight, bias: [H * V]. skip: [H * V], with a: [B, T, H * V]; None leaves the term out.
    gate: [B, T, H * V], or None for 1. activation: "silu" or "sigmoid". eps: added to the variance.
    backend: "auto", or a name out of BACKENDS.

    Returns y [B, T, H * V] in h's dtype. Sums and everything in between are float32, or float64 if h is. Raises ValueError
    for shapes, dtypes or a backend that cannot serve them.
    """
    if h.dim() != 4:
        raise ValueError(f"h must be [B, T, H, V], got {list(h.shape)}")
    B, T, H, V = h.shape
    check_shape("h", h, (B, T, H, V))
    check_shape("weight", weight, (H * V,))
    if bias is not None:
        check_shape("bias", bias, (H * V,))
    if (skip is None) != (a is None):
        raise ValueError("skip and a belong together: give both or neither")
    if skip is not None and a is not None:
        check_shape("skip", skip, (H * V,))
        check_shape("a", a, (B, T, H * V))
    if gate is not None:
        check_shape("gate", gate, (B, T, H * V))
    if activation not in GATES:
        raise ValueError(f"activation must be one of {', '.join(GATES)}, got {activation!r}")
    check_same_device(h=h, weight=weight, bias=bias, skip=skip, a=a, gate=gate)
    args = (h, weight, bias, skip, a, gate)
    return choose(BACKENDS, backend, *args, activation=activation, eps=eps).run(*args, activation=activation, eps=eps)
