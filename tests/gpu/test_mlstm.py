"""The mLSTM by Triton against the definition in float64: outputs, last state, gradients; and what only kernels get wrong."""

import pytest
import torch
from torch import Tensor

from openxlstm.ops import gpu, mlstm_scan
from openxlstm.ops.mlstm import gpu as host
from openxlstm.ops.numerics import EMPTY_M
from openxlstm.ops.state import MLSTMState
from openxlstm.testing import assert_close, check_hard_gates, check_mlstm_backend
from openxlstm.testing.inputs import generator, mlstm_inputs, mlstm_state

L = 16  # the shortest chunk
OPS = torch.ops.openxlstm
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.bfloat16, torch.float16)}


@pytest.fixture(autouse=True)
def _short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every element of a scan is a Python call."""
    if gpu.interpreted():
        monkeypatch.setattr(host, "SPAN_STEPS", 4 * L)


@pytest.mark.parametrize(
    ("dtype", "lengths"), [(torch.float32, (1, 20)), (torch.bfloat16, (20,)), (torch.float16, (17,))], ids=str
)
def test_agrees_with_the_reference(dtype: torch.dtype, lengths: tuple[int, ...], device: str) -> None:
    """The reference multiplies in float32 whatever comes in. Products of 16-bit operands add their roundings, the more so where
    q dq and k dk nearly cancel; test_as_exact_as_plain_code holds them to what plain code in the same dtype does."""
    floor = 3 * EPS[dtype] if dtype in EPS else None
    check_mlstm_backend("triton", dtype=dtype, device=device, lengths=lengths, floor=floor)


def test_hard_gates(device: str) -> None:
    check_hard_gates("triton", device=device)


def run(inputs: list[Tensor], state: MLSTMState | None = None, backend: str = "triton", **options: object) -> dict[str, Tensor]:
    """Outputs and gradients of a random weighting of all of them; the state in true units where m is small enough."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    begin = None if state is None else MLSTMState(*(x.detach().requires_grad_(x is not state.m) for x in state))
    if backend == "triton":
        options = {"chunk_size": L, **options}
    h, last = mlstm_scan(*leaves, begin, backend=backend, **options)
    found = {"h": h, "C": last.C, "n": last.n}
    rng = generator(7)
    loss = sum((x.double() * torch.randn(x.shape, generator=rng).double().to(x.device)).sum() for x in found.values())
    sources = [*leaves, *(begin[:2] if begin else ())]
    names = [f"d{name}" for name in ("q", "k", "v", "i_pre", "f_pre", "C0", "n0")[: len(sources)]]
    gradients = dict(zip(names, torch.autograd.grad(loss, sources), strict=True))
    return {**{name: x.detach() for name, x in found.items()}, "m": last.m, **gradients}


