"""Settings of the whole process: its threads, and what makes training on CPUs faster and is not ours to choose."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**31 - 1  # mallopt takes an int
TOLERANCE = 1e-5
"""Largest relative error of a float32 product. float32 itself is at 1e-6 here, bfloat16 at 3e-3."""


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """While this lasts, torch and the compiled kernels use so many threads; 0 = as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tune_cpu() -> dict[str, str]:
    """Keep freed memory, and let oneDNN do float32 products where they stay float32 products. Returns what was set.

    allocator: glibc hands large tensors back to the system when they are freed, and every page of the next one is cleared and
    mapped again at its first use. With higher thresholds it keeps them; the process stays as large as it ever was.
    matmul: `torch.set_float32_matmul_precision("medium")` sends products to oneDNN, which is faster than the default library
    on AMD processors. torch allows it to compute in bfloat16, which processors with AMX do; so a product is tried and the
    setting taken back where it lost precision.
    """
    return {"allocator": keep_freed_memory(), "matmul": faster_products()}


def keep_freed_memory() -> str:
    """What was done about the allocator."""
    if not sys.platform.startswith("linux"):
        return "left alone: not glibc"
    try:
        libc = ctypes.CDLL("libc.so.6")
        done = libc.mallopt(M_MMAP_THRESHOLD, 2**30) and libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
    except (OSError, AttributeError):
        return "left alone: not glibc"
    return "keeps freed memory" if done else "left alone: mallopt refused"


def faster_products() -> str:
    """What was done about float32 matrix products."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        return f"left at {before}, which was chosen before"
    torch.set_float32_matmul_precision("medium")
    error = product_error()
    if not error <= TOLERANCE:
        torch.set_float32_matmul_precision(before)
        return f"left at {before}: 'medium' is off by {error:.0e} on this processor"
    return "medium"


def product_error() -> float:
    """Largest error of a float32 product over its largest number."""
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=rng) for _ in range(2))
    truth = a.double() @ b.double()
    return float(((a @ b).double() - truth).abs().max() / truth.abs().max())
