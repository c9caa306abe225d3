"""Every mLSTM backend against float64 autograd of the step recurrence."""

import itertools

import pytest
import torch
from recurrences import Masks, assert_equal_results, gradients, random_masks
from torch import Tensor

from openxlstm.ops import MLSTMState, mlstm_scan
from openxlstm.ops.mlstm.scan import BACKENDS
from openxlstm.ops.numerics import EMPTY_M

HERE = [b.name for b in BACKENDS if b.missing() is None and b.name != "triton"]  # which has tests/gpu
FAST = [name for name in HERE if name != "reference"]
DOUBLE = [name for name in FAST if name != "cpu"]  # the compiled kernel accumulates in float32
OPTIONS = [dict(input_gate=g, normalize=n) for g, n in itertools.product(("exp", "sigmoid"), (True, False))]
COMBINATIONS = [Masks(*flags) for flags in itertools.product((False, True), repeat=3)]
NAMES = ("q", "k", "v", "i_pre", "f_pre")


def best_dtype(backend: str) -> torch.dtype:
    return torch.float32 if backend == "cpu" else torch.float64


class Case:
    """Random inputs; a state as it is in the middle of a sequence; resets and padding at random places."""

    def __init__(self, B: int, T: int, H: int, K: int, V: int, use: Masks, dtype: torch.dtype = torch.float64) -> None:
        rng = torch.Generator().manual_seed(B * 1000 + T)
        randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
        self.inputs = [randn(B, T, H, K), randn(B, T, H, K), randn(B, T, H, V), 2 * randn(B, T, H), 1 + 2 * randn(B, T, H)]
        self.state = MLSTMState(randn(B, H, K, V), randn(B, H, K), randn(B, H)) if use.state else None
        self.masks = random_masks(B, T, use, rng)
        self.dtype = dtype

    def serving(self, backend: str) -> "Case":
        """This case in the widest dtype that the backend computes in."""
        self.dtype = best_dtype(backend)
        self.inputs = [x.to(self.dtype) for x in self.inputs]
        self.state = self.state and MLSTMState(*(x.to(self.dtype) for x in self.state))
        return self

    def run(self, **options: object) -> dict[str, Tensor]:
        """Outputs and all gradients; leaves are new each time, so that runs do not share a graph."""
        leaf = lambda x: x.to(self.dtype).detach().requires_grad_()  # noqa: E731
        sources = {name: leaf(x) for name, x in zip(NAMES, self.inputs, strict=True)}
        inputs = list(sources.values())
        state = None
        if self.state is not None:
            state = MLSTMState(*(leaf(x) for x in self.state))
            sources |= {"C0": state.C, "n0": state.n}
        h, last = mlstm_scan(*inputs, state, **self.masks, **options)  # type: ignore[arg-type]
        return {"h": h, **last._asdict()} | gradients([h, last.C, last.n], sources)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['input_gate']}-{'normalized' if o['normalize'] else 'raw'}")
@pytest.mark.parametrize("use", COMBINATIONS, ids=str)
def test_equals_step_recurrence(backend: str, options: dict, use: Masks) -> None:
    """float64: what differs is rounding, so 1e-9 of the largest entry; shapes are odd on purpose."""
    for *shape, chunk_size in [(2, 37, 2, 3, 5, 8), (1, 64, 3, 4, 4, 16), (3, 5, 1, 2, 7, None), (1, 100, 1, 3, 2, None)]:
        case = Case(*shape, use)
        if backend in DOUBLE:
            truth = case.run(**options, backend="reference")
            assert_equal_results(case.run(**options, chunk_size=chunk_size, backend=backend), truth, 1e-9)
        else:
            assert_as_exact_as_the_loop(case, backend, chunk_size=chunk_size, **options)


def assert_as_exact_as_the_loop(case: Case, backend: str, **options: object) -> None:
    """In float32 at most twice as wrong as the float32 loop, plus 1e-4 of the largest entry: sums are taken in another order,
    and where n q nearly cancels (the largest entries are such) that shows."""
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
        assert error <= 2 * base + 1e-4 * scale, f"{name}: {error:.2e} against {base:.2e} for the loop, size {scale:.2e}"


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("use", COMBINATIONS, ids=str)
@pytest.mark.parametrize("T", [1, 17, 63, 100, 130])
def test_float32_is_as_exact_as_the_loop(backend: str, use: Masks, T: int) -> None:
    for B, H, K, V in [(3, 2, 24, 40), (1, 1, 1, 5), (1, 1, 40, 1)]:
        assert_as_exact_as_the_loop(Case(B, T, H, K, V, use), backend)


@pytest.mark.parametrize(("backend", "dtype"), [*((b, torch.bfloat16) for b in FAST), *((b, torch.float16) for b in DOUBLE)])
def test_low_precision_inputs(backend: str, dtype: torch.dtype) -> None:
    """Inputs are rounded once and h is rounded once; everything between is float32."""
    case = Case(2, 70, 2, 8, 8, Masks(True, False, False))
    case.inputs = [x.to(dtype).double() for x in case.inputs]
    truth = case.run(backend="reference")
    inputs = [x.to(dtype) for x in case.inputs]
    h, state = mlstm_scan(*inputs, MLSTMState(*(x.float() for x in case.state)), backend=backend)
    assert h.dtype == dtype
    assert state.C.dtype == torch.float32
    assert (h.double() - truth["h"]).abs().max() <= torch.finfo(dtype).eps * truth["h"].abs().max()
    assert (state.C.double() - truth["C"]).abs().max() <= 1e-5 * truth["C"].abs().max()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("i_pre", [-200.0, -100.0, 0.0, 100.0])
