"""The recurrence of Mamba-2 by way of the mLSTM: against the loop as the paper writes it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.ssd import ssd_gates, ssd_scan

OPTIONAL = ("nothing", "reset", "mask", "state", "everything")


def loop(
    q: Tensor, k: Tensor, v: Tensor, dt_pre: Tensor, A_log: Tensor, C: Tensor, reset: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """C_t = exp(dt_t A) C_{t-1} + dt_t k_t v_t^T, h_t = C_t^T q_t. C [B, H, K, V], the rest as in `ssd_scan`."""
    dt, A = F.softplus(dt_pre), -A_log.exp()
    outputs = []
    for t in range(q.shape[1]):
        C = torch.where(reset[:, t, None, None, None], 0.0, C)
        write = dt[:, t, :, None, None] * k[:, t, None, :, None] * v[:, t, :, None, :]
        new = (dt[:, t] * A).exp()[..., None, None] * C + write
        valid = mask[:, t, None, None, None]
        outputs.append(torch.einsum("bk,bhkv->bhv", q[:, t], new) * valid[..., 0])
        C = torch.where(valid, new, C)
    return torch.stack(outputs, 1), C


def example(T: int, dt_shift: float = -2.0, *, B: int = 2, H: int = 3, K: int = 5, V: int = 4) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    A = 1 + 15 * torch.rand(H, generator=rng, dtype=torch.float64)
    return dict(q=normal(B, T, K), k=normal(B, T, K), v=normal(B, T, H, V), dt_pre=normal(B, T, H) + dt_shift, A_log=A.log())


def both(inputs: dict[str, Tensor], use: str, **options) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(h, true memory) of ssd_scan and of the loop in float64. A state comes from the first third of the sequence."""
    B, T, K = inputs["q"].shape
    H, V = inputs["v"].shape[2:]
    rng = torch.Generator().manual_seed(1)
    masks = dict(reset=torch.zeros(B, T, dtype=torch.bool), mask=torch.ones(B, T, dtype=torch.bool))
    if use in ("reset", "everything"):
        masks["reset"] = torch.rand(B, T, generator=rng) < 0.15
    if use in ("mask", "everything"):
        masks["mask"] = torch.rand(B, T, generator=rng) < 0.7
    pieces = [slice(0, T // 3), slice(T // 3, T)] if use in ("state", "everything") else [slice(0, T)]
    C, state, h, h_ref = torch.zeros(B, H, K, V, dtype=torch.float64), None, [], []
    for piece in pieces:
        part = {name: x if name == "A_log" else x[:, piece] for name, x in (inputs | masks).items()}
        if part["q"].shape[1]:
            y, C = loop(**{name: x if name in masks else x.double() for name, x in part.items()}, C=C)
            h_ref.append(y)
        given = {name: x for name, x in part.items() if name not in masks or use in (name, "everything")}
        y, state = ssd_scan(**given, state=state, **options)
        h.append(y)
    assert state is not None
    memory = state.C * state.m.exp()[..., None, None] / math.sqrt(K)
    return (torch.cat(h, 1), memory), (torch.cat(h_ref, 1), C)


@pytest.mark.parametrize("dt_shift", [-40.0, -2.0, 4.0, 60.0], ids=lambda x: f"dt_pre around {x}")
@pytest.mark.parametrize("use", OPTIONAL)
@pytest.mark.parametrize("T", [1, 17, 200])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_same_as_the_loop(backend: str, T: int, use: str, dt_shift: float) -> None:
    """From steps that write and forget nearly nothing to those that keep exp(-60 * 16) of the memory."""
    inputs = example(T, dt_shift)
    for ours, truth in zip(*both(inputs, use, backend=backend), strict=True):
        size = max(truth.abs().max().item(), 1e-300)
        assert (ours - truth).abs().max().item() <= 1e-10 * size


def test_a_long_sequence() -> None:
    """Slow decay: what was written at the first step is still there at the last."""
    inputs = example(3000, -9.0, B=1)
    for ours, truth in zip(*both(inputs, "nothing"), strict=True):
        assert (ours - truth).abs().max() <= 1e-10 * max(truth.abs().max().item(), 1.0)


@pytest.mark.parametrize("use", OPTIONAL)
def test_gradients_are_those_of_the_loop(use: str) -> None:
    results = []
    for which in (0, 1):
        inputs = {name: x.requires_grad_() for name, x in example(70, -1.0).items()}
        h, C = both(inputs, use)[which]
        loss = (h * torch.linspace(-1, 1, h.numel()).view(h.shape)).sum() + C.square().sum()
        results.append(torch.autograd.grad(loss, list(inputs.values())))
    for name, ours, truth in zip(inputs, *results, strict=True):
        assert (ours - truth).abs().max() <= 1e-10 * truth.abs().max(), name


def test_gradcheck() -> None:
    inputs = tuple(x.requires_grad_() for x in example(5, B=1, H=2, K=2, V=3).values())
    assert torch.autograd.gradcheck(lambda *args: ssd_scan(*args)[0], inputs)


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
@pytest.mark.parametrize("use", OPTIONAL)
def test_compiled_kernel(use: str) -> None:
    """The native backend, in float32; it reads keys and queries that heads share where they are."""
    inputs = {name: x.float() for name, x in example(130).items()}
    for x, expected in zip(*both(inputs, use, backend="cpu"), strict=True):
        assert (x.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gates_at_both_ends(dtype: torch.dtype) -> None:
    """log dt and the forget gate are right and their gradients finite wherever dt_pre and A_log are."""
    dt_pre = torch.tensor([-1e6, -800.0, -100.0, -31.0, -29.0, -5.0, 0.0, 5.0, 90.0, 800.0, 1e6], dtype=dtype)
    exact = torch.where(dt_pre < -700, dt_pre.double(), F.softplus(dt_pre.double()).log())
    for A_log in (-1e3, -5.0, 0.0, 2.7, 1e3):
        pre, a = dt_pre.clone()[:, None].requires_grad_(), torch.tensor([A_log], dtype=dtype, requires_grad=True)
        log_dt, f_pre = ssd_gates(pre, a)
        forget = F.logsigmoid(f_pre)
        assert all(g.isfinite().all() for g in torch.autograd.grad((log_dt + forget).sum(), [pre, a]))
        torch.testing.assert_close(log_dt[:, 0].double(), exact, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(forget[:, 0].double().exp(), (-(exact + A_log).exp()).exp(), rtol=1e-5, atol=1e-6)


def test_wrong_shapes_are_named() -> None:
    inputs = example(3)
    with pytest.raises(ValueError, match="v must be"):
        ssd_scan(**inputs | {"v": inputs["v"][0]})
    with pytest.raises(ValueError, match="dt_pre"):
        ssd_scan(**inputs | {"dt_pre": inputs["dt_pre"][:, :, :1]})
    with pytest.raises(ValueError, match="k "):
        ssd_scan(**inputs | {"k": inputs["k"][..., :2]})
