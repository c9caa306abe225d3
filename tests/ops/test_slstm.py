"""Every sLSTM backend against float64 autograd of the step recurrence."""

import itertools

import pytest
import torch
from recurrences import Masks, assert_equal_results, gradients, random_masks
from torch import Tensor

from openxlstm.ops import SLSTMState, slstm_scan
from openxlstm.ops.numerics import EMPTY_M
from openxlstm.ops.slstm.scan import BACKENDS

HERE = [b.name for b in BACKENDS if b.missing() is None and b.name != "triton"]  # which has tests/gpu
FAST = [name for name in HERE if name != "reference"]
DOUBLE = [name for name in FAST if name != "cpu"]  # the compiled kernel computes in float32
COMBINATIONS = [Masks(*flags) for flags in itertools.product((False, True), repeat=3)]


class Case:
    """Random gates, R and b; a state as it is in the middle of a sequence; resets and padding at random places."""

    def __init__(self, B: int, T: int, H: int, D: int, use: Masks, dtype: torch.dtype = torch.float64) -> None:
        rng = torch.Generator().manual_seed(B * 1000 + T)
        self.gates = 1.5 * torch.randn(B, T, 4, H, D, generator=rng, dtype=torch.float64)
        self.R = torch.randn(H, D, 4, D, generator=rng, dtype=torch.float64) / D**0.5
        self.b = torch.randn(4, H, D, generator=rng, dtype=torch.float64)
        self.state = None
        if use.state:
            h, c, n, m = torch.randn(4, B, H, D, generator=rng, dtype=torch.float64)
            self.state = SLSTMState(h, c, 1 + n.abs(), m)
        self.masks = random_masks(B, T, use, rng)
        self.dtype = dtype

    def serving(self, backend: str) -> "Case":
        """This case in the widest dtype that the backend computes in."""
        self.dtype = torch.float32 if backend == "cpu" else torch.float64
        self.gates, self.R, self.b = (x.to(self.dtype) for x in (self.gates, self.R, self.b))
        self.state = self.state and SLSTMState(*(x.to(self.dtype) for x in self.state))
        return self

    def run(self, **options: object) -> dict[str, Tensor]:
        """Outputs and all gradients; leaves are new each time, so that runs do not share a graph."""
        leaf = lambda x: x.to(self.dtype).detach().requires_grad_()  # noqa: E731
        sources = {"gates": leaf(self.gates), "R": leaf(self.R), "b": leaf(self.b)}
        state = None
        if self.state is not None:
            state = SLSTMState(*(leaf(x) for x in self.state))
            sources |= {"h0": state.h, "c0": state.c, "n0": state.n}
        h, last = slstm_scan(sources["gates"], sources["R"], sources["b"], state, **self.masks, **options)  # type: ignore[arg-type]
        return {"y": h, **last._asdict()} | gradients([h, last.h, last.c, last.n], sources)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize("use", COMBINATIONS, ids=str)
def test_equals_step_recurrence(backend: str, forget_gate: str, use: Masks) -> None:
    """float64: what differs is rounding, so 1e-9 of the largest entry; shapes are odd on purpose."""
    for shape in [(2, 37, 2, 3), (1, 17, 3, 1), (3, 5, 1, 7)]:
        case = Case(*shape, use)
        if backend in DOUBLE:
            truth = case.run(forget_gate=forget_gate, backend="reference")
            assert_equal_results(case.run(forget_gate=forget_gate, backend=backend), truth, 1e-9)
        else:
            assert_as_exact_as_the_loop(case, backend, forget_gate=forget_gate)


