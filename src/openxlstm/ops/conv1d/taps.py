"""The causal depthwise convolution as W shifted multiply-adds: no transpose to [B, D, T], no padded copy."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from openxlstm.ops.numerics import accumulation_dtype, clear_padding


def scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """All steps at once, and SiLU as a pass of its own."""
    if activation is None:
        return convolve(x, weight, bias, state, reset, mask)
    dtype = accumulation_dtype(x)  # low precision is rounded once, after the SiLU
    y, last = convolve(x.to(dtype), weight, bias, state.to(dtype), reset, mask)
    return F.silu(y).to(x.dtype), last.to(x.dtype)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    apply: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Padding is squeezed out first: valid steps move to the left, and their outputs move back. apply: what computes them, with
    the arguments of `Taps`, which is the default."""
    apply = apply or Taps.apply
    B, T, _ = x.shape
    W = weight.shape[1]
    if mask is None and reset is None:
        y = apply(x, weight, bias, state, None)
        return y, torch.cat([state, x[:, max(T - W + 1, 0) :]], 1)[:, min(T, W - 1) :]

    document = reset.cumsum(1) if reset is not None else x.new_zeros(B, T, dtype=torch.long)  # [B, T] which one a step is in
    last_document = document[:, -1:] if T else document.new_zeros(B, 1)
    end = document.new_full((B,), T)  # number of valid steps of each row
    if mask is not None:
        end = mask.sum(1)
        order = mask.logical_not().int().argsort(dim=1, stable=True)  # [B, T] valid steps first, each in its order
        x = _take_steps(x, order)
        document = document.gather(1, order)
    inputs_document = torch.cat([document.new_zeros(B, W - 1), document], 1)  # [B, W - 1 + T] of the state and of x
    reach = None
    if reset is not None and W > 1:
        # reach[s - 1]: may the step look s inputs back?
        reach = torch.stack([inputs_document[:, W - 1 - s : W - 1 - s + T] == document for s in range(1, W)])
    y = apply(x, weight, bias, state, reach)
    if mask is not None:
        y = clear_padding(_take_steps(y, order.argsort(dim=1)), mask)

    window = end[:, None] + torch.arange(W - 1, device=x.device)  # [B, W - 1] places of the last W - 1 inputs
    inputs = torch.cat([state, x], 1)
    last = _take_steps(inputs, window)
    current = inputs_document.gather(1, window) == last_document
    return y, last.masked_fill(~current[..., None], 0.0)


def _take_steps(x: Tensor, steps: Tensor) -> Tensor:
    """x [B, T, D] at the steps [B, S] of each row: whole rows are copied, which `gather` would do number by number."""
    B, T, D = x.shape
    rows = steps + T * torch.arange(B, device=x.device)[:, None]
    return x.reshape(B * T, D).index_select(0, rows.flatten()).view(B, steps.shape[1], D)


class Taps(torch.autograd.Function):
    """y[t] = bias + sum_s w_s * [state, x][t - s], s = 0 .. W - 1 steps back, where w_s = weight[:, W - 1 - s].

    `reach` [W - 1, B, T] bool or None: whether step t may look s steps back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reach: Tensor | None) -> Tensor:
        T, W = x.shape[1], weight.shape[1]
        dtype = accumulation_dtype(x)
        w = weight.to(dtype).T.contiguous()  # [W, D]
        y = x * w[W - 1]
        if bias is not None:
            y += bias.to(dtype)
        for s in range(1, W):
            old = min(s, T)  # the first `old` steps look into the state, which ends at time -1
            before, now = state[:, W - 1 - s : W - 1 - s + old], x[:, : T - old]
            if reach is not None:
                can = reach[s - 1, ..., None]
                before, now = before * can[:, :old], now * can[:, old:]
            y[:, :old].addcmul_(before.to(dtype), w[W - 1 - s])
            y[:, old:].addcmul_(now.to(dtype), w[W - 1 - s])
        ctx.save_for_backward(x, w, state, reach)
        ctx.dtypes = weight.dtype, bias.dtype if bias is not None else None
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_out: Tensor) -> tuple[Tensor | None, ...]:
        x, w, state, reach = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        T, W = x.shape[1], w.shape[0]
        dy = dy_out.to(w.dtype)
        dx, dstate, dw = dy * w[W - 1], torch.zeros_like(state, dtype=w.dtype), torch.empty_like(w)
        dw[W - 1] = (dy * x).sum((0, 1))
        for s in range(1, W):
            old = min(s, T)
            g = dy if reach is None else dy * reach[s - 1, ..., None]
            dx[:, : T - old].addcmul_(g[:, old:], w[W - 1 - s])
            dstate[:, W - 1 - s : W - 1 - s + old].addcmul_(g[:, :old], w[W - 1 - s])
            dw[W - 1 - s] = (g[:, old:] * x[:, : T - old]).sum((0, 1)) + (
                g[:, :old] * state[:, W - 1 - s : W - 1 - s + old]
            ).sum((0, 1))
        db = dy.sum((0, 1)).to(bias_dtype) if bias_dtype is not None else None
        return dx.to(x.dtype), dw.T.to(weight_dtype), db, dstate.to(state.dtype), None
