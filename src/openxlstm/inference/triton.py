"""Triton kernels that read one token: what stands between the matrix products of a block. Memory is updated in place.

A row of the batch has its memory in slot `slots[row]`; rows with a negative slot only fill up the batch: nothing is read or
written for them. Numbers are float32 between load and store whatever the tensors hold. Vectors of rows stand `*_row` numbers
apart, so that parts of one product need no copy.

Several threads of a program may load the same number, and one of them then stores its successor: a barrier stands between."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from openxlstm.ops import gpu

ACTIVATIONS = {None: 0, "silu": 1, "sigmoid": 2, "gelu": 3}


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):
    e = tl.exp(-2 * tl.abs(x))  # <= 1, so that nothing overflows
    y = (1 - e) / (1 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def logsigmoid(x):
    """min(x, 0) - log1p(exp(-|x|)). The logarithm of the hardware is wrong by 2^-22 near 1, an error that every step would add
    to the log of a gate that is almost open; the series of log1p(e) = 2 artanh(e / (2 + e)) is right to the last bits there."""
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)  # <= 1/3
    t = s * s
    series = 1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t * (1 / 13 + t * (1 / 15)))))))
    return tl.minimum(x, 0.0) - 2 * s * series


@triton.jit
def activate(x, KIND: tl.constexpr):
    """x, or an activation of it by its number in ACTIVATIONS."""
    if KIND == 1:
        x = x * sigmoid(x)
    if KIND == 2:
        x = sigmoid(x)
    if KIND == 3:
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    return x


# Norms and activations.


@triton.jit
def norm_kernel(x, weight, bias, y, D, eps, RMS: tl.constexpr, BLOCK: tl.constexpr):
    """A row: LayerNorm or RMSNorm."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    value = tl.load(x + row * D + at, inside, 0.0).to(tl.float32)
    if not RMS:
        value = tl.where(inside, value - tl.sum(value, 0) / D, 0.0)
    value = value / tl.sqrt(tl.sum(value * value, 0) / D + eps) * tl.load(weight + at, inside, 0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + at, inside, 0.0).to(tl.float32)
    tl.store(y + row * D + at, value, inside)


