"""The head-wise norm, skip and gate by the compiled kernel (csrc/headnorm.cpp): one pass forward, one backward, and nothing
but the inputs kept between them."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.native import address, contiguous, rows
from openxlstm.ops.operator import differentiable

ACTIVATIONS = {"silu": 1, "sigmoid": 2}  # of csrc/headnorm.cpp; 0 is none


def refuses(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    a: Tensor | None,
    gate: Tensor | None,
    *,
    activation: str,
    eps: float,
) -> str | None:
    """It knows CPUs, and float32 or bfloat16 throughout."""
    if reason := native.unknown(h):
        return reason
    for name, x in (("a", a), ("gate", gate)):
        if x is not None and x.dtype != h.dtype:
            return f"the compiled kernel wants one dtype, and h is {h.dtype}, {name} {x.dtype}"
    return None


def run(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    a: Tensor | None,
    gate: Tensor | None,
    *,
    activation: str,
    eps: float,
) -> Tensor:
    """One operator for torch.compile."""
    bias, skip = (None if x is None else x.float() for x in (bias, skip))
    kind = 0 if gate is None else ACTIVATIONS[activation]
    return _run(h, weight.float(), bias, skip, a, gate, kind, eps)


@torch.library.custom_op("openxlstm::head_norm", mutates_args=())
def head_norm(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    a: Tensor | None,
    gate: Tensor | None,
    kind: int,
    eps: float,
) -> Tensor:
    """kind: which activation, see ACTIVATIONS."""
    h, a, gate = rows(h), _rows(a), _rows(gate)
    weight, bias, skip = contiguous(weight, bias, skip)
    y = native.empty(h, *h.shape[:2], h.shape[2] * h.shape[3])
    native.library().openxlstm_headnorm_forward(
        _at(h), _at(a), _at(gate), address(weight), address(bias), address(skip), _at(y), *_sizes(h), kind,
        ctypes.c_float(eps), native.threads(),
    )  # fmt: skip
    return y


@head_norm.register_fake
def _(h: Tensor, weight: Any, bias: Any, skip: Any, a: Any, gate: Any, kind: int, eps: float) -> Any:
    return h.new_empty(h.shape[0], h.shape[1], h.shape[2] * h.shape[3])


@torch.library.custom_op("openxlstm::head_norm_backward", mutates_args=())
def head_norm_backward(
    dy: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    a: Tensor | None,
    gate: Tensor | None,
    kind: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, weight, bias, skip, a and gate; an empty tensor for what is not there."""
    h, a, gate, dy = rows(h), _rows(a), _rows(gate), rows(dy)
    weight, bias, skip = contiguous(weight, bias, skip)
    dh, da, dgate = native.empty(h, *h.shape), _empty(a, h), _empty(gate, h)
    sums = h.new_empty(3, h.shape[2] * h.shape[3], dtype=torch.float32)
    native.library().openxlstm_headnorm_backward(
        _at(h), _at(a), _at(gate), address(weight), address(bias), address(skip), _at(dy), _at(dh), _at(da), _at(dgate),
        address(sums), *_sizes(h), kind, ctypes.c_float(eps), native.threads(),
    )  # fmt: skip
    dweight, dbias, dskip = (x.clone() for x in sums)
    return dh, dweight, dbias, dskip, da, dgate


@head_norm_backward.register_fake
def _(dy: Any, h: Tensor, weight: Tensor, bias: Any, skip: Any, a: Any, gate: Any, kind: int, eps: float) -> Any:
    per_channel = [weight.new_empty(weight.shape) for _ in range(3)]
    return h.new_empty(h.shape), *per_channel, _empty(a, h), _empty(gate, h)


NOTHING = native.View()


def _at(x: Tensor | None) -> Any:
    return ctypes.byref(NOTHING) if x is None or x.dim() < 3 else native.at(x)


def _rows(x: Tensor | None) -> Tensor | None:
    return None if x is None else rows(x)


def _empty(x: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if x is None else native.empty(like, *x.shape)


def _sizes(h: Tensor) -> tuple[Any, ...]:
    B, T, H, V = h.shape
    return ctypes.c_int64(B), ctypes.c_int64(T), H, V


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.kind, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    found = head_norm_backward(dy, *inputs, ctx.kind, ctx.eps)
    return *(None if x is None else dx for x, dx in zip(inputs, found, strict=True)), None, None


_run = differentiable(head_norm, _save, _backward)
