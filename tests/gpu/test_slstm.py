"""The sLSTM in Triton: the conformance suite, both ways through time, and what custom operators must be."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from openxlstm.ops import gpu, slstm_scan
from openxlstm.ops.slstm import gpu as host
from openxlstm.ops.slstm import stepped
from openxlstm.ops.state import SLSTMState, select
from openxlstm.testing import assert_close, assert_no_worse, check_hard_gates, check_slstm_backend
from openxlstm.testing.inputs import cell_inputs, generator, random_mask, random_reset, slstm_state

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def by_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every head is too large for a chip, and a graph has few steps."""
    monkeypatch.setattr(host, "LARGEST", 0)
    monkeypatch.setattr(host, "FEW_STEPS", 0)
    monkeypatch.setattr(stepped, "STEPS", 3)
    stepped._kept.cache_clear()
    yield
    stepped._kept.cache_clear()


def run(
    inputs: tuple[Tensor, ...], state: SLSTMState | None, backend: str, dtype: torch.dtype, device: str, **options: object
) -> dict[str, Tensor]:
    """h, the last state in a form that knows no scale (c / n and log n + m), and all gradients."""
    leaves = [x.to(dtype).to(device).requires_grad_() for x in inputs]
    if backend == "reference":
        leaves = [x.detach().double().requires_grad_() for x in leaves]
    begin = state and SLSTMState(*(x.to(leaves[0].dtype).to(device) for x in state))
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    h, last = slstm_scan(*leaves, begin, backend=backend, **options)  # type: ignore[arg-type]
    outputs = {"h": h, "last h": last.h, "last c / n": last.c / last.n, "last log n": last.n.log() + last.m}
    rng = generator(7)
    loss = sum((x.double() * torch.randn(x.shape, generator=rng).double().to(device)).sum() for x in outputs.values())
    gradients = torch.autograd.grad(loss, leaves)
    found = outputs | dict(zip(("d gates", "dR", "db"), gradients, strict=True))
    return {name: x.detach().cpu() for name, x in found.items()}


@pytest.mark.parametrize(("dtype", "lengths"), list(zip(DTYPES, [(1, 5), (4,), (3,)])), ids=str)
def test_agrees_with_the_reference(dtype: torch.dtype, lengths: tuple[int, ...], device: str) -> None:
    floor = max(2e-5, torch.finfo(dtype).eps)  # two roundings: operands of a product, and the result
    check_slstm_backend("triton", dtype=dtype, device=device, lengths=lengths, floor=floor)