@triton.jit
def gated_kernel(x, y, D, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """A tile of a row: act(gate) * up, where x holds gate and up side by side."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tile * BLOCK + tl.arange(0, BLOCK)
    inside = at < D
    gate = tl.load(x + row * 2 * D + at, inside, 0.0).to(tl.float32)
    up = tl.load(x + row * 2 * D + D + at, inside, 0.0).to(tl.float32)
    tl.store(y + row * D + at, activate(gate, ACTIVATION) * up, inside)


# The convolution, and the block-diagonal maps after it.


@triton.jit
def conv_kernel(
    u, taps, bias, state, slots, a, q, k, v, Q, K, V, u_row, qkv_row, D,
    WIDTH: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, BLOCKS: tl.constexpr, MAPS: tl.constexpr,
):  # fmt: skip
    """Some diagonal blocks of a row: a = silu(conv(u)) and, with MAPS, q = Q a, k = K a, v = V u. WIDTH 0: a = u.

    S: width of a block, PAD: the same as a power of 2. state [slots, WIDTH - 1, D], oldest first, moves by one step.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    block = tile * BLOCKS + tl.arange(0, BLOCKS)
    within = tl.arange(0, PAD)
    channel = block[:, None] * S + within[None, :]  # [BLOCKS, PAD]
    inside = (within < S)[None, :] & (channel < D)
    now = tl.load(u + row * u_row + channel, inside, 0.0)
    convolved = now
    if WIDTH > 0:
        total = now.to(tl.float32) * tl.load(taps + channel * WIDTH + WIDTH - 1, inside, 0.0).to(tl.float32)
        if bias is not None:
            total += tl.load(bias + channel, inside, 0.0).to(tl.float32)
        place = state + slot * (WIDTH - 1) * D + channel
        for w in tl.static_range(WIDTH - 1):
            old = tl.load(place + w * D, inside, 0.0)
            total += old.to(tl.float32) * tl.load(taps + channel * WIDTH + w, inside, 0.0).to(tl.float32)
        for w in tl.static_range(WIDTH - 2):
            old = tl.load(place + (w + 1) * D, inside, 0.0)
            tl.debug_barrier()
            tl.store(place + w * D, old, inside)
        if WIDTH > 1:
            tl.debug_barrier()
            tl.store(place + (WIDTH - 2) * D, now, inside)
        convolved = activate(total, 1).to(now.dtype)
        tl.store(a + row * D + channel, convolved, inside)
    if MAPS:
        out = row * qkv_row + channel
        at = (block[:, None, None] * S + within[None, :, None]) * S + within[None, None, :]  # [BLOCKS, to, from]
        there = ((block * S < D)[:, None, None]) & (within < S)[None, :, None] & (within < S)[None, None, :]
        source = convolved.to(tl.float32)[:, None, :]
        tl.store(q + out, tl.sum(tl.load(Q + at, there, 0.0).to(tl.float32) * source, 2), inside)
        tl.store(k + out, tl.sum(tl.load(K + at, there, 0.0).to(tl.float32) * source, 2), inside)
        source = now.to(tl.float32)[:, None, :]
        tl.store(v + out, tl.sum(tl.load(V + at, there, 0.0).to(tl.float32) * source, 2), inside)


# The mLSTM.


@triton.jit
def mlstm_gates(pre, m, cap, H, row, head, slot, CAPPED: tl.constexpr, SIGMOID: tl.constexpr):
    """f and i, kept multiplied by exp of their m, and the new m (docs/math/mlstm.md). pre [rows, 2 H], input gates first."""
    i_pre = tl.load(pre + row * 2 * H + head).to(tl.float32)
    f_pre = tl.load(pre + row * 2 * H + H + head).to(tl.float32)
    if CAPPED:
        i_pre, f_pre = cap * tanh(i_pre / cap), cap * tanh(f_pre / cap)
    if SIGMOID:
        i_pre = logsigmoid(i_pre)
    before = logsigmoid(f_pre) + tl.load(m + slot * H + head)
    after = tl.maximum(before, i_pre)
    return tl.exp(before - after), tl.exp(i_pre - after), after


@triton.jit
def mlstm_memory_kernel(
    q, k, v, pre, slots, C, m, num, q_row, k_row, v_row, H, K, V, cap, scale,
    CAPPED: tl.constexpr, SIGMOID: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """A head of a row and BV columns of its memory, which are read and written once: C = f C + i k v, num = scale q C.
    m stays as it is, for other programs may not have read it yet: `mlstm_head_kernel` brings it up to date."""
    program, tile = tl.program_id(0), tl.program_id(1)
    row, head = (program // H).to(tl.int64), program % H
    slot = tl.load(slots + row)
    if slot < 0:
        return
    f, i, _ = mlstm_gates(pre, m, cap, H, row, head, slot, CAPPED, SIGMOID)
    column = tile * BV + tl.arange(0, BV)
    values = i * tl.load(v + row * v_row + head * V + column, column < V, 0.0).to(tl.float32)
    C += (slot * H + head) * K * V
    total = tl.zeros([BK, BV], tl.float32)  # summed over keys at the end: a sum between threads is dear
    for start in range(0, K, BK):
        key = start + tl.arange(0, BK)
        place = C + key[:, None] * V + column[None, :]
        inside = (key < K)[:, None] & (column < V)[None, :]
        keys = tl.load(k + row * k_row + head * K + key, key < K, 0.0).to(tl.float32)
        queries = tl.load(q + row * q_row + head * K + key, key < K, 0.0).to(tl.float32)
        memory = f * tl.load(place, inside, 0.0) + keys[:, None] * values[None, :]
        tl.store(place, memory, inside)
        total += queries[:, None] * memory
    tl.store(num + (row * H + head) * V + column, tl.sum(total, 0) * scale, column < V)


@triton.jit
def mlstm_head_kernel(
    num, q, k, pre, slots, n, m, weight, bias, skip, a, gate, y, q_row, k_row, a_row, gate_row, H, K, V, cap, scale, eps,
    norm_eps, CAPPED: tl.constexpr, SIGMOID: tl.constexpr, NORMALIZE: tl.constexpr, ACTIVATION: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """A head of a row: n and m, the denominator, then (norm(num / den) weight + bias + skip a) act(gate)."""
    program = tl.program_id(0)
    row, head = (program // H).to(tl.int64), program % H
    slot = tl.load(slots + row)
    if slot < 0:
        return
    f, i, after = mlstm_gates(pre, m, cap, H, row, head, slot, CAPPED, SIGMOID)
    key, column = tl.arange(0, BK), tl.arange(0, BV)
    keys = tl.load(k + row * k_row + head * K + key, key < K, 0.0).to(tl.float32)
    queries = tl.load(q + row * q_row + head * K + key, key < K, 0.0).to(tl.float32)
    place = n + (slot * H + head) * K + key
    normaliser = f * tl.load(place, key < K, 0.0) + i * keys
    tl.debug_barrier()
    tl.store(place, normaliser, key < K)
    tl.store(m + slot * H + head, after)

    inside = column < V
    h = tl.load(num + (row * H + head) * V + column, inside, 0.0)
    if NORMALIZE:
        nq = tl.sum(queries * normaliser, 0) * scale
        h = h / (tl.maximum(tl.abs(nq), tl.exp(tl.minimum(-after, 80.0))) + eps)
    else:
        h = h * tl.exp(after)
    channel = head * V + column
    h = tl.where(inside, h - tl.sum(h, 0) / V, 0.0)
    h = h / tl.sqrt(tl.sum(h * h, 0) / V + norm_eps) * tl.load(weight + channel, inside, 0.0).to(tl.float32)
    if bias is not None:
        h += tl.load(bias + channel, inside, 0.0).to(tl.float32)
    if skip is not None:
        added = tl.load(a + row * a_row + channel, inside, 0.0).to(tl.float32)
        h += tl.load(skip + channel, inside, 0.0).to(tl.float32) * added
    h *= activate(tl.load(gate + row * gate_row + channel, inside, 0.0).to(tl.float32), ACTIVATION)
    tl.store(y + row * H * V + channel, h, inside)


# The sLSTM.


@triton.jit
def slstm_kernel(
    fed_if, fed_zo, fed_back, b, slots, h, c, n, m, weight, bias, x, y, rows, H, D, norm_eps,
    EXP_FORGET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A head of a row: gates, c, n, m and h (docs/math/slstm.md), then y = x + norm(h) weight + bias.

    fed_if, fed_zo [H, rows, 2, D]: W a and W u; fed_back [H, rows, 4, D]: R h, in the order i f z o; b [4, H, D]."""
    program = tl.program_id(0)
    row, head = (program // H).to(tl.int64), program % H
    slot = tl.load(slots + row)
    if slot < 0:
        return
    unit = tl.arange(0, BLOCK)
    inside = unit < D
    half, whole, own = (head * rows + row) * 2 * D + unit, (head * rows + row) * 4 * D + unit, b + head * D + unit
    i_pre = tl.load(fed_if + half, inside, 0.0).to(tl.float32) + tl.load(fed_back + whole, inside, 0.0)
    f_pre = tl.load(fed_if + half + D, inside, 0.0).to(tl.float32) + tl.load(fed_back + whole + D, inside, 0.0)
    z_pre = tl.load(fed_zo + half, inside, 0.0).to(tl.float32) + tl.load(fed_back + whole + 2 * D, inside, 0.0)
    o_pre = tl.load(fed_zo + half + D, inside, 0.0).to(tl.float32) + tl.load(fed_back + whole + 3 * D, inside, 0.0)
    i_pre += tl.load(own, inside, 0.0).to(tl.float32)
    f_pre += tl.load(own + H * D, inside, 0.0).to(tl.float32)
    z_pre += tl.load(own + 2 * H * D, inside, 0.0).to(tl.float32)
    o_pre += tl.load(own + 3 * H * D, inside, 0.0).to(tl.float32)
    if not EXP_FORGET:
        f_pre = logsigmoid(f_pre)

    place = (slot * H + head) * D + unit
    before = f_pre + tl.load(m + place, inside, 0.0)
    after = tl.maximum(before, i_pre)
    i, f = tl.exp(i_pre - after), tl.exp(before - after)
    cell = f * tl.load(c + place, inside, 0.0) + i * tanh(z_pre)
    normaliser = f * tl.load(n + place, inside, 1.0) + i
    out = tl.where(inside, sigmoid(o_pre) * cell / normaliser, 0.0)
    tl.debug_barrier()
    tl.store(m + place, after, inside)
    tl.store(c + place, cell, inside)
    tl.store(n + place, normaliser, inside)
    tl.store(h + place, out, inside)

    channel = head * D + unit
    out = tl.where(inside, out - tl.sum(out, 0) / D, 0.0)
    out = out / tl.sqrt(tl.sum(out * out, 0) / D + norm_eps) * tl.load(weight + channel, inside, 0.0).to(tl.float32)
    if bias is not None:
        out += tl.load(bias + channel, inside, 0.0).to(tl.float32)
    at = row * H * D + channel
    tl.store(y + at, tl.load(x + at, inside, 0.0).to(tl.float32) + out, inside)


# Launches: tensors in, tensors out.


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float, rms: bool) -> Tensor:
    """x [n, D] contiguous -> the same."""
    n, D = x.shape
    y = torch.empty_like(x)
    block = gpu.power_of_two(D)
    gpu.launch(norm_kernel, (n,), x, weight, bias, y, D, eps, RMS=rms, BLOCK=block, num_warps=warps(block))
    return y


def gated(x: Tensor, activation: str) -> Tensor:
    """x [n, 2 D] contiguous, gate and up -> act(gate) * up [n, D]."""
    n, D = x.shape[0], x.shape[1] // 2
    y = x.new_empty(n, D)
    block = min(1024, gpu.power_of_two(D))
    gpu.launch(gated_kernel, (n, gpu.ceil_div(D, block)), x, y, D, ACTIVATION=ACTIVATIONS[activation], BLOCK=block)
    return y


MAX_BLOCK = 16
"""Widest diagonal blocks of q, k and v that are applied in the kernel of the convolution."""


def convolve(u: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, slots: Tensor) -> Tensor:
    """a = silu(conv(u)). u [n, D], taps [D, W], state [slots, W - 1, D]."""
    n, D = u.shape
    a = u.new_empty(n, D)
    block = min(256, gpu.power_of_two(D))  # channels of a program, as one diagonal block
    gpu.launch(
        conv_kernel, (n, gpu.ceil_div(D, block)),
        u, taps, bias, state, slots, a, a, a, a, a, a, a, u.stride(0), 0, D,
        WIDTH=taps.shape[1], S=block, PAD=block, BLOCKS=1, MAPS=False,
    )  # fmt: skip
    return a


def convolve_and_map(
    u: Tensor, taps: Tensor | None, bias: Tensor | None, state: Tensor | None, slots: Tensor, maps: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """a = silu(conv(u)) (u itself where taps is None) [n, D], and q, k, v in one tensor [n, 3 D]. maps: Q, K, V [N, S, S]."""
    n, D = u.shape
    S = maps[0].shape[1]
    pad = gpu.power_of_two(S)
    a, qkv = u if taps is None else u.new_empty(n, D), u.new_empty(n, 3 * D)
    blocks = min(max(512 // pad**2, 1), gpu.power_of_two(D // S))
    gpu.launch(
        conv_kernel, (n, gpu.ceil_div(D // S, blocks)),
        u, u if taps is None else taps, bias, u if state is None else state, slots, a, qkv, qkv[:, D:], qkv[:, 2 * D :],
        *maps, u.stride(0), 3 * D, D,
        WIDTH=0 if taps is None else taps.shape[1], S=S, PAD=pad, BLOCKS=blocks, MAPS=True,
    )  # fmt: skip
    return a, qkv


def mlstm(
    q: Tensor, k: Tensor, v: Tensor, pre: Tensor, slots: Tensor, C: Tensor, n: Tensor, m: Tensor, *, weight: Tensor,
    bias: Tensor | None, skip: Tensor | None, a: Tensor | None, gate: Tensor, activation: str, cap: float | None,
    sigmoid_input: bool, normalize: bool, eps: float, norm_eps: float,
) -> Tensor:  # fmt: skip
    """The step of the cell, then norm, skip and gate. q, k [n, H * K], v, gate, a [n, H * V]: rows may stand apart; pre
    [n, 2 H] float32. Updates the slots of C [slots, H, K, V], n and m. Returns y [n, H * V] in v's dtype."""
    rows, (_, H, K, V) = len(v), C.shape
    num, y = C.new_empty(rows, H, V), v.new_empty(rows, H * V)
    gates: dict[str, Any] = dict(CAPPED=cap is not None, SIGMOID=sigmoid_input)
    limit, scale = cap or 1.0, K**-0.5
    BK, BV = memory_tile(rows * H, V)
    gpu.launch(
        mlstm_memory_kernel,
        (rows * H, gpu.ceil_div(V, BV)),
        q,
        k,
        v,
        pre,
        slots,
        C,
        m,
        num,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        H,
        K,
        V,
        limit,
        scale,
        BK=BK,
        BV=BV,
        **gates,
    )
    BK, BV = gpu.power_of_two(K), gpu.power_of_two(V)
    gpu.launch(
        mlstm_head_kernel, (rows * H,),
        num, q, k, pre, slots, n, m, weight, bias, skip, a, gate, y, q.stride(0), k.stride(0), 0 if a is None else a.stride(0),
        gate.stride(0), H, K, V, limit, scale, eps, norm_eps, NORMALIZE=normalize, ACTIVATION=ACTIVATIONS[activation],
        BK=BK, BV=BV, num_warps=warps(max(BK, BV)), **gates,
    )  # fmt: skip
    return y


def slstm(
    fed: tuple[Tensor, Tensor, Tensor], b: Tensor, slots: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, x: Tensor, *,
    weight: Tensor, bias: Tensor | None, exp_forget: bool, norm_eps: float,
) -> Tensor:  # fmt: skip
    """The step of the cell, then x + norm(h). fed: W a and W u [H, n, 2 D], R h [H, n, 4 D] float32; x [n, H * D] contiguous.
    Updates the slots of h, c, n and m [slots, H, D]."""
    rows, (_, H, D) = len(x), h.shape
    y, block = torch.empty_like(x), gpu.power_of_two(D)
    gpu.launch(
        slstm_kernel, (rows * H,),
        *fed, b, slots, h, c, n, m, weight, bias, x, y, rows, H, D, norm_eps, EXP_FORGET=exp_forget, BLOCK=block,
        num_warps=warps(block),
    )  # fmt: skip
    return y


def memory_tile(heads: int, V: int) -> tuple[int, int]:
    """Rows and columns of C that a program holds at a time: wide for long reads, narrow where that would leave most of a GPU
    without work. It is 16 numbers a thread whatever K and V are, so that no two threads hold the same one."""
    columns = min(64, gpu.power_of_two(V, 16))
    while columns > 16 and heads * gpu.ceil_div(V, columns) < 256:
        columns //= 2
    return 2048 // columns, columns


def warps(block: int) -> int:
    """Threads for a vector: 8 numbers each, from 1 warp to 16."""
    return min(max(block // 256, 1), 16)
