"""Generation: read the prompt in chunks, then token after token. Only the state and one row of logits are kept.

The prompt is read by the model itself. Tokens after it are decoded natively on a CPU (`native.py`) and as a CUDA graph on a GPU
(`graph.py`), where that is possible."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.errors import UserError
from openxlstm.inference import graph, native
from openxlstm.inference.decoder import Decoder
from openxlstm.inference.packing import STORAGES
from openxlstm.inference.sampling import Sampling, sample
from openxlstm.ops.state import leaves

Prompts = Tensor | Sequence[Sequence[int] | Tensor]

DECODE = ("auto", "native", "graph", "torch")
"""Ways to read a token: natively on a CPU or as a CUDA graph on a GPU (an error where that cannot be), by the model itself, or
the first of them that can."""

HOW = {"native": "natively", "graph": "as a CUDA graph"}


class TokenStream(Iterator[list[int | None]]):
    """Yields, step by step, one new token id for each row of the batch; None for a row that has ended.

    It ends after `max_new_tokens` steps or when every row has produced `eos_id` (which is yielded). Between steps it holds
    the model's state and the last logits, nothing that grows (an attention block's state, its KV cache, does grow).

    decode: how tokens are read, "native", "graph" or "torch". why_torch: the reason where "auto" has chosen "torch".
    """

    def __init__(
        self,
        model: nn.Module,
        prompt_ids: Prompts,
        max_new_tokens: int | None,
        *,
        sampling: Sampling,
        seed: int | Sequence[int] | None,
        eos_id: int | None,
        state: Any,
        vocab_size: int | None,
        prefill_chunk: int,
        decode: str,
        weights: str,
    ) -> None:
        if max_new_tokens is not None and max_new_tokens < 0:
            raise UserError(f"max_new_tokens must be 0 or above, got {max_new_tokens}")
        if prefill_chunk < 1:
            raise UserError(f"prefill_chunk must be at least 1, got {prefill_chunk}")
        self.model = model
        self.decode, self.why_torch = choose_decode(model, decode, weights)
        self._weights = weights
        self._decoder: Decoder | None = None  # once it exists, it holds the state
        self.sampling, self.eos_id = sampling, eos_id
        ids, mask = pad_left(prompt_ids)
        check_ids(ids, model)
        device = next(iter(model.parameters())).device
        self._unread: tuple[Tensor, Tensor | None] | None = (ids.to(device), None if mask is None else mask.to(device))
        B = ids.shape[0]
        for leaf in leaves(state):
            if leaf.shape[0] != B:
                raise UserError(f"the state has {leaf.shape[0]} rows and there are {B} prompts")
        self._generators = row_generators(seed, B)
        self._state = state
        self._logits: Tensor | None = None  # [B, V] for the next token
        self._running = torch.ones(B, dtype=torch.bool)
        self._left = max_new_tokens
        self._chunk, self._vocab_size = prefill_chunk, vocab_size

    def __next__(self) -> list[int | None]:
        if self._left == 0 or not bool(self._running.any()):
            raise StopIteration
        with reading(self.model):
            self._catch_up()
            assert self._logits is not None
            tokens = sample(self._logits[:, : self._vocab_size], self.sampling, self._generators)  # [B]
        mask = None if bool(self._running.all()) else self._running.to(tokens.device)[:, None]
        self._unread = (tokens[:, None], mask)
        row = [token if running else None for token, running in zip(tokens.tolist(), self._running.tolist())]
        if self.eos_id is not None:
            self._running = self._running & (tokens.cpu() != self.eos_id)
        if self._left is not None:
            self._left -= 1
        return row

    @property
    def state(self) -> Any:
        """The model's state after the prompt and every token yielded so far (reading the last one if need be): pass it to
        `generate` with what comes next to continue. Made in inference mode: no gradients flow through it."""
        with reading(self.model):
            self._catch_up()
            return self._state if self._decoder is None else self._decoder.state()

    def _catch_up(self) -> None:
        """Read what the model has not seen: the prompt, or the last tokens. An interrupted call can be repeated."""
        while self._unread is not None:
            ids, mask = self._unread
            if self.decode != "torch" and ids.shape[1] == 1:
                self._logits = self._step(ids[:, 0], None if mask is None else mask[:, 0])
                self._unread = None
                return
            now, later = ids[:, : self._chunk], ids[:, self._chunk :]
            now_mask, later_mask = (None, None) if mask is None else (mask[:, : self._chunk], mask[:, self._chunk :])
            if now_mask is not None and bool(now_mask.all()):
                now_mask = None  # no padding in this part: leave the faster way open
            self._logits, self._state = last_logits(self.model, now, self._state, now_mask)
            self._unread = (later, later_mask) if later.shape[1] else None

    def _step(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Read one token a row, of the rows where `mask` is true. Returns logits [B, V]; other rows keep their last."""
        if self._decoder is not None and self._decoder.stale:  # somebody trained the model between two tokens
            self._state, self._decoder = self._decoder.state(), None
        if self._decoder is None:
            self._decoder = self._new_decoder(len(ids))
            self._decoder.load_state(self._state)
            self._state = None
        if mask is None:
            return self._decoder.step(ids)
        rows = mask.nonzero()[:, 0]
        new = self._decoder.step(ids[rows], rows)
        logits = new.new_zeros(len(ids), new.shape[1]) if self._logits is None else self._logits.clone()
        logits[rows] = new
        return logits

    def _new_decoder(self, batch: int) -> Decoder:
        if self.decode == "graph":
            return graph.GraphDecoder(self.model, batch=batch)
        return native.NativeDecoder(self.model, batch=batch, weights=self._weights)


