"""How likely a model finds given continuations of given contexts."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from openxlstm.data.tokenizer import Tokenizer
from openxlstm.errors import UserError
from openxlstm.inference.generate import check_ids, reading
from openxlstm.models.language import LanguageModel
from openxlstm.ops.state import select

TOKENS_AT_ONCE = 4096


class Likelihood(NamedTuple):
    """nats: log-likelihood of a continuation, the sum over its tokens. greedy: each of them was the likeliest one."""

    nats: float
    greedy: bool


Pair = tuple[tuple[int, ...], tuple[int, ...]]


def likelihoods(model: LanguageModel, pairs: Sequence[Pair], tokens_at_once: int = TOKENS_AT_ONCE) -> list[Likelihood]:
    """The likelihood of each continuation after its context.

    pairs: (context ids, continuation ids), neither empty. A context that stands in several pairs is
        read once, and its state serves all its continuations. tokens_at_once: padded tokens in a batch.
    Raises UserError for empty ones and for ids outside the vocabulary.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        if not context or not continuation:
            raise UserError(f"pair {number}: {'context' if not context else 'continuation'} has no token")
        by_context.setdefault(context, []).append(number)
    found: list[Likelihood] = [Likelihood(0.0, True)] * len(pairs)
    with reading(model):
        for contexts in batches(sorted(by_context, key=len), tokens_at_once):
            numbers = [number for context in contexts for number in by_context[context]]
            rows = [row for row, context in enumerate(contexts) for _ in by_context[context]]
            scored = _continuations(model, contexts, [pairs[number][1] for number in numbers], rows, tokens_at_once)
            for number, likelihood in zip(numbers, scored, strict=True):
                found[number] = likelihood
    return found


def _continuations(
    model: LanguageModel,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    rows: Sequence[int],
    tokens_at_once: int,
) -> Iterator[Likelihood]:
    """The likelihood of each continuation; rows[i] is the context that continuation i follows."""
    read, state = _last(model, contexts)  # log-probabilities [contexts, V] of the next token
    for part in batches([(*continuation, row) for continuation, row in zip(continuations, rows)], tokens_at_once):
        begun = [row for *_, row in part]
        ids, mask = pad_right([tokens for *tokens, _ in part])
        ids, mask = ids.to(read.device), mask.to(read.device)
        predicted = read[begun, None]
        if ids.shape[1] > 1:  # the last token is scored, and not read
            logits, _ = model(ids[:, :-1], select(state, begun), mask=mask[:, 1:])
            predicted = torch.cat([predicted, logits.log_softmax(-1)], 1)
        nats = predicted.gather(-1, ids[..., None])[..., 0]
        likeliest = (predicted.argmax(-1) == ids) | ~mask
        sums = torch.where(mask, nats, 0.0).sum(1, dtype=torch.float64)
        yield from (Likelihood(*pair) for pair in zip(sums.tolist(), likeliest.all(1).tolist(), strict=True))


def _last(model: LanguageModel, contexts: Sequence[Sequence[int]]) -> tuple[Tensor, object]:
    """Log-probabilities of the token after each context, [B, V], and the state there: padding leaves the state as it is."""
    ids, mask = pad_right(contexts)
    check_ids(ids, model)
    device = next(model.parameters()).device
    ids, mask = ids.to(device), mask.to(device)
    h, state = model.hidden(ids, mask=None if bool(mask.all()) else mask)
    ends = h[torch.arange(len(ids), device=device), mask.sum(1) - 1]
    return model.head(ends).log_softmax(-1), state


def batches(rows: Sequence[tuple[int, ...]], tokens_at_once: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Neighbouring rows, in their order, as many as make `tokens_at_once` tokens when padded to the longest; at least one."""
    start = 0
    longest = 0
    for stop, row in enumerate(rows):
        longest = max(longest, len(row))
        if stop > start and longest * (stop + 1 - start) > tokens_at_once:
            yield rows[start:stop]
            start, longest = stop, len(row)
    if start < len(rows):
        yield rows[start:]


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids [B, T] that begin together, and the mask of what is not padding."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def split_text(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Both as ids, cut where the context ends.

    The whole is encoded at once, as in training, and white space at the end of the context goes to the continuation, since
    tokens begin with their space. The end token, which is read before each text in training, begins the context.
    Raises UserError where nothing is left to begin with.
    """
    stem = context.rstrip()
    continuation = context[len(stem) :] + continuation
    begin = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    before = tokenizer.encode(stem)
    after = tokenizer.encode(stem + continuation)[len(before) :]  # a token across the border would belong to it
    if not before and not begin:
        raise UserError("an empty context needs a tokenizer with an end token, which is read before a text")
    return (*begin, *before), tuple(after or tokenizer.encode(continuation))
