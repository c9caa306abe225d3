"""sLSTM by Triton (docs/math/slstm.md, section 6).

A head whose R fits on a chip is one loop over time in one program. Larger heads take a step at a time: one batched product and
one kernel, many steps of them in one CUDA graph (`stepped.py`).
"""

from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import gpu
from openxlstm.ops.native import rows
from openxlstm.ops.numerics import full_precision
from openxlstm.ops.operator import differentiable, needs_gradient
from openxlstm.ops.slstm import stepped, stepwise
from openxlstm.ops.state import SLSTMState

VALUES = 5  # what a step saves of each unit besides h; without the slope of an exponential forget gate one less
BLOCK_B = 16  # rows of a program: the least that a matrix instruction takes
STAGES = 2  # the inputs of the next step are on their way while this one computes
LARGEST = 128  # units of a head that one program takes, at most
FEW_STEPS = 4  # of a large head are done before a graph of steps has started


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
    """The contract of `slstm_scan` with checked arguments. R is rounded to the dtype of `gates`, h is not (it goes into the
    product in two parts); all else is float32."""
    state = SLSTMState(*(x.float() for x in state))
    if gates.numel() == 0:
        return gates.new_empty(gates[:, :, 0].shape), state
    by_step = not on_chip(gates)
    if by_step and gates.shape[1] < FEW_STEPS:
        return stepwise.scan(gates, R, b, state, reset=reset, mask=mask, forget_gate=forget_gate)
    inputs = (gates, R.float(), b.float(), *state[:3], state.m.detach())
    h, last, *_ = _run(*inputs, reset, mask, forget_gate == "exp", by_step, needs_gradient(*inputs))
    h_last, c, n, m = last.unbind()
    return h, SLSTMState(h_last, c, n, m.detach())


def refuses(gates: Tensor, R: Tensor, b: Tensor, state: SLSTMState, **_: Any) -> str | None:
    """It knows tensors on a GPU in float32, bfloat16 and float16."""
    return gpu.refusal(gates, R, b, *state)


def on_chip(gates: Tensor) -> bool:
    """Whether one program holds R of a head, and beside it what a step loads and exchanges."""
    return gates.shape[-1] <= LARGEST and bytes_on_chip(gates.shape[-1], gates.dtype) <= shared_memory(gates.device)


def bytes_on_chip(D: int, dtype: torch.dtype) -> int:
    """Shared memory of a program, at most: R and some tiles (counted by tests/ops/test_slstm_ahead.py)."""
    tile = gpu.power_of_two(D, 16)
    return dtype.itemsize * tile * (4 * tile + (10 if dtype == torch.float32 else 8) * BLOCK_B)


def shared_memory(device: torch.device) -> int:
    """Bytes that one program may have on a chip. The interpreter has any number of them, and takes an H100's."""
    if device.type != "cuda":
        return 227 << 10
    from triton.runtime import driver

    return driver.active.utils.get_device_properties(device.index or 0)["max_shared_mem"]


shared_memory._dynamo_marked_constant = True  # type: ignore[attr-defined]


