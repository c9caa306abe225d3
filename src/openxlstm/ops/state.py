"""States are trees of (named) tuples with tensors at the leaves, batch first. They are values: nothing edits one in place."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from openxlstm.ops.numerics import EMPTY_M

Tree = TypeVar("Tree")


class MLSTMState(NamedTuple):
    """Memory of an mLSTM. The true memory is exp(m) * C: `m` only chooses the scale in which C and n are kept, carries no
    gradient, and any other `m` with C and n rescaled to match gives the same outputs."""

    C: Tensor  # [B, H, K, V]  memory, kept multiplied by exp(-m)
    n: Tensor  # [B, H, K]     normaliser, kept multiplied by exp(-m)
    m: Tensor  # [B, H]        running maximum of the log gates; EMPTY_M when nothing was seen

    def empty_values(self) -> dict[str, float]:
        """What `reset` writes where it is not 0."""
        return {"m": EMPTY_M}


class SLSTMState(NamedTuple):
    """Memory of an sLSTM; `m` as in MLSTMState."""

    h: Tensor  # [B, H, D]  last output, fed back through R
    c: Tensor  # [B, H, D]  cell, kept multiplied by exp(-m)
    n: Tensor  # [B, H, D]  normaliser, kept multiplied by exp(-m)
    m: Tensor  # [B, H, D]  running maximum of the log gates

    def empty_values(self) -> dict[str, float]:
        """What `reset` writes where it is not 0."""
        return {"m": EMPTY_M}


class LSTMState(NamedTuple):
    """Memory of a classic LSTM."""

    h: Tensor  # [B, H, D]
    c: Tensor  # [B, H, D]


def map_state(fn: Callable[[Tensor], Tensor], state: Tree) -> Tree:
    """Apply `fn` to each tensor of the tree; None stays None."""
    return _map(lambda leaf, _: fn(leaf), state, 0.0)


def detach(state: Tree) -> Tree:
    """The same numbers, cut off from the graph: the border between two windows of truncated backpropagation."""
    return map_state(Tensor.detach, state)


def select(state: Tree, rows: Tensor | slice | list[int]) -> Tree:
    """The states of some batch rows, in the order given (beam search, finished streams)."""
    return map_state(lambda leaf: leaf[rows], state)


def reset(state: Tree, where: Tensor) -> Tree:
    """Empty the rows where `where` [B] is true."""

    def empty(leaf: Tensor, value: float) -> Tensor:
        chosen = where.reshape(-1, *[1] * (leaf.dim() - 1))
        return torch.where(chosen, torch.full((), value, dtype=leaf.dtype, device=leaf.device), leaf)

    return _map(empty, state, 0.0)


def to(state: Tree, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tree:
    """Move to a device and, for floating-point leaves only, to a dtype."""
    return map_state(lambda leaf: leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None), state)


def leaves(state: Any) -> list[Tensor]:
    """The tensors of the tree, in order."""
    found: list[Tensor] = []

    def collect(leaf: Tensor) -> Tensor:
        found.append(leaf)
        return leaf

    map_state(collect, state)
    return found


def empty_values(state: Any) -> list[tuple[Tensor, float]]:
    """The tensors of the tree, in order, each with the number that it is full of when the state is empty."""
    found: list[tuple[Tensor, float]] = []

    def collect(leaf: Tensor, value: float) -> Tensor:
        found.append((leaf, value))
        return leaf

    _map(collect, state, 0.0)
    return found


def _map(fn: Callable[[Tensor, float], Tensor], node: Any, empty_value: float) -> Any:
    if node is None:
        return None
    if isinstance(node, Tensor):
        return fn(node, empty_value)
    if hasattr(node, "_fields"):
        values = node.empty_values() if hasattr(node, "empty_values") else {}
        return type(node)(*(_map(fn, getattr(node, name), values.get(name, 0.0)) for name in node._fields))
    if isinstance(node, (tuple, list)):
        return type(node)(_map(fn, child, empty_value) for child in node)
    raise TypeError(f"a state holds tensors, tuples and None, not {type(node).__name__}")


def empty_mlstm_state(
    batch: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> MLSTMState:
    """The mLSTM state before the first step."""
    return MLSTMState(
        C=torch.zeros(batch, heads, key_dim, value_dim, device=device, dtype=dtype),
        n=torch.zeros(batch, heads, key_dim, device=device, dtype=dtype),
        m=torch.full((batch, heads), EMPTY_M, device=device, dtype=dtype),
    )


def empty_slstm_state(
    batch: int, heads: int, head_dim: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> SLSTMState:
    """The sLSTM state before the first step."""
    zeros = torch.zeros(batch, heads, head_dim, device=device, dtype=dtype)
    return SLSTMState(h=zeros, c=zeros, n=zeros, m=torch.full_like(zeros, EMPTY_M))


def empty_lstm_state(
    batch: int, heads: int, head_dim: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> LSTMState:
    """The LSTM state before the first step."""
    zeros = torch.zeros(batch, heads, head_dim, device=device, dtype=dtype)
    return LSTMState(h=zeros, c=zeros)
