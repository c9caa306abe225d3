"""The loss in chunks is F.cross_entropy, gradients and rounding included, and never holds all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openxlstm.ops.cross_entropy import linear_cross_entropy
from openxlstm.ops.numerics import soft_cap
from openxlstm.testing import relative_error

N, D, V = 13, 6, 11


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, targets with some ignored, and weights of the tokens in the loss."""
    rng = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, D, generator=rng, dtype=torch.float64) for n in (N, V))
    targets = torch.randint(V, (N,), generator=rng)
    targets[[2, 7, 12]] = -100
    return hidden.to(dtype), weight.to(dtype), targets, torch.randn(N, generator=rng, dtype=torch.float64)


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> Tensor:
    return F.cross_entropy(soft_cap(hidden @ weight.T, cap), targets, reduction="none")


@pytest.mark.parametrize("at_once", [1, V, 3 * V + 1, 5 * V, 10**9])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_the_numbers_of_cross_entropy(cap: float | None, at_once: int) -> None:
    hidden, weight, targets, factors = inputs()
    leaves = [x.requires_grad_() for x in (hidden, weight)]
    expected = whole(hidden, weight, targets, cap)
    found = linear_cross_entropy(hidden, weight, targets, soft_cap=cap, logits_at_once=at_once)
    torch.testing.assert_close(found, expected)
    assert (found[targets == -100] == 0).all()
    for a, b in zip(*(torch.autograd.grad((y * factors).sum(), leaves) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_gradients_by_finite_differences(cap: float | None) -> None:
    hidden, weight, targets, _ = inputs()
    leaves = [x.requires_grad_() for x in (hidden, weight)]
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, soft_cap=cap, logits_at_once=3 * V), leaves
    )


def test_second_derivatives_are_refused() -> None:
    hidden, weight, targets, _ = inputs()
    leaves = [x.requires_grad_() for x in (hidden, weight)]
    (first,) = torch.autograd.grad(linear_cross_entropy(*leaves, targets).square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_large_logits_keep_their_digits() -> None:
    """Mean errors of float32 are those of F.cross_entropy: what is likely has small loss and gradient beside large logits."""
    rng = torch.Generator().manual_seed(0)
    hidden, weight = 2 * torch.randn(2000, 16, generator=rng), torch.randn(50, 16, generator=rng)
    targets = (hidden @ weight.T).argmax(1)

    def results(dtype: torch.dtype, in_chunks: bool) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
        nats = linear_cross_entropy(*leaves, targets, logits_at_once=200) if in_chunks else whole(*leaves, targets, None)
        return [nats.detach(), *torch.autograd.grad(nats.sum(), leaves)]

    found, plain, truth = results(torch.float32, True), results(torch.float32, False), results(torch.float64, False)
    for a, b, c in zip(found, plain, truth, strict=True):
        assert (a - c).abs().mean() <= 1.3 * (b - c).abs().mean()


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "autocast"])
def test_low_precision_is_no_worse_than_all_at_once(mode: str) -> None:
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    hidden, weight, targets, factors = inputs(dtype)
    results = {}
    for name in ("truth", "whole", "chunks"):
        leaves = [(x.double() if name == "truth" else x).detach().requires_grad_() for x in (hidden, weight)]
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast" and name != "truth"):
            if name == "chunks":
                nats = linear_cross_entropy(*leaves, targets, logits_at_once=4 * V)
            else:
                logits = F.linear(*leaves)
                nats = F.cross_entropy(logits if name == "truth" else logits.float(), targets, reduction="none")
        results[name] = [nats, *torch.autograd.grad((nats.double() * factors).sum(), leaves)]
    assert results["chunks"][0].dtype == torch.float32
    for plain, found, truth in zip(results["whole"], results["chunks"], results["truth"], strict=True):
        assert relative_error(found, truth) <= 2 * relative_error(plain, truth) + torch.finfo(dtype).eps


def test_inputs_are_left_alone_and_an_empty_batch_is_fine() -> None:
    hidden, weight, targets, _ = inputs()
    copies = [x.clone() for x in (hidden, weight, targets)]
    leaves = [x.requires_grad_() for x in (hidden, weight)]
    linear_cross_entropy(*leaves, targets, logits_at_once=2 * V).sum().backward()
    for x, copy in zip((hidden, weight, targets), copies, strict=True):
        assert torch.equal(x, copy)
    nothing = linear_cross_entropy(hidden[:0], weight, targets[:0])
    assert nothing.shape == (0,)
    assert torch.autograd.grad(nothing.sum(), weight)[0].count_nonzero() == 0


class Largest(TorchDispatchMode):
    """Remembers the largest result of any operation."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.numbers = max(self.numbers, *sizes) if sizes else self.numbers
        return result


def test_all_logits_never_exist_at_once() -> None:
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    targets = torch.randint(100, (64,))
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, targets, logits_at_once=800).sum().backward()
    assert largest.numbers == 800
