"""The Triton kernels of the mLSTM: the chunkwise form (docs/math/mlstm.md, sections 4 to 6). Launched by `gpu.py`.

    gate_frames    m at the edges of the chunks, by a max-plus scan
    gate_weights   what (16)-(19) need of the gates, a few numbers a step
    chunk_state    C and n before each chunk, (24); in reverse dC and dn behind each chunk, (31), (32)
    memory_norm    n q of the memory that enters each chunk, (22)
    chunk_mix      out = (W * (x y^T + add)) z + d * (x S + add n), of which h, dq, dk and dv are four cases
    read_gradient  what the cotangent of h makes of the weights, (25), (26)
    gate_gradient  di_pre and df_pre, (33)-(35)

Vectors over time are float32 [memories, fields, chunks * L], one memory a head of a sequence, with fields as numbered below.
Sums of log gates are made in float64 and kept as two floats each: differences of sums that are in the thousands when gates are
closed stay exact, because the subtraction of the high parts is (Sterbenz) wherever the weight is not 0. Exponents are of 2.
"""

import triton
import triton.language as tl

from openxlstm.ops.numerics import EMPTY_M, MASKED_LOG_GATE
from openxlstm.ops.triton import log_sigmoid, narrow, operand, rounded

EMPTY = tl.constexpr(EMPTY_M)
MASKED = tl.constexpr(MASKED_LOG_GATE)
LOG2E = tl.constexpr(1.4426950408889634)

# fields of `gates`
ROW = tl.constexpr(0)  # b - m, high part; the low part follows
COLUMN = tl.constexpr(2)  # e = log_i - b, high part; the low part follows
READ = tl.constexpr(4)  # r, weight of the memory that enters the chunk
WRITE = tl.constexpr(5)  # w, weight of the step in the memory that leaves it
END = tl.constexpr(6)  # exp(-m), under which the denominator does not go; without normalisation exp(m), which multiplies h
FIELDS = tl.constexpr(7)
# fields of `reads`: ROW and its low part with s_t = scale * read_t in it, then
READ_BACK = tl.constexpr(2)  # r s
CHANGE = tl.constexpr(3)  # cotangent of n q over s
READ_FIELDS = tl.constexpr(4)


@triton.jit
def _max_plus(kept_a, written_a, kept_b, written_b):
    """First a, then b, where each is m -> max(kept + m, written)."""
    return kept_a + kept_b, tl.maximum(written_a + kept_b, written_b)


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def _maximum_in_segment(segment_a, best_a, segment_b, best_b):
    """Running maximum that starts anew with each segment."""
    return segment_b, tl.where(segment_a == segment_b, tl.maximum(best_a, best_b), best_b)


