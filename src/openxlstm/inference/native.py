"""Decoding on a CPU with one native call a token: the whole model runs in C (csrc/decode.cpp) on packed weights."""

import ctypes
import itertools
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.inference.memory import AttentionMemory
from openxlstm.inference.packing import STORAGES
from openxlstm.inference.plan import BLOCKS, Builder, Plan
from openxlstm.layers import CausalConv1d, GatedFeedForward, HeadNorm, HeadwiseLinear, LayerNorm, RMSNorm
from openxlstm.layers.gates import ScalarGates
from openxlstm.models.language import LanguageModel
from openxlstm.models.stack import BlockStack
from openxlstm.ops import native

PARTS = {
    LanguageModel, BlockStack, CausalConv1d, GatedFeedForward, HeadNorm, HeadwiseLinear, LayerNorm, RMSNorm, ScalarGates,
    nn.Linear, nn.Embedding, nn.Dropout, nn.ModuleList, nn.Identity, *BLOCKS,
}  # fmt: skip
"""Modules whose computation the native step knows."""

BYTES_A_WAIT = 32 * 1024
"""A thread more must have so many bytes of weights to read between two barriers, or it costs more than it brings."""


def refuses(model: nn.Module) -> str | None:
    """Why a model cannot be decoded natively, or None."""
    reason = native.missing()
    if reason is not None:
        return reason
    if not hasattr(native.library(), "openxlstm_decoder_step"):
        return "the compiled library is older than this decoder; reinstall openxlstm"
    if not isinstance(model, LanguageModel):
        return f"it serves LanguageModel, not {type(model).__name__}"
    for name, module in model.named_modules():
        if type(module) not in PARTS:
            return f"{name or 'the model'} is a {type(module).__name__}, which has no native step"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has forward hooks, which native code would not call"
    for name, x in model.named_parameters():
        if x.device.type != "cpu":
            return f"it runs on CPUs, and {name} is on {x.device}"
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it computes in float32, and {name} is {x.dtype}"
    return None


def refuses_unasked(model: nn.Module) -> str | None:
    """Why `generate` should not decode natively unless it is told to, or None: only where nothing but speed changes."""
    reason = refuses(model)
    if reason is not None:
        return reason
    assert isinstance(model, LanguageModel)
    if model.training:
        return "the model is in training mode"
    if model.config.backend != "auto":
        return f"the model was told to use the backend {model.config.backend!r}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    for name, x in model.named_parameters():
        if x.dtype != torch.float32:
            return f"{name} is {x.dtype}, and native code computes in float32"
    return None


