"""The causal depthwise convolution by Triton: one pass over the input, SiLU included, and one backward, which keeps nothing but
the inputs. Padding is squeezed out before and documents are a table of who may look where, as in `taps.py`."""

import functools
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import gpu
from openxlstm.ops.conv1d.taps import convolve
from openxlstm.ops.native import rows
from openxlstm.ops.operator import differentiable

MAX_WIDTH = 8  # the backward pass is unrolled over pairs of taps
TILE = dict(BT=32, BD=64)
BACKWARD_WARPS = 8  # 8 numbers a thread: more would leave registers for few threads


def refuses(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, **_: Any) -> str | None:
    """It knows tensors on a GPU in float32, bfloat16 and float16."""
    if weight.shape[1] > MAX_WIDTH:
        return f"the Triton kernel has at most {MAX_WIDTH} taps"
    return gpu.refusal(x, weight, state, *(() if bias is None else (bias,)))


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
    """All steps, as one operator for torch.compile."""
    apply = functools.partial(_apply, silu=activation == "silu")
    return convolve(x, weight, bias, state, reset, mask, apply)


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reach: Tensor | None, *, silu: bool) -> Tensor:
    taps = weight.float().T.contiguous()  # [W, D]
    return _run(x, taps, None if bias is None else bias.float().contiguous(), state, reach, silu)


@torch.library.custom_op("openxlstm::conv1d_triton", mutates_args=())
def conv1d_triton(x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, reach: Tensor | None, silu: bool) -> Tensor:
    """x [B, T, D], taps [W, D] oldest first, state [B, W - 1, D], reach [W - 1, B, T] bool or None -> y [B, T, D]."""
    from openxlstm.ops.conv1d import triton as kernels

    B, T, D = x.shape
    x, state, y = rows(x), rows(state), x.new_empty(x.shape)
    gpu.launch(
        kernels.conv_forward,
        (B * gpu.ceil_div(T, TILE["BT"]), gpu.ceil_div(D, TILE["BD"])),
        *(x, taps, bias, state, _bytes(reach), y, T, D, *x.stride()[:2], *state.stride()[:2], B * T),
        WIDTH=len(taps),
        SILU=silu,
        **TILE,
    )
    return y


@conv1d_triton.register_fake
def _(x: Tensor, taps: Tensor, bias: Any, state: Tensor, reach: Any, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("openxlstm::conv1d_triton_backward", mutates_args=())
def conv1d_triton_backward(
    dy: Tensor, x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, reach: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, taps, bias and state."""
    from openxlstm.ops.conv1d import triton as kernels

    (B, T, D), W = x.shape, len(taps)
    x, state, dy = rows(x), rows(state), rows(dy)
    tiles = B * gpu.ceil_div(T + W - 1, TILE["BT"])
    dx, dstate, sums = x.new_empty(x.shape), state.new_empty(state.shape), taps.new_empty(tiles, W + 1, D)
    gpu.launch(
        kernels.conv_backward,
        (tiles, gpu.ceil_div(D, TILE["BD"])),
        *(dy, x, taps, bias, state, _bytes(reach), dx, dstate, sums, T, D, *dy.stride()[:2], *x.stride()[:2]),
        *(*state.stride()[:2], B * T),
        WIDTH=W,
        SILU=silu,
        num_warps=BACKWARD_WARPS,
        **TILE,
    )
    total = sums.sum(0)
    return dx, total[:W].clone(), total[W].clone(), dstate


@conv1d_triton_backward.register_fake
def _(dy: Any, x: Tensor, taps: Tensor, bias: Any, state: Tensor, reach: Any, silu: bool) -> Any:
    return x.new_empty(x.shape), taps.new_empty(taps.shape), taps.new_empty(taps.shape[1]), state.new_empty(state.shape)


def _bytes(reach: Tensor | None) -> Tensor | None:
    return None if reach is None else reach.contiguous().view(torch.uint8)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, bias, state, reach = ctx.saved_tensors
    dx, dtaps, dbias, dstate = conv1d_triton_backward(dy, x, taps, bias, state, reach, ctx.silu)
    return dx, dtaps, None if bias is None else dbias, dstate, None, None


_run = differentiable(conv1d_triton, _save, _backward)