@triton.jit
def _log_gates(
    i_pre, f_pre, reset, mask, t, T, i_t, f_t, reset_t, mask_t,
    SIGMOID: tl.constexpr, HAS_RESET: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """log_i, log_f in float64, resets, and where something is written, at steps t (-1 and below are none)."""
    inside = (t < T) & (t >= 0)
    log_i = tl.load(i_pre + t * i_t, mask=inside, other=0.0).to(tl.float64)
    log_f = log_sigmoid(tl.load(f_pre + t * f_t, mask=inside, other=0.0).to(tl.float64))
    if SIGMOID:
        log_i = log_sigmoid(log_i)
    valid = inside
    if HAS_MASK:
        valid = valid & (tl.load(mask + t * mask_t, mask=inside, other=0) != 0)
    log_i = tl.where(valid, tl.maximum(log_i, MASKED), MASKED)
    log_f = tl.where(valid, log_f, 0.0)
    border = tl.zeros_like(t).to(tl.int32)
    if HAS_RESET:  # nothing passes a reset, so its forget gate has no meaning
        border = tl.load(reset + t * reset_t, mask=inside, other=0).to(tl.int32)
        log_f = tl.where(border != 0, 0.0, log_f)
    return log_i, log_f, border, valid


@triton.jit(do_not_specialize=["T", "NC", "i_b", "f_b", "reset_b", "mask_b"])
def gate_frames(
    frames, m_last, m0, i_pre, f_pre, reset, mask, T, NC,
    i_b, i_t, i_h, f_b, f_t, f_h, reset_b, reset_t, mask_b, mask_t,
    H: tl.constexpr, L: tl.constexpr, CHUNKS: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_RESET: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """frames [memories, NC + 1]: m before each chunk and behind the last, and that also to m_last [memories]. One program a
    memory, CHUNKS chunks at a time."""
    memory = tl.program_id(0).to(tl.int64)
    b, h = memory // H, memory % H
    i_pre += b * i_b + h * i_h
    f_pre += b * f_b + h * f_h
    if HAS_RESET:
        reset += b * reset_b
    if HAS_MASK:
        mask += b * mask_b
    frames += memory * (NC + 1)
    here = tl.arange(0, CHUNKS)
    m = tl.load(m0 + memory).to(tl.float64)
    tl.store(frames, m.to(tl.float32))
    for first in tl.range(0, NC, CHUNKS):
        t = ((first + here)[:, None] * L + tl.arange(0, L)[None, :]).to(tl.int64)  # [CHUNKS, L]
        log_i, log_f, border, _ = _log_gates(
            i_pre, f_pre, reset, mask, t, T, i_t, f_t, reset_t, mask_t, SIGMOID, HAS_RESET, HAS_MASK
        )
        kept = tl.sum(log_f, 1)
        leaving = log_i - tl.cumsum(log_f, 1)
        if HAS_RESET:
            segment = tl.cumsum(border, 1)
            last = tl.sum(border, 1)
            leaving = tl.where(segment == last[:, None], leaving, MASKED)
        written = tl.max(leaving, 1) + kept
        if HAS_RESET:
            kept = tl.where(last == 0, kept, MASKED)
        kept, written = tl.associative_scan((kept, written), 0, _max_plus)
        m_out = tl.maximum(tl.maximum(kept + m, written), EMPTY).to(tl.float32)
        tl.store(frames + 1 + first + here, m_out, mask=first + here < NC)
        m = tl.sum(tl.where(here == CHUNKS - 1, m_out.to(tl.float64), 0.0), 0)
    tl.store(m_last + memory, m.to(tl.float32))


@triton.jit
def _store_sum(where, FAR, x):
    """x as a high and a low float, the low one FAR behind."""
    high = x.to(tl.float32)
    tl.store(where, high)
    tl.store(where + FAR, (x - high.to(tl.float64)).to(tl.float32))


@triton.jit(do_not_specialize=["T", "NC", "i_b", "f_b", "reset_b", "mask_b"])
def gate_weights(
    gates, decay, segments, frames, i_pre, f_pre, reset, mask, T, NC,
    i_b, i_t, i_h, f_b, f_t, f_h, reset_b, reset_t, mask_b, mask_t,
    H: tl.constexpr, L: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_RESET: tl.constexpr, HAS_MASK: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """gates [memories, FIELDS, NC * L], decay [memories, NC] (g of (19)), segments [B, NC * L]. One program a chunk."""
    c = tl.program_id(0) % NC
    memory = (tl.program_id(0) // NC).to(tl.int64)
    b, h = memory // H, memory % H
    i_pre += b * i_b + h * i_h
    f_pre += b * f_b + h * f_h
    if HAS_RESET:
        reset += b * reset_b
    if HAS_MASK:
        mask += b * mask_b
    t = (c * L + tl.arange(0, L)).to(tl.int64)
    log_i, log_f, border, valid = _log_gates(
        i_pre, f_pre, reset, mask, t, T, i_t, f_t, reset_t, mask_t, SIGMOID, HAS_RESET, HAS_MASK
    )
    frames += memory * (NC + 1) + c
    arriving, m_out = tl.load(frames).to(tl.float64), tl.load(frames + 1).to(tl.float64)
    cumulated = tl.cumsum(log_f, 0)
    total = tl.sum(log_f, 0)
    e = log_i - cumulated
    best, leaving, kept = e, e, total + arriving
    entering = tl.zeros_like(e) + arriving
    if HAS_RESET:
        segment = tl.cumsum(border, 0)
        last = tl.sum(border, 0)
        _, best = tl.associative_scan((segment, e), 0, _maximum_in_segment)
        leaving = tl.where(segment == last, e, MASKED)
        kept = tl.where(last == 0, kept, MASKED)
        entering = tl.where(segment == 0, entering, MASKED)
        if h == 0:
            tl.store(segments + b * NC * L + t, segment)
    else:
        best = tl.associative_scan(e, 0, _maximum)
    m_rounded = tl.maximum(cumulated + tl.maximum(entering, best), EMPTY).to(tl.float32)
    m = m_rounded.to(tl.float64)  # every weight is for the m that is kept, so that its rounding cancels like any choice of m
    FAR = NC * L
    gates += memory * FIELDS * FAR + t
    _store_sum(gates + ROW * FAR, FAR, (cumulated - m) * LOG2E)
    _store_sum(gates + COLUMN * FAR, FAR, e * LOG2E)
    tl.store(gates + READ * FAR, tl.exp((cumulated + entering - m).to(tl.float32)))
    tl.store(gates + WRITE * FAR, tl.exp((leaving + (total - m_out)).to(tl.float32)))
    if NORMALIZE:  # a padded step reads h / inf
        end = tl.where(valid, tl.exp(tl.minimum(-m_rounded, 80.0)), float("inf"))
    else:
        end = tl.where(valid, tl.exp(m_rounded), 0.0)
    tl.store(gates + END * FAR, end)
    tl.store(decay + memory * NC + c, tl.exp((kept - m_out).to(tl.float32)))


@triton.jit(do_not_specialize=["T", "NC", "SPAN"])
def chunk_state(
    y, z, states, n_states, last, n_last, first, n_first, gates, reads, decay, forward_states, forward_n, forward_last,
    forward_n_last, anchors, T, NC, SPAN, y_b, y_t, y_h, z_b, z_t, z_h,
    H: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr, L: tl.constexpr, BY: tl.constexpr, BZ: tl.constexpr,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_N_FIRST: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """S <- g S + y^T (w * z) and n <- g n + y^T w over the chunks; S and n before each chunk are kept.

    Forward (y, z) = (k, v), S = C. In reverse (y, z) = (q, dh), S = dC, which is behind each chunk, and in n the weights are
    multiplied by CHANGE; every SPAN chunks from the first, and at the end, <dC, C> + <dn, n> of the state that leaves a chunk
    goes to anchors [memories, spans, tiles].
    """
    tiles_z: tl.constexpr = (DZ + BZ - 1) // BZ
    tiles: tl.constexpr = tiles_z * ((DY + BY - 1) // BY)
    tile = tl.program_id(0) % tiles
    memory = (tl.program_id(0) // tiles).to(tl.int64)
    b, h = memory // H, memory % H
    tile_z = tile % tiles_z
    oy = tile // tiles_z * BY + tl.arange(0, BY)
    oz = tile_z * BZ + tl.arange(0, BZ)
    ol = tl.arange(0, L)
    in_y, in_z = oy < DY, oz < DZ
    in_state = in_y[:, None] & in_z[None, :]
    place = oy[:, None] * DZ + oz[None, :]
    y += b * y_b + h * y_h
    z += b * z_b + h * z_h
    decay += memory * NC
    FAR = NC * L
    if REVERSE:
        weights = reads + (memory * READ_FIELDS + READ_BACK) * FAR + ol
        changes = reads + (memory * READ_FIELDS + CHANGE) * FAR + ol
    else:
        weights = gates + (memory * FIELDS + WRITE) * FAR + ol
        changes = weights
    S = tl.zeros((BY, BZ), tl.float32)
    n = tl.zeros((BY,), tl.float32)
    if HAS_FIRST:
        S = tl.load(first + memory * (DY * DZ) + place, mask=in_state, other=0.0)
    if HAS_N_FIRST:
        n = tl.load(n_first + memory * DY + oy, mask=in_y, other=0.0)
    spans = (NC + SPAN - 1) // SPAN
    for turn in tl.range(0, spans):
        span = turn
        if REVERSE:
            span = spans - 1 - turn
        begin = span * SPAN
        end = tl.minimum(begin + SPAN, NC)
        if REVERSE:
            if end == NC:
                C = tl.load(forward_last + memory * (DY * DZ) + place, mask=in_state, other=0.0)
                nf = tl.load(forward_n_last + memory * DY + oy, mask=in_y, other=0.0)
            else:
                C = tl.load(forward_states + (memory * NC + end) * (DY * DZ) + place, mask=in_state, other=0.0).to(tl.float32)
                nf = tl.load(forward_n + (memory * NC + end) * DY + oy, mask=in_y, other=0.0)
            anchor = tl.sum(tl.sum(S * C, 1), 0)
            if tile_z == 0:
                anchor += tl.sum(n * nf, 0)
            tl.store(anchors + (memory * spans + span) * tiles + tile, anchor)
        for i in tl.range(0, end - begin, num_stages=STAGES):
            c = begin + i
            if REVERSE:
                c = end - 1 - i
            c = c.to(tl.int64)
            tl.store(states + (memory * NC + c) * (DY * DZ) + place, rounded(S, states.dtype.element_ty, UPCAST), mask=in_state)
            tl.store(n_states + (memory * NC + c) * DY + oy, n, mask=in_y & (tile_z == 0))
            in_time = c * L + ol < T
            Y = tl.load(y + c * L * y_t + ol[:, None] * y_t + oy[None, :], mask=in_time[:, None] & in_y[None, :], other=0.0)
            Z = tl.load(z + c * L * z_t + ol[:, None] * z_t + oz[None, :], mask=in_time[:, None] & in_z[None, :], other=0.0)
            w = tl.load(weights + c * L)
            g = tl.load(decay + c)
            w_n = w
            if REVERSE:
                w_n = w * tl.load(changes + c * L)
            n = n * g + tl.sum(Y.to(tl.float32) * w_n[:, None], 0)
            Zw = narrow(Z.to(tl.float32) * w[:, None], Z.dtype, UPCAST)
            S = tl.dot(tl.trans(operand(Y, UPCAST)), Zw, S * g, input_precision=PRECISION)
    tl.store(last + memory * (DY * DZ) + place, S, mask=in_state)
    tl.store(n_last + memory * DY + oy, n, mask=in_y & (tile_z == 0))


@triton.jit(do_not_specialize=["T", "NC"])
def memory_norm(
    n_q, q, n, T, NC, q_b, q_t, q_h, H: tl.constexpr, K: tl.constexpr, L: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """n_q [memories, NC * L]: n q of the memory before each chunk. One program a chunk.

    Not part of chunk_mix, which has the same tiles of q: of a tile that is both an operand of a product and read by other code
    the compiler (Triton 3.6, 3.7) keeps a copy less than of the other operands, and the product, which still runs, reads what
    is loaded two iterations later.
    """
    c = (tl.program_id(0) % NC).to(tl.int64)
    memory = (tl.program_id(0) // NC).to(tl.int64)
    b, h = memory // H, memory % H
    ol = tl.arange(0, L)
    t = c * L + ol
    q += b * q_b + h * q_h + c * L * q_t
    total = tl.zeros((L,), tl.float32)
    for start in tl.range(0, K, BK):
        ok = start + tl.arange(0, BK)
        Q = tl.load(q + ol[:, None] * q_t + ok[None, :], mask=(t < T)[:, None] & (ok < K)[None, :], other=0.0)
        n_k = tl.load(n + (memory * NC + c) * K + ok, mask=ok < K, other=0.0)
        total += tl.sum(Q.to(tl.float32) * n_k[None, :], 1)
    tl.store(n_q + memory * (NC * L) + t, total)


@triton.jit(do_not_specialize=["T", "NC", "memories", "scale", "eps"])
def chunk_mix(
    x, y, z, out, S, n, gates, reads, segments, nq, source, dots, T, NC, memories, scale, eps,
    x_b, x_t, x_h, y_b, y_t, y_h, z_b, z_t, z_h, source_b, source_t, source_h,
    H: tl.constexpr, DX: tl.constexpr, DZ: tl.constexpr, L: tl.constexpr, BX: tl.constexpr, BZ: tl.constexpr,
    ROLE: tl.constexpr, NORMALIZE: tl.constexpr, HAS_RESET: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out = (W * (x y^T + add)) z + d * (x S + add n): one chunk and one tile of z's width a program.

    ROLE  (x, y, z, S)       rows   W            d    add
    "h"   (q, k, v, C)       t      D (16)       r                     then times scale * read, (23); nq is kept
    "dq"  (dh, v, k, C^T)    t      D s          r s  CHANGE of t      (29)
    "dk"  (v, dh, q, dC^T)   s      transposed   w    CHANGE of t, 1   (30)
    "dv"  (k, q, dh, dC)     s      transposed   w                     (28)
    `reads` of "h" is n_q. dq and dk also give dots [tiles, memories, NC * L], the products of the rows of `source` (q, k) with
    their gradient.
    """
    tiles: tl.constexpr = (DZ + BZ - 1) // BZ
    TRANSPOSED: tl.constexpr = (ROLE == "dk") or (ROLE == "dv")  # rows are the steps that write, columns those that read
    tile = tl.program_id(0) % tiles
    c = (tl.program_id(0) // tiles % NC).to(tl.int64)
    memory = (tl.program_id(0) // tiles // NC).to(tl.int64)
    b, h = memory // H, memory % H
    ol = tl.arange(0, L)
    t = c * L + ol
    oz = tile * BZ + tl.arange(0, BZ)
    in_time, in_z = t < T, oz < DZ
    FAR = NC * L
    gates += memory * FIELDS * FAR + t
    if ROLE != "h":
        reads += memory * READ_FIELDS * FAR + t
    x += b * x_b + h * x_h + c * L * x_t
    y += b * y_b + h * y_h + c * L * y_t
    z += b * z_b + h * z_h + c * L * z_t
    S += (memory * NC + c) * (DX * DZ)
    acc = tl.zeros((L, BZ), tl.float32)
    P = tl.zeros((L, L), tl.float32)
    # `add` is where the sums start: added later it would take registers that the weights need
    if ROLE == "dq" and NORMALIZE:
        change = tl.load(reads + CHANGE * FAR)
        n_z = tl.load(n + (memory * NC + c) * DZ + oz, mask=in_z, other=0.0)
        P += change[:, None]
        acc += change[:, None] * n_z[None, :]
    if ROLE == "dk":  # dn is there without normalisation too, from the last state
        acc += tl.load(n + (memory * NC + c) * DZ + oz, mask=in_z, other=0.0)[None, :]
        if NORMALIZE:
            P += tl.load(reads + CHANGE * FAR)[None, :]
    for start in tl.range(0, DX, BX, num_stages=STAGES):
        ox = start + tl.arange(0, BX)
        in_x = ox < DX
        inside = in_time[:, None] & in_x[None, :]
        X = tl.load(x + ol[:, None] * x_t + ox[None, :], mask=inside, other=0.0)
        Y = tl.load(y + ol[:, None] * y_t + ox[None, :], mask=inside, other=0.0)
        if ROLE == "dq" or ROLE == "dk":  # S is kept [DZ, DX]
            Sx = tl.load(S + ox[:, None] + oz[None, :] * DX, mask=in_x[:, None] & in_z[None, :], other=0.0)
        else:
            Sx = tl.load(S + ox[:, None] * DZ + oz[None, :], mask=in_x[:, None] & in_z[None, :], other=0.0)
        X, Y, Sx = operand(X, UPCAST), operand(Y, UPCAST), operand(Sx, UPCAST)
        if X.dtype == Sx.dtype:
            acc = tl.dot(X, Sx, acc, input_precision=PRECISION)
            P = tl.dot(X, tl.trans(Y), P, input_precision=PRECISION)
        else:
            # float16, whose states are float32. The last product runs on into the next iteration, and must not be the one of
            # X's tile, which is read to be converted too: tiles with two readers may be loaded over (testing/ahead.py).
            P = tl.dot(X, tl.trans(Y), P, input_precision=PRECISION)
            acc = tl.dot(X.to(Sx.dtype), Sx, acc, input_precision=PRECISION)
    if ROLE == "h":
        reading = gates + ROW * FAR
        d = tl.load(gates + READ * FAR)
    else:
        reading = reads + ROW * FAR
        d = tl.load(reads + READ_BACK * FAR)
    writing = gates + COLUMN * FAR
    if TRANSPOSED:
        d = tl.load(gates + WRITE * FAR)
        rows, columns = writing, reading
        sees = ol[:, None] <= ol[None, :]
    else:
        rows, columns = reading, writing
        sees = ol[:, None] >= ol[None, :]
    if HAS_RESET:
        segment = segments + b * FAR + t
        sees = sees & (tl.load(segment)[:, None] == tl.load(segment)[None, :])
    high = tl.load(rows)[:, None] + tl.load(columns)[None, :]
    low = tl.load(rows + FAR)[:, None] + tl.load(columns + FAR)[None, :]
    P = tl.where(sees, P * tl.exp2(tl.minimum(high + low, 126.0)), 0.0)  # written like this it leaves registers free
    Z = tl.load(z + ol[:, None] * z_t + oz[None, :], mask=in_time[:, None] & in_z[None, :], other=0.0)
    acc = tl.dot(narrow(P, Z.dtype, UPCAST), operand(Z, UPCAST), acc * d[:, None], input_precision=PRECISION)
    if ROLE == "h":
        end = tl.load(gates + END * FAR)
        if NORMALIZE:
            read_n = (tl.load(reads + memory * FAR + t) * d + tl.sum(P, 1)) * scale
            if tile == 0:
                tl.store(nq + memory * FAR + t, read_n)
            acc = acc * (scale / (tl.maximum(tl.abs(read_n), end) + eps))[:, None]
        else:
            acc = acc * (scale * end)[:, None]
    inside_out = in_time[:, None] & in_z[None, :]
    if ROLE == "dq" or ROLE == "dk":
        source += b * source_b + h * source_h + c * L * source_t
        other = tl.load(source + ol[:, None] * source_t + oz[None, :], mask=inside_out, other=0.0)
        tl.store(dots + (tile * memories + memory) * FAR + t, tl.sum(other.to(tl.float32) * acc, 1))
    out += (b * T + c * L) * (H * DZ) + h * DZ
    tl.store(out + ol[:, None] * (H * DZ) + oz[None, :], rounded(acc, out.dtype.element_ty, UPCAST), mask=inside_out)


@triton.jit(do_not_specialize=["T", "NC", "scale", "eps"])
def read_gradient(
    reads, gates, nq, h, dh, T, NC, scale, eps, dh_b, dh_t, dh_h,
    H: tl.constexpr, DZ: tl.constexpr, L: tl.constexpr, BZ: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """reads [memories, READ_FIELDS, NC * L]: W s, r s, and the cotangent of n q over s, where s = scale * read."""
    c = (tl.program_id(0) % NC).to(tl.int64)
    memory = (tl.program_id(0) // NC).to(tl.int64)
    b, head = memory // H, memory % H
    ol = tl.arange(0, L)
    t = c * L + ol
    FAR = NC * L
    gates += memory * FIELDS * FAR + t
    reads += memory * READ_FIELDS * FAR + t
    end = tl.load(gates + END * FAR)
    change = tl.zeros((L,), tl.float32)
    if NORMALIZE:
        read_n = tl.load(nq + memory * FAR + t)
        size = tl.abs(read_n)
        s = scale / (tl.maximum(size, end) + eps)
        h += (b * T + c * L) * (H * DZ) + head * DZ
        dh += b * dh_b + head * dh_h + c * L * dh_t
        for start in tl.range(0, DZ, BZ):
            oz = start + tl.arange(0, BZ)
            inside = (t < T)[:, None] & (oz < DZ)[None, :]
            A = tl.load(h + ol[:, None] * (H * DZ) + oz[None, :], mask=inside, other=0.0).to(tl.float32)
            B = tl.load(dh + ol[:, None] * dh_t + oz[None, :], mask=inside, other=0.0).to(tl.float32)
            change += tl.sum(A * B, 1)
        change = tl.where(size >= end, tl.where(read_n < 0.0, change, -change), 0.0)
    else:
        s = scale * end
    factor = tl.where(s > 0.0, tl.log2(tl.maximum(s, 1e-38)), -1e30)
    row = tl.load(gates + ROW * FAR)
    high = row + factor
    part = high - row
    lost = (row - (high - part)) + (factor - part)  # what rounding took from the sum of the two
    tl.store(reads + ROW * FAR, high)
    tl.store(reads + (ROW + 1) * FAR, tl.load(gates + (ROW + 1) * FAR) + lost)
    tl.store(reads + READ_BACK * FAR, tl.load(gates + READ * FAR) * s)
    tl.store(reads + CHANGE * FAR, change)


@triton.jit(do_not_specialize=["T", "NC", "memories", "i_b", "f_b", "reset_b", "mask_b"])
def gate_gradient(
    di_pre, df_pre, dots_q, dots_k, anchors, memories, i_pre, f_pre, reset, mask, T, NC,
    i_b, i_t, i_h, f_b, f_t, f_h, reset_b, reset_t, mask_b, mask_t,
    H: tl.constexpr, L: tl.constexpr, SPAN: tl.constexpr, TILES_Q: tl.constexpr, TILES_K: tl.constexpr,
    TILES_STATE: tl.constexpr, BLOCK_STATE: tl.constexpr, SIGMOID: tl.constexpr, HAS_RESET: tl.constexpr,
    HAS_MASK: tl.constexpr,
):  # fmt: skip
    """(33)-(35). One program for SPAN chunks of a memory, at whose end there is an anchor."""
    spans = (NC + SPAN - 1) // SPAN
    span = tl.program_id(0) % spans
    memory = (tl.program_id(0) // spans).to(tl.int64)
    b, h = memory // H, memory % H
    t = (span * (SPAN * L) + tl.arange(0, SPAN * L)).to(tl.int64)
    inside = t < T
    size_q = tl.zeros((SPAN * L,), tl.float32)
    size_k = tl.zeros((SPAN * L,), tl.float32)
    for tile in tl.static_range(0, TILES_Q):
        size_q += tl.load(dots_q + (tile * memories + memory) * (NC * L) + t, mask=inside, other=0.0)
    for tile in tl.static_range(0, TILES_K):
        size_k += tl.load(dots_k + (tile * memories + memory) * (NC * L) + t, mask=inside, other=0.0)
    tile = tl.arange(0, BLOCK_STATE)  # wide heads have hundreds: a loop would be unrolled for minutes
    parts = tl.load(anchors + (memory * spans + span) * TILES_STATE + tile, mask=tile < TILES_STATE, other=0.0)
    anchor = tl.sum(parts, 0).to(tl.float64)
    d_log_f = tl.cumsum(size_q.to(tl.float64) - size_k.to(tl.float64), 0, reverse=True) + anchor
    f = tl.load(f_pre + b * f_b + h * f_h + t * f_t, mask=inside, other=0.0).to(tl.float32)
    df = d_log_f.to(tl.float32) / (1.0 + tl.exp(f))
    di = size_k
    if SIGMOID:
        i = tl.load(i_pre + b * i_b + h * i_h + t * i_t, mask=inside, other=0.0).to(tl.float32)
        di = di / (1.0 + tl.exp(i))
    if HAS_MASK:
        valid = tl.load(mask + b * mask_b + t * mask_t, mask=inside, other=0) != 0
        di = tl.where(valid, di, 0.0)
        df = tl.where(valid, df, 0.0)
    if HAS_RESET:
        df = tl.where(tl.load(reset + b * reset_b + t * reset_t, mask=inside, other=0) != 0, 0.0, df)
    place = (b * T + t) * H + h
    tl.store(di_pre + place, di.to(di_pre.dtype.element_ty), mask=inside)
    tl.store(df_pre + place, df.to(df_pre.dtype.element_ty), mask=inside)
