"""The gated activation by the compiled kernel (csrc/glu.cpp): one pass forward, one backward, and nothing but the input kept
between them."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.native import address
from openxlstm.ops.operator import differentiable


def refuses(x: Tensor, *, activation: str) -> str | None:
    """It knows CPUs, float32 and bfloat16."""
    return native.unknown(x)


def run(x: Tensor, *, activation: str) -> Tensor:
    """One operator for torch.compile."""
    return _run(x, activation == "gelu")


@torch.library.custom_op("openxlstm::glu", mutates_args=())
def glu(x: Tensor, gelu: bool) -> Tensor:
    """gelu: this activation, else silu."""
    x = x.contiguous()
    y = native.empty(x, *x.shape[:-1], x.shape[-1] // 2)
    native.library().openxlstm_glu_forward(address(x), address(y), *_sizes(x), gelu, native.threads())
    return y


@glu.register_fake
def _(x: Tensor, gelu: bool) -> Any:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("openxlstm::glu_backward", mutates_args=())
def glu_backward(dy: Tensor, x: Tensor, gelu: bool) -> Tensor:
    """The gradient of x."""
    dy, x = dy.contiguous(), x.contiguous()
    dx = native.empty(x, *x.shape)
    native.library().openxlstm_glu_backward(address(dy), address(x), address(dx), *_sizes(x), gelu, native.threads())
    return dx


@glu_backward.register_fake
def _(dy: Tensor, x: Tensor, gelu: bool) -> Any:
    return x.new_empty(x.shape)


def _sizes(x: Tensor) -> tuple[Any, ...]:
    """Rows, width of a half, and whether it is bfloat16."""
    hidden = x.shape[-1] // 2
    return ctypes.c_int64(x.numel() // max(2 * hidden, 1)), hidden, x.dtype == torch.bfloat16


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.gelu = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return glu_backward(dy, x, ctx.gelu), None


_run = differentiable(glu, _save, _backward)