def generate(
    model: nn.Module,
    prompt_ids: Prompts,
    max_new_tokens: int | None = 256,
    *,
    sampling: Sampling | None = None,
    seed: int | Sequence[int] | None = 0,
    eos_id: int | None = None,
    state: Any = None,
    vocab_size: int | None = None,
    prefill_chunk: int = 512,
    decode: str = "auto",
    weights: str = "fp32",
) -> TokenStream:
    """Continue prompts with `logits, state = model(ids, state, mask=...)`; a TokenStream to iterate over.

    prompt_ids: [B, T] int64, or a list of B prompts of any lengths >= 1. Each row's tokens are those it would get alone.
    max_new_tokens: None = until every row has ended, or the caller stops iterating.
    sampling: temperature, top-k, top-p; None = plain sampling. seed: row r draws with seed + r, or pass one seed a row;
        None = a new one each time.
    eos_id: the token that ends a row. state: where to start, e.g. an earlier stream's `.state`; None = empty.
    vocab_size: only ids below it are drawn (the rest of a padded embedding); None = all.
    prefill_chunk: the prompt is read in pieces of so many tokens, so its length does not cost memory.
    decode: "native", one call of compiled code a token on a CPU; "graph", one CUDA graph a token on a GPU; "torch", the model
        itself; "auto", natively for a float32 model on a CPU and by a graph for a model on a GPU, in evaluation mode, if all
        its modules have such a step.
    weights: "fp32", or for native decoding rounded copies, "bf16" or "int8", which are read two and almost four times as fast.

    The model is used in evaluation mode and left in the mode it had; a change of its weights between two tokens is seen. Raises
    UserError for empty prompts, ids outside the model's vocabulary, values that make no sense, and what cannot be decoded as it
    has to be.
    """
    return TokenStream(
        model,
        prompt_ids,
        max_new_tokens,
        sampling=sampling or Sampling(),
        seed=seed,
        eos_id=eos_id,
        state=state,
        vocab_size=vocab_size,
        prefill_chunk=prefill_chunk,
        decode=decode,
        weights=weights,
    )


def choose_decode(model: nn.Module, decode: str, weights: str) -> tuple[str, str | None]:
    """ "native", "graph" or "torch", and the reason where "auto" becomes "torch". Raises UserError for what cannot be."""
    if decode not in DECODE:
        raise UserError(f"decode must be one of {', '.join(DECODE)}, got {decode!r}")
    if weights not in STORAGES:
        raise UserError(f"weights must be one of {', '.join(STORAGES)}, got {weights!r}")
    rounded = weights != "fp32"
    if rounded and decode in ("torch", "graph"):
        raise UserError(f"weights={weights!r} is for native decoding, and decode={decode!r} was asked for")
    if decode == "torch":
        return "torch", None
    if decode == "auto" and not rounded:
        found = graph if on_gpu(model) else native
        reason = found.refuses_unasked(model)
        return ("graph" if found is graph else "native", None) if reason is None else ("torch", reason)
    decode = "native" if rounded else decode
    reason = graph.refuses(model) if decode == "graph" else native.refuses(model)
    if reason is not None:
        raise UserError(f"this model cannot be decoded {HOW[decode]}: {reason}")
    return decode, None


