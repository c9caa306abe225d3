"""mLSTM in plain PyTorch: parallel inside chunks of L steps, recurrent between them, with a hand-written exact backward.

Symbols as in docs/math/mlstm.md. Inside a chunk b_t = sum of log f up to t, e_t = log i_t - b_t, and with m_prev the
stabiliser that enters the chunk

    m_t  = b_t + max(m_prev, max_{s<=t} e_s)      depends on the gates alone, so all of it is known before q, k, v are touched
    D_ts = exp(b_t - m_t + e_s),  s <= t          weight of step s in the read-out at t
    r_t  = exp(b_t + m_prev - m_t)                weight of the incoming memory in the read-out at t
    w_s  = exp(b_L + e_s - m_L)                   weight of step s in the memory that leaves the chunk
    g    = exp(b_L + m_prev - m_L)                what is left of the incoming memory

Every exponent is <= 0. Chunks are worked off in groups: enough matrices at once to keep the cores busy, few enough to stay
in cache, and memory beyond inputs and outputs is one state per chunk.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
from openxlstm.ops.state import MLSTMState

CHUNK_SIZE = 64  # fastest for head widths 64-256 on CPUs and GPUs alike (benchmarks/)
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
    C, n = state.C.to(dtype), state.n.to(dtype)
    how = _Options(normalize=normalize, eps=eps, chunk_size=min(chunk_size or CHUNK_SIZE, T))
    h, C, n, m = _Chunkwise.apply(q, k, v, log_i, log_f, C, n, state.m.detach(), reset, how)
    if mask is not None:
        h = h * mask[..., None, None]
    return h, MLSTMState(C, n, m)


@dataclass(frozen=True)
class _Options:
    normalize: bool
    eps: float
    chunk_size: int


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
        """[B, T, H, W] -> this group's [X * N, L, W]."""
        x = x[:, self.steps].unflatten(1, (self.count, self.length)).permute(0, 3, 1, 2, 4)
        return x.to(dtype).reshape(-1, self.length, x.shape[-1])

    def rows(self, x: Tensor) -> Tensor:
        """[X, T] -> this group's [X, N, L]."""
        return x[:, self.steps].unflatten(1, (self.count, self.length))

    def store(self, x: Tensor, into: Tensor) -> None:
        """The inverse of `matrices`."""
        B, _, H, W = into.shape
        x = x.view(B, H, self.count, self.length, W).permute(0, 2, 3, 1, 4)
        into[:, self.steps].unflatten(1, (self.count, self.length)).copy_(x)