def assert_as_exact_as_the_loop(case: Case, backend: str, **options: object) -> None:
    """In float32 at most twice as wrong as the float32 loop, plus 2e-5 of the largest entry for sums taken in another order."""
    case.dtype = torch.float64
    truth = case.run(**options, backend="reference")
    case.dtype = torch.float32
    ours, loop = case.run(**options, backend=backend), case.run(**options, backend="reference")
    for name, expected in truth.items():
        if not expected.numel():
            continue
        assert torch.isfinite(ours[name]).all(), f"{name} is not finite"
        scale = max(expected.abs().max().item(), 1e-2)  # terms of size 1 may cancel (see assert_equal_results)
        error, base = ((x[name].double() - expected).abs().max().item() for x in (ours, loop))
        assert error <= 2 * base + 2e-5 * scale, f"{name}: {error:.2e} against {base:.2e} for the loop, size {scale:.2e}"


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("use", COMBINATIONS, ids=str)
@pytest.mark.parametrize("T", [1, 17, 63, 100])
def test_float32_is_as_exact_as_the_loop(backend: str, use: Masks, T: int) -> None:
    for B, H, D in [(3, 2, 24), (1, 1, 1), (9, 1, 40)]:
        assert_as_exact_as_the_loop(Case(B, T, H, D, use), backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize(("i_pre", "f_pre"), list(itertools.product([-200.0, -100.0, 0.0, 100.0], [-1e4, -100.0, -30.0, 40.0])))
def test_extreme_gates(backend: str, forget_gate: str, i_pre: float, f_pre: float) -> None:
    """Everything stays finite and equals float64, with all gates at one extreme but a few in the middle of the sequence."""
    case = Case(1, 60, 2, 4, Masks(False, False, False))
    case.gates[:, :, 0], case.gates[:, :, 1] = i_pre, f_pre
    case.gates[:, 30:35, 0], case.gates[:, 32:36, 1] = 3.0, 1.0
    truth = case.run(forget_gate=forget_gate, backend="reference")
    case.dtype = torch.float32
    assert_equal_results(case.run(forget_gate=forget_gate, backend=backend), truth, 2e-3)  # m reaches 6e5 and is rounded


@pytest.mark.parametrize("backend", DOUBLE)
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_finite_differences(backend: str, forget_gate: str) -> None:
    """The reference is autograd too; this checks both against the function values themselves."""
    case = Case(2, 7, 2, 2, Masks(True, True, True))
    leaves = [x.detach().requires_grad_() for x in (case.gates, case.R, case.b, case.state.h, case.state.c, case.state.n)]

    def outputs(*x: Tensor) -> Tensor:
        return slstm_scan(*x[:3], SLSTMState(*x[3:], case.state.m), **case.masks, forget_gate=forget_gate, backend=backend)[0]

    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize("backend", HERE)
class TestContract:
    def test_scale_of_the_state_is_free(self, backend: str) -> None:
        """Moving m by s and c, n by exp(-s) is the same state."""
        case = Case(2, 20, 2, 3, Masks(True, False, False)).serving(backend)
        h, c, n, m = case.state
        factor = torch.exp(torch.tensor(-2.5, dtype=case.dtype))
        expected, _ = slstm_scan(case.gates, case.R, case.b, case.state, backend=backend)
        y, _ = slstm_scan(case.gates, case.R, case.b, SLSTMState(h, c * factor, n * factor, m + 2.5), backend=backend)
        torch.testing.assert_close(y, expected)

    def test_inputs_untouched_and_any_strides(self, backend: str) -> None:
        case = Case(2, 20, 2, 3, Masks(True, True, True)).serving(backend)
        strided = case.gates.transpose(1, 3).contiguous().transpose(1, 3)
        before = [x.clone() for x in (strided, case.R, case.b, *case.state)]
        y, _ = slstm_scan(strided, case.R, case.b, case.state, **case.masks, backend=backend)
        torch.testing.assert_close(y, slstm_scan(case.gates, case.R, case.b, case.state, **case.masks, backend=backend)[0])
        assert all(torch.equal(x, y) for x, y in zip((strided, case.R, case.b, *case.state), before, strict=True))

    def test_what_stands_in_padding_does_not_matter(self, backend: str) -> None:
        case = Case(2, 20, 2, 3, Masks(True, True, True)).serving(backend)
        expected = case.run(backend=backend)
        case.gates = case.gates.masked_fill(~case.masks["mask"][:, :, None, None, None], torch.nan)
        assert_equal_results(case.run(backend=backend), expected, 0.0)

    def test_no_steps(self, backend: str) -> None:
        case = Case(2, 0, 2, 3, Masks(True, False, False)).serving(backend)
        y, state = slstm_scan(case.gates, case.R, case.b, case.state, backend=backend)
        assert y.shape == (2, 0, 2, 3)
        assert all(torch.equal(x, y) for x, y in zip(state, case.state, strict=True))

    def test_all_padding_leaves_the_empty_state(self, backend: str) -> None:
        case = Case(2, 7, 2, 3, Masks(False, False, False)).serving(backend)
        y, state = slstm_scan(case.gates, case.R, case.b, mask=torch.zeros(2, 7, dtype=torch.bool), backend=backend)
        assert not y.any()
        assert not state.n.any()
        assert (state.m == EMPTY_M).all()

    def test_wrong_input_is_named(self, backend: str) -> None:
        case = Case(2, 7, 2, 3, Masks(False, False, False)).serving(backend)
        with pytest.raises(ValueError, match=r"R must have shape \[2, 3, 4, 3\], got \[2, 3, 3, 4\]"):
            slstm_scan(case.gates, case.R.transpose(2, 3), case.b, backend=backend)
        with pytest.raises(ValueError, match="forget_gate must be one of exp, sigmoid"):
            slstm_scan(case.gates, case.R, case.b, forget_gate="relu", backend=backend)