def on_gpu(model: nn.Module) -> bool:
    """Whether the first parameter of a model is on a CUDA device."""
    return next((p.device.type == "cuda" for p in model.parameters()), False)


def complete(
    model: nn.Module, prompt_ids: Prompts, max_new_tokens: int = 256, *, eos_id: int | None = None, **options: Any
) -> list[list[int]]:
    """The whole continuation of each prompt at once, without `eos_id`; options as in `generate`."""
    stream = generate(model, prompt_ids, max_new_tokens, eos_id=eos_id, **options)
    columns = list(stream)
    return [[token for token in row if token is not None and token != eos_id] for row in zip(*columns)] or [
        [] for _ in range(len(prompt_ids))
    ]


def last_logits(model: Any, ids: Tensor, state: Any, mask: Tensor | None) -> tuple[Tensor, Any]:
    """Read ids [B, T] and return the logits [B, V] after the last one. Where the model has `hidden` and `head`, the head
    sees that one position only: logits of a whole chunk would be its largest tensor."""
    if hasattr(model, "hidden") and hasattr(model, "head"):
        h, state = model.hidden(ids, state, mask=mask)
        return model.head(h[:, -1]), state
    logits, state = model(ids, state, mask=mask)
    return logits[:, -1], state


def pad_left(prompt_ids: Prompts) -> tuple[Tensor, Tensor | None]:
    """Prompts as ids [B, T] that end together, and the mask [B, T] of what is not padding (None where all of it is text)."""
    if isinstance(prompt_ids, Tensor):
        if prompt_ids.dim() != 2 or prompt_ids.is_floating_point() or prompt_ids.dtype == torch.bool:
            raise UserError(f"prompt_ids must be integers [B, T], got {prompt_ids.dtype} {list(prompt_ids.shape)}")
        rows: list[Tensor] = list(prompt_ids)
    else:
        if any(isinstance(row, int) for row in prompt_ids):
            raise UserError("prompt_ids holds one list of ids for each prompt: write [[1, 2]] for a single one")
        rows = [torch.as_tensor(row, dtype=torch.int64) for row in prompt_ids]
    if not rows:
        raise UserError("there is no prompt")
    for number, row in enumerate(rows):
        if row.numel() == 0:
            raise UserError(f"prompt {number} is empty: a model needs at least one token to start from")
    T = max(row.numel() for row in rows)
    ids = torch.stack([nn.functional.pad(row.long(), (T - row.numel(), 0)) for row in rows])
    if all(row.numel() == T for row in rows):
        return ids, None
    start = torch.tensor([T - row.numel() for row in rows])
    return ids, torch.arange(T) >= start[:, None]


def check_ids(ids: Tensor, model: nn.Module) -> None:
    """Raise where an id lies outside the model's vocabulary (an embedding's own message names neither)."""
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        wrong = low if low < 0 else high
        raise UserError(f"the prompt holds token {wrong}, and the model knows 0 to {(vocab_size or 0) - 1}")


def row_generators(seed: int | Sequence[int] | None, rows: int) -> list[torch.Generator]:
    """One generator a row."""
    generators = [torch.Generator() for _ in range(rows)]
    if seed is None:
        for generator in generators:
            generator.seed()
        return generators
    seeds = [seed + r for r in range(rows)] if isinstance(seed, int) else list(seed)
    if len(seeds) != rows:
        raise UserError(f"{rows} prompts need one seed or {rows}, got {len(seeds)}")
    return [generator.manual_seed(value) for generator, value in zip(generators, seeds)]


@contextlib.contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """No autograd, no dropout; the model's mode is as before afterwards."""
    modules = [module for module in model.modules() if module.training] if model.training else []
    if modules:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in modules:
            module.training = True
