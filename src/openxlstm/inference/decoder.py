"""What every way to decode has in common: rows with a memory each, and which models can be served."""

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.inference.memory import Memory
from openxlstm.layers import CausalConv1d, Dropout, GatedFeedForward, HeadNorm, HeadwiseLinear, LayerNorm, RMSNorm
from openxlstm.layers.gates import ScalarGates
from openxlstm.models.language import LanguageModel
from openxlstm.models.stack import BlockStack

COMMON_PARTS = {
    LanguageModel, BlockStack, CausalConv1d, GatedFeedForward, HeadNorm, HeadwiseLinear, LayerNorm, RMSNorm, ScalarGates,
    nn.Linear, nn.Embedding, Dropout, nn.ModuleList, nn.Identity,
}  # fmt: skip
"""Modules around the blocks, and in them."""


class Decoder(ABC):
    """`batch` independent streams of a model, each in a row of its own; a subclass adds `step` and fills `_memories`.

    model: its parameters and buffers are watched for changes. batch: rows. device: where memories are.
    Raises ValueError for a batch below 1.
    """

    _memories: list[Memory]  # one a block

    def __init__(self, model: LanguageModel, *, batch: int, device: torch.device | str = "cpu") -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.batch, self.vocab_size = batch, model.config.vocab_size
        self._watched = [(x, _version(x), x.data_ptr()) for x in itertools.chain(model.parameters(), model.buffers())]
        self._lock = threading.Lock()
        self._all = torch.arange(batch, device=device)

    @abstractmethod
    def step(self, ids: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Read ids [n] int64, one token for each of `rows` (different ones; None: all, in order); other rows stay as they are.
        Returns logits [n, vocab_size]. Raises ValueError for ids or rows out of range."""

    def state(self, rows: Tensor | Sequence[int] | None = None) -> tuple[Any, ...]:
        """A copy of the memory of some rows (None: all) as the model's own state: one entry a block."""
        slots = self._rows(rows)
        with self._lock:
            return tuple(memory.read(slots) for memory in self._memories)

    def load_state(self, state: tuple[Any, ...] | None, rows: Tensor | Sequence[int] | None = None) -> None:
        """Continue some rows (None: all) from a state of the model, one batch row each; None is the empty state."""
        if state is None:
            return self.reset(rows)
        if len(state) != len(self._memories):
            raise ValueError(f"the state has {len(state)} entries, the model {len(self._memories)} blocks")
        slots = self._rows(rows)
        with self._lock:
            for memory, block_state in zip(self._memories, state, strict=True):
                memory.write(block_state, slots)
        return None

    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Empty the memory of some rows (None: all)."""
        slots = self._rows(rows)
        with self._lock:
            for buffer, empty in self._buffers():
                buffer[slots] = empty

    def select(self, rows: Tensor | Sequence[int]) -> None:
        """Row r becomes a copy of what row rows[r] was; rows behind the last of them keep their memory (beam search)."""
        slots = self._rows(rows, distinct=False)
        with self._lock:
            for buffer in self._moving():
                buffer[: len(slots)] = buffer[slots]

    @property
    def state_bytes(self) -> int:
        """Bytes of the memory of one row (of attention, as far as it has grown)."""
        return sum(buffer.numel() * buffer.element_size() for buffer, _ in self._buffers()) // self.batch

    @property
    def stale(self) -> bool:
        """Whether the model's weights have changed since the decoder was made: by an optimiser, `load_state_dict`, any
        operation in place, or replaced data. (Writing through `.data` is the one way that leaves no trace.)"""
        return any(x.data_ptr() != address or _version(x) != version for x, version, address in self._watched)

    def _buffers(self) -> list[tuple[Tensor, float]]:
        return [buffer for memory in self._memories for buffer in memory.buffers]

    def _moving(self) -> list[Tensor]:
        """All that belongs to a row, [batch, ...]."""
        return [buffer for buffer, _ in self._buffers()]

    def _rows(self, rows: Tensor | Sequence[int] | None, *, distinct: bool = True) -> Tensor:
        if rows is None:
            return self._all
        slots = torch.as_tensor(rows, dtype=torch.int64).contiguous()
        if slots.dim() != 1 or (slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) < self.batch):
            raise ValueError(f"rows must be in [0, {self.batch}), got {slots.tolist()}")
        if len(slots) > self.batch or (distinct and len(set(slots.tolist())) < len(slots)):
            raise ValueError(f"every row may occur once, got {slots.tolist()}")
        return slots.to(self._all.device)


def unknown_part(model: nn.Module, parts: Collection[type], step: str) -> str | None:
    """The first module of a model that is none of `parts` and so has no `step`, or that has hooks, as a reason; or None."""
    if not isinstance(model, LanguageModel):
        return f"it serves LanguageModel, not {type(model).__name__}"
    for name, module in model.named_modules():
        if type(module) not in parts:
            return f"{name or 'the model'} is a {type(module).__name__}, which has no {step}"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has forward hooks, which a {step} would not call"
    return None


def not_plain(model: nn.Module, device: str) -> str | None:
    """What else than its weights decides what a model computes, or None. device: "cpu" or "cuda"."""
    assert isinstance(model, LanguageModel)
    if model.training:
        return "the model is in training mode"
    if model.config.backend != "auto":
        return f"the model was told to use the backend {model.config.backend!r}"
    if torch.is_autocast_enabled(device):
        return "autocast is on"
    return None


def check_ids(ids: Tensor, rows: int) -> None:
    """Raise ValueError unless there is one id a row."""
    if ids.dim() != 1 or len(ids) != rows:
        raise ValueError(f"ids must have shape [{rows}], one for each row, got {list(ids.shape)}")


def _version(x: Tensor) -> int:
    """A number that operations in place raise; inference tensors have none."""
    return -1 if x.is_inference() else x._version
