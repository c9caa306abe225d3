"""What holds for every compiled kernel, whatever it computes."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from openxlstm.ops import causal_conv1d, gated_activation, head_norm, mlstm_scan, native, qkv_gates, slstm_scan
from openxlstm.ops.state import MLSTMState, SLSTMState
from openxlstm.testing import (
    check_conv1d_backend,
    check_gated_activation_backend,
    check_head_norm_backend,
    check_mlstm_backend,
    check_qkv_gates_backend,
    check_slstm_backend,
)

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
SETS = native.runnable() if native.missing() is None else ()


def conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return causal_conv1d(x, weight, bias, state, activation="silu", **options)


def norm(h: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, a: Tensor, gate: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return (head_norm(h, weight, bias, skip=skip, a=a, gate=gate, **options),)


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C: Tensor, n: Tensor, **options: Any) -> tuple[Tensor, ...]:
    h, last = mlstm_scan(q, k, v, i, f, MLSTMState(C, n, C.new_zeros(C.shape[:2])), **options)
    return h, last.C, last.n


def slstm(gates: Tensor, R: Tensor, b: Tensor, h: Tensor, c: Tensor, n: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """R is scaled down, and the normaliser of the first state positive as that of any state that is reached."""
    h, last = slstm_scan(gates, R / R.shape[1] ** 0.5, b, SLSTMState(h, c, n.abs() + 1, torch.zeros_like(n)), **options)
    return h, last.h, last.c, last.n


def gated(x: Tensor, **options: Any) -> tuple[Tensor, ...]:
    return (gated_activation(x, **options),)


B, T, H, V = 3, 150, 2, 36
K = 24
D = H * V
KERNELS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...], Callable[..., None]]] = {
    "mlstm": (
        mlstm,
        (*[(B, T, H, K)] * 2, (B, T, H, V), *[(B, T, H)] * 2, (B, H, K, V), (B, H, K)),
        check_mlstm_backend,
    ),
    "slstm": (slstm, ((B, T, 4, H, V), (H, V, 4, V), (4, H, V), *[(B, H, V)] * 3), check_slstm_backend),
    "conv1d": (conv, ((B, T, D), (D, 4), (D,), (B, 3, D)), check_conv1d_backend),
    "gated_activation": (gated, ((B, T, 2 * 37),), check_gated_activation_backend),
    "head_norm": (norm, ((B, T, H, V), (D,), (D,), (D,), (B, T, D), (B, T, D)), check_head_norm_backend),
    "qkv_gates": (
        qkv_gates,
        ((B, T, D), (D, 4), (D,), *[(D // 4, 4, 4)] * 3, (8, 3 * D), (8,), (B, 3, D)),
        check_qkv_gates_backend,
    ),
}
CELLS = ("mlstm", "slstm")
"""Their work is divided by the number of threads: of sums over time or batch the order is another with another number."""
each = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def poison():
    """Temporaries begin as NaN."""
    native.library().openxlstm_poison(1)
    yield
    native.library().openxlstm_poison(0)


def inputs_of(name: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=rng).to(dtype) for shape in KERNELS[name][1]]


def results(name: str, inputs: list[Tensor], backend: str = "cpu") -> list[Tensor]:
    """Outputs, then gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = KERNELS[name][0](*leaves, backend=backend)
    rng = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(y.shape, generator=rng).to(y.dtype) for y in outputs]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, leaves, cotangents)]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@each
@pytest.mark.parametrize("instructions", SETS)
def test_every_instruction_set_agrees_with_the_definition(name: str, instructions: str) -> None:
    with native.using(instructions):
        native.library().openxlstm_poison(1)
        try:
            KERNELS[name][2]("cpu", dtype=torch.float32)
        finally:
            native.library().openxlstm_poison(0)


@each
def test_bfloat16(name: str, poison) -> None:
    KERNELS[name][2]("cpu", dtype=torch.bfloat16)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_every_time_and_on_any_number_of_threads(name: str, dtype: torch.dtype, threads) -> None:
    inputs = inputs_of(name, dtype)
    expected = results(name, inputs)
    for number in (1, 2, 7):
        threads(number)
        found = results(name, inputs)
        assert all(equal(results(name, inputs), found) for _ in range(2)), number
        if name in CELLS:
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=float(4 * torch.finfo(dtype).eps * b.abs().max()))
        else:
            assert equal(found, expected), number


