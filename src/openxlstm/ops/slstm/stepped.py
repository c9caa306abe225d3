"""Heads whose R does not fit on a chip: a batched product and one kernel a step, STEPS of them in a CUDA graph.

A graph replays fixed addresses. So it works on buffers of its own, into which the inputs of STEPS steps are copied and out of
which their results are, and any T is a number of replays; steps beyond the end are padding. What the kernels do is the same
without a graph, which is how they run where there is none: under the interpreter, and inside somebody else's capture.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import gpu
from openxlstm.ops.numerics import EMPTY_M

STEPS = 32  # in one graph: a replay costs as much as a step or two
SHAPES_KEPT = 8  # graphs, with their buffers
BLOCK = 256  # units of a program
LOG2E = 1.4426950408889634
PADDING = 2  # the bit of `flags`

_one_at_a_time = threading.RLock()  # the buffers of a shape are shared by whoever runs on a stream


def forward(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    start: Tensor,
    flags: Tensor | None,
    h: Tensor,
    last: Tensor,
    h_before: Tensor,
    saved: Tensor,
    exp_forget: bool,
) -> None:
    """Fills h, last, h_before and saved, as `triton.scan_forward` does and with the same arguments."""
    B, T, _, H, D = gates.shape
    with _one_at_a_time:
        block = _block(_Forward, gates, B, H, D, exp_forget, saved.shape[0], saved.dtype)
        block.R.copy_(R.view(H, D, 4 * D))
        block.b.copy_(b)
        h0, c0, n0, m0 = start
        r0 = c0 / torch.where(n0 > 0, n0, 1.0)
        block.memory.copy_(torch.stack([h0, r0, n0, torch.where(m0 <= EMPTY_M, m0, m0 * LOG2E)]))
        block.h_in[:, 0].copy_(h0.transpose(0, 1))
        block.h_in[:, 1].copy_(h0.transpose(0, 1) - block.h_in[:, 0])
        for begin in range(0, T, STEPS):
            part = slice(begin, min(begin + STEPS, T))
            count = part.stop - begin
            _set_flags(block.flags, flags, part)
            block.gates[:, :count].copy_(gates[:, part])
            block.run()
            h[:, part].copy_(block.h[:, :count])
            if saved.numel():
                h_before[:, part].copy_(block.h_before[:, :count])
                saved[:, :, part].copy_(block.saved[:, :, :count])
        h_last, r, n, m = block.memory
        last.copy_(torch.stack([h_last, r * n, n, torch.where(m <= EMPTY_M, m, m / LOG2E)]))


def backward(
    dh: Tensor | None,
    d_last: Tensor | None,
    last: Tensor,
    RT: Tensor,
    start: Tensor,
    flags: Tensor | None,
    saved: Tensor,
    d_gates: Tensor,
    db: Tensor,
    d_start: Tensor,
    exp_forget: bool,
) -> None:
    """Fills d_gates, db (a part for each row) and d_start, as `triton.scan_backward` does and with the same arguments."""
    values, B, T, H, D = saved.shape
    with _one_at_a_time:
        block = _block(_Backward, d_gates, B, H, D, exp_forget, values, saved.dtype)
        block.R.copy_(RT.view(H, 4 * D, D))
        block.memory.zero_()
        block.d_in.zero_()
        block.db.zero_()
        if d_last is not None:
            (d_h, dc, dn, _), (_, c, n, _) = d_last, last
            block.memory.copy_(torch.stack([d_h, dc * n, dc * c + dn * n]))
        if dh is None:
            block.dh.zero_()
        for begin in reversed(range(0, T, STEPS)):
            part = slice(begin, min(begin + STEPS, T))
            count = part.stop - begin
            _set_flags(block.flags, flags, part)
            block.saved[:, :, :count].copy_(saved[:, :, part])
            if dh is not None:
                block.dh[:, :count].copy_(dh[:, part])
            block.run()
            d_gates[:, part].copy_(block.d_gates[:, :count])
        db.copy_(block.db.transpose(0, 1))
        around, dr, dl = block.memory
        _, c, n = start
        inverse = torch.where(n > 0, 1 / n, 0.0)  # nothing flows into an empty memory
        d_start[0].copy_(around + product(block.d_in.view(H, B, 4 * D), block.R).transpose(0, 1))
        d_start[1].copy_(dr * inverse)
        d_start[2].copy_((dl - dr * c * inverse) * inverse)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product of operands as they are, in float32."""
    if a.dtype == torch.float32 or not a.is_cuda:
        return torch.bmm(a.float(), b.float())
    return torch.bmm(a, b, out_dtype=torch.float32)


