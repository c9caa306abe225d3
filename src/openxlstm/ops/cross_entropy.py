"""The loss of a linear head, without its logits: over a large vocabulary they and their gradient are the largest tensors of
a training step by far."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 2**21
"""Numbers of a chunk of logits, 8 MiB in float32: small enough to stay in a CPU's cache between the passes over it, and large
enough for matrix products at full speed."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    soft_cap: float | None = None,
    ignore_index: int = -100,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """-log softmax(logits)[target] in nats, with logits = weight @ h, or soft_cap * tanh(weight @ h / soft_cap).

    hidden: [N, D]. weight: [V, D]. targets: [N] int64; where they are ignore_index the result is 0 and has no gradient.
    The same numbers as F.cross_entropy(logits, targets, reduction="none"), but at most `logits_at_once` logits (and at least
    those of one row) exist at any time, forward and backward; the backward pass computes them again.
    Products run in hidden's dtype, or in autocast's; everything else, and the result [N], is float32, or float64 if hidden is.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    chunk = max(logits_at_once // weight.shape[0], 1)
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, targets, soft_cap, ignore_index, chunk, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        soft_cap: float | None,
        ignore_index: int,
        chunk: int,
        dtype: torch.dtype,
    ) -> Tensor:
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        w = weight.to(dtype).T  # [D, V]
        scored = targets != ignore_index
        wanted = torch.where(scored, targets, 0)
        nats, top, total = (hidden.new_empty(len(hidden), dtype=sums) for _ in range(3))
        for rows in _chunks(len(hidden), chunk):
            logits = _logits(hidden[rows].to(dtype), w, soft_cap, sums)  # [n, V]
            # Below the largest logit all digits count; a sum of both, logsumexp, would round to those of the largest.
            top[rows] = logits.amax(1)
            logits.sub_(top[rows, None])
            nats[rows] = -logits.gather(1, wanted[rows, None]).squeeze(1)
            total[rows] = logits.exp_().sum(1)
        nats += total.log()
        ctx.save_for_backward(hidden, weight, wanted, scored, top, total)
        ctx.options = soft_cap, chunk, dtype
        return torch.where(scored, nats, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnats: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, wanted, scored, top, total = ctx.saved_tensors
        soft_cap, chunk, dtype = ctx.options
        sums = total.dtype
        w = weight.to(dtype)
        dnats = torch.where(scored, dnats.to(sums), 0.0)[:, None]
        share = dnats / total[:, None]
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros_like(weight, dtype=sums)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), chunk):
                h = hidden[rows].to(dtype)
                g = _logits(h, w.T, soft_cap, sums)
                slope = None if soft_cap is None else 1 - (g / soft_cap).square()
                g.sub_(top[rows, None]).exp_().mul_(share[rows])  # softmax, times dnats
                g.scatter_add_(1, wanted[rows, None], -dnats[rows])
                if slope is not None:
                    g.mul_(slope)
                g = g.to(dtype)
                dhidden[rows] = (g @ w).to(hidden.dtype)
                if dtype == sums:
                    dweight.addmm_(g.T, h)
                else:
                    dweight += g.T @ h
        return dhidden, dweight.to(weight.dtype), None, None, None, None, None


def _logits(h: Tensor, w: Tensor, soft_cap: float | None, dtype: torch.dtype) -> Tensor:
    logits = (h @ w).to(dtype)
    return logits if soft_cap is None else logits.div_(soft_cap).tanh_().mul_(soft_cap)


def _chunks(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