@each
def test_inputs_are_left_alone_whatever_their_strides(name: str) -> None:
    inputs = inputs_of(name)
    expected = results(name, inputs)
    copies = [x.clone() for x in inputs]
    assert equal(results(name, inputs), expected)
    assert equal(inputs, copies)
    spread = [torch.stack([x, x], -1)[..., 0] for x in inputs]  # every other number
    assert equal(results(name, spread), expected)
    wide = [torch.cat([x, x], -1)[..., : x.shape[-1]] for x in inputs]  # rows that are parts of longer ones
    assert equal(results(name, wide), expected)
    swapped = [x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x for x in inputs]
    assert equal(results(name, swapped), expected)


@each
def test_nan_and_infinity_go_where_they_go_in_the_definition(name: str) -> None:
    for place in range(len(inputs_of(name))):
        # an infinite gate has a limit, which the cells take and the definition, inf - inf, does not
        for value in (float("nan"),) if name in CELLS else (float("nan"), float("inf")):
            inputs = inputs_of(name)
            inputs[place].view(-1)[inputs[place].numel() // 2] = value
            found, expected = results(name, inputs), results(name, inputs, "reference")
            for number, (a, b) in enumerate(zip(found, expected, strict=True)):
                assert (~a.isfinite() | b.isfinite()).all(), (place, value, number)
                if number == 0 and name not in CELLS:  # an output: nothing else is touched, but other steps of a chunk
                    assert torch.equal(a.isfinite(), b.isfinite()), (place, value)


@each
def test_after_a_fork(name: str, threads) -> None:
    """The threads of the parent do not exist in a child; a kernel must not wait for them."""
    inputs = inputs_of(name)
    threads(1)
    expected = results(name, inputs)
    threads(2)
    results(name, inputs)  # now there are threads
    child = os.fork()
    if child == 0:
        found = results(name, inputs)
        torch.set_num_threads(1)  # torch's own comparison would wait for them
        os._exit(0 if equal(found, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@each
def test_in_two_threads_at_once(name: str, threads) -> None:
    threads(2)
    inputs = inputs_of(name)
    expected = results(name, inputs)
    good = []

    def work() -> None:
        torch.set_num_threads(2)
        good.extend(equal(results(name, inputs), expected) for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert good == [True] * 10


class Results(torch.utils.data.Dataset[Tensor]):
    """The first output of each kernel, computed where it is asked for."""

    def __len__(self) -> int:
        return len(KERNELS)

    def __getitem__(self, number: int) -> Tensor:
        name = list(KERNELS)[number]
        return results(name, inputs_of(name))[0].flatten()


def test_in_the_workers_of_a_data_loader(threads) -> None:
    expected = [Results()[number] for number in range(len(KERNELS))]
    threads(2)
    Results()[0]
    loader = torch.utils.data.DataLoader(Results(), batch_size=None, num_workers=2)
    for found, wanted in zip(loader, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@each
def test_the_process_keeps_its_small_numbers(name: str, threads) -> None:
    """Flushing denormal numbers to zero is a setting of a thread: a kernel that sets it would change the numbers of others."""
    threads(2)
    results(name, inputs_of(name))
    small = torch.full((200_000,), 1e-40)
    assert (small * 0.5 > 0).all()


@each
def test_one_node_for_torch_compile(name: str) -> None:
    inputs = inputs_of(name)
    compiled = torch.compile(KERNELS[name][0], backend="aot_eager", fullgraph=True)
    leaves = [x.requires_grad_() for x in inputs]
    outputs = compiled(*leaves)
    expected = KERNELS[name][0](*leaves)
    assert equal(list(outputs), list(expected))
    found, wanted = (torch.autograd.grad([y.square().sum() for y in ys], leaves) for ys in (outputs, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_operators_are_what_torch_expects() -> None:
    x, taps, bias, state = inputs_of("conv1d")
    torch.library.opcheck(torch.ops.openxlstm.conv1d.default, (x, taps.T.contiguous(), bias, state, None, None, True))
    h, weight, bias, skip, a, gate = (x.requires_grad_() for x in inputs_of("head_norm"))
    torch.library.opcheck(torch.ops.openxlstm.head_norm.default, (h, weight, bias, skip, a, gate, 1, 1e-5))
    (x,) = (x.requires_grad_() for x in inputs_of("gated_activation"))
    torch.library.opcheck(torch.ops.openxlstm.glu.default, (x, True))
    u, taps, bias, *rest, state = inputs_of("qkv_gates")
    args = (u.requires_grad_(), taps.T.contiguous(), bias, state, None, None, *rest, True)
    torch.library.opcheck(torch.ops.openxlstm.qkv_gates.default, args)
