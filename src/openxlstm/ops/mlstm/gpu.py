"""mLSTM by Triton kernels (`triton.py`): the chunkwise form of docs/math/mlstm.md, sections 4 to 6, with exact gradients.

q, k and v are read where they are, whatever their strides, if their rows are contiguous. Gates, normaliser and state are
float32, sums of log gates float64. bfloat16 and float16 are multiplied as they are and added in float32, float32 without TF32.
"""

import functools
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openxlstm.ops import gpu
from openxlstm.ops.gpu import ceil_div, launch, power_of_two, strides
from openxlstm.ops.mlstm import reference
from openxlstm.ops.mlstm.tiles import Tile, chunk_length, mix_tiles, state_tiles
from openxlstm.ops.native import contiguous, rows
from openxlstm.ops.numerics import full_precision
from openxlstm.ops.operator import differentiable, needs_gradient
from openxlstm.ops.state import MLSTMState

SPAN_STEPS = 1024
"""Steps over which the gradients of log gates are summed before the sum starts anew from (34)'s anchor: roundings of all of
them remain in the sum, and an anchor is another reading of C."""


def refuses(q: Tensor, k: Tensor, v: Tensor, i_pre: Tensor, f_pre: Tensor, state: MLSTMState, **_: Any) -> str | None:
    """It knows CUDA tensors in float32, bfloat16 and float16."""
    return gpu.refusal(q, k, v, i_pre, f_pre, *state)


def recomputes() -> bool:
    """Whether the backward pass computes the states before the chunks again (OPENXLSTM_RECOMPUTE_STATES=1) instead of keeping
    them: K V / 128 bfloat16 numbers a step and head, against one kernel of three in a forward pass."""
    return os.environ.get("OPENXLSTM_RECOMPUTE_STATES", "0") == "1"


recomputes._dynamo_marked_constant = True  # type: ignore[attr-defined]


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    state: MLSTMState,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    input_gate: str,
    normalize: bool,
    eps: float,
    chunk_size: int | None,
) -> tuple[Tensor, MLSTMState]:
    """The contract of `mlstm_scan` with checked arguments."""
    B, T, H, _ = q.shape
    C0, n0, m0 = (x.float().contiguous() for x in state)
    if T <= 1 or B * H == 0:  # decoding: the definition itself is the shortest program
        options: dict[str, Any] = dict(reset=reset, mask=mask, input_gate=input_gate, normalize=normalize, eps=eps)
        return reference.scan(q, k, v, i_pre, f_pre, state, **options, chunk_size=None)
    dtype = functools.reduce(torch.promote_types, (q.dtype, k.dtype, v.dtype))
    L = chunk_length(q.shape[-1], v.shape[-1], dtype, gpu.capability(q.device), chunk_size)
    keep = needs_gradient(q, k, v, i_pre, f_pre, C0, n0)
    inputs = (*(rows(x.to(dtype)) for x in (q, k, v)), i_pre, f_pre, C0, n0, m0.detach(), reset, mask)
    h, C, n, m, *_ = _run(*inputs, normalize, input_gate == "sigmoid", eps, L, keep, keep and not recomputes())
    return h.to(v.dtype), MLSTMState(C, n, m.detach())


class Sizes(NamedTuple):
    """What every launch needs."""

    B: int
    T: int
    H: int
    K: int
    V: int
    L: int

    @property
    def memories(self) -> int:
        return self.B * self.H

    @property
    def chunks(self) -> int:
        return ceil_div(self.T, self.L)

    @property
    def span(self) -> int:
        """Chunks from one anchor to the next: a power of two that does not depend on T, since kernels are compiled for it."""
        return SPAN_STEPS // self.L

    @property
    def spans(self) -> int:
        return ceil_div(self.chunks, self.span)


