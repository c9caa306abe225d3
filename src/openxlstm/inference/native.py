"""Decoding on a CPU with one native call a token: the whole model runs in C (csrc/decode.cpp) on packed weights."""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.inference.decoder import COMMON_PARTS, Decoder, check_ids, not_plain, unknown_part
from openxlstm.inference.memory import AttentionMemory
from openxlstm.inference.packing import STORAGES
from openxlstm.inference.plan import BLOCKS, Builder, Plan
from openxlstm.models.language import LanguageModel
from openxlstm.ops import native

PARTS = {*COMMON_PARTS, *BLOCKS}
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
    reason = unknown_part(model, PARTS, "native step")
    if reason is not None:
        return reason
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
    reason = not_plain(model, "cpu")
    if reason is not None:
        return reason
    for name, x in model.named_parameters():
        if x.dtype != torch.float32:
            return f"{name} is {x.dtype}, and native code computes in float32"
    return None


class NativeDecoder(Decoder):
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
        reason = refuses(model)
        if reason is not None:
            raise ValueError(f"this model cannot be decoded natively: {reason}")
        assert isinstance(model, LanguageModel)
        super().__init__(model, batch=batch)
        self.weights = weights
        self._library = native.library()
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            self._steps = torch.zeros(batch, dtype=torch.int64)
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
        slots = self._rows(rows)
        n = len(slots)
        check_ids(ids, n)
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

    def _moving(self) -> list[Tensor]:
        return [self._steps, *super()._moving()]

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


def _declare(library: ctypes.CDLL) -> Any:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.openxlstm_decoder_new.restype = pointer
    library.openxlstm_decoder_new.argtypes = [ctypes.POINTER(Plan)]
    library.openxlstm_decoder_free.argtypes = [pointer]
    step = library.openxlstm_decoder_step
    step.argtypes = [pointer, pointer, pointer, integer, pointer, integer]
    return step
