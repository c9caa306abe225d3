"""The custom operators are what torch.compile takes them for: shapes, strides and dtypes of their outputs, no aliases, nothing
mutated; and the recurrences around them compile whole, with and without gradients, to the same numbers."""

import pytest
import torch
from recurrences import Masks, random_masks
from torch import Tensor

from openxlstm.ops import lstm_scan, mlstm_scan, native, slstm_scan
from openxlstm.ops.state import leaves

OPS = torch.ops.openxlstm
PLAIN, MASKED = Masks(False, False, False), Masks(False, True, True)


@pytest.fixture(autouse=True)
def _compile_anew() -> None:
    torch._dynamo.reset()


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def check(operator: object, *args: object) -> None:
    torch.library.opcheck(operator, args)


def check_gradients(operator: object, *args: object) -> None:
    """`check` again with inputs that want a gradient, which torch.compile's way to it must give as eager code does."""
    check(operator, *(x.detach().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(("B", "T", "H", "L"), [(2, 11, 3, 4), (2, 8, 1, 4), (1, 2, 1, 2), (70, 8, 1, 3)], ids=str)
def test_mlstm_chunkwise(B: int, T: int, H: int, L: int, resets: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    K, V = 2, 3
    state_dtype = torch.promote_types(dtype, torch.float32)
    q, k = (randn(B, H, T, K, dtype=dtype).transpose(1, 2) for _ in range(2))
    v, log_i, log_f = randn(B, T, H, V, dtype=dtype), *(randn(B, T, H, dtype=state_dtype) for _ in range(2))
    state = tuple(randn(B, H, *shape, dtype=state_dtype) for shape in ((K, V), (K,), ()))
    reset = torch.rand(B, T) < 0.3 if resets else None
    arguments = (q, k, v, log_i, -log_f.square(), *state, reset, True, 1e-6, L)
    check(OPS.mlstm_chunkwise.default, *arguments, False)
    check_gradients(OPS.mlstm_chunkwise.default, *arguments, True)
    h, C, n, _, saved = OPS.mlstm_chunkwise(*arguments, True)
    for dC in (None, torch.ones_like(C)):
        check(OPS.mlstm_chunkwise_backward.default, torch.ones_like(h), dC, None, q, k, v, h, C, n, reset, saved, True, 1e-6, L)


@pytest.mark.skipif(native.missing() is not None, reason="the kernels were not compiled here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("use", [PLAIN, MASKED], ids=str)
@pytest.mark.parametrize(("B", "T", "H", "L"), [(2, 11, 3, 4), (1, 1, 1, 1)], ids=str)
def test_mlstm_cpu(B: int, T: int, H: int, L: int, use: Masks, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    K, V = 2, 3
    q, k = (randn(B, H, T, K, dtype=dtype).transpose(1, 2) for _ in range(2))
    v, *gates = randn(B, T, H, V, dtype=dtype), *(randn(B, T, H, dtype=torch.float32) for _ in range(2))
    state = [randn(B, H, *shape, dtype=torch.float32) for shape in ((K, V), (K,), ())]
    masks = random_masks(B, T, use, torch.default_generator)
    borders, options = (masks.get("reset"), masks.get("mask")), (True, False, 1e-6, L)
    check(OPS.mlstm_cpu.default, q, k, v, *gates, *state, *borders, *options, False)
    h, C, n, _, *saved = OPS.mlstm_cpu(q, k, v, *gates, *state, *borders, *options, True)
    for dC in (None, torch.ones_like(C)):
        arguments = (torch.ones_like(h), dC, None, q, k, v, *gates, *borders, C, n, *saved, *options)
        check(OPS.mlstm_cpu_backward.default, *arguments)
    if dtype == torch.float32:  # opcheck compares gradients to more digits than bfloat16 has
        check_gradients(OPS.mlstm_cpu.default, q, k, v, *gates, *state, *borders, *options, True)


@pytest.mark.parametrize("use", [PLAIN, MASKED], ids=str)
@pytest.mark.parametrize(("B", "T", "H"), [(2, 5, 3), (1, 2, 1)], ids=str)
def test_slstm_steps(B: int, T: int, H: int, use: Masks) -> None:
    torch.manual_seed(0)
    D = 3
    gates, R, b = randn(B, H, 4, T, D).permute(0, 3, 2, 1, 4), randn(H, D, 4, D), randn(4, H, D)
    h0, c0, n0, m0 = (randn(B, H, D).abs() for _ in range(4))
    masks = random_masks(B, T, use, torch.default_generator)
    reset, mask = masks.get("reset"), masks.get("mask")
    arguments = (gates, R, b, h0, c0, n0, m0, reset, mask, True)
    check(OPS.slstm_steps.default, *arguments, False)
    check_gradients(OPS.slstm_steps.default, *arguments, True)
    hs, _, c, _, _, saved = OPS.slstm_steps(*arguments, True)
    for dhs, dc in ((torch.ones_like(hs), None), (None, torch.ones_like(c))):
        check(OPS.slstm_steps_backward.default, dhs, None, dc, None, R, h0, hs, reset, mask, saved, True)


@pytest.mark.skipif(native.missing() is not None, reason="the kernels were not compiled here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("use", [PLAIN, MASKED], ids=str)
@pytest.mark.parametrize(("B", "T", "H"), [(2, 5, 3), (1, 1, 1)], ids=str)
def test_slstm_cpu(B: int, T: int, H: int, use: Masks, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    D, single = 3, torch.float32
    gates, R, b = randn(B, T, 4, H, D, dtype=dtype), randn(H, D, 4, D, dtype=single), randn(4, H, D, dtype=single)
    h0, c0, n0, m0 = (randn(B, H, D, dtype=single).abs() for _ in range(4))
    masks = random_masks(B, T, use, torch.default_generator)
    reset, mask = masks.get("reset"), masks.get("mask")
    arguments = (gates, R, b, h0, c0, n0, m0, reset, mask, True)
    check(OPS.slstm_cpu.default, *arguments, False)
    h, last, saved = OPS.slstm_cpu(*arguments, True)
    for dh, d_last in ((torch.ones_like(h), None), (None, torch.ones_like(last))):
        check(OPS.slstm_cpu_backward.default, dh, d_last, last, R, h0, c0, n0, reset, mask, saved, dtype == torch.bfloat16)
    if dtype == single:
        check_gradients(OPS.slstm_cpu.default, *arguments, True)


@pytest.mark.parametrize("use", [PLAIN, MASKED], ids=str)
def test_lstm_steps(use: Masks) -> None:
    torch.manual_seed(0)
    T, H, B, D = 5, 2, 2, 3
    pre = randn(T, H, 4 * D, 3).transpose(2, 3)[:, :, :B]  # not contiguous
    R, h0, c0 = randn(H, D, 4 * D), randn(H, B, D), randn(H, B, D)
    keep = torch.rand(T, 1, B, 1) < 0.7 if use.reset else None
    valid = (torch.rand(T, 1, B, 1) < 0.7).double() if use.mask else None
    check_gradients(OPS.lstm_steps.default, pre, R, h0, c0, keep, valid)
    h_in, h, _, c_in, acts = OPS.lstm_steps(pre, R, h0, c0, keep, valid)
    check(OPS.lstm_steps_backward.default, torch.ones_like(h), None, h_in, c_in, acts, R, keep, valid)


SCANS = {
    "mlstm": (mlstm_scan, ((2, 70, 2, 3), (2, 70, 2, 3), (2, 70, 2, 4), (2, 70, 2), (2, 70, 2))),
    "slstm": (slstm_scan, ((2, 7, 4, 2, 3), (2, 3, 4, 3), (4, 2, 3))),
    "lstm": (lstm_scan, ((2, 7, 4, 2, 3), (2, 3, 4, 3), (4, 2, 3))),
}


def outputs(scan: object, inputs: list[Tensor], masks: dict[str, Tensor]) -> list[Tensor]:
    """Two calls, the second from the state of the first."""
    _, state = scan(*inputs, **masks)  # type: ignore[operator]
    y, state = scan(*inputs, state, **masks)  # type: ignore[operator]
    return [y, *leaves(state)]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("use", [PLAIN, MASKED], ids=str)
@pytest.mark.parametrize("name", SCANS)
def test_compiles_whole(name: str, use: Masks, gradients: bool) -> None:
    torch.manual_seed(0)
    scan, shapes = SCANS[name]
    inputs = [randn(*shape).requires_grad_(gradients) for shape in shapes]
    masks = random_masks(*shapes[0][:2], use, torch.default_generator)
    compiled = torch.compile(outputs, fullgraph=True, backend="aot_eager")(scan, inputs, masks)
    eager = outputs(scan, inputs, masks)
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)
    if gradients:
        found, expected = (
            torch.autograd.grad(sum(x.square().sum() for x in values if x.requires_grad), inputs)
            for values in (compiled, eager)
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_compiles_with_one_tensor_in_two_places() -> None:
    torch.manual_seed(0)
    x, v, gate = randn(2, 9, 2, 3), randn(2, 9, 2, 4), randn(2, 9, 2)
    for leaf in (x, v, gate):
        leaf.requires_grad_()
    arguments = (x, x, v, gate, gate)
    (h, _), (expected, _) = torch.compile(mlstm_scan, fullgraph=True, backend="aot_eager")(*arguments), mlstm_scan(*arguments)
    found, truth = (torch.autograd.grad(y.square().sum(), (x, v, gate)) for y in (h, expected))
    torch.testing.assert_close((h, *found), (expected, *truth), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SCANS)
def test_compiled_under_autocast(name: str) -> None:
    """Autocast does not reach inside, neither forward nor backward."""
    torch.manual_seed(0)
    scan, shapes = SCANS[name]
    inputs = [randn(*shape, dtype=torch.float32).requires_grad_() for shape in shapes]

    def run() -> list[Tensor]:
        y, _ = scan(*inputs)  # type: ignore[operator]
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = compiled(*inputs)
        found = [y, *torch.autograd.grad(y.square().sum(), inputs)]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCANS)
def test_second_derivatives_are_refused(name: str) -> None:
    torch.manual_seed(0)
    scan, shapes = SCANS[name]
    inputs = [randn(*shape).requires_grad_() for shape in shapes]
    (first,) = torch.autograd.grad(scan(*inputs)[0].square().sum(), inputs[0], create_graph=True)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_nothing_is_saved_without_gradients() -> None:
    """The states of all chunks are the largest thing there is."""
    _, shapes = SCANS["mlstm"]
    q, k, v, log_i, log_f = (randn(*shape) for shape in shapes)
    state = (randn(2, 2, 3, 4), randn(2, 2, 3), randn(2, 2))
    *_, saved = OPS.mlstm_chunkwise(q, k, v, log_i, log_f, *state, None, True, 1e-6, 64, False)
    assert saved == []