def _groups(T: int, L: int, memories: int, device: torch.device) -> list[_Group]:
    """Cut T steps into groups of whole chunks, and a last chunk of T mod L steps."""
    at_once = max(1, (CPU_GROUP_MATRICES if device.type == "cpu" else GPU_GROUP_MATRICES) // max(1, memories))
    whole = T // L
    groups = [_Group(c, min(at_once, whole - c), c * L, L) for c in range(0, whole, at_once)]
    if T % L:
        groups.append(_Group(whole, 1, whole * L, T % L))
    return groups


class _GateRows(NamedTuple):
    """The gates with memories first, [X, T] each."""

    log_i: Tensor
    log_f: Tensor
    reset: Tensor | None

    def of(self, group: _Group) -> "_GateRows":
        """[X, N, L] each"""
        reset = None if self.reset is None else group.rows(self.reset)
        return _GateRows(group.rows(self.log_i), group.rows(self.log_f), reset)


@dataclass
class _Gates:
    """Everything that follows from the gates of one group. Shapes [X, N, L] and [X, N]; D [X * N, L, L]."""

    D: Tensor
    r: Tensor
    w: Tensor
    g: Tensor
    m: Tensor
    m_last: Tensor  # [X], stabiliser of the state that leaves the group


def _gates(rows: _GateRows, m_prev: Tensor, dtype: torch.dtype) -> _Gates:
    """`rows` of one group, [X, N, L] each, and the stabiliser [X] that enters it."""
    log_i, log_f, reset = rows
    X, N, L = log_i.shape
    device = log_i.device
    segment = None
    if reset is not None:
        segment = reset.cumsum(-1)  # [X, N, L] how many documents of this chunk began up to here
        log_f = log_f.masked_fill(reset, 0.0)  # nothing passes a reset, so its gate has no meaning
    b = log_f.cumsum(-1)
    e = log_i - b
    b_last = b[..., -1]
    future = torch.ones(L, L, dtype=torch.bool, device=device).triu(1)  # [t, s], s > t
    if segment is None:
        hidden = future
        best = e.cummax(-1).values
        written = best[..., -1] + b_last
        kept = b_last
        incoming = None
    else:
        hidden = future | (segment[..., :, None] != segment[..., None, :])  # [X, N, L, L]
        best = e[..., None, :].masked_fill(hidden, MASKED_LOG_GATE).amax(-1)
        leaves = segment == segment[..., -1:]
        written = e.masked_fill(~leaves, MASKED_LOG_GATE).amax(-1) + b_last
        incoming = segment == 0
        kept = b_last.masked_fill(~incoming[..., -1], MASKED_LOG_GATE)
    m_in = torch.empty(X, N, dtype=b.dtype, device=device)
    m_last = m_prev
    for c in range(N):
        m_in[:, c] = m_last
        m_last = torch.maximum(kept[:, c] + m_last, written[:, c]).clamp_min(EMPTY_M)
    m_out = torch.cat([m_in[:, 1:], m_last[:, None]], 1)
    arriving = m_in[..., None] if incoming is None else torch.where(incoming, m_in[..., None], MASKED_LOG_GATE)
    m = (b + torch.maximum(arriving, best)).clamp_min(EMPTY_M)
    exponent = torch.empty(X, N, L, L, dtype=dtype, device=device)
    torch.add((b - m)[..., :, None], e[..., None, :], out=exponent)
    D = exponent.masked_fill_(hidden, -torch.inf).exp_().view(X * N, L, L)
    r = torch.exp(b + arriving - m)
    w_exponent = e + (b_last - m_out)[..., None]
    if segment is not None:
        w_exponent = w_exponent.masked_fill(~leaves, -torch.inf)
    g = torch.exp(kept + m_in - m_out)
    return _Gates(D, r.to(dtype), w_exponent.exp().to(dtype), g.to(dtype), m.to(dtype), m_last)


class _Chunkwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_i: Tensor,
        log_f: Tensor,
        C0: Tensor,
        n0: Tensor,
        m0: Tensor,
        reset: Tensor | None,
        options: _Options,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        B, T, H, K = q.shape
        V, X, dtype, scale = v.shape[-1], B * H, C0.dtype, K**-0.5
        gates = _gate_rows(log_i, log_f, reset)
        groups = _groups(T, options.chunk_size, X, q.device)
        num_chunks = groups[-1].first + groups[-1].count
        C, n, m = C0.reshape(X, K, V), n0.reshape(X, 1, K), m0.reshape(X).to(gates.log_i.dtype)
        C_in = torch.empty(X, num_chunks, K, V, dtype=dtype, device=q.device)  # state that enters each chunk
        n_in = torch.empty(X, num_chunks, 1, K, dtype=dtype, device=q.device)
        m_in = torch.empty(X, len(groups), dtype=m.dtype, device=q.device)  # stabiliser that enters each group
        h = torch.empty(B, T, H, V, dtype=v.dtype, device=q.device)
        nq = torch.empty(X, T, dtype=dtype, device=q.device)  # n q / sqrt(K)
        for index, group in enumerate(groups):
            m_in[:, index] = m
            G = _gates(gates.of(group), m, dtype)
            m = G.m_last
            Q, Km, Vm = (group.matrices(x, dtype) for x in (q, k, v))
            Kw = Km * G.w.reshape(-1, G.w.shape[-1], 1)
            written = torch.bmm(Kw.transpose(1, 2), Vm).view(X, group.count, K, V)
            written_n = Kw.sum(1).view(X, group.count, 1, K)
            for c in range(group.count):
                at = group.first + c
                C_in[:, at], n_in[:, at] = C, n
                decay = G.g[:, c, None, None]
                C = torch.addcmul(written[:, c], C, decay)
                n = torch.addcmul(written_n[:, c], n, decay)
            S = torch.bmm(Q, Km.transpose(1, 2)).mul_(G.D)
            Qr = Q * G.r.reshape(-1, group.length, 1)
            num = torch.bmm(S, Vm).baddbmm_(Qr, C_in[:, group.chunks].reshape(-1, K, V))
            nq_group = S.sum(-1).add_((Qr * n_in[:, group.chunks].reshape(-1, 1, K)).sum(-1)).mul_(scale).view_as(G.m)
            group.rows(nq).copy_(nq_group)
            group.store(num.mul_((scale * _read_scale(nq_group, G.m, options)).reshape(-1, group.length, 1)), h)
        ctx.options, ctx.groups, ctx.scale = options, groups, scale
        ctx.save_for_backward(q, k, v, log_i, log_f, h, nq, C_in, n_in, m_in, C, n, reset)
        ctx.set_materialize_grads(False)
        m_out = m.to(dtype).view(B, H)
        ctx.mark_non_differentiable(m_out)
        return h, C.view(B, H, K, V), n.view(B, H, K), m_out

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        dh, dC, dn, _ = grads
        q, k, v, log_i, log_f, h, nq, C_in, n_in, m_in, C, n, reset = ctx.saved_tensors
        options, scale = ctx.options, ctx.scale
        B, T, H, K = q.shape
        V, X, dtype = v.shape[-1], B * H, C.dtype
        gates = _gate_rows(log_i, log_f, reset)
        dh = torch.zeros_like(h) if dh is None else dh
        dC = torch.zeros_like(C) if dC is None else dC.reshape(X, K, V)
        dn = torch.zeros_like(n) if dn is None else dn.reshape(X, 1, K)
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        d_log_i, d_log_f = (torch.empty(X, T, dtype=dtype, device=q.device) for _ in range(2))
        C_out, n_out = C, n  # state that leaves the group
        for index in range(len(ctx.groups) - 1, -1, -1):
            group = ctx.groups[index]
            L = group.length
            rows = gates.of(group)
            G = _gates(rows, m_in[:, index], dtype)
            Q, Km, Vm, dHm = (group.matrices(x, dtype) for x in (q, k, v, dh))
            read = _read_scale(group.rows(nq), G.m, options)
            dnq = torch.zeros_like(read)
            if options.normalize:  # through |n q| where it is the larger one
                above = group.rows(nq).abs() >= inverse_scale(G.m)
                dot = (dHm * group.matrices(h, dtype)).sum(-1).view_as(read)
                dnq = -scale * dot * read * group.rows(nq).sign() * above
            dnq = dnq.reshape(-1, L, 1)
            dnum = dHm * (scale * read).reshape(-1, L, 1)  # cotangent of S V + r Q C
            r, w = G.r.reshape(-1, L, 1), G.w.reshape(-1, L, 1)
            Qr = Q * r
            C_group = C_in[:, group.chunks].reshape(-1, K, V)
            n_group = n_in[:, group.chunks].reshape(-1, 1, K)
            dC_read = torch.bmm(Qr.transpose(1, 2), dnum).view(X, group.count, K, V)
            dn_read = torch.bmm(dnq.transpose(1, 2), Qr).view(X, group.count, 1, K)
            anchor = (dC * C_out).sum((1, 2)) + (dn * n_out).sum((1, 2))  # [X] d loss / d log of the leaving state's size
            dC_out, dn_out = torch.empty_like(dC_read), torch.empty_like(dn_read)
            for c in range(group.count - 1, -1, -1):
                dC_out[:, c], dn_out[:, c] = dC, dn
                decay = G.g[:, c, None, None]
                dC = torch.addcmul(dC_read[:, c], dC, decay)
                dn = torch.addcmul(dn_read[:, c], dn, decay)
            dC_out, dn_out = dC_out.view(-1, K, V), dn_out.view(-1, 1, K)
            S = torch.bmm(Q, Km.transpose(1, 2)).mul_(G.D)
            dS = torch.baddbmm(dnq, dnum, Vm.transpose(1, 2)).mul_(G.D)
            dVm = torch.bmm(S.transpose(1, 2), dnum).baddbmm_(Km * w, dC_out)
            dQ = torch.baddbmm(dnq * n_group, dnum, C_group.transpose(1, 2)).mul_(r).baddbmm_(dS, Km)
            dK = torch.baddbmm(dn_out, Vm, dC_out.transpose(1, 2)).mul_(w).baddbmm_(dS.transpose(1, 2), Q)
            size_i = (Km * dK).sum(-1).view(X, group.count * L)  # d loss / d log i_t
            size_q = (Q * dQ).sum(-1).view_as(size_i)
            d_log_i[:, group.steps] = size_i
            d_log_f[:, group.steps] = _forget_gradient(size_q - size_i, anchor, rows.reset)
            for x, into in ((dQ, dq), (dK, dk), (dVm, dv)):
                group.store(x, into)
            C_out, n_out = C_in[:, group.first], n_in[:, group.first]
        d_log_i, d_log_f = (x.view(B, H, T).transpose(1, 2) for x in (d_log_i, d_log_f))
        return dq, dk, dv, d_log_i, d_log_f, dC.view(B, H, K, V), dn.view(B, H, K), None, None, None


def _gate_rows(log_i: Tensor, log_f: Tensor, reset: Tensor | None) -> _GateRows:
    """[B, T, H] -> [X, T] in gate precision; reset [B, T] -> [X, T]."""
    B, T, H = log_i.shape
    precise = gate_dtype(log_i.device)
    log_i, log_f = (x.transpose(1, 2).to(precise).reshape(B * H, T) for x in (log_i, log_f))
    return _GateRows(log_i, log_f, None if reset is None else reset[:, None].expand(B, H, T).reshape(B * H, T))


def _read_scale(nq: Tensor, m: Tensor, options: _Options) -> Tensor:
    """1 / max(|n q|, exp(-m)), or for an unnormalised read-out exp(m)."""
    if not options.normalize:
        return torch.exp(m)
    return 1.0 / (torch.maximum(nq.abs(), inverse_scale(m)) + options.eps)


def _forget_gradient(change: Tensor, anchor: Tensor, reset: Tensor | None) -> Tensor:
    """log f_t scales all that was written before t in all that is read from t on. Both differ from the sums over one step by
    what lies wholly after t, which cancels: d log f_t = sum_{u>=t} (q_u dq_u - k_u dk_u) + <dC, C> + <dn, n> of the state that
    leaves the group. `change` [X, T'] is the summand, `anchor` [X] the last two terms; starting again at every group keeps
    rounding errors from adding up over long sequences."""
    precise = change.to(gate_dtype(change.device))
    total = precise.flip(-1).cumsum(-1).flip(-1) + anchor[:, None]
    return total if reset is None else total.masked_fill(reset.flatten(1), 0.0)
