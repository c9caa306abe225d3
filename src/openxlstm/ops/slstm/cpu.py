"""sLSTM in compiled code (csrc/slstm.cpp): the whole loop over time in one call, forward or backward."""

from ctypes import byref
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.numerics import accumulation_dtype
from openxlstm.ops.operator import differentiable, needs_gradient
from openxlstm.ops.state import SLSTMState

BLOCK, VALUES = 16, 5  # units of a block; what a step saves of each, without the slope of an exponential forget gate one less
NOTHING = native.View()


def scan(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    state: SLSTMState,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    forget_gate: str,
) -> tuple[Tensor, SLSTMState]:
    """The contract of `slstm_scan` with checked arguments."""
    state = SLSTMState(*(x.float() for x in state))
    if gates.numel() == 0:
        return gates.new_empty(gates[:, :, 0].shape), state
    inputs = (gates, R.float(), b.float(), *state[:3], state.m.detach())
    h, last, *_ = _run(*inputs, reset, mask, forget_gate == "exp", needs_gradient(*inputs))
    h_last, c, n, m = last.unbind()
    return h, SLSTMState(h_last, c, n, m.detach())


def refuses(gates: Tensor, R: Tensor, b: Tensor, state: SLSTMState, **_: Any) -> str | None:
    """It knows CPU tensors in float32, and gates in bfloat16."""
    if gates.device.type != "cpu":
        return f"the compiled kernels are for CPUs, not {gates.device.type}"
    if gates.dtype not in (torch.float32, torch.bfloat16) or accumulation_dtype(R, b, *state) != torch.float32:
        return "the compiled kernels compute in float32, from float32 or bfloat16 gates"
    return None


@torch.library.custom_op("openxlstm::slstm_cpu", mutates_args=())
def slstm_cpu(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    h0: Tensor,
    c0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    exp_forget: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h [B, T, H, D] in the dtype of `gates`, the last state [4, B, H, D], and what the backward pass needs if `save`."""
    B, T, _, H, D = gates.shape
    h, last, saved = _outputs(gates, exp_forget, save)
    gates = native.rows(gates)
    kept = [x.contiguous() for x in (R, b, h0, c0, n0, m0)]
    flags = [x if x is None else x.contiguous() for x in (reset, mask)]
    native.library().openxlstm_slstm(
        B,
        T,
        H,
        D,
        byref(native.view(gates)),
        *map(native.address, (*kept, *flags)),
        exp_forget,
        byref(native.view(h)),
        native.address(last),
        native.address(saved if save else None),
        native.threads(),
    )
    return h, last, saved


@slstm_cpu.register_fake
def _outputs(gates: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    B, T, _, H, D = gates.shape
    exp_forget, save = args[-2:]
    shape = (H, T, (D + BLOCK - 1) // BLOCK, B, VALUES - exp_forget, BLOCK) if save else (0,)
    h, last = native.empty(gates, B, T, H, D), gates.new_empty(4, B, H, D, dtype=torch.float32)
    return h, last, native.empty(gates, *shape, dtype=torch.float32)


@torch.library.custom_op("openxlstm::slstm_cpu_backward", mutates_args=())
def slstm_cpu_backward(
    dh: Tensor | None,
    d_last: Tensor | None,
    last: Tensor,
    R: Tensor,
    h0: Tensor,
    c0: Tensor,
    n0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    saved: Tensor,
    bf16: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, R, b, and of h0, c0, n0 [3, B, H, D]."""
    T, (_, B, H, D) = saved.shape[1], last.shape
    results = _gradients(dh, d_last, last, R, h0, c0, n0, reset, mask, saved, bf16)
    d_gates, dR, db, d_start = results
    dh = dh if dh is None else native.rows(dh)
    kept = [x if x is None else x.contiguous() for x in (d_last, last, R, h0, c0, n0, reset, mask)]
    native.library().openxlstm_slstm_backward(
        B,
        T,
        H,
        D,
        byref(NOTHING if dh is None else native.view(dh)),
        *map(native.address, kept),
        saved.shape[4] < VALUES,
        native.address(saved),
        byref(native.view(d_gates)),
        *map(native.address, (dR, db, d_start)),
        native.threads(),
    )
    return results


@slstm_cpu_backward.register_fake
def _gradients(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    last, R, saved, bf16 = args[2], args[3], args[-2], args[-1]
    T, (_, B, H, D) = saved.shape[1], last.shape
    d_gates = native.empty(last, B, T, 4, H, D, dtype=torch.bfloat16 if bf16 else torch.float32)
    return d_gates, R.new_empty(H, D, 4, D), R.new_empty(4, H, D), last.new_empty(3, B, H, D)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gates, R, _, h0, c0, n0, _, reset, mask, _, _ = inputs
    _, last, saved = output
    ctx.save_for_backward(last, R, h0, c0, n0, reset, mask, saved)
    ctx.bf16 = gates.dtype == torch.bfloat16
    ctx.mark_non_differentiable(saved)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dh: Tensor | None, d_last: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    grads = slstm_cpu_backward(dh, d_last, *ctx.saved_tensors, ctx.bf16)
    return *grads[:3], *grads[3].unbind(), None, None, None, None, None


_run = differentiable(slstm_cpu, _save, _backward)
