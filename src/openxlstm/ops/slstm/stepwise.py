"""sLSTM in plain PyTorch: a loop over time with as few kernels a step as possible, and a hand-written exact backward.

Autograd of a per-step loop costs ten times the forward pass. Here the forward saves what the derivatives need, the backward
computes all that does not depend on its own recursion for every step at once, and its loop is left with one matrix product and
five pointwise kernels. The gradient of R is one product after the loop. Symbols as in docs/math/slstm.md.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops.numerics import EMPTY_M, accumulation_dtype, full_precision
from openxlstm.ops.operator import differentiable, needs_gradient
from openxlstm.ops.slstm import reference
from openxlstm.ops.state import SLSTMState
from openxlstm.ops.steps import by_step, own_rows, rows


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
    if gates.shape[1] <= 1:  # decoding: the definition itself is the shortest program
        return reference.scan(gates, R, b, state, reset=reset, mask=mask, forget_gate=forget_gate)
    dtype = accumulation_dtype(gates, R, b, state.c)
    R, b = R.to(dtype), b.to(dtype)
    h, c, n = (x.to(dtype) for x in state[:3])
    m = state.m.detach().to(dtype)
    save = needs_gradient(gates, R, b, h, c, n)
    hs, h, c, n, m, *_ = _run(gates, R, b, h, c, n, m, reset, mask, forget_gate == "sigmoid", save)
    y = hs.permute(2, 0, 1, 3)  # [B, T, H, D]
    if mask is not None:
        y = y * mask[..., None, None]
    return y.to(gates.dtype), SLSTMState(h, c, n, m)


@torch.library.custom_op("openxlstm::slstm_steps", mutates_args=())
def slstm_steps(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    h0: Tensor,
    c0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    sigmoid_forget: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """gates [B, T, 4, H, D], T > 0; R [H, D, 4, D], b [4, H, D] and the state [B, H, D] in the dtype of accumulation.

    Returns h of every step [T, H, B, D], the last h, c, n, m, and what the backward pass needs besides: nothing unless `save`.
    Inside, a state is [H, B, D] and the pre-activations of a step are [H, B, 4 D]: one step
    is one batched product.
    """
    B, T, _, H, D = gates.shape
    R2 = R.reshape(H, D, 4 * D)
    pre = R.new_empty(T, H, B, 4, D)
    torch.add(gates.permute(1, 3, 0, 2, 4), b.transpose(0, 1)[:, None], out=pre)
    hs = R.new_empty(T, H, B, D)
    cn = R.new_empty(T + 1, 2, H, B, D)  # c and n before step t
    i_f = R.new_empty(T, 2, H, B, D)  # i and f, in the scale of m_t
    z1 = R.new_ones(T, 2, H, B, D)  # tanh(z_pre), and the 1 that n gets in its place
    o = R.new_empty(T, H, B, D)
    cn[0, 0], cn[0, 1], m = rows(c0), rows(n0), rows(m0)
    carry, pad = by_step(None if reset is None else ~reset, torch.bool), by_step(mask, torch.bool)
    # Slices are taken once, ahead of the loop: indexing costs as much as a small kernel.
    pre_steps, pre_gates = pre.view(T, H, B, 4 * D).unbind(), [pre[:, :, :, g].unbind() for g in range(4)]
    h_steps = (rows(h0), *hs.unbind())  # h before step t
    cn_steps, c_steps, n_steps = cn.unbind(), cn[:, 0].unbind(), cn[:, 1].unbind()
    i_f_steps, i_steps, f_steps = i_f.unbind(), i_f[:, 0].unbind(), i_f[:, 1].unbind()
    z1_steps, z_steps, o_steps = z1.unbind(), z1[:, 0].unbind(), o.unbind()
    for t in range(T):
        h, memory = h_steps[t], cn_steps[t]
        if carry is not None:  # whatever was there, NaN too, is gone
            h = torch.where(carry[t], h, 0.0)
            memory = torch.where(carry[t], memory, 0.0)
            m = torch.where(carry[t], m, EMPTY_M)
        pre_steps[t].baddbmm_(h, R2)
        i_pre, f_pre, z_pre, o_pre = (gate[t] for gate in pre_gates)
        m_f = F.logsigmoid(f_pre).add_(m) if sigmoid_forget else f_pre + m
        m_new = torch.maximum(m_f, i_pre)
        torch.sub(i_pre, m_new, out=i_steps[t])
        torch.sub(m_f, m_new, out=f_steps[t])
        i_f_steps[t].exp_()
        torch.tanh(z_pre, out=z_steps[t])
        torch.sigmoid(o_pre, out=o_steps[t])
        torch.mul(memory, f_steps[t], out=cn_steps[t + 1]).addcmul_(z1_steps[t], i_steps[t])
        torch.div(c_steps[t + 1], n_steps[t + 1], out=h_steps[t + 1]).mul_(o_steps[t])
        if pad is not None:
            h_steps[t + 1].copy_(torch.where(pad[t], h_steps[t + 1], h))
            cn_steps[t + 1].copy_(torch.where(pad[t], cn_steps[t + 1], memory))
            m_new = torch.where(pad[t], m_new, m)
        m = m_new
    last_h, last_c, last_n, last_m = (own_rows(x) for x in (hs[-1], *cn[-1], m))
    return hs, last_h, last_c, last_n, last_m, [cn, i_f, z1, o, pre] if save else []


@slstm_steps.register_fake
def _(gates: Tensor, R: Tensor, b: Any, h0: Tensor, *args: Any) -> Any:
    B, T, _, H, D = gates.shape
    shapes = ((T + 1, 2, H, B, D), (T, 2, H, B, D), (T, 2, H, B, D), (T, H, B, D), (T, H, B, 4, D))
    last = (R.new_empty(B, H, D) for _ in range(4))
    return R.new_empty(T, H, B, D), *last, [R.new_empty(shape) for shape in shapes if args[-1]]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    gates, R, _, h0, _, _, _, reset, mask, sigmoid_forget, _ = inputs
    hs, _, _, _, m, saved = output
    ctx.sigmoid_forget, ctx.input_dtype = sigmoid_forget, gates.dtype
    ctx.save_for_backward(R, h0, hs, reset, mask, *saved)
    ctx.mark_non_differentiable(m, *saved)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    dhs, dh, dc, dn, *_ = grads
    R, h0, hs, reset, mask, *saved = ctx.saved_tensors
    d_gates, *found = slstm_steps_backward(dhs, dh, dc, dn, R, h0, hs, reset, mask, saved, ctx.sigmoid_forget)
    return d_gates.to(ctx.input_dtype), *found, *[None] * 5


_run = differentiable(slstm_steps, _save, _backward)


@torch.library.custom_op("openxlstm::slstm_steps_backward", mutates_args=())
@full_precision
def slstm_steps_backward(
    dhs: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    dn_last: Tensor | None,
    R: Tensor,
    h0: Tensor,
    hs: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    saved: list[Tensor],
    sigmoid_forget: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, R, b, h0, c0 and n0 from those of h of every step and the last h, c and n that are there."""
    cn, i_f, z1, o, pre = saved
    T, H, B, D = o.shape
    i, f, z, c = i_f[:, 0], i_f[:, 1], z1[:, 0], cn[1:, 0]
    inverse_n = cn[1:, 1].reciprocal()
    slope_f = f * torch.sigmoid(-pre[:, :, :, 1]) if sigmoid_forget else f
    carry, valid = by_step(None if reset is None else ~reset, torch.bool), by_step(mask, o.dtype)
    if valid is not None:  # a padded step hands on what it got; its own gates have no effect
        i, slope_f, inverse_n = i * valid, slope_f * valid, inverse_n.masked_fill(valid == 0, 0.0)
        f = torch.where(valid > 0, f, 1.0)
    # With dc and dn the cotangents of c_t and n_t, and dh that of h_t:
    #   dc += dh A_0,  dn += dh A_1;  d(i, f, z)_pre = dc P + dn Q,  d o_pre = dh S;  dc_{t-1} = dc f,  dn_{t-1} = dn f.
    ratio = c * inverse_n
    S = o * (1 - o) * ratio
    A = torch.stack([o * inverse_n, -o * ratio * inverse_n], 1)  # [T, 2, H, B, D]
    before = cn[:-1] if carry is None else torch.where(carry[:, None], cn[:-1], 0.0)  # [T, 2, H, B, D]
    P = torch.stack([i * z, before[:, 0] * slope_f, i * (1 - z * z)], 3)  # [T, H, B, 3, D]
    Q = torch.stack([i, before[:, 1] * slope_f], 3)  # [T, H, B, 2, D]
    d_pre = torch.empty_like(pre)
    dh_steps = torch.zeros_like(o) if dhs is None else dhs.contiguous()
    zeros = torch.zeros_like(o[0])
    dh = zeros if dh_last is None else rows(dh_last)
    dcn = torch.stack([zeros if x is None else rows(x) for x in (dc_last, dn_last)])  # [2, H, B, D]
    dc, dn = (x.unsqueeze(2) for x in dcn)  # [H, B, 1, D], views
    RT = R.reshape(H, D, 4 * D).transpose(1, 2)
    d_steps, d_ifz, d_if, d_o = (
        x.unbind() for x in (d_pre.view(T, H, B, 4 * D), d_pre[:, :, :, :3], d_pre[:, :, :, :2], d_pre[:, :, :, 3])
    )
    A_, P_, Q_, S_, f_, dh_ = (x.unbind() for x in (A, P, Q, S, f, dh_steps))
    dh = dh + dh_[T - 1]
    for t in range(T - 1, -1, -1):
        dcn.addcmul_(A_[t], dh)
        torch.mul(P_[t], dc, out=d_ifz[t])
        d_if[t].addcmul_(Q_[t], dn)
        torch.mul(S_[t], dh, out=d_o[t])
        dcn.mul_(f_[t])
        through = torch.bmm(d_steps[t], RT) if valid is None else torch.baddbmm(dh * (1 - valid[t]), d_steps[t], RT)
        if carry is not None:  # nothing passes a reset, NaN neither
            through = torch.where(carry[t], through, 0.0)
            dcn.copy_(torch.where(carry[t], dcn, 0.0))
        dh = through + dh_[t - 1] if t else through
    h_in = torch.cat([rows(h0)[None], hs[:-1]])
    if carry is not None:
        h_in = torch.where(carry, h_in, 0.0)
    dR = torch.bmm(h_in.permute(1, 3, 0, 2).reshape(H, D, T * B), d_pre.transpose(0, 1).reshape(H, T * B, 4 * D))
    d_gates, db = d_pre.permute(2, 0, 3, 1, 4), d_pre.sum((0, 2)).transpose(0, 1)
    dh0, dc0, dn0 = (own_rows(x) for x in (dh, *dcn))
    return d_gates, dR.view(H, D, 4, D), db, dh0, dc0, dn0


@slstm_steps_backward.register_fake
def _(dhs: Any, dh_last: Any, dc_last: Any, dn_last: Any, R: Tensor, h0: Any, hs: Tensor, *_: Any) -> Any:
    T, H, B, D = hs.shape
    d_gates = R.new_empty(T, H, B, 4, D).permute(2, 0, 3, 1, 4)
    db = R.new_empty(H, 4, D).transpose(0, 1)
    return d_gates, R.new_empty(R.shape), db, *(R.new_empty(B, H, D) for _ in range(3))
