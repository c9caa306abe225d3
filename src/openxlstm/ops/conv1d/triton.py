"""The causal depthwise convolution in Triton: y[t] = bias + sum_s w_s * in[t - s], where in is the state followed by x and w_s
the tap that looks s steps back. A program has a tile of times and channels; what its taps share comes out of the cache."""

import triton
import triton.language as tl


@triton.jit
def inputs(x, state, t, channel, T, D, x_time, state_time, WIDTH: tl.constexpr):
    """in at the times t, of which 1 - WIDTH .. -1 are in the state; 0 outside."""
    new, old = (t >= 0) & (t < T), (t < 0) & (t > -WIDTH)
    inside = (channel < D)[None, :]
    found = tl.load(x + t[:, None] * x_time + channel[None, :], new[:, None] & inside, 0.0).to(tl.float32)
    if WIDTH > 1:
        place = state + (t[:, None] + WIDTH - 1) * state_time + channel[None, :]
        found += tl.load(place, old[:, None] & inside, 0.0).to(tl.float32)
    return found


@triton.jit
def within_reach(value, reach, reach_back, t, T, S: tl.constexpr):
    """value where the steps t may look S steps back, else 0. reach [WIDTH - 1, time] or None: they may."""
    if reach is not None and S > 0:
        can = tl.load(reach + (S - 1) * reach_back + t, (t >= 0) & (t < T), 0)
        value = tl.where((can != 0)[:, None], value, 0.0)
    return value


@triton.jit
def convolved(
    x, taps, bias, state, reach, t, channel, T, D, x_time, state_time, reach_back, WIDTH: tl.constexpr,
):  # fmt: skip
    """y at the times t, before SiLU. taps [WIDTH, D], oldest first."""
    total = tl.zeros([t.shape[0], channel.shape[0]], tl.float32)
    if bias is not None:
        total += tl.load(bias + channel, channel < D, 0.0)[None, :]
    for s in tl.static_range(WIDTH):
        value = inputs(x, state, t - s, channel, T, D, x_time, state_time, WIDTH)
        w = tl.load(taps + (WIDTH - 1 - s) * D + channel, channel < D, 0.0)
        total += within_reach(value, reach, reach_back, t, T, s) * w[None, :]
    return total


@triton.jit
def conv_forward(
    x, taps, bias, state, reach, y, T, D, x_batch, x_time, state_batch, state_time, reach_back,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A tile of y [B, T, D]."""
    tiles = tl.cdiv(T, BT)
    batch, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    t = (tile * BT + tl.arange(0, BT)).to(tl.int64)
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    x, state = x + batch * x_batch, state + batch * state_batch
    if reach is not None:
        reach += batch * T
    total = convolved(x, taps, bias, state, reach, t, channel, T, D, x_time, state_time, reach_back, WIDTH)
    if SILU:
        total = total / (1 + tl.exp(-total))
    tl.store(y + (batch * T + t[:, None]) * D + channel[None, :], total, (t < T)[:, None] & (channel < D)[None, :])


@triton.jit
def conv_backward(
    dy, x, taps, bias, state, reach, dx, dstate, sums, T, D, dy_batch, dy_time, x_batch, x_time, state_batch, state_time,
    reach_back, WIDTH: tl.constexpr, SILU: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A tile of the gradients of in [B, WIDTH - 1 + T, D]: din[t] = sum_s w_s g[t + s], where g is the gradient before SiLU,
    which is computed again for every s. And its part of those of taps and bias, sums [tiles of all rows, WIDTH + 1, D]."""
    tiles = tl.cdiv(T + WIDTH - 1, BT)
    batch, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    t = (tile * BT - (WIDTH - 1) + tl.arange(0, BT)).to(tl.int64)
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    known = channel < D
    dy, x, state = dy + batch * dy_batch, x + batch * x_batch, state + batch * state_batch
    if reach is not None:
        reach += batch * T
    sums += tl.program_id(0).to(tl.int64) * (WIDTH + 1) * D + channel
    total = tl.zeros([BT, BD], tl.float32)
    for s in tl.static_range(WIDTH):
        at = t + s
        there = ((at >= 0) & (at < T))[:, None] & known[None, :]
        g = tl.load(dy + at[:, None] * dy_time + channel[None, :], there, 0.0).to(tl.float32)
        if SILU:
            y = convolved(x, taps, bias, state, reach, at, channel, T, D, x_time, state_time, reach_back, WIDTH)
            sigmoid = 1 / (1 + tl.exp(-y))
            g *= sigmoid * (1 + y * (1 - sigmoid))
        if s == 0:
            for back in tl.static_range(WIDTH):
                value = inputs(x, state, t - back, channel, T, D, x_time, state_time, WIDTH)
                part = tl.sum(within_reach(value, reach, reach_back, t, T, back) * g, 0)
                tl.store(sums + (WIDTH - 1 - back) * D, part, known)
            tl.store(sums + WIDTH * D, tl.sum(g, 0), known)
        w = tl.load(taps + (WIDTH - 1 - s) * D + channel, known, 0.0)
        total += within_reach(g, reach, reach_back, at, T, s) * w[None, :]
    new = ((t >= 0) & (t < T))[:, None] & known[None, :]
    tl.store(dx + (batch * T + t[:, None]) * D + channel[None, :], total, new)
    if WIDTH > 1:
        old = (t < 0)[:, None] & known[None, :]
        tl.store(dstate + (batch * (WIDTH - 1) + t[:, None] + WIDTH - 1) * D + channel[None, :], total, old)