def compare(ours: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    for name, expected in truth.items():
        assert_close(name, ours[name].cpu(), expected, tolerance)


def on(device: str, inputs: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [x.to(dtype).to(device) for x in inputs]


def random(T: int, B: int = 1, H: int = 1, K: int = 8, V: int = 8, seed: int = 0, hard: bool = False) -> tuple[Tensor, ...]:
    return tuple(x.float().double() for x in mlstm_inputs(B, T, H, K, V, generator(seed), hard=hard))


@pytest.mark.parametrize("T", [L - 1, L, L + 1, 2 * L + 5])
def test_lengths_around_the_chunk(T: int, device: str) -> None:
    inputs, state = random(T, H=3, K=24, V=40), mlstm_state(1, 3, 24, 40, generator(1))
    state = MLSTMState(*(x.float().double() for x in state))
    compare(run(on(device, inputs), MLSTMState(*on(device, state))), run(list(inputs), state, "reference"))


def test_several_tiles_in_every_direction(device: str) -> None:
    inputs = random(L + 3, K=70, V=100)
    compare(run(on(device, inputs)), run(list(inputs), backend="reference"))


@pytest.mark.parametrize("resets", [False, True])
def test_closed_and_open_gates_to_all_digits(resets: bool, device: str) -> None:
    """Sums of log gates are in the thousands: single floats would lose 1e-4 of every weight. Every weight, and so h, is right
    to a few roundings; m is compared through it."""
    inputs = random(2 * L + 3, B=2, hard=True)
    options = {"reset": torch.rand(2, 2 * L + 3, generator=generator(3)) < 0.1} if resets else {}
    h, _ = mlstm_scan(*on(device, inputs), backend="triton", chunk_size=L, **{n: x.to(device) for n, x in options.items()})
    truth, _ = mlstm_scan(*inputs, backend="reference", **options)
    error = (h.double().cpu() - truth).abs() / truth.abs().amax(-1, keepdim=True).clamp_min(1e-3)
    assert error.max() < 2e-5


@pytest.mark.parametrize(
    ("i_pre", "f_pre"), [(0.0, 100.0), (0.0, -100.0), (80.0, 3.0), (-80.0, 3.0), (-300.0, 3.0), (0.0, -30.0)], ids=str
)
def test_constant_gates(i_pre: float, f_pre: float, device: str) -> None:
    q, k, v, i, f = random(L + 3)
    inputs = (q, k, v, torch.full_like(i, i_pre), torch.full_like(f, f_pre))
    h, _ = mlstm_scan(*on(device, inputs), backend="triton", chunk_size=L)
    assert_close("h", h.cpu(), mlstm_scan(*inputs, backend="reference")[0], 2e-5)


@pytest.mark.parametrize("zero", ["q", "k"])
def test_floor_of_the_denominator(zero: str, device: str) -> None:
    """n q is 0 at every step."""
    inputs = [torch.zeros_like(x) if name == zero else x for name, x in zip("qkvif", random(L + 3), strict=True)]
    compare(run(on(device, tuple(inputs))), run(inputs, backend="reference"))


def test_cut_anywhere(device: str) -> None:
    T = L + 4
    inputs = on(device, random(T, B=1, H=1, K=5, V=3))
    whole, end = mlstm_scan(*inputs, backend="triton", chunk_size=L)
    for cut in range(T + 1):
        first, state = mlstm_scan(*(x[:, :cut] for x in inputs), backend="triton", chunk_size=L)
        second, last = mlstm_scan(*(x[:, cut:] for x in inputs), state, backend="triton", chunk_size=L)
        assert_close(f"cut at {cut}", torch.cat([first, second], 1), whole, 1e-5)
        assert_close(f"state after a cut at {cut}", last.C * torch.exp(last.m - end.m)[..., None, None], end.C, 1e-5)


def test_documents_are_as_if_alone(device: str) -> None:
    lengths = (5, L, 1, L - 3)
    inputs = on(device, random(sum(lengths), K=5, V=3))
    reset = torch.zeros(1, sum(lengths), dtype=torch.bool, device=device)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    reset[0, [0, *ends[:-1]]] = True
    packed = run(inputs, reset=reset)
    for length, end in zip(lengths, ends, strict=True):
        part = slice(end - length, end)
        h, _ = mlstm_scan(*(x[:, part] for x in inputs), backend="triton", chunk_size=L)
        assert_close(f"document that ends at {end}", packed["h"][:, part], h, 1e-5)


def test_batch_permutation(device: str) -> None:
    inputs, order = on(device, random(L + 3, B=3, H=2)), torch.tensor([2, 0, 1])
    mask = (torch.rand(3, L + 3, generator=generator(2)) < 0.7).to(device)
    found, permuted = run(inputs, mask=mask), run([x[order] for x in inputs], mask=mask[order])
    h, _ = mlstm_scan(*inputs, backend="triton", chunk_size=L, mask=mask)
    moved, _ = mlstm_scan(*(x[order] for x in inputs), backend="triton", chunk_size=L, mask=mask[order])
    assert torch.equal(h[order], moved)
    assert torch.equal(found["h"][order], permuted["h"])


def test_any_strides(device: str) -> None:
    """Slices of one projection, [B, H, T, D] views, rows that are not contiguous, and the expanded gradient of a sum."""
    q, k, v, i, f = on(device, random(L + 3, B=2, H=3))
    expected = mlstm_scan(q, k, v, i, f, backend="triton", chunk_size=L)[0]
    joined = torch.cat([q, k, v], -1).requires_grad_()
    gates = torch.stack([i, f], 1).transpose(1, 3)  # [B, H, T, 2]
    i_view, f_view = (gates[..., j].transpose(1, 2) for j in range(2))
    h, _ = mlstm_scan(*joined.chunk(3, -1), i_view, f_view, backend="triton", chunk_size=L)
    assert torch.equal(h, expected)
    h.sum().backward()
    views = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k)]
    columns = v.transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()
    h, _ = mlstm_scan(*views, columns, i, f, backend="triton", chunk_size=L)
    assert torch.equal(h, expected)
    h.backward(torch.ones_like(h))
    for part, alone in zip(joined.grad.chunk(3, -1), (*views, columns), strict=True):
        assert torch.equal(part, alone.grad)


