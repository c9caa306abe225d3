"""The classic LSTM in plain torch with a hand-written backward.

A step costs one batched product and a few pointwise operations; everything of the backward that does not depend on a
later step is computed for all steps at once, and dR is one product after the loop. Inside, time is first and heads come
before batch: [T, H, B, ...], so that a step is one contiguous block and one `baddbmm`.
"""

from typing import Any

import torch
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype, full_precision
from openxlstm.ops.operator import differentiable
from openxlstm.ops.state import LSTMState
from openxlstm.ops.steps import by_step, own_rows, rows


def scan(
    gates: Tensor, R: Tensor, b: Tensor, state: LSTMState, *, reset: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, LSTMState]:
    """The contract of `lstm_scan` with checked arguments."""
    B, T, _, H, D = gates.shape
    dtype = accumulation_dtype(gates, R, b, state.c)
    pre = (gates.to(dtype) + b.to(dtype)).permute(1, 3, 0, 2, 4).reshape(T, H, B, 4 * D)
    keep = by_step(reset.logical_not() if reset is not None else None, torch.bool)
    valid = by_step(mask, dtype)
    h0, c0 = (rows(x.to(dtype)).contiguous() for x in state)  # [H, B, D]
    _, h, c, *_ = _run(pre, R.to(dtype).reshape(H, D, 4 * D), h0, c0, keep, valid)
    y = h if valid is None else h * valid
    y = y.permute(2, 0, 1, 3)  # [B, T, H, D]
    if T == 0:
        return y.to(gates.dtype), state
    return y.to(gates.dtype), LSTMState(own_rows(h[-1]), own_rows(c[-1]))


@torch.library.custom_op("openxlstm::lstm_steps", mutates_args=())
def lstm_steps(
    pre: Tensor, R: Tensor, h0: Tensor, c0: Tensor, keep: Tensor | None, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """pre [T, H, B, 4D], R [H, D, 4D], h0, c0 [H, B, D], keep (false at a reset; whatever was there, NaN too, is gone) and
    valid (0 at padding) [T, 1, B, 1].

    Returns for every step the memory it started from, after a reset (h_in), the state it left (h, c), the memory cell
    it started from (c_in), and the activated gates (acts [T, H, B, 4D]).
    """
    T, H, B, G = pre.shape
    D = G // 4
    acts = pre.new_empty(T, H, B, G)
    h_all, c_all = pre.new_empty(T, H, B, D), pre.new_empty(T, H, B, D)
    h_in, c_in = pre.new_empty(T, H, B, D), pre.new_empty(T, H, B, D)
    h, c = h0, c0
    for t in range(T):
        if keep is not None:
            h, c = torch.where(keep[t], h, 0.0), torch.where(keep[t], c, 0.0)
        h_in[t], c_in[t] = h, c
        act = torch.baddbmm(pre[t], h, R, out=acts[t])
        z = act[..., 2 * D : 3 * D].tanh()
        act.sigmoid_()
        act[..., 2 * D : 3 * D] = z
        i, f, z, o = act.chunk(4, -1)
        new_c = torch.addcmul(f * c, i, z)
        new_h = o * torch.tanh(new_c)
        if valid is not None:
            new_h, new_c = torch.lerp(h, new_h, valid[t]), torch.lerp(c, new_c, valid[t])
        h_all[t], c_all[t] = new_h, new_c
        h, c = new_h, new_c
    return h_in, h_all, c_all, c_in, acts


@lstm_steps.register_fake
def _(pre: Tensor, R: Tensor, h0: Tensor, c0: Tensor, keep: Tensor | None, valid: Tensor | None) -> Any:
    T, H, B, G = pre.shape
    state = [pre.new_empty(T, H, B, G // 4) for _ in range(4)]
    return (*state, pre.new_empty(T, H, B, G))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, R, _, _, keep, valid = inputs
    h_in, _, _, c_in, acts = output
    ctx.save_for_backward(h_in, c_in, acts, R, keep, valid)
    ctx.mark_non_differentiable(h_in, c_in, acts)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, _: Any, dh: Tensor | None, dc: Tensor | None, *__: Any) -> tuple[Tensor | None, ...]:
    return *lstm_steps_backward(dh, dc, *ctx.saved_tensors), None, None


_run = differentiable(lstm_steps, _save, _backward)


@torch.library.custom_op("openxlstm::lstm_steps_backward", mutates_args=())
@full_precision
def lstm_steps_backward(
    dh_all: Tensor | None,
    dc_all: Tensor | None,
    h_in: Tensor,
    c_in: Tensor,
    acts: Tensor,
    R: Tensor,
    keep: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of pre, R, h0 and c0 from those of every h and every c that are there."""
    T, H, B, D = h_in.shape
    i, f, z, o = acts.view(T, H, B, 4, D).unbind(3)
    tanh_c = torch.addcmul(f * c_in, i, z).tanh()
    # d pre = factor * (dc for i f z, dh for o), and dc receives dh * through
    factor = torch.stack([z * i * (1 - i), c_in * f * (1 - f), i * (1 - z * z), tanh_c * o * (1 - o)], 3)
    through = o * (1 - tanh_c * tanh_c)
    dpre = torch.empty_like(factor)
    R_back = R.transpose(1, 2).contiguous()  # [H, 4D, D]
    dh, dc = torch.zeros_like(h_in[0]) if T else h_in.new_zeros(H, B, D), h_in.new_zeros(H, B, D)
    for t in range(T - 1, -1, -1):
        if dh_all is not None:
            dh = dh + dh_all[t]
        if dc_all is not None:
            dc = dc + dc_all[t]
        skip_h = skip_c = None
        if valid is not None:  # a padded step hands both gradients on as they are
            skip_h, skip_c = dh * (1 - valid[t]), dc * (1 - valid[t])
            dh, dc = dh * valid[t], dc * valid[t]
        dc = torch.addcmul(dc, dh, through[t])
        torch.mul(dc[:, :, None], factor[t, :, :, :3], out=dpre[t, :, :, :3])
        torch.mul(dh, factor[t, :, :, 3], out=dpre[t, :, :, 3])
        dh, dc = torch.bmm(dpre[t].view(H, B, 4 * D), R_back), dc * f[t]
        if skip_h is not None and skip_c is not None:
            dh, dc = dh + skip_h, dc + skip_c
        if keep is not None:
            dh, dc = torch.where(keep[t], dh, 0.0), torch.where(keep[t], dc, 0.0)
    dpre = dpre.view(T, H, B, 4 * D)
    dR = torch.bmm(h_in.permute(1, 3, 0, 2).reshape(H, D, T * B), dpre.transpose(0, 1).reshape(H, T * B, 4 * D))
    return dpre, dR, dh.contiguous(), dc.contiguous()


@lstm_steps_backward.register_fake
def _(dh_all: Any, dc_all: Any, h_in: Tensor, c_in: Tensor, acts: Tensor, R: Tensor, keep: Any, valid: Any) -> Any:
    _, H, B, D = h_in.shape
    return acts.new_empty(acts.shape), R.new_empty(R.shape), h_in.new_empty(H, B, D), h_in.new_empty(H, B, D)
