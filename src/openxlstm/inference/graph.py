"""Decoding on a GPU with one launch a token: the whole model is a CUDA graph on static buffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.inference.decoder import COMMON_PARTS, Decoder, check_ids, not_plain, unknown_part
from openxlstm.inference.steps import STEPS, read_token
from openxlstm.layers import BLOCKS
from openxlstm.models.language import LanguageModel
from openxlstm.ops import gpu

PARTS = {*COMMON_PARTS, *STEPS}
"""Modules whose computation the step on a GPU knows."""

SERVED = tuple(name for name, kind in BLOCKS.items() if kind in STEPS)
"""The blocks among them, by name."""

WARM_UPS = 2
"""Runs before a graph is captured: kernels are compiled and libraries are loaded."""


def refuses(model: nn.Module) -> str | None:
    """Why a model cannot be decoded as a CUDA graph, or None."""
    reason = gpu.missing() or unknown_part(model, PARTS, "step on a GPU")
    if reason is not None:
        return reason
    first = next(model.parameters())
    for name, x in model.named_parameters():
        if x.device != first.device:
            return f"it runs on one device, and {name} is on {x.device}, others on {first.device}"
        if x.dtype != first.dtype or x.dtype not in gpu.DTYPES:
            return f"it serves models that are float32, bfloat16 or float16 throughout, and {name} is {x.dtype}"
    return gpu.refusal(first)


def refuses_unasked(model: nn.Module) -> str | None:
    """Why `generate` should not decode by a graph unless it is told to, or None: only where nothing but speed changes."""
    return refuses(model) or not_plain(model, "cuda")


@dataclass
class Token:
    """A step of a fixed number of rows: what goes in, what comes out, and the graph between (None: launched one by one)."""

    ids: Tensor  # [n] int64
    slots: Tensor  # [n] int64, -1 for rows that are not used
    logits: Tensor | None = None  # [n, vocab_size]
    graph: Any = None


class GraphDecoder(Decoder):
    """Steps `batch` independent streams of a model on a GPU, each in a row of its own with its own memory.

    `logits = decoder.step(ids)` reads one token a row. Prompts are best read by the model itself, whose state then goes in with
    `load_state`. Rows can be emptied, exchanged and copied out at any time. What a row gets depends on the other rows by
    rounding alone: the matrix products of different numbers of rows add up in different orders.

    model: a LanguageModel on a GPU, float32, bfloat16 or float16, of the blocks `mlstm`, `mlstm_large` and `slstm`. Its
    weights are used where they lie: it is kept alive, and after changes (`stale` sees most) make a new decoder. batch: rows.
    Memories of cells are float32. capture: False launches kernel after kernel in place of a graph, to find errors.
    Graphs are captured when they are first needed, one for 1, 2, 4, 8 ... rows. Calls belong on one CUDA stream.
    Raises ValueError with the reason where the model cannot be served (`refuses`).
    """

    def __init__(self, model: nn.Module, *, batch: int = 1, capture: bool = True) -> None:
        reason = refuses(model)
        if reason is not None:
            raise ValueError(f"this model cannot be decoded as a CUDA graph: {reason}")
        assert isinstance(model, LanguageModel)
        self._model, self._device = model, model.embedding.weight.device
        super().__init__(model, batch=batch, device=self._device)
        self._capture = capture and self._device.type == "cuda"
        self._tokens: dict[int, Token] = {}
        with torch.inference_mode(False), torch.no_grad():
            self._steps = [STEPS[type(block)](block, batch) for block in model.stack.blocks]
        self._memories = [step.memory for step in self._steps]

    def step(self, ids: Tensor, rows: Tensor | Sequence[int] | None = None) -> Tensor:
        """Read ids [n] int64, one token for each of `rows` (different ones; None: all, in order); other rows stay as they are.
        Returns logits [n, vocab_size] in float32. Raises ValueError for rows out of range, and for ids that are on the CPU;
        those on the GPU are not looked at, for that would mean to wait for it."""
        slots = self._rows(rows)
        n = len(slots)
        check_ids(ids, n)
        if n == 0:
            return torch.empty(0, self.vocab_size, device=self._device)
        if ids.device.type == "cpu" and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(f"ids must be in [0, {self.vocab_size}), got {ids.tolist()}")
        off = torch.autocast(self._device.type, enabled=False)
        with self._lock, torch.inference_mode(False), torch.no_grad(), off:  # buffers may be used in either mode later
            token = self._token(min(1 << (n - 1).bit_length(), self.batch))
            token.ids[:n].copy_(ids)
            token.slots[:n].copy_(slots)
            token.slots[n:].fill_(-1)
            if token.graph is None:
                return self._launch(token)[:n]
            token.graph.replay()
            assert token.logits is not None
            return token.logits[:n].clone()

    def _launch(self, token: Token) -> Tensor:
        return read_token(self._model, self._steps, token.ids, token.slots)

    def _token(self, rows: int) -> Token:
        """The step of so many rows. It is warmed up with rows that are all unused, which changes no memory."""
        if rows not in self._tokens:
            ids = torch.zeros(rows, dtype=torch.int64, device=self._device)
            token = Token(ids, torch.full_like(ids, -1))
            if self._capture:
                self._record(token)
            self._tokens[rows] = token
        return self._tokens[rows]

    def _record(self, token: Token) -> None:
        """Capture the launches of a step; graphs share their working memory, for one runs at a time."""
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._launch(token)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            pool = next((other.graph.pool() for other in self._tokens.values()), None)
            with gpu.capturing(graph, pool=pool):
                token.logits = self._launch(token)
            token.graph = graph
