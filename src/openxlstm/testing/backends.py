"""Checks of an op's backends against its `reference`: for ours and for ones you add to BACKENDS."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops.conv1d.conv import causal_conv1d
from openxlstm.ops.glu.activation import gated_activation
from openxlstm.ops.headnorm.norm import head_norm
from openxlstm.ops.lstm.scan import lstm_scan
from openxlstm.ops.mlstm.scan import mlstm_scan
from openxlstm.ops.qkv.gates import qkv_gates
from openxlstm.ops.slstm.scan import slstm_scan
from openxlstm.testing.compare import assert_close, assert_finite, assert_no_worse
from openxlstm.testing.inputs import (
    cell_inputs,
    generator,
    lstm_state,
    mlstm_inputs,
    mlstm_state,
    random_mask,
    random_reset,
    slstm_state,
)

LENGTHS = (1, 17, 63, 100)
"""Odd on purpose: no chunk or tile divides them all."""

Result = dict[str, Tensor]


def check_mlstm_backend(
    name: str,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    lengths: Iterable[int] = LENGTHS,
    floor: float | None = None,
) -> None:
    """Outputs, last state and all gradients of an mLSTM backend against the reference in float64.

    In float64 they must agree; in a lower dtype the backend may be at most twice as wrong as the reference in that dtype, and
    by `floor` of the largest value: by default what rounding the result explains. The reference rounds inputs and results and
    multiplies in float32; a backend that multiplies in a lower dtype needs more.
    Cases that the backend refuses are passed over; refusing all is an error.
    """
    kinds = (("exp", True), ("sigmoid", True), ("sigmoid", False))
    _check(name, dtype, device, _mlstm_cases(lengths, kinds), _run_mlstm, floor)


def check_slstm_backend(
    name: str,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    lengths: Iterable[int] = LENGTHS,
    floor: float | None = None,
) -> None:
    """As check_mlstm_backend, for the sLSTM."""
    kinds = ({"forget_gate": "sigmoid"}, {"forget_gate": "exp"})
    _check(name, dtype, device, _cell_cases(lengths, slstm_state, kinds), _run_slstm, floor)


def check_lstm_backend(
    name: str, *, dtype: torch.dtype = torch.float64, device: str = "cpu", lengths: Iterable[int] = LENGTHS
) -> None:
    """As check_mlstm_backend, for the classic LSTM."""
    _check(name, dtype, device, _cell_cases(lengths, lstm_state, ({},)), _run_lstm)


def check_conv1d_backend(
    name: str, *, dtype: torch.dtype = torch.float64, device: str = "cpu", lengths: Iterable[int] = (0, 1, 2, 17, 150)
) -> None:
    """As check_mlstm_backend, for the causal convolution."""
    _check(name, dtype, device, _conv_cases(lengths), _run_conv1d)


def check_head_norm_backend(
    name: str, *, dtype: torch.dtype = torch.float64, device: str = "cpu", lengths: Iterable[int] = (0, 1, 17, 70)
) -> None:
    """As check_mlstm_backend, for the head-wise norm with skip and gate."""
    _check(name, dtype, device, _head_norm_cases(lengths), _run_head_norm)


def check_gated_activation_backend(
    name: str, *, dtype: torch.dtype = torch.float64, device: str = "cpu", lengths: Iterable[int] = (0, 1, 17, 70)
) -> None:
    """As check_mlstm_backend, for the gated activation."""
    _check(name, dtype, device, _gated_cases(lengths), _run_gated)


def check_qkv_gates_backend(
    name: str, *, dtype: torch.dtype = torch.float64, device: str = "cpu", lengths: Iterable[int] = (0, 1, 2, 17, 150)
) -> None:
    """As check_mlstm_backend, for what comes before the mLSTM cell."""
    _check(name, dtype, device, _qkv_cases(lengths), _run_qkv_gates)


def check_hard_gates(name: str, *, op: str = "mlstm", dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
    """Gate pre-activations between -200 and 100 over 128 steps: everything stays finite, gradients too. op: mlstm or slstm."""
    rng = generator(0)
    inputs = (
        mlstm_inputs(2, 128, 2, 4, 3, rng, dtype=dtype, hard=True)
        if op == "mlstm"
        else cell_inputs(2, 128, 2, 3, rng, dtype=dtype, hard=True)
    )
    run = _run_mlstm if op == "mlstm" else _run_slstm
    leaves = [x.to(device).requires_grad_() for x in inputs]
    for what, x in run(leaves, None, {}, name, None, with_state=False).items():
        assert_finite(what, x)


def _check(
    name: str,
    dtype: torch.dtype,
    device: str,
    cases: Iterator[Any],
    run: Callable[..., Result],
    floor: float | None = None,
) -> None:
    served, refusal = 0, ""
    for number, (title, inputs, state, options) in enumerate(cases):
        lay = _spread if number % 2 else Tensor.contiguous

        def prepared(
            to: torch.dtype, where: str, inputs: Any = inputs, state: Any = state, options: Any = options, lay: Any = lay
        ) -> Any:
            leaves = [None if x is None else lay(x.to(dtype).to(to).to(where)).requires_grad_() for x in inputs]
            if isinstance(state, Tensor):
                begin: Any = state.to(dtype).to(to).to(where).requires_grad_()
            else:  # the stabiliser m has no gradient
                begin = state and type(state)(
                    *(x.to(to).to(where).requires_grad_(field != "m") for field, x in state._asdict().items())
                )
            return leaves, begin, {k: v.to(where) if isinstance(v, Tensor) else v for k, v in options.items()}

        truth = run(*prepared(torch.float64, "cpu"), "reference", None)
        try:
            out = run(*prepared(dtype, device), name, truth)
        except ValueError as error:
            refusal = str(error)
            continue
        served += 1
        plain = run(*prepared(dtype, "cpu"), "reference", truth) if dtype != torch.float64 else truth
        for what in truth:
            if dtype == torch.float64:
                assert_close(f"{name}, {title}, {what}", out[what].cpu(), truth[what])
            else:
                least = floor or max(2e-5, torch.finfo(dtype).eps / 2)  # the rounding of the result itself is nobody's fault
                assert_no_worse(out[what].cpu(), plain[what], truth[what], floor=least, what=f"{name}, {title}, {what}")
    assert served, f"backend {name!r} refuses every case: {refusal}"


def _spread(x: Tensor) -> Tensor:
    """The same numbers, with NaN between them in memory: who forgets a stride reads those."""
    return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]


def _mlstm_cases(lengths: Iterable[int], kinds: tuple[tuple[str, bool], ...]) -> Iterator[Any]:
    for number, (T, B, with_state, with_reset, with_mask) in enumerate(_combinations(lengths)):
        rng = generator(number)
        gate, normalize = kinds[number % len(kinds)]
        H, K, V = ((2, 5, 3), (1, 1, 24), (2, 40, 1), (1, 24, 40), (3, 16, 16))[number % 5]
        state = mlstm_state(B, H, K, V, rng) if with_state else None
        options = {**_borders(B, T, with_reset, with_mask, rng), "input_gate": gate, "normalize": normalize}
        title = f"T={T} B={B} H={H} K={K} V={V} {gate} {normalize=} {_title(with_state, options)}"
        yield title, mlstm_inputs(B, T, H, K, V, rng), state, options


def _cell_cases(lengths: Iterable[int], make_state: Callable[..., Any], kinds: tuple[dict[str, str], ...]) -> Iterator[Any]:
    for number, (T, B, with_state, with_reset, with_mask) in enumerate(_combinations(lengths)):
        rng = generator(number)
        H, D = ((1, 5), (2, 3), (3, 1), (2, 24), (1, 40))[number % 5]
        kind = kinds[number % len(kinds)]
        state = make_state(B, H, D, rng) if with_state else None
        options = {**_borders(B, T, with_reset, with_mask, rng), **kind}
        yield f"T={T} B={B} H={H} {kind} {_title(with_state, options)}", cell_inputs(B, T, H, D, rng), state, options


def _conv_cases(lengths: Iterable[int]) -> Iterator[Any]:
    for number, (T, B, with_state, with_reset, with_mask) in enumerate(_combinations(lengths)):
        rng = generator(number)
        D, W = (3, 150)[int(torch.randint(2, (), generator=rng))], (4, 4, 5, 1)[int(torch.randint(4, (), generator=rng))]
        x, weight, bias, state = (torch.randn(*s, generator=rng).double() for s in ((B, T, D), (D, W), (D,), (B, W - 1, D)))
        activation = "silu" if number % 3 else None
        options = {**_borders(B, T, with_reset, with_mask, rng), "activation": activation}
        inputs = (x, weight, bias if number % 5 else None)
        title = f"T={T} B={B} D={D} W={W} {activation} {_title(with_state, options)}"
        yield title, inputs, state if with_state else None, options


def _head_norm_cases(lengths: Iterable[int]) -> Iterator[Any]:
    flags = (False, True)
    kinds = (None, "silu", "sigmoid")
    for number, (T, with_bias, with_skip, kind) in enumerate(itertools.product(lengths, flags, flags, kinds)):
        rng = generator(number)
        B, (H, V) = 2, ((1, 5), (3, 40), (2, 16))[number // 2 % 3]
        rows, channels = (B, T, H * V), (H * V,)
        h, weight, bias, skip, a, gate = (
            torch.randn(*s, generator=rng).double() for s in ((B, T, H, V), channels, channels, channels, rows, rows)
        )
        options = {} if kind is None else {"activation": kind}
        inputs = (h, weight, bias if with_bias else None, *((skip, a) if with_skip else (None, None)))
        title = f"T={T} H={H} V={V} bias={with_bias} skip={with_skip} gate={kind}"
        yield title, (*inputs, None if kind is None else 3 * gate), None, options


def _gated_cases(lengths: Iterable[int]) -> Iterator[Any]:
    for number, (T, hidden, kind) in enumerate(itertools.product(lengths, (1, 16, 40, 101), ("gelu", "silu"))):
        x = 3 * torch.randn(2, T, 2 * hidden, generator=generator(number)).double()
        yield f"T={T} hidden={hidden} {kind}", (x,), None, {"activation": kind}


def _qkv_cases(lengths: Iterable[int]) -> Iterator[Any]:
    for number, (T, B, with_state, with_reset, with_mask) in enumerate(_combinations(lengths)):
        rng = generator(number)
        S, N = ((4, 5), (2, 3), (4, 40), (8, 3))[int(torch.randint(4, (), generator=rng))]
        G, W = (2, 8, 6)[int(torch.randint(3, (), generator=rng))], (4, 4, 5, 1)[int(torch.randint(4, (), generator=rng))]
        D = N * S
        shapes = ((B, T, D), (D, W), (D,), (N, S, S), (N, S, S), (N, S, S), (G, 3 * D), (G,), (B, W - 1, D))
        u, taps, bias, Q, K, V, W_if, b_if, state = (torch.randn(*s, generator=rng).double() for s in shapes)
        convolved = with_state or number % 4 > 0
        inputs = (u, taps if convolved else None, bias if convolved and number % 5 else None, Q, K, V, W_if / D**0.5, b_if)
        options = _borders(B, T, with_reset, with_mask, rng)
        title = f"T={T} B={B} S={S} N={N} G={G} W={W if convolved else None} {_title(with_state, options)}"
        yield title, inputs, state if with_state else None, options


def _combinations(lengths: Iterable[int]) -> Iterator[tuple[int, int, bool, bool, bool]]:
    flags = (False, True)
    for T, state, reset, mask in itertools.product(lengths, flags, flags, flags):
        yield T, 3 if reset or mask else 1, state, reset, mask


def _borders(B: int, T: int, with_reset: bool, with_mask: bool, rng: torch.Generator) -> dict[str, Tensor]:
    options = {}
    if with_reset:
        options["reset"] = random_reset(B, T, rng, 0.1)
    if with_mask:
        options["mask"] = random_mask(B, T, "interior", rng)
    return options


def _title(with_state: bool, options: dict[str, Any]) -> str:
    return " ".join(["state"] * with_state + [name for name in ("reset", "mask") if name in options])


def _call(op: Callable[..., Any], inputs: Any, state: Any, options: Any, backend: str) -> Any:
    return op(*inputs, state=state, backend=backend, **options)


def _run_mlstm(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None, *, with_state: bool = True) -> Result:
    h, last = _call(mlstm_scan, inputs, state, options, backend)
    m = last.m.detach() if truth is None else truth["last m"].to(last.m)
    scale = torch.exp((last.m - m).detach())  # a state may be kept in any scale: bring it to the reference's
    outputs = {"h": h, "last C": last.C * scale[..., None, None], "last n": last.n * scale[..., None]}
    found = _with_gradients(outputs if with_state else {"h": h}, [*inputs, *(state[:2] if state else ())])
    return {**found, "last m": m}


def _run_slstm(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None, *, with_state: bool = True) -> Result:
    h, last = _call(slstm_scan, inputs, state, options, backend)
    m = last.m.detach() if truth is None else truth["last m"].to(last.m)
    scale = torch.exp((last.m - m).detach())
    outputs = {"h": h, "last h": last.h, "last c": last.c * scale, "last n": last.n * scale}
    found = _with_gradients(outputs if with_state else {"h": h}, [*inputs, *(state[:3] if state else ())])
    return {**found, "last m": m}


def _run_lstm(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None) -> Result:
    h, last = _call(lstm_scan, inputs, state, options, backend)
    return _with_gradients({"h": h, "last h": last.h, "last c": last.c}, [*inputs, *(state or ())])


def _run_conv1d(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None) -> Result:
    y, last = _call(causal_conv1d, inputs, state, options, backend)
    return _with_gradients({"y": y, "last": last}, [x for x in (*inputs, state) if x is not None])


def _run_head_norm(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None) -> Result:
    h, weight, bias, skip, a, gate = inputs
    y = head_norm(h, weight, bias, skip=skip, a=a, gate=gate, backend=backend, **options)
    return _with_gradients({"y": y}, [x for x in inputs if x is not None])


def _run_gated(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None) -> Result:
    return _with_gradients({"y": gated_activation(*inputs, backend=backend, **options)}, inputs)


def _run_qkv_gates(inputs: Any, state: Any, options: Any, backend: str, truth: Result | None) -> Result:
    found = _call(qkv_gates, inputs, state, options, backend)
    outputs = {name: x for name, x in zip(("a", "q", "k", "v", "pre", "last"), found, strict=True) if x is not None}
    return _with_gradients(outputs, [x for x in (*inputs, state) if x is not None])


def _with_gradients(outputs: Result, inputs: list[Tensor]) -> Result:
    """The outputs, and the gradients of a random weighting of all of them."""
    rng = generator(99)
    loss = sum((x.double() * torch.randn(x.shape, generator=rng).double().to(x.device)).sum() for x in outputs.values())
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
    gradients = {
        f"gradient {j}": torch.zeros_like(x) if g is None else g for j, (x, g) in enumerate(zip(inputs, grads, strict=True))
    }
    return {**{name: x.detach() for name, x in outputs.items()}, **gradients}
