"""The sLSTM in Triton: one loop over time a program, and the same step alone for heads whose R does not fit on a chip.

Symbols and equations as in docs/math/slstm.md. Exponentials are powers of two, so log gates and `m` are held in units of log 2.
"""

import triton
import triton.language as tl

from openxlstm.ops.numerics import EMPTY_M
from openxlstm.ops.triton import narrow, operand, rounded

LOG2E = tl.constexpr(1.4426950408889634)
EMPTY = tl.constexpr(EMPTY_M)
RESET, PADDING = tl.constexpr(1), tl.constexpr(2)  # bits of `flags`
SHARE_SCALE = tl.constexpr(65536.0)  # a share is at most 1/2; so scaled, float16 holds one of 1e-9 with all its digits


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp2(-x * LOG2E))


@triton.jit
def forget(f_pre, EXP_FORGET: tl.constexpr):
    """log2 of the forget gate, and d log f / d f_pre (eq. 2)."""
    if EXP_FORGET:
        return f_pre * LOG2E, tl.full(f_pre.shape, 1.0, tl.float32)
    e = tl.exp2(-tl.abs(f_pre) * LOG2E)
    # log(1 + e) has an absolute error of 6e-8, which adds up where a gate is open for thousands of steps: there the series.
    log1p = tl.where(e < 1e-3, e * (LOG2E - e * (LOG2E / 2 - e * (LOG2E / 3))), tl.log2(1 + e))
    return tl.minimum(f_pre, 0.0) * LOG2E - log1p, tl.where(f_pre > 0, e, 1.0) / (1 + e)


@triton.jit
def cell(i_pre, f_pre, z_pre, o_pre, r, n, m, EXP_FORGET: tl.constexpr):
    """One step, eq. (2)-(7), with the mean r = c / n in the place of c: the next r, n, m, and what the backward pass wants, the
    shares of new and old in r (eq. 20), z, o and d log f / d f_pre."""
    log_f, slope = forget(f_pre, EXP_FORGET)
    ahead = i_pre * LOG2E - (log_f + m)
    small = tl.exp2(-tl.abs(ahead))  # of i and f the larger is exactly 1
    i, f = tl.where(ahead >= 0, 1.0, small), tl.where(ahead >= 0, small, 1.0)
    m = tl.maximum(log_f + m, i_pre * LOG2E)
    z, o = 2 * sigmoid(2 * z_pre) - 1, sigmoid(o_pre)
    kept = f * n
    n = kept + i
    inverse = 1 / n
    new, old = i * inverse, kept * inverse
    return old * r + new * z, n, m, new, old, z, o, slope


@triton.jit
def packed(a, b):
    """The smaller of two numbers that add up to 1; the sign bit says which (of -b it would not: Triton computes 0 - b)."""
    return tl.where(a <= b, a, b * -1.0) * SHARE_SCALE


@triton.jit
def unpacked(x):
    """a and b of `packed`. Not x < 0: a share of exactly 0 has a sign too."""
    a_is_smaller = x.to(tl.int32, bitcast=True) >= 0
    x = tl.abs(x) / SHARE_SCALE
    return tl.where(a_is_smaller, x, 1 - x), tl.where(a_is_smaller, 1 - x, x)


@triton.jit
def cell_backward(dh, dr, dl, a, b, z, o, r_before, slope):
    """Cotangents of the four pre-activations, of r and l before the step (eq. 22-24)."""
    g = dr + o * dh
    moved = a * b * (r_before - z) * g
    d_log_f = b * dl + moved
    d_o = dh * (b * r_before + a * z) * o * (1 - o)
    return a * dl - moved, d_log_f * slope, a * g * (1 - z * z), d_o, b * g, d_log_f


@triton.jit
def from_memory(dc, dn, c, n):
    """Cotangents of r = c / n and l = log n + m from those of c and n: c = r n, n = exp(l - m)."""
    return dc * n, dc * c + dn * n


@triton.jit
def to_memory(dr, dl, c, n):
    """The way back; nothing flows into an empty memory."""
    inverse = tl.where(n > 0, 1 / tl.where(n > 0, n, 1.0), 0.0)
    return dr * inverse, (dl - dr * c * inverse) * inverse


