"""mLSTM in plain PyTorch: parallel inside chunks of L steps, recurrent between them, with a hand-written exact backward.

Symbols as in docs/math/mlstm.md. Inside a chunk b_t = sum of log f up to t, e_t = log i_t - b_t, and with m_prev the
stabiliser that enters the chunk

    m_t  = b_t + max(m_prev, max_{s<=t} e_s)      depends on the gates alone, so all of it is known before q, k, v are touched
    D_ts = exp(b_t - m_t + e_s),  s <= t          weight of step s in the read-out at t
    r_t  = exp(b_t + m_prev - m_t)                weight of the incoming memory in the read-out at t
    w_s  = exp(b_L + e_s - m_L)                   weight of step s in the memory that leaves the chunk
    g    = exp(b_L + m_prev - m_L)                what is left of the incoming memory

Every exponent is <= 0. Chunks are worked off in groups: enough matrices at once to keep the cores busy, few enough to stay
in cache. The backward pass needs one state per chunk, K V / L numbers a step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openxlstm.ops.mlstm import reference
from openxlstm.ops.numerics import (
    EMPTY_M,
    MASKED_LOG_GATE,
    accumulation_dtype,
    full_precision,
    gate_dtype,
    inverse_scale,
    log_gate,
)
from openxlstm.ops.operator import differentiable, needs_gradient
from openxlstm.ops.state import MLSTMState
from openxlstm.ops.state import reset as reset_state

CHUNK_SIZE = 64  # fastest of 32, 48, 64 and 128 on a CPU (docs/log.md)
CPU_GROUP_MATRICES = 64  # matrices [L, K] handled at once on a CPU: about 1 MB an operand, so a group stays in cache
GPU_GROUP_MATRICES = 4096


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
    T = q.shape[1]
    if T <= 1:  # decoding: the definition itself is the shortest program
        options: dict[str, Any] = dict(reset=reset, mask=mask, input_gate=input_gate, normalize=normalize, eps=eps)
        return reference.scan(q, k, v, i_pre, f_pre, state, **options, chunk_size=None)
    dtype = accumulation_dtype(q, k, v, i_pre, f_pre, state.C)
    log_i = log_gate(i_pre.to(dtype), input_gate)
    log_f = log_gate(f_pre.to(dtype), "sigmoid")
    if mask is not None:  # a padded step writes nothing and forgets nothing
        log_i = log_i.masked_fill(~mask[..., None], MASKED_LOG_GATE)
        log_f = log_f.masked_fill(~mask[..., None], 0.0)
    if reset is not None:  # a product with 0 would leave NaN there
        state = reset_state(state, reset[:, 0])
    C, n, m = state.C.to(dtype), state.n.to(dtype), state.m.detach()
    length = min(chunk_size or CHUNK_SIZE, T)
    save = needs_gradient(q, k, v, log_i, log_f, C, n)
    h, C, n, m, *_ = _run(q, k, v, log_i, log_f, C, n, m, reset, normalize, eps, length, save)
    if mask is not None:
        h = h * mask[..., None, None]
    return h, MLSTMState(C, n, m)


@dataclass(frozen=True)
class _Group:
    """Chunks first..first+count of length L, starting at step `start`; X = B * H memories, N = count chunks."""

    first: int
    count: int
    start: int
    length: int

    @property
    def steps(self) -> slice:
        return slice(self.start, self.start + self.count * self.length)

    @property
    def chunks(self) -> slice:
        return slice(self.first, self.first + self.count)

    def matrices(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, T, H, W] -> a copy of this group's [X * N, L, W]."""
        x = self.place(x)
        return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x).view(-1, self.length, x.shape[-1])

    def rows(self, x: Tensor) -> Tensor:
        """[X, T] -> this group's [X, N, L]."""
        return x[:, self.steps].unflatten(1, (self.count, self.length))

    def columns(self, x: Tensor) -> Tensor:
        """[X, T] -> this group's [X * N, L, 1]."""
        return self.rows(x).reshape(-1, self.length, 1)

    def place(self, x: Tensor) -> Tensor:
        """Where `matrices` comes from: [B, T, H, W] -> a view [B, H, N, L, W] of this group's part."""
        return x[:, self.steps].unflatten(1, (self.count, self.length)).permute(0, 3, 1, 2, 4)

    def store(self, x: Tensor, into: Tensor) -> None:
        """The inverse of `matrices`."""
        place = self.place(into)
        place.copy_(x.view(place.shape))