def test_hard_gates(device: str) -> None:
    check_hard_gates("triton", op="slstm", device=device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("exp", [False, True])
def test_steps_in_blocks(exp: bool, dtype: torch.dtype, device: str, by_step: None) -> None:
    """Seven steps are two whole blocks and one with padding."""
    rng = generator(1)
    B, T, H, D = 2, 7, 1, 5
    inputs, state = cell_inputs(B, T, H, D, rng), slstm_state(B, H, D, rng)
    options: dict[str, object] = {"forget_gate": "exp" if exp else "sigmoid"}
    if not exp:
        options |= {"reset": random_reset(B, T, rng, 0.3), "mask": random_mask(B, T, "interior", rng)}
    low = tuple(x.to(dtype) for x in inputs)
    truth = run(low, state, "reference", dtype, "cpu", **options)
    plain = run(low, state, "torch", dtype, "cpu", **options)
    out = run(low, state, "triton", dtype, device, **options)
    floor = max(2e-5, torch.finfo(dtype).eps)
    for name, x in truth.items():
        assert_no_worse(out[name], plain[name], x, floor=floor, what=name)


@pytest.mark.parametrize("D", [16, 33])
def test_more_rows_than_a_tile(D: int, device: str) -> None:
    """Whole and partial tiles of rows and units; what is not a unit of the head reaches nothing."""
    rng = generator(2)
    inputs = cell_inputs(19, 2, 1, D, rng)
    out, truth = (run(inputs, None, name, torch.float32, device) for name in ("triton", "reference"))
    for name, x in truth.items():
        assert_close(name, out[name], x, 1e-5)


@pytest.mark.skipif(gpu.interpreted(), reason="there is no cuBLAS without a GPU")
def test_graphs_outlive_the_workspace_of_cublas(device: str) -> None:
    """What Lightning does at the end of a training; the next one used to end with an illegal memory access."""
    inputs = cell_inputs(4, 2 * stepped.STEPS, 1, 160, generator(3))
    before = run(inputs, None, "triton", torch.float32, device)
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    others = [torch.zeros(1 << 20, device=device) for _ in range(64)]  # where the workspace was
    for name, x in run(inputs, None, "triton", torch.float32, device).items():
        assert_close(name, x, before[name], 1e-6)
    assert not any(x.any() for x in others)


def test_cut_anywhere(device: str) -> None:
    rng = generator(3)
    gates, R, b = (x.float().to(device) for x in cell_inputs(2, 6, 1, 3, rng))
    whole, last = slstm_scan(gates, R, b, backend="triton")
    for cut in (0, 1, 5):
        first, state = slstm_scan(gates[:, :cut], R, b, backend="triton")
        second, end = slstm_scan(gates[:, cut:], R, b, state, backend="triton")
        assert torch.equal(torch.cat([first, second], 1), whole)
        assert torch.equal(end.c * end.m.exp(), last.c * last.m.exp())


def test_documents_in_one_row_and_rows_in_any_order(device: str) -> None:
    rng = generator(4)
    gates, R, b = (x.float().to(device) for x in cell_inputs(2, 6, 2, 3, rng))
    reset = torch.zeros(2, 6, dtype=torch.bool, device=device)
    reset[:, 4] = True
    packed, last = slstm_scan(gates, R, b, backend="triton", reset=reset)
    alone, _ = slstm_scan(gates[:, 4:], R, b, backend="triton")
    assert torch.equal(packed[:, 4:], alone)
    turned, turned_last = slstm_scan(gates.flip(0), R, b, backend="triton", reset=reset)
    assert torch.equal(turned.flip(0), packed)
    assert torch.equal(select(turned_last, [1, 0]).c, last.c)


def test_any_strides(device: str) -> None:
    """One projection gives the gates of all heads, in any order of dimensions; dh of a sum is one number, seen everywhere."""
    rng = generator(5)
    gates, R, b = (x.float().to(device) for x in cell_inputs(2, 3, 2, 4, rng))
    views = (
        gates,
        gates.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        torch.cat([gates, gates], -1)[..., :4],
        gates.transpose(1, 3).contiguous().transpose(1, 3),
    )
    results = []
    for x in views:
        leaf = x.detach().requires_grad_()
        h, _ = slstm_scan(leaf, R, b, backend="triton")
        results.append((h, torch.autograd.grad(h.sum(), leaf)[0]))
    for h, d_gates in results[1:]:
        assert torch.equal(h, results[0][0])
        assert torch.equal(d_gates, results[0][1])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("stepwise", [False, True])
def test_operators(stepwise: bool, masked: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepped, "STEPS", 2)
    rng = generator(6)
    B, T, H, D = 2, 3, 1, 3
    gates, R, b = (x.float().to(device) for x in cell_inputs(B, T, H, D, rng))
    h0, c0, n0, m0 = (x.float().to(device) for x in slstm_state(B, H, D, rng))
    flags = [random_reset(B, T, rng).to(device), random_mask(B, T, "left", rng).to(device)] if masked else [None, None]
    state = [x.requires_grad_() for x in (h0, c0, n0)]
    arguments = (gates.requires_grad_(), R.requires_grad_(), b.requires_grad_(), *state, m0, *flags, masked, stepwise)
    operators = torch.ops.openxlstm
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.slstm_triton.default, (*arguments, True), test_utils=tests)
    h, last, *saved = operators.slstm_triton(*arguments, True)
    kept = [x.detach() for x in (R, *state)]
    for dh, d_last in ((torch.ones_like(h), None), (None, torch.ones_like(last))):
        backward = (dh, d_last, last.detach(), *kept, *flags, *(x.detach() for x in saved), stepwise)
        torch.library.opcheck(operators.slstm_triton_backward.default, backward, test_utils=tests[:2])


def test_compiles_whole(device: str) -> None:
    rng = generator(8)
    inputs = [x.float().to(device).requires_grad_() for x in cell_inputs(1, 2, 1, 3, rng)]

    def loss(gates: Tensor, R: Tensor, b: Tensor) -> Tensor:
        h, last = slstm_scan(gates, R, b, backend="triton")
        return (h * h).sum() + last.c.sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs)
    for ours, plain in zip(torch.autograd.grad(compiled, inputs), torch.autograd.grad(loss(*inputs), inputs)):
        assert torch.equal(ours, plain)


def test_double_is_refused(device: str) -> None:
    inputs = cell_inputs(1, 2, 1, 3, generator(9))
    with pytest.raises(ValueError, match=r"backend 'triton' cannot run here: .*float64"):
        slstm_scan(*(x.to(device) for x in inputs), backend="triton")


def test_what_fits_on_a_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(D: int, dtype: torch.dtype) -> bool:
        return host.on_chip(torch.empty(1, 1, 4, 1, D, dtype=dtype))

    def found() -> list[bool]:
        return [chosen(D, dtype) for dtype in (torch.bfloat16, torch.float32) for D in (1, 64, 65, 128, 129)]

    assert found() == [True, True, True, True, False, True, True, False, False, False]  # H100
    monkeypatch.setattr(host, "shared_memory", lambda device: 99 << 10)  # RTX 4090
    assert found() == [True, True, False, False, False, True, False, False, False, False]


def test_interpreted_or_on_a_gpu(device: str) -> None:
    """The fixtures mean what they say: no test of this file passes because nothing ran."""
    assert gpu.missing() is None
    assert device == ("cpu" if gpu.interpreted() else "cuda")
