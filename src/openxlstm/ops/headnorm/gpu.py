"""The head-wise norm, skip and gate by Triton: one pass forward, one backward, and nothing but the inputs kept between them."""

from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import gpu
from openxlstm.ops.native import contiguous, rows
from openxlstm.ops.operator import differentiable

ACTIVATIONS = {"silu": 1, "sigmoid": 2}  # 0 is none
NUMBERS = 2048  # of a head that a program holds at a time
NUMBERS_A_THREAD = 8  # more would leave registers for few threads, and too few loads under way
TILES = 8  # of those a program of the backward pass takes one after another, for fewer partial sums
LARGEST = 8192


def refuses(
    h: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor | None, a: Tensor | None, gate: Tensor | None, **_: Any
) -> str | None:
    """It knows tensors on a GPU in float32, bfloat16 and float16, and heads that a program can hold."""
    if h.shape[-1] > LARGEST:
        return f"the Triton kernel knows heads up to {LARGEST} wide, not {h.shape[-1]}"
    return gpu.refusal(h, *(x for x in (weight, bias, skip, a, gate) if x is not None))


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
    return _run(h, weight.float(), bias, skip, a, gate, 0 if gate is None else ACTIVATIONS[activation], eps)


@torch.library.custom_op("openxlstm::head_norm_triton", mutates_args=())
def head_norm_triton(
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
    from openxlstm.ops.headnorm import triton as kernels

    B, T, H, V = h.shape
    h, a, gate = rows(h), _rows(a), _rows(gate)
    y, tile = h.new_empty(B, T, H * V), _tile(V)
    gpu.launch(
        kernels.headnorm_forward,
        (gpu.ceil_div(B * T, tile["ROWS"]), H if V else 0),
        *(h, *contiguous(weight, bias, skip), a, gate, y, B * T, T, H, V, eps, *h.stride()[:3], *_strides(a), *_strides(gate)),
        SILU=kind == ACTIVATIONS["silu"],
        **tile,
    )
    return y


@head_norm_triton.register_fake
def _(h: Tensor, weight: Any, bias: Any, skip: Any, a: Any, gate: Any, kind: int, eps: float) -> Tensor:
    return h.new_empty(h.shape[0], h.shape[1], h.shape[2] * h.shape[3])


@torch.library.custom_op("openxlstm::head_norm_triton_backward", mutates_args=())
def head_norm_triton_backward(
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
    """Gradients of h, weight, bias, skip, a and gate; an empty tensor for an a or a gate that is not there."""
    from openxlstm.ops.headnorm import triton as kernels

    B, T, H, V = h.shape
    h, a, gate, dy = rows(h), _rows(a), _rows(gate), rows(dy)
    dh, da, dgate = h.new_empty(h.shape), _empty(a, h), _empty(gate, h)
    tile = _tile(V)
    programs = gpu.ceil_div(B * T, tile["ROWS"] * TILES)
    sums = h.new_empty(programs, 3, H * V, dtype=torch.float32)
    gpu.launch(
        kernels.headnorm_backward,
        (programs, H if V else 0),
        *(dy, h, *contiguous(weight, bias, skip), a, gate, dh, da, dgate, sums, B * T, T, H, V, eps),
        *(*dy.stride()[:2], *h.stride()[:3], *_strides(a), *_strides(gate)),
        SILU=kind == ACTIVATIONS["silu"],
        TILES=TILES,
        **tile,
    )
    dweight, dbias, dskip = (x.clone() for x in sums.sum(0))
    return dh, dweight, dbias, dskip, da, dgate


@head_norm_triton_backward.register_fake
def _(dy: Any, h: Tensor, weight: Tensor, bias: Any, skip: Any, a: Any, gate: Any, kind: int, eps: float) -> Any:
    per_channel = [weight.new_empty(weight.shape) for _ in range(3)]
    return h.new_empty(h.shape), *per_channel, _empty(a, h), _empty(gate, h)


def _tile(V: int) -> dict[str, int]:
    width = gpu.power_of_two(V)
    rows = max(NUMBERS // width, 1)
    return dict(ROWS=rows, BV=width, num_warps=min(rows * width // (32 * NUMBERS_A_THREAD), 16))


def _strides(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _rows(x: Tensor | None) -> Tensor | None:
    return None if x is None else rows(x)


def _empty(x: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if x is None else x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.kind, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    found = head_norm_triton_backward(dy, *inputs, ctx.kind, ctx.eps)
    return *(None if x is None else dx for x, dx in zip(inputs, found, strict=True)), None, None


_run = differentiable(head_norm_triton, _save, _backward)