class NativeDecoder:
    """Steps `batch` independent streams of a model, each in a row of its own with its own memory.

    `logits = decoder.step(ids)` reads one token a row. Prompts are best read by the model itself, whose state then goes in with
    `load_state`. Rows can be emptied, exchanged and copied out at any time. Results do not depend on the number of threads or
    on the other rows, bit for bit.

    model: a LanguageModel on the CPU. Its weights are copied: after changes (`stale` sees most) make a new decoder.
    batch: rows. weights: "fp32", "bf16", or "int8" with one scale a row of each matrix; activations and memory are float32.
    Raises ValueError with the reason where the model cannot be served (`refuses`).
    """

    def __init__(self, model: nn.Module, *, batch: int = 1, weights: str = "fp32") -> None:
        if weights not in STORAGES:
            raise ValueError(f"weights must be one of {', '.join(STORAGES)}, got {weights!r}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        reason = refuses(model)
        if reason is not None:
            raise ValueError(f"this model cannot be decoded natively: {reason}")
        assert isinstance(model, LanguageModel)
        self.batch, self.weights, self.vocab_size = batch, weights, model.config.vocab_size
        self._watched = [(x, _version(x), x.data_ptr()) for x in itertools.chain(model.parameters(), model.buffers())]
        self._lock = threading.Lock()
        self._library = native.library()
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            self._steps, self._all = torch.zeros(batch, dtype=torch.int64), torch.arange(batch)
            builder = Builder(
                slots=batch,
                lanes=self._library.openxlstm_vector_width(),
                threads=native.threads(),
                storage=weights,
                steps=self._steps,
            )
            builder.model(model)
            plan = builder.plan(self._allocate)
        self._memories = builder.memories
        self._growing = [memory for memory in self._memories if isinstance(memory, AttentionMemory)]
        self._kept = builder.kept
        self.weight_bytes = builder.weight_bytes
        """Bytes of weights that a step reads."""
        self._between_waits = builder.weight_bytes / (builder.waits + 1)
        self._step = _declare(self._library)
        self._handle = self._library.openxlstm_decoder_new(ctypes.byref(plan))
        self._finalizer = weakref.finalize(self, self._library.openxlstm_decoder_free, self._handle)

    def step(self, ids: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Read ids [n] int64, one token for each of `rows` (different ones; None: all, in order); other rows stay as they are.
        Returns logits [n, vocab_size]. Raises ValueError for ids or rows out of range."""
        if ids.dtype != torch.int64 or not ids.is_contiguous():
            ids = ids.to(torch.int64).contiguous()
        slots = self._all if rows is None else self._rows(rows)
        n = len(slots)
        if ids.dim() != 1 or len(ids) != n:
            raise ValueError(f"ids must have shape [{n}], one for each row, got {list(ids.shape)}")
        logits = torch.empty(n, self.vocab_size)
        if n == 0:
            return logits
        with self._lock:
            for memory in self._growing:
                memory.reserve(int(memory.length.max()) + 1)
            failed = self._step(self._handle, ids.data_ptr(), slots.data_ptr(), n, logits.data_ptr(), self._team(n))
        if failed:
            raise ValueError(f"ids must be in [0, {self.vocab_size}) and rows in [0, {self.batch})")
        return logits

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
            for buffer in [self._steps, *(buffer for buffer, _ in self._buffers())]:
                buffer[: len(slots)] = buffer[slots]

    @property
    def state_bytes(self) -> int:
        """Bytes of the memory of one row (of attention, as far as it has grown)."""
        return sum(buffer.numel() * buffer.element_size() for buffer, _ in self._buffers()) // self.batch

    @property
    def stale(self) -> bool:
        """Whether the model's weights have changed since they were copied: by an optimiser, `load_state_dict`, any operation in
        place, or replaced data. (Writing through `.data` is the one way that leaves no trace.)"""
        return any(x.data_ptr() != address or _version(x) != version for x, version, address in self._watched)

    def _buffers(self) -> list[tuple[Tensor, float]]:
        return [buffer for memory in self._memories for buffer in memory.buffers]

    def _rows(self, rows: Tensor | Sequence[int] | None, *, distinct: bool = True) -> Tensor:
        if rows is None:
            return self._all
        slots = torch.as_tensor(rows, dtype=torch.int64).contiguous()
        if slots.dim() != 1 or (slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) < self.batch):
            raise ValueError(f"rows must be in [0, {self.batch}), got {slots.tolist()}")
        if len(slots) > self.batch or (distinct and len(set(slots.tolist())) < len(slots)):
            raise ValueError(f"every row may occur once, got {slots.tolist()}")
        return slots

    def _team(self, rows: int) -> int:
        """Threads for a step."""
        return max(1, min(native.threads(), int(self._between_waits * rows / BYTES_A_WAIT)))

    def _allocate(self, size: int) -> Tensor:
        """Memory for all weights, from the start of a large page on."""
        page = 2 << 20
        block = torch.empty(size + page, dtype=torch.uint8)
        self._library.openxlstm_large_pages(ctypes.c_void_p(block.data_ptr()), ctypes.c_int64(block.numel()))
        start = -block.data_ptr() % page
        return block[start : start + size]


def _version(x: Tensor) -> int:
    """A number that operations in place raise; inference tensors have none."""
    return -1 if x.is_inference() else x._version


def _declare(library: ctypes.CDLL) -> Any:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.openxlstm_decoder_new.restype = pointer
    library.openxlstm_decoder_new.argtypes = [ctypes.POINTER(Plan)]
    library.openxlstm_decoder_free.argtypes = [pointer]
    step = library.openxlstm_decoder_step
    step.argtypes = [pointer, pointer, pointer, integer, pointer, integer]
    return step