@pytest.mark.parametrize("f_pre", [-1e4, -100.0, -30.0, 40.0, 100.0])
def test_extreme_gates(backend: str, i_pre: float, f_pre: float) -> None:
    """Everything stays finite and is as exact as the loop, with all gates at one extreme but a few in the middle of the
    sequence."""
    case = Case(1, 130, 2, 4, 4, Masks(False, False, False))
    case.inputs[3] = torch.full_like(case.inputs[3], i_pre)
    case.inputs[4] = torch.full_like(case.inputs[4], f_pre)
    case.inputs[3][:, 60:65], case.inputs[4][:, 62:66] = 3.0, 1.0
    assert_as_exact_as_the_loop(case, backend)


@pytest.mark.parametrize("backend", DOUBLE)
def test_finite_differences(backend: str) -> None:
    """The reference is autograd too; this checks both against the function values themselves."""
    case = Case(1, 9, 2, 2, 3, Masks(True, True, True))
    leaves = [x.detach().requires_grad_() for x in (*case.inputs, case.state.C, case.state.n)]

    def outputs(*x: Tensor) -> Tensor:
        return mlstm_scan(*x[:5], MLSTMState(x[5], x[6], case.state.m), **case.masks, chunk_size=4, eps=0.0, backend=backend)[0]

    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize("backend", HERE)
class TestContract:
    def test_scale_of_the_state_is_free(self, backend: str) -> None:
        """Moving m by c and C, n by exp(-c) is the same state (eps = 0: it alone sees the scale)."""
        case = Case(2, 20, 2, 3, 4, Masks(True, False, False)).serving(backend)
        C, n, m = case.state
        moved = MLSTMState(C * torch.exp(torch.tensor(-2.5)), n * torch.exp(torch.tensor(-2.5)), m + 2.5)
        expected, _ = mlstm_scan(*case.inputs, case.state, eps=0.0, backend=backend)
        h, _ = mlstm_scan(*case.inputs, moved, eps=0.0, backend=backend)
        tolerance = 1e-6 if case.dtype == torch.float64 else 2e-5  # exp(-2.5) above is float32
        torch.testing.assert_close(h, expected, rtol=tolerance, atol=1e-3 * tolerance)

    def test_inputs_untouched_and_any_strides(self, backend: str) -> None:
        case = Case(2, 20, 2, 3, 4, Masks(True, True, True)).serving(backend)
        strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.inputs]
        before = [x.clone() for x in (*strided, *case.state)]
        h, _ = mlstm_scan(*strided, case.state, **case.masks, backend=backend)
        torch.testing.assert_close(h, mlstm_scan(*case.inputs, case.state, **case.masks, backend=backend)[0])
        assert all(torch.equal(x, y) for x, y in zip((*strided, *case.state), before, strict=True))

    def test_what_stands_in_padding_does_not_matter(self, backend: str) -> None:
        case = Case(2, 20, 2, 3, 4, Masks(True, True, True)).serving(backend)
        expected = case.run(backend=backend)
        case.inputs = [x.masked_fill(~case.masks["mask"].view(2, 20, *[1] * (x.dim() - 2)), torch.nan) for x in case.inputs]
        assert_equal_results(case.run(backend=backend), expected, 0.0)

    def test_no_steps(self, backend: str) -> None:
        case = Case(2, 0, 2, 3, 4, Masks(True, False, False)).serving(backend)
        h, state = mlstm_scan(*case.inputs, case.state, backend=backend)
        assert h.shape == (2, 0, 2, 4)
        assert all(torch.equal(x, y) for x, y in zip(state, case.state, strict=True))

    def test_all_padding_leaves_the_empty_state(self, backend: str) -> None:
        case = Case(2, 7, 2, 3, 4, Masks(False, False, False)).serving(backend)
        h, state = mlstm_scan(*case.inputs, mask=torch.zeros(2, 7, dtype=torch.bool), chunk_size=3, backend=backend)
        assert not h.any()
        assert not state.C.any()
        assert (state.m == EMPTY_M).all()

    def test_wrong_input_is_named(self, backend: str) -> None:
        case = Case(2, 7, 2, 3, 4, Masks(False, False, False)).serving(backend)
        q, k, v, i_pre, f_pre = case.inputs
        with pytest.raises(ValueError, match=r"k must have shape \[2, 7, 2, 3\], got \[2, 6, 2, 3\]"):
            mlstm_scan(q, k[:, 1:], v, i_pre, f_pre, backend=backend)
        with pytest.raises(ValueError, match="input_gate must be one of exp, sigmoid"):
            mlstm_scan(*case.inputs, input_gate="relu", backend=backend)
        with pytest.raises(ValueError, match="mask must be bool"):
            mlstm_scan(*case.inputs, mask=torch.ones(2, 7), backend=backend)


def test_unknown_backend_is_named() -> None:
    case = Case(1, 3, 1, 2, 2, Masks(False, False, False))
    with pytest.raises(ValueError, match="no backend 'cuda'; have 'cpu', 'triton', 'torch', 'reference' and 'auto'"):
        mlstm_scan(*case.inputs, backend="cuda")


@pytest.mark.parametrize("backend", FAST)
def test_autocast_does_not_reach_inside(backend: str) -> None:
    """With bfloat16 matrix products the state would be wrong in the third digit."""
    case = Case(2, 70, 2, 8, 8, Masks(True, False, False), dtype=torch.float32)
    expected = case.run(backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_results(case.run(backend=backend), {name: x.double() for name, x in expected.items()}, 1e-6)
