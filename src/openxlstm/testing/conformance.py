"""What every layer with a state owes its callers, as functions that raise AssertionError.

A layer is a module with `y, state = layer(x, state=None, *, reset=None, mask=None)`, x and y [B, T, dim]. The checks use
the dtype and device of its parameters; float64 is the strictest. They compare behaviour, never the numbers inside a
state, for a state may be kept in any scale.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.ops import state as states
from openxlstm.testing.compare import assert_close, assert_finite
from openxlstm.testing.inputs import PADDINGS, generator, random_mask, random_reset


def check_layer(layer: nn.Module, dim: int, *, seed: int = 0) -> None:
    """Run every check of this file on a copy of the layer with shaken parameters (zeros and ones hide mistakes)."""
    shaken = shake(layer, seed=seed)
    for check in CHECKS:
        check(shaken, dim, seed=seed)
    check_gradients(shaken, dim, seed=seed)
    check_extreme_gates(layer, dim, seed=seed)


def shake(layer: nn.Module, *, scale: float = 0.2, seed: int = 0) -> nn.Module:
    """A copy in eval mode, N(0, scale) added to every parameter."""
    layer, rng = copy.deepcopy(layer).eval(), generator(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_((scale * torch.randn(p.shape, generator=rng)).to(p))
    return layer


def check_cut_anywhere(layer: nn.Module, dim: int, *, batch: int = 2, length: int = 9, seed: int = 0) -> None:
    """Cutting a sequence, at every place and with the state handed over, changes nothing."""
    x, reset, mask = _inputs(layer, dim, batch, length, seed)
    for options in _option_sets(reset, mask):
        whole, _ = layer(x, **options)
        for cut in range(length + 1):
            first, state = layer(x[:, :cut], **_between(options, 0, cut))
            second, _ = layer(x[:, cut:], state, **_between(options, cut, length))
            out = torch.cat([first, second], 1)
            assert_close(f"sequence cut at {cut} of {length}", _valid(options, out), _valid(options, whole))


def check_step_equals_whole(layer: nn.Module, dim: int, *, batch: int = 2, length: int = 17, seed: int = 0) -> None:
    """One step at a time gives what the whole sequence gives."""
    x, reset, mask = _inputs(layer, dim, batch, length, seed)
    for options in _option_sets(reset, mask):
        whole, _ = layer(x, **options)
        state, steps = None, []
        for t in range(length):
            y, state = layer(x[:, t : t + 1], state, **_between(options, t, t + 1))
            steps.append(y)
        assert_close("single steps", _valid(options, torch.cat(steps, 1)), _valid(options, whole))


def check_batch_permutation(layer: nn.Module, dim: int, *, batch: int = 4, length: int = 9, seed: int = 0) -> None:
    """Rows do not know each other: permuting inputs and states permutes outputs."""
    x, reset, mask = _inputs(layer, dim, batch, length, seed)
    rows = torch.arange(batch, device=x.device).roll(1)  # no row stays where it was
    for options in _option_sets(reset, mask):
        _, state = layer(x, **options)
        y, _ = layer(x, state, **options)
        y_rows, _ = layer(x[rows], states.select(state, rows), **{name: value[rows] for name, value in options.items()})
        assert_close("permuted batch", y_rows, y[rows])


def check_mask_equals_unpadded(layer: nn.Module, dim: int, *, batch: int = 4, length: int = 11, seed: int = 0) -> None:
    """Padding on the left, on the right or inside is as if it were not there, whatever stands in it; rows of nothing but
    padding hand their state on; outputs at padded steps are finite."""
    x, _, _ = _inputs(layer, dim, batch, 3 * length, seed)
    before, x, after = x.split(length, 1)
    _, start = layer(before)
    for padding in PADDINGS:
        mask = random_mask(batch, length, padding, generator(seed)).to(x.device)
        mask[-1] = False
        padded = torch.where(mask[..., None], x, 1e3)
        for state in (None, start):
            y, end = layer(padded, state, mask=mask)
            assert_finite(f"output with {padding} padding", y)
            y_after, _ = layer(after, end)
            for row in range(batch):
                alone = None if state is None else states.select(state, [row])
                y_row, end_row = layer(x[row : row + 1, mask[row]], alone)
                assert_close(f"{padding} padding", y[row, mask[row]], y_row[0])
                assert_close(f"steps after {padding} padding", y_after[row : row + 1], layer(after[row : row + 1], end_row)[0])


def check_reset_equals_separate(layer: nn.Module, dim: int, *, batch: int = 3, length: int = 13, seed: int = 0) -> None:
    """Documents divided by resets are as if each had been run alone; a reset at a padded step still empties."""
    x, reset, mask = _inputs(layer, dim, batch, length, seed)
    _, start = layer(x)
    reset[0, 0] = True
    mask[0, 0] = False
    for options in (dict(reset=reset), dict(reset=reset, mask=mask)):
        y, end = layer(x, start, **options)
        y_after, _ = layer(x, end)
        for row in range(batch):
            valid = mask[row] if "mask" in options else torch.ones_like(mask[row])
            cuts = [0, *reset[row].nonzero().flatten().tolist(), length]
            state = states.select(start, [row])
            for number, (a, b) in enumerate(pairwise(cuts)):
                if number > 0:
                    state = None
                here = valid[a:b]
                expected, state = layer(x[row : row + 1, a:b][:, here], state)
                assert_close(f"document from {a} to {b}", y[row, a:b][here], expected[0])
            assert_close("steps after resets", y_after[row : row + 1], layer(x[row : row + 1], state)[0])


def check_inputs_untouched(layer: nn.Module, dim: int, *, batch: int = 2, length: int = 9, seed: int = 0) -> None:
    """Neither forward nor backward edits x, reset, mask or the state that was given."""
    x, reset, mask = _inputs(layer, dim, batch, length, seed)
    _, state = layer(x)
    state = _as_inputs(state)
    x = x.requires_grad_()
    given = [x, reset, mask, *states.leaves(state)]
    copies = [g.detach().clone() for g in given]
    y, _ = layer(x, state, reset=reset, mask=mask)
    y.sum().backward()
    layer.zero_grad()
    for one, other in zip(given, copies, strict=True):
        assert torch.equal(one, other), "an input was changed in place"


def check_state_gradients(layer: nn.Module, dim: int, *, batch: int = 2, length: int = 9, seed: int = 0) -> None:
    """Gradients flow through a state that is handed over exactly as through the uncut sequence, with documents and padding."""
    x, reset, mask = _inputs(layer, dim, batch, length, seed)
    weight = torch.randn(batch, length, dim, generator=generator(seed + 1)).to(x)
    for options in _option_sets(reset, mask):

        def whole_loss(x: Tensor, options: dict[str, Tensor] = options) -> Tensor:
            return (layer(x, **options)[0] * _valid(options, weight)).sum()

        expected = _gradients(layer, x, whole_loss)
        for cut in (1, length // 2, length - 1):

            def loss(x: Tensor, cut: int = cut, options: dict[str, Tensor] = options) -> Tensor:
                first, state = layer(x[:, :cut], **_between(options, 0, cut))
                second, _ = layer(x[:, cut:], state, **_between(options, cut, length))
                return (torch.cat([first, second], 1) * _valid(options, weight)).sum()

            for name, g in _gradients(layer, x, loss).items():
                assert_close(f"gradient of {name}, sequence cut at {cut}", g, expected[name])


def check_gradients(layer: nn.Module, dim: int, *, batch: int = 2, length: int = 5, seed: int = 0) -> None:
    """Gradients of the input, of a given state and of all parameters agree with finite differences, in float64."""
    layer = copy.deepcopy(layer).double()
    x, reset, mask = _inputs(layer, dim, batch, 2 * length, seed)
    before, x = x.split(length, 1)
    _, start = layer(before)
    wanted = [leaf.requires_grad for leaf in states.leaves(start)]
    start = _as_inputs(start)
    start_leaves = states.leaves(start)
    moving = [leaf for leaf, want in zip(start_leaves, wanted, strict=True) if want]
    names = [name for name, _ in layer.named_parameters()]
    for options in _option_sets(reset[:, length:], mask[:, length:]):

        def run(x: Tensor, *rest: Tensor, options: dict[str, Tensor] = options) -> Tensor:
            leaves = iter(rest[: len(moving)])
            chosen = [next(leaves) if want else leaf for leaf, want in zip(start_leaves, wanted, strict=True)]
            remaining = iter(chosen)
            state = states.map_state(lambda _: next(remaining), start)
            parameters = dict(zip(names, rest[len(moving) :], strict=True))
            cut = length // 2
            first, state = torch.func.functional_call(layer, parameters, (x[:, :cut], state), _between(options, 0, cut))
            second, _ = torch.func.functional_call(layer, parameters, (x[:, cut:], state), _between(options, cut, length))
            return torch.cat([first, second], 1)

        inputs = (x.requires_grad_(), *moving, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
        torch.autograd.gradcheck(run, inputs, fast_mode=True)


def check_extreme_gates(layer: nn.Module, dim: int, *, batch: int = 2, length: int = 65, seed: int = 0) -> None:
    """Outputs and gradients stay finite when parameters, and with them the gates, are absurdly large."""
    for scale in (1.0, 10.0, 100.0):
        wild = shake(layer, scale=scale, seed=seed)
        x, reset, mask = _inputs(wild, dim, batch, length, seed)
        for options in _option_sets(reset, mask):
            x = x.detach().requires_grad_()
            y, _ = wild(x, **options)
            assert_finite(f"output with parameters of size {scale}", y)

            def loss(x: Tensor, wild: nn.Module = wild, options: dict[str, Tensor] = options) -> Tensor:
                return _normalised(wild(x, **options)[0]).sum()

            for name, g in _gradients(wild, x, loss).items():
                assert_finite(f"gradient of {name} with parameters of size {scale}", g)


CHECKS: tuple[Callable[..., None], ...] = (
    check_cut_anywhere,
    check_step_equals_whole,
    check_batch_permutation,
    check_mask_equals_unpadded,
    check_reset_equals_separate,
    check_inputs_untouched,
    check_state_gradients,
)


def _inputs(layer: nn.Module, dim: int, B: int, T: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, reset and mask on the layer's device, x in its dtype."""
    like = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    rng = generator(seed)
    x = torch.randn(B, T, dim, generator=rng).to(like)
    mask = random_mask(B, T, "interior", rng).to(like.device)
    return x, random_reset(B, T, rng).to(like.device), mask


def _option_sets(reset: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], ...]:
    return {}, {"reset": reset, "mask": mask}


def _between(options: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {name: value[:, start:end] for name, value in options.items()}


def _valid(options: dict[str, Tensor], x: Tensor) -> Tensor:
    return x.masked_fill(~options["mask"][..., None], 0.0) if "mask" in options else x


def _as_inputs(state: Any) -> Any:
    """The state as leaves of a new graph, floating-point ones wanting a gradient."""
    return states.map_state(lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point()), state)


def _gradients(layer: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    wanted = {"x": x, **dict(layer.named_parameters())}
    found = torch.autograd.grad(loss(x), list(wanted.values()), allow_unused=True)
    return {name: g if g is not None else torch.zeros_like(w) for (name, w), g in zip(wanted.items(), found, strict=True)}


def _normalised(y: Tensor) -> Tensor:
    """A loss of ordinary size, so that what overflows is the layer's and not the caller's."""
    return y / y.detach().abs().amax().clamp(min=1.0)