def _groups(T: int, L: int, memories: int, device: torch.device) -> list[_Group]:
    """Cut T steps into groups of whole chunks, and a last chunk of T mod L steps."""
    at_once = max(1, (CPU_GROUP_MATRICES if device.type == "cpu" else GPU_GROUP_MATRICES) // max(1, memories))
    whole = T // L
    groups = [_Group(c, min(at_once, whole - c), c * L, L) for c in range(0, whole, at_once)]
    if T % L:
        groups.append(_Group(whole, 1, whole * L, T % L))
    return groups


class _Gates(NamedTuple):
    """Everything that follows from the gates alone, X memories first, C chunks. Small, so it is kept for the backward pass."""

    row: Tensor  # [X, T]  b - m in gate precision: D_ts = exp(row_t + col_s)
    col: Tensor  # [X, T]  e in gate precision
    r: Tensor  # [X, T]
    w: Tensor  # [X, T]
    g: Tensor  # [X, C]
    m: Tensor  # [X, T]
    segment: Tensor | None = None  # [X, T]  how many documents began in this chunk up to here

    def weights(self, group: _Group, dtype: torch.dtype) -> Tensor:
        """D of one group, [X * N, L, L]."""
        row, col, L = group.rows(self.row), group.rows(self.col), group.length
        D = torch.empty(*row.shape, L, dtype=dtype, device=row.device)
        torch.add(row[..., :, None], col[..., None, :], out=D)
        D = D.exp_().view(-1, L, L)  # inf where s > t, perhaps, but not for long
        if self.segment is not None:
            D.masked_fill_(_hidden(L, group.rows(self.segment), row.device).view(-1, L, L), 0.0)
        return D.tril_()


def _hidden(L: int, segment: Tensor | None, device: torch.device) -> Tensor:
    """[..., t, s] true where step t may not see step s of its chunk: it comes later, or belongs to an earlier document."""
    future = torch.ones(L, L, dtype=torch.bool, device=device).triu(1)
    return future if segment is None else future | (segment[..., :, None] != segment[..., None, :])


def _gates(log_i: Tensor, log_f: Tensor, m0: Tensor, reset: Tensor | None, L: int, dtype: torch.dtype) -> tuple[_Gates, Tensor]:
    """log_i, log_f [B, T, H], m0 [X], reset [B, T] or None. All whole chunks at once, then the rest of T mod L steps. Also
    the stabiliser [X] of the last state."""
    B, T, H = log_i.shape
    precise = gate_dtype(log_i.device)
    log_i, log_f = (x.transpose(1, 2).to(precise).reshape(B * H, T) for x in (log_i, log_f))
    reset = None if reset is None else reset[:, None].expand(B, H, T).reshape(B * H, T)
    parts: list[_Gates] = []
    m = m0.to(precise)
    for steps, length in ((slice(0, T - T % L), L), (slice(T - T % L, T), T % L)):
        if length and steps.stop > steps.start:
            cut_i, cut_f = (x[:, steps].unflatten(1, (-1, length)) for x in (log_i, log_f))
            cut_reset = None if reset is None else reset[:, steps].unflatten(1, (-1, length))
            part, m = _chunk_gates(cut_i, cut_f, cut_reset, m, dtype)
            parts.append(part)
    joined = (
        torch.cat([x.flatten(1) for x in of_parts], 1) for of_parts in zip(*parts, strict=True) if of_parts[0] is not None
    )
    return _Gates(*joined), m


def _chunk_gates(
    log_i: Tensor, log_f: Tensor, reset: Tensor | None, m_prev: Tensor, dtype: torch.dtype
) -> tuple[_Gates, Tensor]:
    """log_i, log_f, reset [X, N, L], m_prev [X]; the same shapes in the answer. Also the stabiliser that leaves them."""
    if reset is not None:
        log_f = log_f.masked_fill(reset, 0.0)  # nothing passes a reset, so its gate has no meaning
    b = log_f.cumsum(-1)
    e = log_i - b
    b_last = b[..., -1]
    if reset is None:
        segment = None
        best, kept, leaving = e.cummax(-1).values, b_last, e
        # m_out of chunk c = max(b_last + m_in, written), unrolled: with sums of b_last taken out it is a running maximum
        total = b_last.cumsum(-1)
        m_out = total + torch.maximum((best[..., -1] + b_last - total).cummax(-1).values, m_prev[:, None])
        m_out = m_out.clamp_min(EMPTY_M)
        m_in = torch.cat([m_prev[:, None], m_out[:, :-1]], 1)
        arriving = m_in[..., None]
    else:
        segment = reset.cumsum(-1)
        arrives = segment == 0
        best = e[..., None, :].masked_fill(_hidden(e.shape[-1], segment, e.device), MASKED_LOG_GATE).amax(-1)
        kept = b_last.masked_fill(~arrives[..., -1], MASKED_LOG_GATE)
        leaving = e.masked_fill(segment != segment[..., -1:], MASKED_LOG_GATE)
        written = leaving.amax(-1) + b_last
        m_chunks = [m_prev]
        for c in range(e.shape[1]):
            m_chunks.append(torch.maximum(kept[:, c] + m_chunks[-1], written[:, c]).clamp_min(EMPTY_M))
        m_in, m_out = torch.stack(m_chunks[:-1], 1), torch.stack(m_chunks[1:], 1)
        arriving = m_in[..., None].masked_fill(~arrives, MASKED_LOG_GATE)
    m = (b + torch.maximum(arriving, best)).clamp_min(EMPTY_M)
    r = torch.exp(b + arriving - m)
    w = torch.exp(leaving + (b_last - m_out)[..., None])
    g = torch.exp(kept + m_in - m_out)
    return _Gates(b - m, e, r.to(dtype), w.to(dtype), g.to(dtype), m.to(dtype), segment), m_out[:, -1]


def _states(C: Tensor, n: Tensor, Kw: Tensor, Vm: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the state [X, K, V], [X, 1, K] that enters a group: those that enter its chunks, [X * N, K, V] and [X * N, 1, K],
    and the one that leaves it. Kw [X * N, L, K] are the keys times w, Vm [X * N, L, V] the values, g [X, N] what each chunk
    keeps."""
    X, N = g.shape
    written = torch.bmm(Kw.transpose(1, 2), Vm).unflatten(0, (X, N))
    written_n = Kw.sum(1, keepdim=True).unflatten(0, (X, N))
    C_in, n_in = torch.empty_like(written), torch.empty_like(written_n)
    C_in[:, 0], n_in[:, 0] = C, n
    for c in range(N - 1):
        kept = g[:, c, None, None]
        torch.addcmul(written[:, c], C_in[:, c], kept, out=C_in[:, c + 1])
        torch.addcmul(written_n[:, c], n_in[:, c], kept, out=n_in[:, c + 1])
    kept = g[:, -1, None, None]
    C, n = torch.addcmul(written[:, -1], C_in[:, -1], kept), torch.addcmul(written_n[:, -1], n_in[:, -1], kept)
    return C_in.flatten(0, 1), n_in.flatten(0, 1), C, n


@torch.library.custom_op("openxlstm::mlstm_chunkwise", mutates_args=())
def mlstm_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_i: Tensor,
    log_f: Tensor,
    C0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    normalize: bool,
    eps: float,
    chunk_size: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """q, k [B, T, H, K], v [B, T, H, V], T > 0; log gates [B, T, H] and the state in the dtype of accumulation.

    Returns h, the last C, n, m and what the backward pass needs: nq, the gates, and C and n of each group; nothing unless
    `save`. The states are one tensor a group, because one for all chunks is new memory at every call (docs/log.md).
    """
    B, T, H, K = q.shape
    V, X, dtype, scale = v.shape[-1], B * H, C0.dtype, K**-0.5
    gates, m = _gates(log_i, log_f, m0.reshape(X), reset, chunk_size, dtype)
    C, n = C0.reshape(X, K, V), n0.reshape(X, 1, K)
    states: list[Tensor] = []  # those that enter each chunk, by group
    h = torch.empty(B, T, H, V, dtype=v.dtype, device=q.device)
    nq = torch.empty(X, T, dtype=dtype, device=q.device)  # n q / sqrt(K)
    for group in _groups(T, chunk_size, X, q.device):
        Q, Km, Vm = (group.matrices(x, dtype) for x in (q, k, v))
        S = torch.bmm(Q, Km.transpose(1, 2)).mul_(gates.weights(group, dtype))
        Kw, Qr = Km.mul_(group.columns(gates.w)), Q.mul_(group.columns(gates.r))
        C_in, n_in, C, n = _states(C, n, Kw, Vm, gates.g[:, group.chunks])
        if save:
            states += C_in, n_in
        num = torch.bmm(S, Vm).baddbmm_(Qr, C_in)
        nq_group = S.sum(-1).add_(torch.bmm(Qr, n_in.transpose(1, 2)).squeeze(-1)).mul_(scale)
        nq_group = nq_group.view(X, group.count, group.length)
        group.rows(nq).copy_(nq_group)
        read = scale * _read_scale(nq_group, group.rows(gates.m), normalize, eps)
        place = group.place(h)
        torch.mul(num.view(place.shape), read.view(*place.shape[:4], 1), out=place)
    saved = [nq, *(x for x in gates if x is not None), *states] if save else []
    return h, C.view(B, H, K, V), n.view(B, H, K), m.to(dtype).view(B, H).contiguous(), saved


@mlstm_chunkwise.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_i: Tensor,
    log_f: Tensor,
    C0: Tensor,
    n0: Tensor,
    m0: Tensor,
    reset: Tensor | None,
    normalize: bool,
    eps: float,
    chunk_size: int,
    save: bool,
) -> Any:
    B, T, H, K = q.shape
    V, X, precise = v.shape[-1], B * H, gate_dtype(q.device)
    saved = []
    if save:
        rows = (X, T)
        row, col = (C0.new_empty(rows, dtype=precise) for _ in range(2))
        nq, r, w, m = (C0.new_empty(rows) for _ in range(4))
        gates = [row, col, r, w, C0.new_empty(X, -(-T // chunk_size)), m]
        segment = [] if reset is None else [C0.new_empty(rows, dtype=torch.long)]
        chunks = [X * group.count for group in _groups(T, chunk_size, X, q.device)]
        saved = [nq, *gates, *segment, *(C0.new_empty(x, *shape) for x in chunks for shape in ((K, V), (1, K)))]
    return v.new_empty(v.shape), C0.new_empty(B, H, K, V), C0.new_empty(B, H, K), C0.new_empty(B, H), saved


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    q, k, v, *_, reset, normalize, eps, chunk_size, _ = inputs
    h, C, n, m, saved = output
    ctx.options = normalize, eps, chunk_size
    ctx.save_for_backward(q, k, v, h, C, n, reset, *saved)
    ctx.mark_non_differentiable(m, *saved)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dh: Tensor | None, dC: Tensor | None, dn: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    q, k, v, h, C, n, reset, *saved = ctx.saved_tensors
    found = mlstm_chunkwise_backward(dh, dC, dn, q, k, v, h, C, n, reset, saved, *ctx.options)
    return *found, *[None] * 6


_run = differentiable(mlstm_chunkwise, _save, _backward)


@torch.library.custom_op("openxlstm::mlstm_chunkwise_backward", mutates_args=())
@full_precision
def mlstm_chunkwise_backward(
    dh: Tensor | None,
    dC_last: Tensor | None,
    dn_last: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    h: Tensor,
    C_last: Tensor,
    n_last: Tensor,
    reset: Tensor | None,
    saved: list[Tensor],
    normalize: bool,
    eps: float,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, log_i, log_f, C0 and n0 from those of h, C and n that are there."""
    nq, *saved = saved
    num_gates = len(_Gates._fields) - (reset is None)
    gates, states = _Gates(*saved[:num_gates]), saved[num_gates:]
    B, T, H, K = q.shape
    V, X, dtype, scale = v.shape[-1], B * H, C_last.dtype, K**-0.5
    dh = torch.zeros_like(h) if dh is None else dh
    C, n = C_last.view(X, K, V), n_last.view(X, 1, K)  # of the state that leaves the chunk
    dC = torch.zeros_like(C) if dC_last is None else dC_last.reshape(X, K, V)
    dn = torch.zeros_like(n) if dn_last is None else dn_last.reshape(X, 1, K)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    d_log_i, d_log_f = (torch.empty(X, T, dtype=dtype, device=q.device) for _ in range(2))
    for index, group in reversed(list(enumerate(_groups(T, chunk_size, X, q.device)))):
        L, N = group.length, group.count
        C_in, n_in = states[2 * index : 2 * index + 2]
        Q, Km, Vm, dnum = (group.matrices(x, dtype) for x in (q, k, v, dh))
        m, nq_group = group.rows(gates.m), group.rows(nq)
        read = _read_scale(nq_group, m, normalize, eps)
        dnq = torch.zeros_like(read)
        if normalize:  # through |n q| where it is the larger one
            above = nq_group.abs() >= inverse_scale(m)
            dot = (dh[:, group.steps].to(dtype) * h[:, group.steps]).sum(-1)  # [B, N L, H]
            dnq = -scale * dot.transpose(1, 2).reshape(X, N, L) * read * nq_group.sign() * above
        dnq = dnq.reshape(-1, L, 1)
        dnum.mul_((scale * read).reshape(-1, L, 1))  # cotangent of S V + r Q C
        r, w = group.columns(gates.r), group.columns(gates.w)
        Qr = Q * r
        dC_read = torch.bmm(Qr.transpose(1, 2), dnum).view(X, N, K, V)
        dn_read = torch.bmm(dnq.transpose(1, 2), Qr).view(X, N, 1, K)
        anchor = (dC * C).sum((1, 2)) + (dn * n).sum((1, 2))  # [X] <dC, C> + <dn, n>
        dC_out, dn_out = torch.empty_like(dC_read), torch.empty_like(dn_read)
        dC_out[:, -1], dn_out[:, -1] = dC, dn
        for c in range(N - 1, 0, -1):
            kept = gates.g[:, group.first + c, None, None]
            torch.addcmul(dC_read[:, c], dC_out[:, c], kept, out=dC_out[:, c - 1])
            torch.addcmul(dn_read[:, c], dn_out[:, c], kept, out=dn_out[:, c - 1])
        kept = gates.g[:, group.first, None, None]
        dC = torch.addcmul(dC_read[:, 0], dC_out[:, 0], kept)
        dn = torch.addcmul(dn_read[:, 0], dn_out[:, 0], kept)
        dC_out, dn_out = dC_out.view(-1, K, V), dn_out.view(-1, 1, K)
        Kw = Km * w
        D = gates.weights(group, dtype)
        S = torch.bmm(Q, Km.transpose(1, 2)).mul_(D)
        dS = torch.bmm(dnum, Vm.transpose(1, 2)).add_(dnq).mul_(D)
        dVm = torch.bmm(S.transpose(1, 2), dnum).baddbmm_(Kw, dC_out)
        dQ = torch.bmm(dnum, C_in.transpose(1, 2)).addcmul_(dnq, n_in).mul_(r).baddbmm_(dS, Km)
        dK = torch.bmm(Vm, dC_out.transpose(1, 2)).add_(dn_out).mul_(w).baddbmm_(dS.transpose(1, 2), Q)
        size_i = Km.mul_(dK).sum(-1).view(X, N * L)  # d loss / d log i_t
        size_q = Q.mul_(dQ).sum(-1).view_as(size_i)
        d_log_i[:, group.steps] = size_i
        d_log_f[:, group.steps] = _forget_gradient(size_q - size_i, anchor)
        for x, into in ((dQ, dq), (dK, dk), (dVm, dv)):
            group.store(x, into)
        C, n = C_in.view(X, N, K, V)[:, 0], n_in.view(X, N, 1, K)[:, 0]  # what leaves the group before
    d_log_i, d_log_f = (x.view(B, H, T).transpose(1, 2) for x in (d_log_i, d_log_f))
    if reset is not None:
        d_log_f.masked_fill_(reset[..., None], 0.0)
    return dq, dk, dv, d_log_i, d_log_f, dC.view(B, H, K, V), dn.view(B, H, K)


@mlstm_chunkwise_backward.register_fake
def _(
    dh: Any, dC_last: Any, dn_last: Any, q: Tensor, k: Tensor, v: Tensor, h: Any, C_last: Tensor, n_last: Tensor, *_: Any
) -> Any:
    d_log_i, d_log_f = (C_last.new_empty(q.shape[0], q.shape[2], q.shape[1]).transpose(1, 2) for _ in range(2))
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv, d_log_i, d_log_f, C_last.new_empty(C_last.shape), n_last.new_empty(n_last.shape)


def _read_scale(nq: Tensor, m: Tensor, normalize: bool, eps: float) -> Tensor:
    """1 / max(|n q|, exp(-m)), or for an unnormalised read-out exp(m)."""
    if not normalize:
        return torch.exp(m)
    return 1.0 / (torch.maximum(nq.abs(), inverse_scale(m)) + eps)


def _forget_gradient(change: Tensor, anchor: Tensor) -> Tensor:
    """log f_t scales all that was written before t in all that is read from t on. Both differ from the sums over one step by
    what lies wholly after t, which cancels: d log f_t = sum_{u>=t} (q_u dq_u - k_u dk_u) + <dC, C> + <dn, n> of the state that
    leaves the group. `change` [X, T'] is the summand, `anchor` [X] the last two terms; starting again at every group keeps
    rounding errors from adding up over long sequences."""
    precise = change.to(gate_dtype(change.device))
    return precise.flip(-1).cumsum(-1).flip(-1) + anchor[:, None]
