"""mLSTM by the compiled CPU kernel (csrc/mlstm.cpp): the chunkwise form of `chunkwise.py`, fused, with exact gradients.

It reads q, k and v where they are, whatever their strides, in float32 or bfloat16; all sums, gates and states are float32,
sums of log gates float64. Results are the same from run to run for one number of threads.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.native import View, address, rows, view
from openxlstm.ops.operator import differentiable, needs_gradient
from openxlstm.ops.state import MLSTMState

CHUNK_SIZE = 48  # eight register tiles; of 16, 32, 48, 64 and 96 the fastest at T=4096, forward and backward taken together
INPUT_DTYPES = (torch.float32, torch.bfloat16)


def refuses(q: Tensor, k: Tensor, v: Tensor, i_pre: Tensor, f_pre: Tensor, state: MLSTMState, **_: Any) -> str | None:
    """It knows CPU tensors in float32 and bfloat16."""
    tensors = (q, k, v, i_pre, f_pre, *state)
    if q.device.type != "cpu":
        return f"it runs on the CPU, and the inputs are on {q.device}"
    wrong = [x.dtype for x in tensors if x.dtype not in INPUT_DTYPES]
    return f"it computes in float32, and an input is {wrong[0]}" if wrong else None


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    state: MLSTMState,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    input_gate: str,
    normalize: bool,
    eps: float,
    chunk_size: int | None,
) -> tuple[Tensor, MLSTMState]:
    """The contract of `mlstm_scan` with checked arguments."""
    B, T, H, K = q.shape
    C0, n0, m0 = (x.float().contiguous() for x in state)
    if B * T * H == 0:
        return v.new_empty(v.shape), MLSTMState(C0, n0, m0)
    inputs = (rows(q), rows(k), rows(v), i_pre.float(), f_pre.float(), C0, n0, m0.detach(), reset, mask)
    keep = needs_gradient(q, k, v, i_pre, f_pre, C0, n0)
    h, C, n, m, *_ = _run(*inputs, normalize, input_gate == "sigmoid", eps, chunk_steps(chunk_size, T, K), keep)
    return h, MLSTMState(C, n, m.detach())


def chunk_steps(chunk_size: int | None, T: int, K: int) -> int:
    """Steps a chunk: what was asked for, or all of a sequence that is short beside its keys: scores between all its steps cost
    less than a memory, and an empty one before the first chunk is not read."""
    return min(chunk_size or (T if T <= K else CHUNK_SIZE), T)


class Problem(ctypes.Structure):
    """The arguments of both passes: the mirror of `MLSTM` in csrc/mlstm.cpp, where they are explained."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("B", "T", "H", "K", "V", "L", "normalize", "sigmoid_input", "num_threads")),
        ("eps", ctypes.c_float),
        *((name, View) for name in ("q", "k", "v", "i_pre", "f_pre")),
        *((name, ctypes.c_void_p) for name in ("reset", "mask", "C0", "n0", "m0")),
        ("h", View),
        *((name, ctypes.c_void_p) for name in ("C", "n", "m", "states", "m_in", "nq")),
        ("dh", View),
        *((name, ctypes.c_void_p) for name in ("dC", "dn")),
        *((name, View) for name in ("dq", "dk", "dv")),
        *((name, ctypes.c_void_p) for name in ("di_pre", "df_pre", "dC0", "dn0")),
    )


def problem(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
    **tensors: Tensor | None,
) -> Problem:
    """What both passes need; `tensors` are the other fields by name."""
    B, T, H, K = q.shape
    found = Problem(
        B, T, H, K, v.shape[-1], chunk_size, normalize, sigmoid_input, native.threads(), eps,
        view(q), view(k), view(v), view(i_pre), view(f_pre), address(reset), address(mask),
    )  # fmt: skip
    for name, x in tensors.items():
        if x is not None:
            setattr(found, name, view(x) if isinstance(getattr(found, name), View) else x.data_ptr())
    return found


