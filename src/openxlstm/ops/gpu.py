"""What all Triton kernels share on the host's side: whether they can run here, how they are launched.

Kernels live in files called `triton.py`, which nothing imports before a kernel is needed: neither this file nor the import of
openxlstm loads Triton or looks for a GPU.
"""

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Config = TypeVar("Config")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = 80  # Ampere: asynchronous copies and bfloat16 products
INTERPRETER = 0
"""Stands for a compute capability where Triton's interpreter runs the kernels on a CPU."""


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors: TRITON_INTERPRET=1. It must be set before Triton is
    imported, and then holds for the whole process."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def missing() -> str | None:
    """Why no Triton kernel can run on this machine, or None."""
    if not installed():
        return "Triton is not installed; on Linux: pip install 'openxlstm[triton]'"
    if interpreted():
        return None
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA GPUs, and this torch is built for ROCm"
    if not _cuda():
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, to test them)"
    return None


# To torch.compile the answer is a constant, see ops/native.py.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def installed() -> bool:
    """Whether there is a package Triton, found without importing it."""
    try:
        return importlib.util.find_spec("triton") is not None
    except ImportError:
        return False


@functools.cache
def _cuda() -> bool:
    """Asking the driver takes longer than a launch."""
    return torch.cuda.is_available()


def refusal(*tensors: Tensor) -> str | None:
    """Why the kernels cannot take these tensors, or None: their device, dtypes, or the age of the GPU."""
    device = tensors[0].device
    if interpreted() and device.type != "cpu":
        return f"under TRITON_INTERPRET it runs on CPU tensors, and the inputs are on {device}"
    if not interpreted() and device.type != "cuda":
        return f"it runs on CUDA devices, and the inputs are on {device}"
    wrong = [x.dtype for x in tensors if x.dtype not in DTYPES]
    if wrong:
        return f"it computes in float32, and an input is {wrong[0]}"
    found = capability(device)
    if found != INTERPRETER and found < OLDEST:
        return f"it needs a GPU of compute capability {version(OLDEST)} or newer, and {device} has {version(found)}"
    return None


def capability(device: torch.device) -> int:
    """Compute capability of a CUDA device as compilers write it, 90 for 9.0; INTERPRETER for any other device. One number,
    since torch.compile cannot compare a constant pair in every version."""
    if device.type != "cuda":
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


capability._dynamo_marked_constant = True  # type: ignore[attr-defined]


def version(found: int) -> str:
    """90 as people write it."""
    return f"{found // 10}.{found % 10}"


def describe() -> str:
    """One line about the kernels for people: what they would run on, or why they cannot and what to do."""
    reason = missing()
    if reason is not None:
        return f"none: {reason}"
    from importlib.metadata import version as installed_version

    triton = f"Triton {installed_version('triton')}"
    if interpreted():
        return f"{triton}, interpreted on the CPU (TRITON_INTERPRET is set)"
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    found = [(torch.cuda.get_device_name(device), capability(device)) for device in devices]
    return f"{triton}, on " + ", ".join(
        f"{name} (compute {version(cap)}{'' if cap >= OLDEST else ', too old'})" for name, cap in found
    )


def upcast(dtype: torch.dtype) -> bool:
    """The constexpr UPCAST of every kernel with bfloat16 operands: the interpreter multiplies bfloat16 as bit patterns, so
    tiles are made float32 after the load there, rounded where the device rounds (`ops/triton.py`)."""
    return interpreted() and dtype == torch.bfloat16


def precision(dtype: torch.dtype) -> str:
    """`input_precision` of products: float32 stays float32, not TF32. Ignored for 16-bit operands."""
    return "ieee" if dtype == torch.float32 else "tf32"


def strides(x: Tensor, dims: int = 3) -> tuple[int, ...]:
    """The first strides of x, as kernel arguments."""
    return x.stride()[:dims]


def ceil_div(a: int, b: int) -> int:
    """How many tiles of b cover a."""
    return -(-a // b)


def power_of_two(n: int, smallest: int = 1) -> int:
    """The least power of two from n and from `smallest` up: tiles have no other sizes."""
    return max(smallest, 1 << max(n - 1, 0).bit_length())


@dataclass(frozen=True)
class Launch:
    """One call of a kernel."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]  # constexprs by name, num_warps, num_stages


_recorded: list[Launch] | None = None


def launch(kernel: Any, grid: int | tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run `kernel` over `grid` on the device of its first argument, a tensor. Constexprs, num_warps and num_stages go by name.

    An empty grid is no launch.
    """
    grid = (grid,) if isinstance(grid, int) else grid
    options = {"enable_fp_fusion": True, **options}  # the default differs between versions of Triton
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, args, options))
    elif 0 not in grid:
        if args[0].is_cuda:
            with torch.cuda.device(args[0].device):
                kernel[grid](*args, **options)
        else:
            kernel[grid](*args, **options)


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, **options: Any) -> Iterator[None]:
    """`torch.cuda.graph`, with a workspace of cuBLAS that belongs to the graph.

    PyTorch keeps one for each stream, from the first product on. A graph that holds its address would write to memory of
    others, or to none, once somebody lets go of it, as Lightning does at the end of every training. So there is none when the
    capture begins: it is taken from the graph's own memory, which lives as long as the graph.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        with torch.cuda.graph(graph, **options):
            yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside, launches are written down and not run, so that they can be compiled for GPUs that are not here: see
    `openxlstm.testing.ahead`."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def tuning() -> bool:
    """Whether to time tiles instead of taking the table's: OPENXLSTM_AUTOTUNE=1."""
    return os.environ.get("OPENXLSTM_AUTOTUNE", "0") == "1"


_fastest: dict[Hashable, Any] = {}


def choose(key: Hashable, candidates: Sequence[Config], run: Callable[[Config], None], device: torch.device) -> Config:
    """The first of `candidates`, or where tuning is on the fastest of those that `device` can run; found once for each `key`.

    `run` launches the kernel with one candidate. It must give the same results when repeated.
    """
    if not tuning() or _recorded is not None:
        return candidates[0]
    if key not in _fastest:
        times = [_seconds(functools.partial(run, candidate), device) for candidate in candidates]
        _fastest[key] = candidates[times.index(min(times))]
    return _fastest[key]


def _seconds(run: Callable[[], None], device: torch.device, repeats: int = 5) -> float:
    """The shortest of a few runs after one to compile; infinite for what does not fit the device."""
    from triton.runtime.errors import OutOfResources

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    try:
        run()
    except OutOfResources:
        return float("inf")
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)
