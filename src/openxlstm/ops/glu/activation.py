"""The one door to what a gated feed-forward network does between its two products."""

from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.glu import cpu, plain, reference

CPU = Backend("cpu", cpu.run, cpu.refuses, native.missing)
TORCH = Backend("torch", plain.run)
REFERENCE = Backend("reference", reference.run)
BACKENDS = (CPU, TORCH, REFERENCE)


def gated_activation(x: Tensor, *, activation: str = "gelu", backend: str = "auto") -> Tensor:
    """y = activation(gate) * up, where gate and up are the halves of the last dimension of x.

    x: [..., 2 * hidden], any strides. activation: "gelu" (GeGLU) or "silu" (SwiGLU).
    backend: "auto", or a name out of BACKENDS.

    Returns y [..., hidden] in x's dtype; what is in between is float32, or float64 if x is. Raises ValueError for shapes,
    activations or a backend that cannot serve them. Source: Shazeer 2020 (arXiv 2002.05202).
    """
    if x.dim() < 1 or x.shape[-1] % 2:
        raise ValueError(f"x must be [..., 2 * hidden], got {list(x.shape)}")
    if activation not in plain.ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(plain.ACTIVATIONS)}, got {activation!r}")
    return choose(BACKENDS, backend, x, activation=activation).run(x, activation=activation)
