"""Comparisons that say what they found."""

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference, relative to the largest value, that rounding explains in a few hundred steps."""


def relative_error(out: Tensor, truth: Tensor) -> float:
    """max |out - truth| / max |truth|, in float64; 0 for empty tensors, inf when `out` has a NaN."""
    if out.shape != truth.shape:
        raise AssertionError(f"shape {list(out.shape)} instead of {list(truth.shape)}")
    if truth.numel() == 0:
        return 0.0
    out, truth = out.detach().double(), truth.detach().double()
    error = (out - truth).abs().max().item()
    if error != error:
        return float("inf")
    scale = truth.abs().max().item()
    return error / scale if scale > 0 else error


def assert_close(what: str, out: Tensor, truth: Tensor, tolerance: float | None = None) -> None:
    """`out` equals `truth` up to `tolerance` (default by the dtype of `out`), relative to the largest value."""
    limit = TOLERANCE[out.dtype] if tolerance is None else tolerance
    error = relative_error(out, truth)
    assert error <= limit, f"{what}: relative error {error:.2e}, allowed {limit:.0e}"


def assert_no_worse(
    out: Tensor, plain: Tensor, truth: Tensor, *, slack: float = 2.0, floor: float = 1e-6, what: str = ""
) -> None:
    """`out` may be at most `slack` times as wrong as plain code in the same dtype; truth is fp64. `floor` is relative."""
    error, base = relative_error(out, truth), relative_error(plain, truth)
    assert error <= slack * base + floor, f"{what or 'result'}: error {error:.2e}, plain code in the same dtype {base:.2e}"


def assert_finite(what: str, x: Tensor) -> None:
    """No NaN, no infinity."""
    assert bool(torch.isfinite(x).all()), f"{what}: not finite ({x.isnan().sum()} NaN, {x.isinf().sum()} inf of {x.numel()})"