@torch.library.custom_op("openxlstm::slstm_triton", mutates_args=())
def slstm_triton(
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
    by_step: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h [B, T, H, D] in the dtype of `gates`, the last state [4, B, H, D], and what the backward pass needs if `save`: h before
    each step, and [values, B, T, H, D] as in `triton.scan_forward`."""
    from openxlstm.ops.slstm import triton as kernels

    B, T, _, H, D = gates.shape
    results = h, last, h_before, saved = _outputs(gates, exp_forget, by_step, save)
    gates, R, b = rows(gates), R.to(gates.dtype).contiguous(), b.contiguous()
    start, flags = torch.stack([h0, c0, n0, m0]), _flags(reset, mask)
    if by_step:
        stepped.forward(gates, R, b, start, flags, h, last, h_before, saved, exp_forget)
        return results
    gpu.launch(
        kernels.scan_forward,
        (H, gpu.ceil_div(B, BLOCK_B)),
        *(gates, R, b, start, flags, h, last, h_before, saved, T, B),
        *(*gates.stride()[:4], B * T * H * D),
        SAVE=save,
        SPLIT=gates.dtype != torch.float32,
        **_options(gates, H, D, exp_forget, flags),
    )
    return results


@slstm_triton.register_fake
def _outputs(gates: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, T, _, H, D = gates.shape
    exp_forget, _, save = args[-3:]
    # What is saved lies between -1 and 1, where float16 has three more bits than bfloat16.
    h, dtype = gates.new_empty(B, T, H, D), torch.float32 if gates.dtype == torch.float32 else torch.float16
    saved = gates.new_empty((VALUES - exp_forget, B, T, H, D) if save else (0,), dtype=dtype)
    return h, gates.new_empty(4, B, H, D, dtype=torch.float32), gates.new_empty((B, T, H, D) if save else (0,)), saved


@torch.library.custom_op("openxlstm::slstm_triton_backward", mutates_args=())
@full_precision
def slstm_triton_backward(
    dh: Tensor | None,
    d_last: Tensor | None,
    last: Tensor,
    R: Tensor,
    h0: Tensor,
    c0: Tensor,
    n0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    h_before: Tensor,
    saved: Tensor,
    by_step: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, R, b, and of h0, c0, n0 [3, B, H, D]."""
    from openxlstm.ops.slstm import triton as kernels

    values, B, T, H, D = saved.shape
    exp_forget = values < VALUES
    d_gates, db = h_before.new_empty(B, T, 4, H, D), last.new_empty(B if by_step else gpu.ceil_div(B, BLOCK_B), 4, H, D)
    d_start = last.new_empty(3, B, H, D)
    RT = R.permute(0, 2, 3, 1).to(h_before.dtype).contiguous()  # [H, 4, to, from]
    start, flags = torch.stack([h0, c0, n0]), _flags(reset, mask)
    dh = dh if dh is None else rows(dh)
    d_last = d_last if d_last is None else d_last.contiguous()
    if by_step:
        stepped.backward(dh, d_last, last, RT, start, flags, saved, d_gates, db, d_start, exp_forget)
    else:
        gpu.launch(
            kernels.scan_backward,
            (H, gpu.ceil_div(B, BLOCK_B)),
            *(saved, dh, d_last, last, RT, start, flags, d_gates, db, d_start, T, B),
            *((0, 0, 0) if dh is None else dh.stride()[:3]),
            B * T * H * D,
            DH=dh is not None,
            D_LAST=d_last is not None,
            **_options(h_before, H, D, exp_forget, flags),
        )
    h_before, d_pre = h_before.view(B * T, H, D).permute(1, 2, 0), d_gates.view(B * T, 4, H, D)
    dR = torch.stack([stepped.product(h_before, d_pre[:, gate].transpose(0, 1)) for gate in range(4)], 2)  # eq. (17)
    return d_gates, dR, db.sum(0), d_start


@slstm_triton_backward.register_fake
def _gradients(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    last, h_before = args[2], args[-3]
    B, T, H, D = h_before.shape
    return h_before.new_empty(B, T, 4, H, D), last.new_empty(H, D, 4, D), last.new_empty(4, H, D), last.new_empty(3, B, H, D)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, R, _, h0, c0, n0, _, reset, mask, _, by_step, _ = inputs
    _, last, *saved = output
    ctx.save_for_backward(last, R, h0, c0, n0, reset, mask, *saved)
    ctx.by_step = by_step
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dh: Tensor | None, d_last: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    grads = slstm_triton_backward(dh, d_last, *ctx.saved_tensors, ctx.by_step)
    return *grads[:3], *grads[3].unbind(), *[None] * 6


_run = differentiable(slstm_triton, _save, _backward)


def _options(like: Tensor, H: int, D: int, exp_forget: bool, flags: Tensor | None) -> dict[str, Any]:
    """Constants of the two scans, and their warps: four numbers of a tile a thread. With 16 warps a thread has 128 registers,
    and 128 units spill a few of them."""
    tile = gpu.power_of_two(D, 16)
    return dict(
        H=H,
        D=D,
        BLOCK_B=BLOCK_B,
        BLOCK_D=tile,
        STAGES=STAGES,
        EXP_FORGET=exp_forget,
        FLAGS=flags is not None,
        PRECISION=gpu.precision(like.dtype),
        UPCAST=gpu.upcast(like.dtype),
        num_warps=min(tile // 8, 8),
    )


def _flags(reset: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """[B, T] int8: bit 0 for a reset, bit 1 for padding."""
    if mask is None:
        return None if reset is None else reset.to(torch.int8).contiguous()
    bits = (~mask).to(torch.int8) * 2
    return (bits if reset is None else bits + reset).contiguous()
