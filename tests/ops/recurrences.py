"""Random inputs and the comparison that the tests of both recurrences share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """Which of the optional inputs a case has."""

    state: bool
    reset: bool
    mask: bool


def random_masks(B: int, T: int, use: Masks, rng: torch.Generator) -> dict[str, Tensor]:
    """`reset` at about every seventh step, `mask` off at about every third, independent of each other."""
    masks = {}
    if use.reset:
        masks["reset"] = torch.rand(B, T, generator=rng) < 0.15
    if use.mask:
        masks["mask"] = torch.rand(B, T, generator=rng) < 0.7
    return masks


def gradients(outputs: Sequence[Tensor], sources: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a loss that sees every output through random weights, as `d<name>`."""
    rng = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=rng, dtype=torch.float64)).sum() for x in outputs)
    grads = torch.autograd.grad(loss, list(sources.values()), materialize_grads=True)
    return {f"d{name}": g for name, g in zip(sources, grads, strict=True)}


def assert_equal_results(ours: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor within `tolerance` of the largest entry of its truth, and finite. Gradients are sums of terms of size 1 that
    may cancel, so a truth that is 0.01 or less everywhere counts as 0.01."""
    for name, expected in truth.items():
        if not expected.numel():
            continue
        assert torch.isfinite(ours[name]).all(), f"{name} is not finite"
        scale = expected.abs().max().item() if name != "m" else 1.0
        error = (ours[name].double() - expected).abs().max().item()
        assert error <= tolerance * max(scale, 1e-2), f"{name}: error {error:.2e} at size {scale:.2e}"
