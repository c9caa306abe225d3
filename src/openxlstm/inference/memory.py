"""What streams remember between native steps: buffers with one slot a stream, and how they become the states of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.layers.attention import AttentionState
from openxlstm.ops.numerics import EMPTY_M
from openxlstm.ops.state import MLSTMState, SLSTMState, empty_values, leaves, map_state


class Memory(Protocol):
    """One part of a block's memory."""

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        """Every tensor [slots, ...], with the value that empties it."""

    def read(self, slots: Tensor) -> Any:
        """The state of some slots, as the model has it. A copy."""

    def write(self, state: Any, slots: Tensor) -> None:
        """Put a state of the model into some slots."""


def padded(n: int) -> int:
    """Rounded up to whole cache lines of floats."""
    return -(-n // 16) * 16


class ConvMemory:
    """Last inputs of a convolution: a ring, in which step s wrote at s mod width. `steps` [slots] counts them."""

    def __init__(self, slots: int, width: int, dim: int, steps: Tensor) -> None:
        self.ring = torch.zeros(slots, width, padded(dim))
        self.width, self.dim, self.steps = width, dim, steps

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        return [(self.ring, 0.0)]

    def read(self, slots: Tensor) -> Tensor:
        return self.ring[slots[:, None], self._places(slots)][..., : self.dim]

    def write(self, state: Tensor, slots: Tensor) -> None:
        self.ring[slots[:, None], self._places(slots)] = F.pad(state.float(), (0, self.ring.shape[-1] - self.dim))

    def _places(self, slots: Tensor) -> Tensor:
        """[B, width - 1], oldest first."""
        return (self.steps[slots, None] + torch.arange(1, self.width)) % self.width


class MLSTMMemory:
    """C lies in strips of `lanes` columns, each [K, lanes]."""

    def __init__(self, slots: int, heads: int, key_dim: int, value_dim: int, lanes: int) -> None:
        self.key_dim, self.value_dim, self.lanes = key_dim, value_dim, lanes
        self.C = torch.zeros(slots, heads, -(-value_dim // lanes), key_dim, lanes)
        self.n = torch.zeros(slots, heads, padded(key_dim))
        self.m = torch.full((slots, heads), EMPTY_M)

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        return [(self.C, 0.0), (self.n, 0.0), (self.m, EMPTY_M)]

    def read(self, slots: Tensor) -> MLSTMState:
        C = self.C[slots].transpose(2, 3).flatten(3)  # [B, H, K, strips * lanes]
        return MLSTMState(C[..., : self.value_dim].contiguous(), self.n[slots][..., : self.key_dim], self.m[slots])

    def write(self, state: MLSTMState, slots: Tensor) -> None:
        strips = self.C.shape[2]
        C = F.pad(state.C.float(), (0, strips * self.lanes - self.value_dim))
        self.C[slots] = C.unflatten(-1, (strips, self.lanes)).transpose(2, 3)
        self.n[slots, :, : self.key_dim] = state.n.float()
        self.m[slots] = state.m.float()


class RecurrentMemory:
    """Of sLSTM and LSTM. h has two places, of which a step reads one and writes the other, by the parity of `steps`."""

    def __init__(self, slots: int, heads: int, dim: int, kind: type, steps: Tensor) -> None:
        self.dim, self.kind, self.steps = dim, kind, steps
        self.h = torch.zeros(slots, 2, heads, padded(dim))
        self.c = torch.zeros(slots, heads, padded(dim))
        self.n: Tensor | None = None
        self.m: Tensor | None = None
        if kind is SLSTMState:
            self.n, self.m = torch.zeros_like(self.c), torch.full_like(self.c, EMPTY_M)

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        found = [(self.h, 0.0), (self.c, 0.0)]
        if self.n is not None and self.m is not None:
            found += [(self.n, 0.0), (self.m, EMPTY_M)]
        return found

    def read(self, slots: Tensor) -> Any:
        h = self.h[slots, self.steps[slots] % 2]
        others = [x[slots] for x in (self.c, self.n, self.m) if x is not None]
        return self.kind(*(x[..., : self.dim] for x in (h, *others)))

    def write(self, state: Any, slots: Tensor) -> None:
        self.h[slots, self.steps[slots] % 2, :, : self.dim] = state.h.float()
        for buffer, leaf in zip((self.c, self.n, self.m), state[1:]):
            if buffer is not None:
                buffer[slots, :, : self.dim] = leaf.float()


class AttentionMemory:
    """Keys and values, `capacity` of each slot; they are moved into larger buffers before they are full. length: how many
    there are; position: valid steps since the last reset. `args` is the operation that reads them."""

    def __init__(self, slots: int, heads: int, dim: int) -> None:
        self.length, self.position = (torch.zeros(slots, dtype=torch.int64) for _ in range(2))
        self.k, self.v = (torch.zeros(slots, 0, heads, dim) for _ in range(2))
        self.alive = torch.zeros(slots, 0, dtype=torch.uint8)
        self.args: Any = None

    def attach(self, args: Any) -> None:
        """Tell the operation where everything is, now and whenever it moves."""
        self.args = args
        args.length, args.position = self.length.data_ptr(), self.position.data_ptr()
        self.reserve(64)

    def reserve(self, keys: int) -> None:
        """Make room for so many keys in every slot."""
        have = self.k.shape[1]
        if keys > have:
            more = max(keys, 2 * have) - have
            self.k, self.v = (F.pad(x, (0, 0, 0, 0, 0, more)) for x in (self.k, self.v))
            self.alive = F.pad(self.alive, (0, more))
        self.args.k, self.args.v, self.args.alive = self.k.data_ptr(), self.v.data_ptr(), self.alive.data_ptr()
        self.args.capacity = self.k.shape[1]

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        return [(self.length, 0), (self.position, 0), (self.k, 0.0), (self.v, 0.0), (self.alive, 0)]

    def read(self, slots: Tensor) -> AttentionState:
        length = self.length[slots]
        keys = int(length.max()) if len(slots) else 0
        there = torch.arange(keys) < length[:, None]
        k, v = (x[slots, :keys] * there[..., None, None] for x in (self.k, self.v))
        return AttentionState(k, v, self.alive[slots, :keys].bool() & there, self.position[slots])

    def write(self, state: AttentionState, slots: Tensor) -> None:
        keys = state.k.shape[1]
        self.reserve(keys + 1)
        self.k[slots, :keys], self.v[slots, :keys] = state.k.float(), state.v.float()
        self.alive[slots, :keys] = state.alive.to(torch.uint8)
        self.length[slots], self.position[slots] = keys, state.position


@dataclass(frozen=True)
class BlockMemory:
    """The state of a block as its NamedTuple of parts; a part may be None."""

    kind: Callable[..., Any]
    parts: tuple[Memory | None, ...]

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        return [buffer for part in self.parts if part is not None for buffer in part.buffers]

    def read(self, slots: Tensor) -> Any:
        return self.kind(*(None if part is None else part.read(slots) for part in self.parts))

    def write(self, state: Any, slots: Tensor) -> None:
        for part, value in zip(self.parts, state, strict=True):
            if part is not None:
                part.write(value, slots)


class StateMemory:
    """The memory of a block as the model's own state, one batch row a slot. state: the empty one, whose tensors are kept."""

    def __init__(self, state: Any) -> None:
        self.state = state

    @property
    def buffers(self) -> list[tuple[Tensor, float]]:
        return empty_values(self.state)

    def read(self, slots: Tensor) -> Any:
        return map_state(lambda leaf: leaf[slots], self.state)

    def write(self, state: Any, slots: Tensor) -> None:
        for buffer, leaf in zip(leaves(self.state), leaves(state), strict=True):
            buffer[slots] = leaf.to(buffer)