@torch.library.custom_op("openxlstm::mlstm_cpu", mutates_args=())
def mlstm_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    C0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h [B, T, H, V] in v's dtype and the last C, n, m; then, for the backward pass and empty unless `keep`: the states before
    the chunks, the stabilisers before them, and n q. q, k, v [B, T, H, *] with contiguous rows; the rest is float32, and the
    state contiguous."""
    h, C, n, m, states, m_in, nq = _outputs(q, v, chunk_size, keep)
    reset, mask = native.contiguous(reset, mask)
    p = problem(
        q, k, v, i_pre, f_pre, reset, mask, normalize, sigmoid_input, eps, chunk_size,
        C0=C0, n0=n0, m0=m0, h=h, C=C, n=n, m=m, states=states if keep else None, m_in=m_in, nq=nq if keep else None,
    )  # fmt: skip
    native.library().openxlstm_mlstm_forward(ctypes.byref(p))
    return h, C, n, m, states, m_in, nq


def _outputs(
    q: Tensor, v: Tensor, chunk_size: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, T, H, K = q.shape
    V = v.shape[-1]
    chunks = -(-T // chunk_size)
    width = native.vector_width()
    padded_K, padded_V = (-(-x // width) * width for x in (K, V))
    new, single = native.empty, torch.float32
    return (
        new(v, B, T, H, V),
        new(q, B, H, K, V, dtype=single),
        new(q, B, H, K, dtype=single),
        new(q, B, H, dtype=single),
        new(q, B * H, chunks, (K * padded_V + padded_K) if keep else 0, dtype=single),
        new(q, B * H, chunks + 1, dtype=torch.float64),
        new(q, B * H, T if keep else 0, dtype=single),
    )


@mlstm_cpu.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    C0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
    keep: bool,
) -> Any:
    return _outputs(q, v, chunk_size, keep)


@torch.library.custom_op("openxlstm::mlstm_cpu_backward", mutates_args=())
def mlstm_cpu_backward(
    dh: Tensor | None,
    dC: Tensor | None,
    dn: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    C: Tensor,
    n: Tensor,
    states: Tensor,
    m_in: Tensor,
    nq: Tensor,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, i_pre, f_pre, C0 and n0 from those of h and of the last C and n (None: zero)."""
    gradients = _gradients(q, k, v, i_pre, f_pre, C, n)
    dq, dk, dv, di_pre, df_pre, dC0, dn0 = gradients
    dh = torch.zeros_like(dv) if dh is None else rows(dh)
    dC, dn = (None if x is None else x.contiguous() for x in (dC, dn))
    reset, mask = native.contiguous(reset, mask)
    p = problem(
        q, k, v, i_pre, f_pre, reset, mask, normalize, sigmoid_input, eps, chunk_size,
        C=C, n=n, states=states, m_in=m_in, nq=nq, dh=dh, dC=dC, dn=dn,
        dq=dq, dk=dk, dv=dv, di_pre=di_pre, df_pre=df_pre, dC0=dC0, dn0=dn0,
    )  # fmt: skip
    native.library().openxlstm_mlstm_backward(ctypes.byref(p))
    return gradients


def _gradients(
    *inputs: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv, di_pre, df_pre, dC0, dn0 = (native.empty(x, *x.shape) for x in inputs)
    return dq, dk, dv, di_pre, df_pre, dC0, dn0


@mlstm_cpu_backward.register_fake
def _(
    dh: Tensor | None,
    dC: Tensor | None,
    dn: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    C: Tensor,
    n: Tensor,
    *_: Any,
) -> Any:
    return _gradients(q, k, v, i_pre, f_pre, C, n)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, i_pre, f_pre, _, _, _, reset, mask, normalize, sigmoid_input, eps, chunk_size, _ = inputs
    _, C, n, m, states, m_in, nq = output
    ctx.save_for_backward(q, k, v, i_pre, f_pre, reset, mask, C, n, states, m_in, nq)
    ctx.options = normalize, sigmoid_input, eps, chunk_size
    ctx.mark_non_differentiable(m, states, m_in, nq)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dh: Tensor | None, dC: Tensor | None, dn: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    gradients = mlstm_cpu_backward(dh, dC, dn, *ctx.saved_tensors, *ctx.options)
    return *gradients, None, None, None, None, None, None, None, None


_run = differentiable(mlstm_cpu, _save, _backward)
