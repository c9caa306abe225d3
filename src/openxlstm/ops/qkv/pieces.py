"""The inputs of the mLSTM cell, each by an operation of its own."""

from torch import Tensor

from openxlstm.ops.conv1d.conv import causal_conv1d
from openxlstm.ops.gates import gate_preactivations
from openxlstm.ops.headwise import block_diagonal


def run(
    u: Tensor,
    taps: Tensor | None,
    tap_bias: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    b_if: Tensor,
    state: Tensor | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The convolution takes the fastest backend that there is."""
    a = u
    if taps is not None:
        a, state = causal_conv1d(u, taps, tap_bias, state, reset=reset, mask=mask, activation="silu")
    q, k, v = block_diagonal(a, Q), block_diagonal(a, K), block_diagonal(u, V)
    return a, q, k, v, gate_preactivations((q, k, v), W_if, b_if), state
