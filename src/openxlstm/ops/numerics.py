"""Constants, dtypes and small functions that every recurrence shares."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

EMPTY_M = -1e30
"""Stabiliser of a state that has seen nothing: finite, so that differences of two of them are 0 and never NaN,
and so far below any log gate that exp(EMPTY_M - m) is exactly 0. It removes the first-step branch."""

MASKED_LOG_GATE = -4e30
"""Log input gate of a padded step: below EMPTY_M, so that even into an empty state nothing is written."""

CLOSED_FORGET_GATE = -1e5
"""A forget gate's pre-activation below which nothing lies: exp of it is 0 in every precision, and sums of it over a chunk keep
their digits, which those of -inf do not."""

GATE_KINDS = ("exp", "sigmoid")


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is float64, else float32: gates, stabiliser, normaliser and state never go lower."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def gate_dtype(device: torch.device) -> torch.dtype:
    """Precision of cumulative log gates. A sum over a chunk reaches thousands when gates are closed, and float32 would
    then lose 1e-4 of every weight; MPS is the one device without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def log_gate(pre: Tensor, kind: str) -> Tensor:
    """log of an exponential (`pre` itself) or a sigmoid gate."""
    return pre if kind == "exp" else F.logsigmoid(pre)


def inverse_scale(m: Tensor) -> Tensor:
    """exp(-m), held below overflow: at m = -80 the read-out it divides is already 1e-35 of the memory."""
    return torch.exp((-m).clamp(max=80.0))


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap): the identity near zero, never beyond +-cap. `None` leaves x as it is."""
    return x if cap is None else cap * torch.tanh(x / cap)


def at_least(x: Tensor, low: float) -> Tensor:
    """max(x, low), or the lowest finite number of x's dtype where that has none as low."""
    return x.clamp(min=max(low, torch.finfo(x.dtype).min))


def clear_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, ...] with zeros at padded steps: whatever stands there, NaN too, must reach neither a sum nor a gradient."""
    return x if mask is None else x.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0.0)


def full_precision(fn: Function) -> Function:
    """Run `fn` with autocast off: the recurrences choose their own precision, and a matrix product that autocast rounded to
    bfloat16 inside them would be wrong in state and gradients."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        device = "cpu"
        for x in args:
            if isinstance(x, Tensor):
                device = x.device.type
        with torch.autocast(device, enabled=False):
            return fn(*args, **kwargs)

    return cast(Function, run)
