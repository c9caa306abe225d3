"""The head-wise norm, skip and gate in Triton. A program has some rows (steps of sequences) of one head."""

import triton
import triton.language as tl


@triton.jit
def activation(gate, SILU: tl.constexpr):
    """silu or sigmoid, and its slope."""
    s = 1 / (1 + tl.exp(-gate))
    value, slope = s, s * (1 - s)
    if SILU:
        value, slope = gate * s, s * (1 + gate * (1 - s))
    return value, slope


@triton.jit
def normalised(h, inside, V, eps):
    """(h - mean) / deviation of each row, and 1 / deviation."""
    h = tl.where(inside, h - (tl.sum(h, 1) / V)[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(h * h, 1) / V + eps)
    return h * inverse[:, None], inverse


@triton.jit
def headnorm_forward(
    h, weight, bias, skip, a, gate, y, rows, T, H, V, eps, h_batch, h_time, h_head, a_batch, a_time, gate_batch, gate_time,
    SILU: tl.constexpr, ROWS: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head, value = tl.program_id(1), tl.arange(0, BV)
    batch, time = row // T, row % T
    inside = (row < rows)[:, None] & (value < V)[None, :]
    channel = head * V + value
    place = h + (batch * h_batch + time * h_time + head * h_head)[:, None] + value[None, :]
    out, _ = normalised(tl.load(place, inside, 0.0).to(tl.float32), inside, V, eps)
    out *= tl.load(weight + channel, value < V, 0.0)[None, :]
    if bias is not None:
        out += tl.load(bias + channel, value < V, 0.0)[None, :]
    if skip is not None:
        place = a + (batch * a_batch + time * a_time)[:, None] + channel[None, :]
        out += tl.load(skip + channel, value < V, 0.0)[None, :] * tl.load(place, inside, 0.0).to(tl.float32)
    if gate is not None:
        place = gate + (batch * gate_batch + time * gate_time)[:, None] + channel[None, :]
        open, _ = activation(tl.load(place, inside, 0.0).to(tl.float32), SILU)
        out *= open
    tl.store(y + row[:, None] * H * V + channel[None, :], out, inside)


@triton.jit
def headnorm_backward(
    dy, h, weight, bias, skip, a, gate, dh, da, dgate, sums, rows, T, H, V, eps, dy_batch, dy_time, h_batch, h_time, h_head,
    a_batch, a_time, gate_batch, gate_time, SILU: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """TILES times ROWS rows. sums [programs, 3, H * V]: their part of the gradients of weight, bias and skip."""
    program, head, value = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BV)
    known, channel = value < V, head * V + value
    w = tl.load(weight + channel, known, 0.0)[None, :]
    d_weight, d_bias = tl.zeros([ROWS, BV], tl.float32), tl.zeros([ROWS, BV], tl.float32)
    d_skip = tl.zeros([ROWS, BV], tl.float32)
    for tile in range(TILES):
        row = (program * TILES + tile) * ROWS + tl.arange(0, ROWS)
        batch, time = row // T, row % T
        inside = (row < rows)[:, None] & known[None, :]
        flat = row[:, None] * H * V + channel[None, :]
        place = h + (batch * h_batch + time * h_time + head * h_head)[:, None] + value[None, :]
        x, inverse = normalised(tl.load(place, inside, 0.0).to(tl.float32), inside, V, eps)
        g = tl.load(dy + (batch * dy_batch + time * dy_time)[:, None] + channel[None, :], inside, 0.0).to(tl.float32)
        if skip is not None:
            factor = tl.load(skip + channel, known, 0.0)[None, :]
            added = tl.load(a + (batch * a_batch + time * a_time)[:, None] + channel[None, :], inside, 0.0).to(tl.float32)
        if gate is not None:
            place = gate + (batch * gate_batch + time * gate_time)[:, None] + channel[None, :]
            open, slope = activation(tl.load(place, inside, 0.0).to(tl.float32), SILU)
            closed = x * w
            if bias is not None:
                closed += tl.load(bias + channel, known, 0.0)[None, :]
            if skip is not None:
                closed += factor * added
            tl.store(dgate + flat, g * closed * slope, inside)
            g *= open
        if skip is not None:
            tl.store(da + flat, g * factor, inside)
            d_skip += g * added
        d_weight += g * x
        d_bias += g
        g *= w
        mean, along = tl.sum(g, 1) / V, tl.sum(g * x, 1) / V
        tl.store(dh + flat, (g - mean[:, None] - x * along[:, None]) * inverse[:, None], inside)
    sums += program * 3 * H * V + channel
    tl.store(sums, tl.sum(d_weight, 0), known)
    tl.store(sums + H * V, tl.sum(d_bias, 0), known)
    tl.store(sums + 2 * H * V, tl.sum(d_skip, 0), known)