def sizes(q: Tensor, v: Tensor, chunk_size: int) -> Sizes:
    B, T, H, K = q.shape
    return Sizes(B, T, H, K, v.shape[-1], chunk_size)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the states before the chunks. bfloat16 has the range of float32 and is what the product reads anyway; a long sum does
    not fit into float16."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _kept(q: Tensor, reset: Tensor | None, size: Sizes, keep: bool, keep_states: bool) -> Kept:
    """New tensors for gates, decay, segments and n q (`triton.py`), and C and n before each chunk; empty unless kept."""
    memories, chunks, K = size.memories, size.chunks, size.K
    padded = chunks * size.L

    def new(wanted: bool, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return q.new_empty(shape if wanted else 0, dtype=dtype)

    return (
        new(keep, memories, 7, padded),
        new(keep, memories, chunks),
        new(keep and reset is not None, size.B, padded, dtype=torch.int32),
        new(keep, memories, padded),
        new(keep_states, memories, chunks, K, size.V, dtype=state_dtype(q.dtype)),
        new(keep_states, memories, chunks, K),
    )


def _last(q: Tensor, size: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((size.K, size.V), (size.K,), ())
    C, n, m = (q.new_empty(size.B, size.H, *shape, dtype=torch.float32) for shape in shapes)
    return C, n, m


@torch.library.custom_op("openxlstm::mlstm_triton", mutates_args=())
def mlstm_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    C0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
    keep: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h [B, T, H, V] and the last C, n, m; then, for the backward pass and empty unless `keep`: gates, decay, segments and n q
    (`triton.py`), and unless `keep_states`: C and n before each chunk.

    q, k, v [B, T, H, *] of one dtype with contiguous rows; the state float32 and contiguous; chunk_size a power of two from 16.
    """
    from openxlstm.ops.mlstm import triton as kernels

    size = sizes(q, v, chunk_size)
    h, (C, n, m) = v.new_empty(v.shape), _last(q, size)
    kept = _kept(q, reset, size, True, True)
    gates, decay, segments, nq, states, n_states = kept
    frames = m0.new_empty(size.memories, size.chunks + 1)
    arguments, options = _gate_arguments(i_pre, f_pre, reset, mask, size, sigmoid_input)
    launch(kernels.gate_frames, size.memories, frames, m, m0, *arguments, CHUNKS=size.span, **options, num_warps=8)
    grid = size.memories * size.chunks
    launch(kernels.gate_weights, grid, gates, decay, segments, frames, *arguments, NORMALIZE=normalize, **options, num_warps=1)
    _states(k, v, C0, n0, gates, decay, states, n_states, C, n, size)
    n_q = _memory_norm(q, n_states, size) if normalize else nq
    _mix("h", q, k, v, h, states, n_states, gates, n_q, segments, nq, size, normalize, eps)
    wanted = (keep, keep, keep, keep, keep_states, keep_states)
    gates, decay, segments, nq, states, n_states = (x if want else x.new_empty(0) for x, want in zip(kept, wanted, strict=True))
    return h, C, n, m, gates, decay, segments, nq, states, n_states


@mlstm_triton.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    C0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
    keep: bool,
    keep_states: bool,
) -> Any:
    size = sizes(q, v, chunk_size)
    return v.new_empty(v.shape), *_last(q, size), *_kept(q, reset, size, keep, keep_states)


def _gate_arguments(
    i_pre: Tensor, f_pre: Tensor, reset: Tensor | None, mask: Tensor | None, size: Sizes, sigmoid_input: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the kernels on gates share: their arguments, and their constants. Where a border is missing any tensor stands."""
    borders = tuple(i_pre if x is None else x.view(torch.uint8) for x in (reset, mask))
    steps = tuple(s for x in (reset, mask) for s in ((0, 0) if x is None else x.stride()))
    options = dict(H=size.H, L=size.L, SIGMOID=sigmoid_input, HAS_RESET=reset is not None, HAS_MASK=mask is not None)
    return (i_pre, f_pre, *borders, size.T, size.chunks, *strides(i_pre), *strides(f_pre), *steps), options


def _products(like: Tensor) -> dict[str, Any]:
    return dict(PRECISION=gpu.precision(like.dtype), UPCAST=gpu.upcast(like.dtype))


def _states(
    k: Tensor,
    v: Tensor,
    C0: Tensor,
    n0: Tensor,
    gates: Tensor,
    decay: Tensor,
    states: Tensor,
    n_states: Tensor,
    C: Tensor,
    n: Tensor,
    size: Sizes,
) -> None:
    """C and n before each chunk, and the last ones."""
    from openxlstm.ops.mlstm import triton as kernels

    def run(tile: Tile) -> None:
        grid = size.memories * ceil_div(size.K, tile.a) * ceil_div(size.V, tile.b)
        launch(
            kernels.chunk_state, grid,
            k, v, states, n_states, C, n, C0, n0, gates, gates, decay, states, n_states, C, n, decay,
            size.T, size.chunks, size.chunks, *strides(k), *strides(v),
            H=size.H, DY=size.K, DZ=size.V, L=size.L, BY=tile.a, BZ=tile.b, REVERSE=False, HAS_FIRST=True, HAS_N_FIRST=True,
            **_products(k), STAGES=tile.num_stages, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip

    candidates = state_tiles(size.K, size.V, size.L, k.dtype, gpu.capability(k.device))
    run(gpu.choose(("state", size.K, size.V, size.L, k.dtype, k.device), candidates, run, k.device))


def _memory_norm(q: Tensor, n_states: Tensor, size: Sizes) -> Tensor:
    """n q of the memory before each chunk, [memories, chunks * L]."""
    from openxlstm.ops.mlstm import triton as kernels

    n_q = n_states.new_empty(size.memories, size.chunks * size.L)
    launch(
        kernels.memory_norm, size.memories * size.chunks, n_q, q, n_states, size.T, size.chunks, *strides(q),
        H=size.H, K=size.K, L=size.L, BK=min(power_of_two(size.K, 16), 64), num_warps=4,
    )  # fmt: skip
    return n_q


def _states_backward(
    q: Tensor,
    dh: Tensor,
    dC: Tensor | None,
    dn: Tensor | None,
    reads: Tensor,
    decay: Tensor,
    forward: tuple[Tensor, Tensor, Tensor, Tensor],
    size: Sizes,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dC and dn behind each chunk, those of the first state, and the anchors of (34) [memories, spans, tiles]. `forward` has C
    and n before each chunk and the last ones."""
    from openxlstm.ops.mlstm import triton as kernels

    states, n_states = (torch.empty_like(x) for x in forward[:2])
    dC0, dn0, _ = _last(q, size)
    found: list[Tensor] = []

    def run(tile: Tile) -> None:
        tiles = ceil_div(size.K, tile.a) * ceil_div(size.V, tile.b)
        anchors = decay.new_empty(size.memories, size.spans, tiles)
        found[:] = [anchors]
        launch(
            kernels.chunk_state, size.memories * tiles,
            q, dh, states, n_states, dC0, dn0, decay if dC is None else dC, decay if dn is None else dn, reads, reads, decay,
            *forward, anchors, size.T, size.chunks, size.span, *strides(q), *strides(dh),
            H=size.H, DY=size.K, DZ=size.V, L=size.L, BY=tile.a, BZ=tile.b, REVERSE=True,
            HAS_FIRST=dC is not None, HAS_N_FIRST=dn is not None,
            **_products(q), STAGES=tile.num_stages, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip

    candidates = state_tiles(size.K, size.V, size.L, q.dtype, gpu.capability(q.device))
    run(gpu.choose(("dstate", size.K, size.V, size.L, q.dtype, q.device), candidates, run, q.device))
    return states, n_states, dC0, dn0, found[0]


def _mix(
    role: str,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    out: Tensor,
    S: Tensor,
    n: Tensor,
    gates: Tensor,
    reads: Tensor,
    segments: Tensor,
    nq: Tensor,
    size: Sizes,
    normalize: bool,
    eps: float,
    source: Tensor | None = None,
) -> Tensor:
    """One of the four cases of `chunk_mix`. Returns the products of the rows of `source` with those of `out`, [tiles, memories,
    chunks * L]."""
    from openxlstm.ops.mlstm import triton as kernels

    DX, DZ = x.shape[-1], z.shape[-1]
    found: list[Tensor] = []

    def run(tile: Tile) -> None:
        tiles = ceil_div(DZ, tile.b)
        dots = nq if source is None else nq.new_empty(tiles, size.memories, size.chunks * size.L)
        found[:] = [dots]
        rows_of = z if source is None else source
        launch(
            kernels.chunk_mix, size.memories * size.chunks * tiles,
            x, y, z, out, S, n, gates, reads, segments, nq, rows_of, dots, size.T, size.chunks, size.memories,
            size.K**-0.5, eps, *strides(x), *strides(y), *strides(z), *strides(rows_of),
            H=size.H, DX=DX, DZ=DZ, L=size.L, BX=tile.a, BZ=tile.b, ROLE=role, NORMALIZE=normalize,
            HAS_RESET=segments.numel() > 0, **_products(x),
            STAGES=tile.num_stages, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip

    candidates = mix_tiles(DX, DZ, size.L, x.dtype, gpu.capability(x.device))
    run(gpu.choose((role, DX, DZ, size.L, x.dtype, x.device), candidates, run, x.device))
    return found[0]


@torch.library.custom_op("openxlstm::mlstm_triton_backward", mutates_args=())
@full_precision
def mlstm_triton_backward(
    dh: Tensor | None,
    dC: Tensor | None,
    dn: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    C0: Tensor,
    n0: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    h: Tensor,
    C: Tensor,
    n: Tensor,
    gates: Tensor,
    decay: Tensor,
    segments: Tensor,
    nq: Tensor,
    states: Tensor,
    n_states: Tensor,
    normalize: bool,
    sigmoid_input: bool,
    eps: float,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, i_pre, f_pre, C0 and n0 from those of h and of the last C and n (None: zero)."""
    from openxlstm.ops.mlstm import triton as kernels

    size = sizes(q, v, chunk_size)
    dh = torch.zeros_like(h) if dh is None else rows(dh)
    dC, dn = contiguous(dC, dn)
    if not states.numel():
        *_, states, n_states = _kept(q, reset, size, False, True)
        _states(k, v, C0, n0, gates, decay, states, n_states, torch.empty_like(C), torch.empty_like(n), size)
    reads = gates.new_empty(size.memories, 4, size.chunks * size.L)
    width = min(power_of_two(size.V), 64)
    launch(
        kernels.read_gradient, size.memories * size.chunks, reads, gates, nq, h, dh, size.T, size.chunks, size.K**-0.5, eps,
        *strides(dh), H=size.H, DZ=size.V, L=size.L, BZ=width, NORMALIZE=normalize, num_warps=4,
    )  # fmt: skip
    dstates, dn_states, dC0, dn0, anchors = _states_backward(q, dh, dC, dn, reads, decay, (states, n_states, C, n), size)
    dq, dk, dv, di_pre, df_pre = (x.new_empty(x.shape) for x in (q, k, v, i_pre, f_pre))
    shared = gates, reads, segments, nq, size, normalize, eps
    dots_q = _mix("dq", dh, v, k, dq, states, n_states, *shared, source=q)
    dots_k = _mix("dk", v, dh, q, dk, dstates, dn_states, *shared, source=k)
    _mix("dv", k, q, dh, dv, dstates, dn_states, *shared)
    arguments, options = _gate_arguments(i_pre, f_pre, reset, mask, size, sigmoid_input)
    launch(
        kernels.gate_gradient, size.memories * size.spans, di_pre, df_pre, dots_q, dots_k, anchors, size.memories, *arguments,
        SPAN=size.span, TILES_Q=dots_q.shape[0], TILES_K=dots_k.shape[0], TILES_STATE=anchors.shape[-1],
        BLOCK_STATE=gpu.power_of_two(anchors.shape[-1]), **options, num_warps=8,
    )  # fmt: skip
    return dq, dk, dv, di_pre, df_pre, dC0, dn0


@mlstm_triton_backward.register_fake
def _(
    dh: Any, dC: Any, dn: Any, q: Tensor, k: Tensor, v: Tensor, i_pre: Tensor, f_pre: Tensor, C0: Tensor, n0: Tensor, *_: Any
) -> Any:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, i_pre, f_pre, C0, n0))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, i_pre, f_pre, C0, n0, _, reset, mask, normalize, sigmoid_input, eps, chunk_size, _, _ = inputs
    h, C, n, m, *kept = output
    ctx.save_for_backward(q, k, v, i_pre, f_pre, C0, n0, reset, mask, h, C, n, *kept)
    ctx.options = normalize, sigmoid_input, eps, chunk_size
    ctx.mark_non_differentiable(m, *kept)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dh: Tensor | None, dC: Tensor | None, dn: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    gradients = mlstm_triton_backward(dh, dC, dn, *ctx.saved_tensors, *ctx.options)
    return *gradients, *[None] * 9


_run = differentiable(mlstm_triton, _save, _backward)
