"""The compiled CPU kernels (csrc/): finds, loads and describes their library.

It is compiled once for each instruction set; the widest that this processor has is loaded at the first use. Tensors cross as
addresses and strides through ctypes, which releases the GIL, so two models may run in two threads.
"""

import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ABI = 1  # of csrc/library.cpp
VARIANTS = ("avx512", "avx2", "baseline")
"""Instruction sets, widest first."""

_forced: list[str] = []
_forked = False


class View(ctypes.Structure):
    """A tensor read or written in place, whatever its strides: the mirror of `View` in csrc/library.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("time", ctypes.c_int64),
        ("gate", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("bf16", ctypes.c_int32),
    )


def view(x: Tensor) -> View:
    """x [B, T, H, width] or [B, T, G, H, width] with a contiguous last dimension, or [B, T, H]. float32 or bfloat16."""
    s = x.stride()
    gate, head = (s[2], s[3]) if x.dim() == 5 else (0, s[2])
    return View(x.data_ptr(), s[0], s[1], gate, head, x.dtype == torch.bfloat16)


def at(x: Tensor) -> Any:
    """A pointer to the view of x [B, T, ...]."""
    return ctypes.byref(view(x))


def rows(x: Tensor) -> Tensor:
    """x itself if its last dimension is contiguous, else a copy in which it is."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    """All of them contiguous; None stays None."""
    return tuple(None if x is None else x.contiguous() for x in tensors)


def address(x: Tensor | None) -> ctypes.c_void_p:
    """Where the numbers of a contiguous tensor are; None becomes a null pointer."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def unknown(*tensors: Tensor) -> str | None:
    """Why the kernels beside the cells cannot read one of these, or None: they know CPUs, float32 and bfloat16."""
    for x in tensors:
        if x.device.type != "cpu":
            return f"the compiled kernels run on CPUs, the input is on {x.device}"
        if x.dtype not in (torch.float32, torch.bfloat16):
            return f"the compiled kernels know float32 and bfloat16, not {x.dtype}"
    return None


HUGE = 4 << 20  # bytes from which a new tensor asks for huge pages


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A new tensor for a kernel to fill. Large ones ask for huge pages: without them, taking the memory of the output page by
    page takes a third of the time of a long mLSTM."""
    x = like.new_empty(shape, dtype=dtype)
    if type(x) is Tensor and x.nbytes >= HUGE:
        library().openxlstm_huge_pages(address(x), ctypes.c_int64(x.nbytes))
    return x


def missing() -> str | None:
    """Why there are no compiled kernels here, or None."""
    return _load(variant())[1]


# To torch.compile the answer is a constant. This is what torch.compiler.assume_constant_result sets, which would import the
# whole compiler with this package.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def library() -> ctypes.CDLL:
    """The library. Raises RuntimeError where `missing` has a reason."""
    found, reason = _load(variant())
    if found is None:
        raise RuntimeError(reason)
    return found


def vector_width() -> int:
    """Floats in a vector of the library that is used here."""
    return library().openxlstm_vector_width()


vector_width._dynamo_marked_constant = True  # type: ignore[attr-defined]


def variant() -> str:
    """The instruction set that is used here: one of VARIANTS."""
    if _forced:
        return _forced[-1]
    return runnable()[0]


@functools.cache
def runnable() -> tuple[str, ...]:
    """Those of VARIANTS that this processor can run and that were compiled, widest first; all that it can run where none was.
    torch knows the processor already."""
    names: tuple[str, ...] = ("baseline",)
    if platform.machine().lower() in ("x86_64", "amd64"):
        names = VARIANTS[{"AVX512": 0, "AVX2": 1}.get(torch.backends.cpu.get_cpu_capability(), 2) :]
    return tuple(name for name in names if _path(name).exists()) or names


@contextmanager
def using(name: str) -> Iterator[None]:
    """Use another instruction set for a while: for tests and measurements. Raises ValueError for one that cannot run here."""
    if name not in runnable():
        raise ValueError(f"this processor runs {', '.join(runnable())}, not {name!r}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def threads() -> int:
    """How many threads a kernel may use: torch's number. After a fork one: the parent's OpenMP threads did not come along."""
    return 1 if _forked else torch.get_num_threads()


def describe() -> str:
    """One line about the library for people."""
    reason = missing()
    if reason is not None:
        return reason
    found = library()
    how = "OpenMP" if found.openxlstm_parallel() else "one thread, compiled without OpenMP"
    return f"{variant()}, vectors of {vector_width()} floats, {how}"


@functools.cache
def _load(name: str) -> tuple[ctypes.CDLL | None, str | None]:
    path = _path(name)
    if not path.exists():
        return None, "the kernels were not compiled when openxlstm was installed (it needs g++ or clang++; then reinstall)"
    try:
        found = ctypes.CDLL(str(path))  # torch is loaded by now, so its copy of OpenMP is the one that is used
        abi = found.openxlstm_abi()
    except (OSError, AttributeError) as error:
        return None, f"{path.name} cannot be loaded: {error}"
    if abi != ABI:
        return None, f"{path.name} was compiled from another version (ABI {abi}, not {ABI}); reinstall openxlstm"
    return found, None


def _path(name: str) -> Path:
    return Path(__file__).with_name(f"_cpu_{name}.so")


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
