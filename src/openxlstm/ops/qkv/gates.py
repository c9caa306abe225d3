"""The one door to what an mLSTM block computes between its up-projection and its cell."""

from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.checks import check_same_device, check_shape, check_time_mask
from openxlstm.ops.numerics import clear_padding, full_precision
from openxlstm.ops.qkv import cpu, pieces, reference

CPU = Backend("cpu", cpu.run, cpu.refuses, native.missing)
TORCH = Backend("torch", pieces.run)
REFERENCE = Backend("reference", reference.run)
BACKENDS = (CPU, TORCH, REFERENCE)


@full_precision
def qkv_gates(
    u: Tensor,
    taps: Tensor | None,
    tap_bias: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    b_if: Tensor,
    state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """a = silu(conv(u)),  q = Q a,  k = K a,  v = V u,  pre = W_if [q; k; v] + b_if.

    u: [B, T, D], any T from 0 up, any strides. taps [D, W], tap_bias [D] or None, state [B, W - 1, D] or None, reset, mask
    [B, T] bool or None: as `causal_conv1d`; taps None leaves convolution and SiLU out, and then a = u.
    Q, K, V: [N, S, S], the blocks of block-diagonal matrices (block, out, in), N S = D. W_if: [G, 3 D]. b_if: [G].
    backend: "auto", or a name out of BACKENDS.

    Returns a, q, k, v [B, T, D] in u's dtype, pre [B, T, G] in float32 or better, and the convolution's state. At padded steps
    a, q, k, v are 0 and pre is b_if. Raises ValueError for shapes, dtypes or a backend that cannot serve them.
    """
    if u.dim() != 3:
        raise ValueError(f"u must be [B, T, D], got {list(u.shape)}")
    B, T, D = u.shape
    check_shape("u", u, (B, T, D))
    if Q.dim() != 3 or Q.shape[0] * Q.shape[1] != D or Q.shape[1] != Q.shape[2]:
        raise ValueError(f"Q must be [N, S, S] with N * S = {D}, got {list(Q.shape)}")
    check_shape("K", K, tuple(Q.shape))
    check_shape("V", V, tuple(Q.shape))
    check_shape("W_if", W_if, (W_if.shape[0], 3 * D))
    check_shape("b_if", b_if, (W_if.shape[0],))
    if taps is not None:
        if taps.dim() != 2 or taps.shape[1] < 1:
            raise ValueError(f"taps must be [D, W] with W at least 1, got {list(taps.shape)}")
        W = taps.shape[1]
        check_shape("taps", taps, (D, W))
        if tap_bias is not None:
            check_shape("tap_bias", tap_bias, (D,))
        if state is None:
            state = u.new_zeros(B, W - 1, D)
        check_shape("state", state, (B, W - 1, D))
        state = state.to(u.dtype)
    check_time_mask("reset", reset, B, T)
    check_time_mask("mask", mask, B, T)
    check_same_device(u=u, taps=taps, Q=Q, K=K, V=V, W_if=W_if, b_if=b_if, state=state, reset=reset, mask=mask)
    args = (clear_padding(u, mask), taps, tap_bias, Q, K, V, W_if, b_if, state)
    return choose(BACKENDS, backend, *args, reset=reset, mask=mask).run(*args, reset=reset, mask=mask)