def test_scale_of_the_state_is_free(device: str) -> None:
    inputs, state = on(device, random(L + 3)), MLSTMState(*on(device, tuple(mlstm_state(1, 1, 8, 8, generator(1)))))
    moved = MLSTMState(state.C * 8.0, state.n * 8.0, state.m - torch.tensor(8.0).log().item())
    one, other = (mlstm_scan(*inputs, s, backend="triton", chunk_size=L)[0] for s in (state, moved))
    assert_close("h", one, other, 1e-5)


def test_inputs_are_not_written_to(device: str) -> None:
    inputs, state = on(device, random(L + 3)), MLSTMState(*on(device, tuple(mlstm_state(1, 1, 8, 8, generator(1)))))
    copies = [x.clone() for x in (*inputs, *state)]
    run(inputs, state)
    assert all(torch.equal(x, y) for x, y in zip((*inputs, *state), copies, strict=True))


def test_states_computed_again_are_the_same(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = on(device, random(2 * L + 3, H=2))
    kept = run(inputs)
    monkeypatch.setenv("OPENXLSTM_RECOMPUTE_STATES", "1")
    again = run(inputs)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_sums_start_anew_at_anchors(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sequence of many thousand steps: several anchors, several turns of the scan over chunks."""
    monkeypatch.setattr(host, "SPAN_STEPS", 2 * L)
    inputs = random(5 * L + 3)
    options = {"reset": torch.rand(1, 5 * L + 3, generator=generator(3)) < 0.05}
    for use in ({}, options):
        moved = {name: x.to(device) for name, x in use.items()}
        compare(run(on(device, inputs), **moved), run(list(inputs), backend="reference", **use))


def test_mixed_dtypes(device: str) -> None:
    q, k, v, i, f = on(device, random(L + 3))
    h, state = mlstm_scan(q.bfloat16(), k, v.half(), i.bfloat16(), f, backend="triton")
    rounded = [x.double().cpu() for x in (q.bfloat16(), k, v.half(), i.bfloat16(), f)]
    assert (h.dtype, state.C.dtype) == (torch.float16, torch.float32)
    assert_close("h", h.cpu(), mlstm_scan(*rounded, backend="reference")[0], 1e-3)


class Product(torch.autograd.Function):
    """a b with operands rounded to `dtype` and float32 sums, forward and backward: what plain code in that dtype does."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(a, b)
        ctx.dtype = dtype
        return a.to(dtype).float() @ b.to(dtype).float()

    @staticmethod
    def backward(ctx, g: Tensor):  # type: ignore[no-untyped-def]
        a, b = (x.to(ctx.dtype).float() for x in ctx.saved_tensors)
        g = g.to(ctx.dtype).float()
        return g @ b.transpose(-1, -2), a.transpose(-1, -2) @ g, None


def plain(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, dtype: torch.dtype, L: int) -> Tensor:
    """h by the chunkwise form, docs/math/mlstm.md (14)-(24), in float32 with products in `dtype`; gradients by autograd."""
    q, k, v, i, f = (x.transpose(1, 2) for x in (q, k, v, i, f))
    scale, C, n = q.shape[-1] ** -0.5, torch.zeros(()), torch.zeros(())
    m_prev = torch.full_like(i[..., :1], EMPTY_M)
    outputs = []
    for cut in range(0, q.shape[2], L):
        Q, K, V, log_i, log_f = (x[:, :, cut : cut + L] for x in (q, k, v, i, torch.nn.functional.logsigmoid(f)))
        b = log_f.cumsum(-1)
        e = log_i - b
        m = (b + torch.maximum(m_prev, e.cummax(-1).values)).detach()
        future = torch.ones(b.shape[-1], b.shape[-1], dtype=torch.bool).triu(1)
        D = (b[..., :, None] + e[..., None, :] - m[..., :, None]).masked_fill(future, -torch.inf).exp()
        r, w, g = (b + m_prev - m).exp(), (b[..., -1:] + e - m[..., -1:]).exp(), (b[..., -1:] + m_prev - m[..., -1:]).exp()
        S = Product.apply(Q, K.transpose(-1, -2), dtype) * D
        num, nq = Product.apply(S, V, dtype), S.sum(-1)
        if cut:
            num = num + r[..., None] * Product.apply(Q, C, dtype)
            nq = nq + r * (Q * n[..., None, :]).sum(-1)
        den = torch.maximum((nq * scale).abs(), torch.exp(-m)) + 1e-6
        outputs.append(num * scale / den[..., None])
        C = g[..., None] * C + Product.apply(K.transpose(-1, -2), w[..., None] * V, dtype)
        n, m_prev = g * n + (w[..., None] * K).sum(-2), m[..., -1:]
    return torch.cat(outputs, 2).transpose(1, 2).to(dtype)


ON_A_GPU = pytest.mark.skipif(gpu.interpreted(), reason="published head sizes take the interpreter hours")
LARGE = [
    (2, 64, 128, None),
    (2, 96, 192, None),
    (2, 128, 256, None),
    (16, 128, 256, None),
    (2, 256, 512, None),
    (4, 256, 512, None),
]
"""With few programs and with many."""


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize(
    ("B", "K", "V", "chunk_size"), [(2, 16, 24, L), *(pytest.param(*case, marks=ON_A_GPU) for case in LARGE)]
)
def test_as_exact_as_plain_code(B: int, K: int, V: int, chunk_size: int | None, dtype: torch.dtype, device: str) -> None:
    """Root-mean-square errors of h and gradients are at most twice those of plain code in the same dtype. Large heads
    have loops of more iterations than the compiler's pipelines have stages, and the chunks that training uses."""
    T = 3 * (chunk_size or 128) + 5
    inputs = [x.to(dtype).double() for x in random(T, B=B, H=2, K=K, V=V)]
    dh = torch.randn(B, T, 2, V, generator=generator(5)).to(dtype).double()

    def results(scan: object, to: torch.dtype, where: str) -> list[Tensor]:
        leaves = [x.to(to).to(where).requires_grad_() for x in inputs]
        h = scan(*leaves)  # type: ignore[operator]
        return [x.double().cpu() for x in (h, *torch.autograd.grad(h, leaves, dh.to(h)))]

    exact = "reference" if chunk_size else "torch"  # of large heads the reference keeps gigabytes
    truth = results(lambda *x: mlstm_scan(*x, backend=exact)[0], torch.float64, "cpu")
    ours = results(lambda *x: mlstm_scan(*x, backend="triton", chunk_size=chunk_size)[0], dtype, device)
    theirs = results(lambda *x: plain(*x, dtype, chunk_size or 64), torch.float32, "cpu")
    for name, x, y, expected in zip(("h", "dq", "dk", "dv", "di", "df"), ours, theirs, truth, strict=True):
        error, base = ((found - expected).square().mean().sqrt().item() for found in (x, y))
        rounding = EPS[dtype] / 4 * expected.square().mean().sqrt().item()  # of the result, which plain code keeps in float32
        # Gradients of gates are differences of q dq and k dk, into which go the roundings of states, to bfloat16 (di and df, up
        # to 1 % of their size on an H100) or in products to TF32 (df, 0.11 %); plain code makes them where gate and state meet.
        inexact = ("di", "df") if dtype == torch.bfloat16 else ("df",)
        times = 6 if name in inexact and K > 16 else 2
        assert error <= times * base + rounding, f"{name}: error {error:.2e}, plain code {base:.2e}"


def operands(device: str, T: int, keep: bool, use_masks: bool = False) -> tuple[object, ...]:
    q, k, v, i, f = on(device, random(T, K=4, V=3))
    state = [torch.randn(1, 1, *shape, device=device) for shape in ((4, 3), (4,), ())]
    borders = [torch.rand(1, T, device=device) < p for p in (0.2, 0.7)] if use_masks else [None, None]
    return q, k, v, i, f, *state, *borders, True, False, 1e-6, L, keep, keep


@pytest.mark.parametrize("use_masks", [False, True])
def test_operators(use_masks: bool, device: str) -> None:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(False)  # under which torch's own checks fill outputs with NaN
    arguments = operands(device, 5, True, use_masks)
    if not use_masks:
        torch.library.opcheck(OPS.mlstm_triton.default, (*arguments[:-2], False, False))
    wanting = (x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)
    torch.library.opcheck(OPS.mlstm_triton.default, tuple(wanting))
    arguments = operands(device, 5, True, use_masks)
    q, k, v, i, f, C0, n0, _, reset, mask, *options, _, _ = arguments
    h, C, n, _, *kept = OPS.mlstm_triton(*arguments)
    for dC in (torch.ones_like(C),) if use_masks else (None,):
        backward = (torch.ones_like(h), dC, None, q, k, v, i, f, C0, n0, reset, mask, h, C, n, *kept, *options)
        torch.library.opcheck(OPS.mlstm_triton_backward.default, backward)


def test_compiles_whole(device: str) -> None:
    torch._dynamo.reset()
    inputs = [x.requires_grad_() for x in on(device, random(L + 3, H=2))]

    def step(*inputs: Tensor) -> Tensor:
        _, state = mlstm_scan(*inputs, backend="triton", chunk_size=L)
        return mlstm_scan(*inputs, state, backend="triton", chunk_size=L)[0]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*inputs), step(*inputs)
    assert torch.equal(found, expected)
    for one, other in zip(*(torch.autograd.grad(h.square().sum(), inputs) for h in (found, expected)), strict=True):
        assert_close("gradient", one, other, 1e-6)


def test_nothing_is_kept_without_gradients(device: str) -> None:
    _, _, _, _, *kept = OPS.mlstm_triton(*operands(device, L + 2, False))
    assert not any(x.numel() for x in kept)


def test_tiles_are_timed_only_when_asked(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = on(device, random(L + 3))
    expected = mlstm_scan(*inputs, backend="triton", chunk_size=L)[0]
    assert not gpu._fastest
    monkeypatch.setenv("OPENXLSTM_AUTOTUNE", "1")
    tiles = host.mix_tiles(8, 8, L, torch.float32, gpu.INTERPRETER)
    monkeypatch.setattr(host, "mix_tiles", lambda *_: (tiles[0], host.Tile(32, 16, 4, 1)))
    h = mlstm_scan(*inputs, backend="triton", chunk_size=L)[0]
    assert_close("h", h, expected, 1e-6)
    assert {key[0] for key in gpu._fastest} == {"state", "h"}
    gpu._fastest.clear()


def test_what_it_refuses(device: str) -> None:
    inputs = on(device, random(3), torch.float64)
    with pytest.raises(ValueError, match=r"it computes in float32, and an input is torch\.float64"):
        mlstm_scan(*inputs, backend="triton")
    if device == "cuda":
        with pytest.raises(ValueError, match="it runs on CUDA devices, and the inputs are on cpu"):
            mlstm_scan(*(x.float().cpu() for x in inputs), backend="triton")