class _Forward:
    """STEPS steps on buffers of its own."""

    def __init__(self, like: Tensor, B: int, H: int, D: int, exp_forget: bool, values: int, dtype: torch.dtype) -> None:
        new, single = like.new_zeros, torch.float32
        self.R, self.b = new(H, D, 4 * D), new(4, H, D, dtype=single)
        self.gates, self.h_in = new(B, STEPS, 4, H, D), new(H, 2, B, D)
        self.h, self.h_before = new(B, STEPS, H, D), new(B, STEPS, H, D)
        self.flags, self.memory = new(B, STEPS, dtype=torch.int8), new(4, B, H, D, dtype=single)
        self.saved = new(values, B, STEPS, H, D, dtype=dtype)
        self.options = dict(
            H=H, D=D, STEPS=STEPS, EXP_FORGET=exp_forget, UPCAST=gpu.upcast(like.dtype), SAVE=values > 0, **_tile(D)
        )
        self.run = _in_a_graph(self._run, like)

    def _run(self) -> None:
        from openxlstm.ops.slstm.triton import step_forward

        H, _, B, D = self.h_in.shape
        grid = (B, H, gpu.ceil_div(D, self.options["BLOCK"]))
        for step in range(STEPS):
            mixed = product(self.h_in.view(H, 2 * B, D), self.R)
            buffers = (self.gates, mixed, self.b, self.memory, self.h_in, self.flags, self.h, self.h_before, self.saved)
            gpu.launch(step_forward, grid, *buffers, step, B, self.h.numel(), **self.options)


class _Backward:
    """The same steps, the last one first."""

    def __init__(self, like: Tensor, B: int, H: int, D: int, exp_forget: bool, values: int, dtype: torch.dtype) -> None:
        new, single = like.new_zeros, torch.float32
        self.R = new(H, 4 * D, D)
        self.d_gates, self.dh, self.d_in = new(B, STEPS, 4, H, D), new(B, STEPS, H, D), new(H, B, 4 * D)
        self.flags, self.memory = new(B, STEPS, dtype=torch.int8), new(3, B, H, D, dtype=single)
        self.saved, self.db = new(values, B, STEPS, H, D, dtype=dtype), new(4, B, H, D, dtype=single)
        self.options = dict(H=H, D=D, STEPS=STEPS, EXP_FORGET=exp_forget, UPCAST=gpu.upcast(like.dtype), **_tile(D))
        self.run = _in_a_graph(self._run, like)

    def _run(self) -> None:
        from openxlstm.ops.slstm.triton import step_backward

        H, D = self.options["H"], self.options["D"]
        B = self.flags.shape[0]
        grid = (B, H, gpu.ceil_div(D, self.options["BLOCK"]))
        for step in reversed(range(STEPS)):
            mixed = product(self.d_in, self.R)
            buffers = (self.saved, mixed, self.dh, self.memory, self.db, self.d_in, self.flags, self.d_gates)
            gpu.launch(step_backward, grid, *buffers, step, B, self.dh.numel(), **self.options)


def _block(kind: Any, like: Tensor, *key: Any) -> Any:
    """The block of a shape, kept for the next call on this device and stream."""
    if not like.is_cuda:
        return _kept(kind, like.device, None, like.dtype, *key)
    if torch.cuda.is_current_stream_capturing():  # its memory is the capturer's, and gone with their graph
        return kind(like, *key)
    return _kept(kind, like.device, torch.cuda.current_stream(like.device).cuda_stream, like.dtype, *key)


@functools.lru_cache(SHAPES_KEPT)
def _kept(kind: Any, device: torch.device, stream: int | None, dtype: torch.dtype, *key: Any) -> Any:
    return kind(torch.empty(0, device=device, dtype=dtype), *key)


def _in_a_graph(run: Callable[[], None], like: Tensor) -> Callable[[], None]:
    """`run`, captured where it can be. It is run once before: kernels are compiled then, and cuBLAS is loaded."""
    if not like.is_cuda or torch.cuda.is_current_stream_capturing():
        return run
    with torch.cuda.device(like.device):
        graph, stream, current = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            run()
        current.wait_stream(stream)
        with gpu.capturing(graph, stream=stream, capture_error_mode="thread_local"):
            run()
    return graph.replay


def _set_flags(block: Tensor, flags: Tensor | None, part: slice) -> None:
    count = part.stop - part.start
    if flags is None:
        block[:, :count].zero_()
    else:
        block[:, :count].copy_(flags[:, part])
    block[:, count:].fill_(PADDING)


def _tile(D: int) -> dict[str, int]:
    """Units of a program, and its warps: four units a thread or fewer."""
    block = min(gpu.power_of_two(D, 32), BLOCK)
    return dict(BLOCK=block, num_warps=max(block // 128, 1))
