"""Exact evaluation: each token of a part is predicted once, and the sums are over tokens, not over batches."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openxlstm.data import EvalWindows
from openxlstm.ops.state import detach
from openxlstm.training.loss import TokenLoss, autocast

TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Evaluation:
    """Result of one pass over a text.

    nats_per_token, perplexity = exp of it; num_tokens that were predicted; context they were predicted in; bits_per_byte of the
    UTF-8 text (None where its size is unknown); by_position: (first, last + 1, nats per token, tokens) for ranges of the number
    of tokens seen before, in powers of two; word_perplexity (None where words were not counted); by_frequency: (fewest, most,
    nats per token, tokens) for tenths of the tokens, from those that are rarest in the training text to the most frequent, with
    how often they stand there (None where that was not given).
    """

    nats_per_token: float
    num_tokens: int
    context: int
    bits_per_byte: float | None
    by_position: tuple[tuple[int, int, float, int], ...]
    word_perplexity: float | None = None
    by_frequency: tuple[tuple[int, int, float, int], ...] | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def objective(self) -> float:
        """What training minimises by its choice of weights."""
        return self.nats_per_token

    def columns(self) -> dict[str, float]:
        """The row of metrics.csv."""
        values = {"val_loss": self.nats_per_token, "val_perplexity": self.perplexity}
        return values if self.bits_per_byte is None else values | {"val_bits_per_byte": self.bits_per_byte}

    def line(self) -> str:
        """One line for people."""
        parts = [f"{self.nats_per_token:.4f} nats/token"]
        if self.bits_per_byte is not None:
            parts.append(f"{self.bits_per_byte:.4f} bits per byte")
        parts.append(f"perplexity {self.perplexity:.2f}")
        if self.word_perplexity is not None:
            parts.append(f"word perplexity {self.word_perplexity:.1f}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "perplexity": self.perplexity}


class Head:
    """The first `num_tokens` tokens of a dataset, for EvalWindows."""

    def __init__(self, tokens: Any, num_tokens: int) -> None:
        self._tokens, self.num_tokens = tokens, min(num_tokens, tokens.num_tokens)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        return self._tokens.read(start, stop)

    def starts_in(self, start: int, stop: int) -> NDArray[np.int64]:
        return self._tokens.starts_in(start, stop)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: Any,
    context: int,
    *,
    stride: int | None = None,
    carry: bool = False,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    num_bytes: int | None = None,
    num_words: int | None = None,
    frequencies: Tensor | None = None,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
) -> Evaluation:
    """Loss of `model` (a LanguageModel, or a TokenLoss around one) on `tokens` (a TokenDataset or what EvalWindows takes).

    context: window length; any, also longer than in training. stride: as in EvalWindows; smaller than context gives each
        token at least context - stride tokens to look back on. carry: keep the state from window to window: nothing is cut.
    batch_size: windows at once; None chooses about 8192 tokens. Results do not depend on it but for rounding (with `carry` the
        text is read as `batch_size` streams).
    max_tokens: only the first so many tokens. num_bytes, num_words: size of the text, for bits per byte and word perplexity;
        num_bytes None takes it from the dataset when all of it is read.
    frequencies: [V] int64, how often each token stands in the training text, for the loss by frequency.
    rank, world_size: this process's share of each batch; the sums are added up over the default process group.

    The model is put in evaluation mode and left in the mode it had.
    """
    loss = model if isinstance(model, TokenLoss) else TokenLoss(model)
    device = next(loss.parameters()).device
    part = Head(tokens, max_tokens + 1) if max_tokens else tokens
    if num_bytes is None and part.num_tokens == tokens.num_tokens:
        num_bytes = getattr(tokens, "num_bytes", None)
    context = min(context, max(part.num_tokens - 1, 1))
    if batch_size is None:
        batch_size = max(TOKENS_AT_ONCE // context, 1)
        batch_size = -(-batch_size // world_size) * world_size
    windows = EvalWindows(part, context, batch_size, stride, carry=carry)
    sums = torch.zeros(2, windows.context, dtype=torch.float64, device=device)  # nats and tokens by place in the window
    by_id = None if frequencies is None else torch.zeros(2, len(frequencies), dtype=torch.float64, device=device)
    state: Any = None
    was_training = loss.training
    loss.eval()
    try:
        for number in range(len(windows)):
            batch = windows.batch(number, rank, world_size).to(device)
            with autocast(precision, device):
                nats, after = loss(batch.inputs, batch.targets, state, some(batch.reset))
            state = detach(after) if carry else None
            scored = batch.scored
            sums[0] += torch.where(scored, nats, 0.0).sum(0, dtype=torch.float64)
            sums[1] += scored.sum(0)
            if by_id is not None:
                ids = batch.targets[scored]
                by_id[0].index_add_(0, ids, nats[scored].double())
                by_id[1].index_add_(0, ids, torch.ones_like(ids, dtype=torch.float64))
    finally:
        loss.train(was_training)
    if world_size > 1:
        torch.distributed.all_reduce(sums)
        if by_id is not None:
            torch.distributed.all_reduce(by_id)
    nats_at, count_at = sums.cpu()
    total, count = float(nats_at.sum()), int(count_at.sum())
    return Evaluation(
        nats_per_token=total / max(count, 1),
        num_tokens=count,
        context=windows.context,
        bits_per_byte=total / math.log(2) / num_bytes if num_bytes else None,
        by_position=_ranges(nats_at, count_at),
        word_perplexity=math.exp(min(total / num_words, 700)) if num_words else None,
        by_frequency=None
        if by_id is None or frequencies is None
        else _tenths(by_id[0].cpu(), by_id[1].cpu(), frequencies.cpu()),
    )


def some(reset: Tensor) -> Tensor | None:
    """`reset`, or None where nothing is reset, which leaves faster ways open."""
    return reset if bool(reset.any()) else None


def count_tokens(tokens: Any, vocab_size: int, most: int = 20_000_000) -> Tensor:
    """How often each token stands in a dataset, [V] int64; of a long one, in its first `most` tokens."""
    found = np.zeros(vocab_size, np.int64)
    step = 1 << 20
    for start in range(0, min(tokens.num_tokens, most), step):
        found += np.bincount(tokens.read(start, min(start + step, tokens.num_tokens, most)), minlength=vocab_size)
    return torch.from_numpy(found)


def _tenths(nats: Tensor, counts: Tensor, frequencies: Tensor) -> tuple[tuple[int, int, float, int], ...]:
    """All occurrences of a token are in the tenth in which the middle one of them is."""
    order = frequencies.argsort(stable=True)
    order = order[counts[order] > 0]
    upto = counts[order].cumsum(0)
    tenth = ((upto - counts[order] / 2) * 10 / upto[-1]).long() if len(order) else order
    found = []
    for number in tenth.unique().tolist():
        ids = order[tenth == number]
        often, count = frequencies[ids], int(counts[ids].sum())
        found.append((int(often.min()), int(often.max()), float(nats[ids].sum()) / count, count))
    return tuple(found)


def _ranges(nats: Tensor, counts: Tensor) -> tuple[tuple[int, int, float, int], ...]:
    found, start = [], 0
    while start < len(nats):
        stop = min(max(2 * start, 1), len(nats))
        count = int(counts[start:stop].sum())
        if count:
            found.append((start, stop, float(nats[start:stop].sum()) / count, count))
        start = stop
    return tuple(found)