@triton.jit
def in_log2(m):
    """EMPTY stays what it is, so that it returns as the same number."""
    return tl.where(m <= EMPTY, EMPTY, m * LOG2E)


@triton.jit
def in_log(m):
    return tl.where(m <= EMPTY, EMPTY, m / LOG2E)


@triton.jit
def row_start(row, length):
    """Where a row of `length` numbers begins, beyond 2^31 too."""
    return row.to(tl.int64) * length


@triton.jit
def mixed(h, rest, R, pre, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """pre + R h (eq. 1), the parts of h one after the other, so that a part of R is in registers once and not for long."""
    pre = tl.dot(h, R, pre, input_precision=PRECISION)
    if SPLIT:
        pre = tl.dot(rest, R, pre, input_precision=PRECISION)
    return pre


@triton.jit(do_not_specialize=["T", "B"])
def scan_forward(
    gates, R, b, start, flags, h_out, last, h_before, saved, T, B, gates_b, gates_t, gates_g, gates_h, saved_v,
    H: tl.constexpr, D: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
    EXP_FORGET: tl.constexpr, FLAGS: tl.constexpr, SAVE: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """All steps of one head of BLOCK_B rows. R stays on the chip, c, n, m in registers, h returns to the product each step.

    gates [B, T, 4, H, D], R [H, D, 4, D] in the dtype of the products, b [4, H, D]; start and last [4, B, H, D] float32;
    h_out [B, T, H, D], h_before the same one step earlier, as the product took it; saved [V, B, T, H, D]: the smaller share, z,
    o, r before the step and, unless EXP_FORGET, slope. SPLIT: into i and f goes what rounding h left as well; without it log
    gates would be off by a rounding each step, and m by their sum.
    """
    head = tl.program_id(0)
    row = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    unit = tl.arange(0, BLOCK_D)
    there = (row[:, None] < B) & (unit[None, :] < D)
    square = (unit[:, None] < D) & (unit[None, :] < D)

    tile = R + head * 4 * D * D + unit[:, None] * 4 * D + unit[None, :]  # [from, to]
    R_i = operand(tl.load(tile, mask=square, other=0.0), UPCAST)
    R_f = operand(tl.load(tile + D, mask=square, other=0.0), UPCAST)
    R_z = operand(tl.load(tile + 2 * D, mask=square, other=0.0), UPCAST)
    R_o = operand(tl.load(tile + 3 * D, mask=square, other=0.0), UPCAST)
    bias = b + head * D + unit[None, :]
    b_i = tl.load(bias, mask=unit[None, :] < D, other=0.0)
    b_f = tl.load(bias + H * D, mask=unit[None, :] < D, other=0.0)
    b_z = tl.load(bias + 2 * H * D, mask=unit[None, :] < D, other=0.0)
    b_o = tl.load(bias + 3 * H * D, mask=unit[None, :] < D, other=0.0)

    state = row_start(row[:, None], H * D) + head * D + unit[None, :]
    size = row_start(B, H * D)
    h = tl.load(start + state, mask=there, other=0.0)
    n = tl.load(start + 2 * size + state, mask=there, other=0.0)
    r = tl.load(start + size + state, mask=there, other=0.0) / tl.where(n > 0, n, 1.0)
    m = in_log2(tl.load(start + 3 * size + state, mask=there, other=EMPTY))

    x = gates + row_start(row[:, None], gates_b) + head * gates_h + unit[None, :]
    step = row_start(row[:, None], T * H * D) + head * D + unit[None, :]
    y = h_out + step
    if SAVE:
        kept, before = saved + step, h_before + step
    if FLAGS:
        flag = flags + row_start(row, T)
    for _ in tl.range(0, T, num_stages=STAGES):
        i_pre = tl.load(x, mask=there, other=0.0).to(tl.float32) + b_i
        f_pre = tl.load(x + gates_g, mask=there, other=0.0).to(tl.float32) + b_f
        z_pre = tl.load(x + 2 * gates_g, mask=there, other=0.0).to(tl.float32) + b_z
        o_pre = tl.load(x + 3 * gates_g, mask=there, other=0.0).to(tl.float32) + b_o
        if FLAGS:
            bits = tl.load(flag, mask=row < B, other=0)
            empty, skip = (bits & RESET)[:, None] != 0, (bits & PADDING)[:, None] != 0
            h, r = tl.where(empty, 0.0, h), tl.where(empty, 0.0, r)
            n, m = tl.where(empty, 0.0, n), tl.where(empty, EMPTY, m)
        h_in = narrow(h, R.dtype.element_ty, UPCAST)
        if SAVE:
            tl.store(before, h_in, mask=there)
            before += H * D
        rest = narrow(h - h_in.to(tl.float32), R.dtype.element_ty, UPCAST)
        i_pre = mixed(h_in, rest, R_i, i_pre, SPLIT, PRECISION)
        f_pre = mixed(h_in, rest, R_f, f_pre, SPLIT, PRECISION)
        z_pre = tl.dot(h_in, R_z, z_pre, input_precision=PRECISION)
        o_pre = tl.dot(h_in, R_o, o_pre, input_precision=PRECISION)
        r_new, n_new, m_new, new, old, z, o, slope = cell(i_pre, f_pre, z_pre, o_pre, r, n, m, EXP_FORGET)
        h_new = o * r_new
        if SAVE:
            tl.store(kept, packed(new, old), mask=there)
            tl.store(kept + saved_v, z, mask=there)
            tl.store(kept + 2 * saved_v, o, mask=there)
            tl.store(kept + 3 * saved_v, r, mask=there)
            if not EXP_FORGET:
                tl.store(kept + 4 * saved_v, slope, mask=there)
            kept += H * D
        if FLAGS:
            tl.store(y, rounded(tl.where(skip, 0.0, h_new), h_out.dtype.element_ty, UPCAST), mask=there)
            h_new, r_new = tl.where(skip, h, h_new), tl.where(skip, r, r_new)
            n_new, m_new = tl.where(skip, n, n_new), tl.where(skip, m, m_new)
            flag += 1
        else:
            tl.store(y, rounded(h_new, h_out.dtype.element_ty, UPCAST), mask=there)
        h, r, n, m = h_new, r_new, n_new, m_new
        x += gates_t
        y += H * D

    tl.store(last + state, h, mask=there)
    tl.store(last + size + state, r * n, mask=there)
    tl.store(last + 2 * size + state, n, mask=there)
    tl.store(last + 3 * size + state, in_log(m), mask=there)


@triton.jit
def through(d_pre, result, R, dh, there, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """Stores the gradient of a gate, and adds what of it goes on through R (eq. 16)."""
    d_pre = narrow(d_pre, result.dtype.element_ty, UPCAST)
    tl.store(result, d_pre, mask=there)
    return tl.dot(d_pre, R, dh, input_precision=PRECISION)


@triton.jit(do_not_specialize=["T", "B"])
def scan_backward(
    saved, dh_out, d_last, last, RT, start, flags, d_gates, db, d_start, T, B, dh_b, dh_t, dh_h, saved_v,
    H: tl.constexpr, D: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
    EXP_FORGET: tl.constexpr, FLAGS: tl.constexpr, DH: tl.constexpr, D_LAST: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """From last step to first: gradients of `gates` [B, T, 4, H, D], of h, c, n at the start [3, B, H, D], and of b, from
    each tile of rows [tiles, 4, H, D], added up before they are rounded.

    RT [H, 4, D, D] (gate, to, from); dh_out [B, T, H, D] and d_last [4, B, H, D] where DH and D_LAST say that they are there.
    """
    head = tl.program_id(0)
    row = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    unit = tl.arange(0, BLOCK_D)
    there = (row[:, None] < B) & (unit[None, :] < D)
    square = (unit[:, None] < D) & (unit[None, :] < D)

    tile = RT + head * 4 * D * D + unit[:, None] * D + unit[None, :]  # [to, from]
    R_i = operand(tl.load(tile, mask=square, other=0.0), UPCAST)
    R_f = operand(tl.load(tile + D * D, mask=square, other=0.0), UPCAST)
    R_z = operand(tl.load(tile + 2 * D * D, mask=square, other=0.0), UPCAST)
    R_o = operand(tl.load(tile + 3 * D * D, mask=square, other=0.0), UPCAST)

    state = row_start(row[:, None], H * D) + head * D + unit[None, :]
    size = row_start(B, H * D)
    dh = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    dr = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    dl = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    if D_LAST:
        dh = tl.load(d_last + state, mask=there, other=0.0)
        c, n = tl.load(last + size + state, mask=there, other=0.0), tl.load(last + 2 * size + state, mask=there, other=0.0)
        dc = tl.load(d_last + size + state, mask=there, other=0.0)
        dn = tl.load(d_last + 2 * size + state, mask=there, other=0.0)
        dr, dl = from_memory(dc, dn, c, n)

    end = row_start(row[:, None], T * H * D) + row_start(T - 1, H * D) + head * D + unit[None, :]
    kept = saved + end
    d_x = d_gates + row_start(row[:, None], T * 4 * H * D) + row_start(T - 1, 4 * H * D) + head * D + unit[None, :]
    db_i = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    db_f = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    db_z = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    db_o = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    if DH:
        dy = dh_out + row_start(row[:, None], dh_b) + row_start(T - 1, dh_t) + head * dh_h + unit[None, :]
    if FLAGS:
        flag = flags + row_start(row, T) + T - 1
    for _ in tl.range(0, T, num_stages=STAGES):
        a, b = unpacked(tl.load(kept, mask=there, other=0.0).to(tl.float32))
        z = tl.load(kept + saved_v, mask=there, other=0.0).to(tl.float32)
        o = tl.load(kept + 2 * saved_v, mask=there, other=0.0).to(tl.float32)
        r_before = tl.load(kept + 3 * saved_v, mask=there, other=0.0).to(tl.float32)
        if EXP_FORGET:
            slope = tl.full((BLOCK_B, BLOCK_D), 1.0, tl.float32)
        else:
            slope = tl.load(kept + 4 * saved_v, mask=there, other=0.0).to(tl.float32)
        dh_all = dh
        if DH:
            dh_all += tl.load(dy, mask=there, other=0.0).to(tl.float32)
            dy -= dh_t
        d_i, d_f, d_z, d_o, dr_before, dl_before = cell_backward(dh_all, dr, dl, a, b, z, o, r_before, slope)
        if FLAGS:
            bits = tl.load(flag, mask=row < B, other=0)
            flag -= 1
            empty, skip = (bits & RESET)[:, None] != 0, (bits & PADDING)[:, None] != 0
            d_i, d_f = tl.where(skip, 0.0, d_i), tl.where(skip, 0.0, d_f)
            d_z, d_o = tl.where(skip, 0.0, d_z), tl.where(skip, 0.0, d_o)
        db_i, db_f, db_z, db_o = db_i + d_i, db_f + d_f, db_z + d_z, db_o + d_o
        dh_before = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
        dh_before = through(d_i, d_x, R_i, dh_before, there, PRECISION, UPCAST)
        dh_before = through(d_f, d_x + H * D, R_f, dh_before, there, PRECISION, UPCAST)
        dh_before = through(d_z, d_x + 2 * H * D, R_z, dh_before, there, PRECISION, UPCAST)
        dh_before = through(d_o, d_x + 3 * H * D, R_o, dh_before, there, PRECISION, UPCAST)
        if FLAGS:
            dh_before = tl.where(skip, dh, dh_before)
            dr_before, dl_before = tl.where(skip, dr, dr_before), tl.where(skip, dl, dl_before)
            dh_before = tl.where(empty, 0.0, dh_before)
            dr_before, dl_before = tl.where(empty, 0.0, dr_before), tl.where(empty, 0.0, dl_before)
        dh, dr, dl = dh_before, dr_before, dl_before
        kept -= H * D
        d_x -= 4 * H * D

    c, n = tl.load(start + size + state, mask=there, other=0.0), tl.load(start + 2 * size + state, mask=there, other=0.0)
    dc, dn = to_memory(dr, dl, c, n)
    tl.store(d_start + state, dh, mask=there)
    tl.store(d_start + size + state, dc, mask=there)
    tl.store(d_start + 2 * size + state, dn, mask=there)
    bias = db + (tl.program_id(1) * 4 * H + head) * D + unit
    tl.store(bias, tl.sum(db_i, 0), mask=unit < D)
    tl.store(bias + H * D, tl.sum(db_f, 0), mask=unit < D)
    tl.store(bias + 2 * H * D, tl.sum(db_z, 0), mask=unit < D)
    tl.store(bias + 3 * H * D, tl.sum(db_o, 0), mask=unit < D)


@triton.jit(do_not_specialize=["B", "step"])
def step_forward(
    gates, mixed, b, memory, h_in, flags, h_out, h_before, saved, step, B, saved_v,
    H: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, EXP_FORGET: tl.constexpr, SAVE: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """One step of BLOCK units of one head of one row; the product with R was made before.

    gates [B, STEPS, 4, H, D], mixed [H, 2, B, 4, D] float32, flags [B, STEPS]; memory [4, B, H, D] float32: h, r, n, m (in
    units of log 2), read and written. h_in [H, 2, B, D], the operand of the next product: h rounded, and what that left.
    h_out and h_before [B, STEPS, H, D], saved [V, B, STEPS, H, D].
    """
    row, head = tl.program_id(0), tl.program_id(1)
    unit = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    there = unit < D
    bits = tl.load(flags + row * STEPS + step)
    empty, skip = (bits & RESET) != 0, (bits & PADDING) != 0
    size = B * H * D
    at = memory + (row * H + head) * D + unit
    h, r = tl.load(at, mask=there, other=0.0), tl.load(at + size, mask=there, other=0.0)
    n, m = tl.load(at + 2 * size, mask=there, other=1.0), tl.load(at + 3 * size, mask=there, other=0.0)
    h, r = tl.where(empty, 0.0, h), tl.where(empty, 0.0, r)
    n, m = tl.where(empty, 0.0, n), tl.where(empty, EMPTY, m)

    x = gates + row_start(row * STEPS + step, 4 * H * D) + head * D + unit
    recurrent, bias = mixed + (head * 2 * B + row) * 4 * D + unit, b + head * D + unit
    rest = B * 4 * D
    i_pre = step_input(x, recurrent, rest, bias, there, empty)
    f_pre = step_input(x + H * D, recurrent + D, rest, bias + H * D, there, empty)
    z_pre = step_input(x + 2 * H * D, recurrent + 2 * D, rest, bias + 2 * H * D, there, empty)
    o_pre = step_input(x + 3 * H * D, recurrent + 3 * D, rest, bias + 3 * H * D, there, empty)
    r_new, n_new, m_new, new, old, z, o, slope = cell(i_pre, f_pre, z_pre, o_pre, r, n, m, EXP_FORGET)

    step_at = row_start(row * STEPS + step, H * D) + head * D + unit
    if SAVE:
        kept = saved + step_at
        tl.store(h_before + step_at, rounded(h, h_before.dtype.element_ty, UPCAST), mask=there)
        tl.store(kept, packed(new, old), mask=there)
        tl.store(kept + saved_v, z, mask=there)
        tl.store(kept + 2 * saved_v, o, mask=there)
        tl.store(kept + 3 * saved_v, r, mask=there)
        if not EXP_FORGET:
            tl.store(kept + 4 * saved_v, slope, mask=there)
    h_new = o * r_new
    tl.store(h_out + step_at, rounded(tl.where(skip, 0.0, h_new), h_out.dtype.element_ty, UPCAST), mask=there)
    h = tl.where(skip, h, h_new)
    first = narrow(h, h_in.dtype.element_ty, UPCAST)
    operands = h_in + (head * 2 * B + row) * D + unit
    tl.store(operands, first, mask=there)
    tl.store(operands + B * D, rounded(h - first.to(tl.float32), h_in.dtype.element_ty, UPCAST), mask=there)
    tl.store(at, h, mask=there)
    tl.store(at + size, tl.where(skip, r, r_new), mask=there)
    tl.store(at + 2 * size, tl.where(skip, n, n_new), mask=there)
    tl.store(at + 3 * size, tl.where(skip, m, m_new), mask=there)


@triton.jit
def step_input(x, recurrent, rest, bias, there, empty):
    """A pre-activation (eq. 1); R h is 0 after a reset."""
    mixed = tl.load(recurrent, mask=there, other=0.0) + tl.load(recurrent + rest, mask=there, other=0.0)
    mixed = tl.where(empty, 0.0, mixed)
    return tl.load(x, mask=there, other=0.0).to(tl.float32) + tl.load(bias, mask=there, other=0.0) + mixed


@triton.jit(do_not_specialize=["B", "step"])
def step_backward(
    saved, mixed, dh_out, memory, db, d_in, flags, d_gates, step, B, saved_v,
    H: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, EXP_FORGET: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The way back through `step_forward`; `mixed` [H, B, D] float32 is what came through R from the step after.

    memory [3, B, H, D] float32: the part of dh that came around R, dr and dl, read and written; db [4, B, H, D] float32, added
    to; d_in [H, B, 4, D], the operand of the next product. dh_out [B, STEPS, H, D], d_gates [B, STEPS, 4, H, D].
    """
    row, head = tl.program_id(0), tl.program_id(1)
    unit = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    there = unit < D
    bits = tl.load(flags + row * STEPS + step)
    empty, skip = (bits & RESET) != 0, (bits & PADDING) != 0
    size = B * H * D
    at = memory + (row * H + head) * D + unit
    dr, dl = tl.load(at + size, mask=there, other=0.0), tl.load(at + 2 * size, mask=there, other=0.0)
    dh = tl.load(at, mask=there, other=0.0) + tl.load(mixed + (head * B + row) * D + unit, mask=there, other=0.0)

    step_at = row_start(row * STEPS + step, H * D) + head * D + unit
    kept = saved + step_at
    a, b = unpacked(tl.load(kept, mask=there, other=0.0).to(tl.float32))
    z = tl.load(kept + saved_v, mask=there, other=0.0).to(tl.float32)
    o = tl.load(kept + 2 * saved_v, mask=there, other=0.0).to(tl.float32)
    r_before = tl.load(kept + 3 * saved_v, mask=there, other=0.0).to(tl.float32)
    if EXP_FORGET:
        slope = tl.full((BLOCK,), 1.0, tl.float32)
    else:
        slope = tl.load(kept + 4 * saved_v, mask=there, other=0.0).to(tl.float32)
    dh_all = dh + tl.load(dh_out + step_at, mask=there, other=0.0).to(tl.float32)
    d_i, d_f, d_z, d_o, dr_before, dl_before = cell_backward(dh_all, dr, dl, a, b, z, o, r_before, slope)

    x, operands = row_start(row * STEPS + step, 4 * H * D) + head * D + unit, d_in + (head * B + row) * 4 * D + unit
    bias = db + (row * H + head) * D + unit
    step_gradient(d_i, d_gates + x, operands, bias, there, skip, empty, UPCAST)
    step_gradient(d_f, d_gates + x + H * D, operands + D, bias + size, there, skip, empty, UPCAST)
    step_gradient(d_z, d_gates + x + 2 * H * D, operands + 2 * D, bias + 2 * size, there, skip, empty, UPCAST)
    step_gradient(d_o, d_gates + x + 3 * H * D, operands + 3 * D, bias + 3 * size, there, skip, empty, UPCAST)
    tl.store(at, tl.where(skip & ~empty, dh, 0.0), mask=there)
    tl.store(at + size, tl.where(empty, 0.0, tl.where(skip, dr, dr_before)), mask=there)
    tl.store(at + 2 * size, tl.where(empty, 0.0, tl.where(skip, dl, dl_before)), mask=there)


@triton.jit
def step_gradient(d_pre, result, operands, bias, there, skip, empty, UPCAST: tl.constexpr):
    """Stores a gradient, and what of it goes through R, and adds it to that of the bias."""
    d_pre = tl.where(skip, 0.0, d_pre)
    tl.store(bias, tl.load(bias, mask=there, other=0.0) + d_pre, mask=there)
    d_pre = rounded(d_pre, result.dtype.element_ty, UPCAST)
    tl.store(result, d_pre, mask=there)
    tl.store(operands, tl.where(empty, 0.0, d_pre), mask=there)
