"""Random inputs for checks: seeded, odd-sized, with padding, documents and hard gates."""

import torch
from torch import Tensor

from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState

PADDINGS = ("left", "right", "interior")


def generator(seed: int) -> torch.Generator:
    """A CPU generator of its own, so that checks neither use nor move the global seed."""
    return torch.Generator().manual_seed(seed)


def random_mask(B: int, T: int, padding: str, rng: torch.Generator) -> Tensor:
    """[B, T] bool with a random number of valid steps a row, at least one in the first row. padding: see PADDINGS."""
    lengths = torch.randint(0, T + 1, (B,), generator=rng)
    if B and T:
        lengths[0] = max(int(lengths[0]), 1)
    valid = torch.arange(T) < lengths[:, None]
    if padding == "right":
        return valid
    if padding == "left":
        return valid.flip(1)
    if padding == "interior":
        order = torch.rand(B, T, generator=rng).argsort(1)
        return valid.gather(1, order)
    raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")


def random_reset(B: int, T: int, rng: torch.Generator, share: float = 0.2) -> Tensor:
    """[B, T] bool, true with probability `share`."""
    return torch.rand(B, T, generator=rng) < share


def mlstm_inputs(
    B: int, T: int, H: int, K: int, V: int, rng: torch.Generator, *, dtype: torch.dtype = torch.float64, hard: bool = False
) -> tuple[Tensor, ...]:
    """q, k, v, i_pre, f_pre. hard: gate pre-activations of -200 to 100 instead of ordinary ones."""
    q, k = (torch.randn(B, T, H, K, generator=rng, dtype=dtype) for _ in range(2))
    v = torch.randn(B, T, H, V, generator=rng, dtype=dtype)
    i_pre, f_pre = (torch.randn(B, T, H, generator=rng, dtype=dtype) for _ in range(2))
    if hard:
        return q, k, v, hard_gates(i_pre, rng), hard_gates(f_pre, rng)
    return q, k, v, i_pre, f_pre + 2


def mlstm_state(B: int, H: int, K: int, V: int, rng: torch.Generator, *, dtype: torch.dtype = torch.float64) -> MLSTMState:
    """A state that has seen something, with stabilisers other than 0."""
    return MLSTMState(
        torch.randn(B, H, K, V, generator=rng, dtype=dtype),
        torch.randn(B, H, K, generator=rng, dtype=dtype),
        torch.randn(B, H, generator=rng, dtype=dtype),
    )


def cell_inputs(
    B: int, T: int, H: int, D: int, rng: torch.Generator, *, dtype: torch.dtype = torch.float64, hard: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """gates, R, b of slstm_scan and lstm_scan. hard: gate pre-activations of -200 to 100."""
    gates = torch.randn(B, T, 4, H, D, generator=rng, dtype=dtype)
    R = torch.randn(H, D, 4, D, generator=rng, dtype=dtype) / D**0.5
    b = torch.randn(4, H, D, generator=rng, dtype=dtype)
    return (hard_gates(gates, rng) if hard else gates), R, b


def slstm_state(B: int, H: int, D: int, rng: torch.Generator, *, dtype: torch.dtype = torch.float64) -> SLSTMState:
    """A state that has seen something: its normaliser is positive, as every reachable one is."""
    h, c, n, m = (torch.randn(B, H, D, generator=rng, dtype=dtype) for _ in range(4))
    return SLSTMState(h, c, n.abs() + 0.5, m)


def lstm_state(B: int, H: int, D: int, rng: torch.Generator, *, dtype: torch.dtype = torch.float64) -> LSTMState:
    """A state that has seen something."""
    return LSTMState(*(torch.randn(B, H, D, generator=rng, dtype=dtype) for _ in range(2)))


def hard_gates(like: Tensor, rng: torch.Generator) -> Tensor:
    """Pre-activations out of a few extreme values, with a little noise."""
    values = torch.tensor([-200.0, -100.0, -40.0, -10.0, 0.0, 10.0, 40.0, 100.0], dtype=like.dtype)
    return values[torch.randint(0, len(values), like.shape, generator=rng)] + 0.1 * like
