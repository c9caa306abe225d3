"""Windows of tokens for training and evaluation. A batch is a function of (seed, step, rank, world size) and of nothing else,
so that a resumed run needs the step number alone, and any number of processes sees the same global batches.

`tokens` is a `TokenDataset`, or anything with `num_tokens`, `read(start, stop)` and `starts_in(start, stop)`.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.errors import UserError

IGNORE = -100  # the default ignore_index of torch.nn.functional.cross_entropy


class Tokens(Protocol):
    @property
    def num_tokens(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.int64]: ...

    def starts_in(self, start: int, stop: int) -> NDArray[np.int64]: ...


class TokenBatch(NamedTuple):
    """One batch; targets are the inputs one token on."""

    inputs: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64  IGNORE where the token does not count
    reset: Tensor  # [B, T] bool   True where a document starts: the state is emptied before this input
    first: Tensor  # [B] bool      True where the row does not continue the row of the batch before: its state starts empty

    @property
    def scored(self) -> Tensor:
        """[B, T] bool: the targets that count."""
        return self.targets != IGNORE

    @property
    def num_tokens(self) -> int:
        """How many targets count."""
        return int(self.scored.sum())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TokenBatch":
        """The same batch on a device."""
        return TokenBatch(*(part.to(device, non_blocking=non_blocking) for part in self))


class RandomWindows:
    """Windows at random places, drawn with replacement; every place is equally likely.

    tokens: at least context + 1 of them. context: inputs a row. batch: rows of the global batch. seed: chooses the places.
    reset_documents: mark document starts in `reset`; False leaves it all false.
    """

    def __init__(self, tokens: Tokens, context: int, batch: int, seed: int = 0, *, reset_documents: bool = True) -> None:
        _check(context=context, batch=batch)
        if tokens.num_tokens < context + 1:
            raise UserError(f"context={context} needs at least {context + 1} tokens, the text has {tokens.num_tokens}")
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch, seed
        self.reset_documents = reset_documents

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> TokenBatch:
        """The rows of `rank` in global batch number `step` (from 0)."""
        generator = torch.Generator().manual_seed(mix(self.seed, step))
        places = torch.randint(self.tokens.num_tokens - self.context, (self.batch_size,), generator=generator)
        rows = places[share(self.batch_size, rank, world_size)].tolist()
        return _gather(self.tokens, rows, self.context, self.reset_documents, [True] * len(rows))


class SequentialStreams:
    """The text as `batch` equally long streams, read side by side: row b of one batch goes on where row b of the batch before
    ended, for truncated backpropagation with the state carried over.

    At the end of the streams they begin again, shifted by a random number of tokens below the remainder that does not fill a
    window, so that no token is left out for ever. There `first` is True and so is `reset[:, 0]`.

    tokens: at least batch * context + 1 of them. Other arguments as RandomWindows.
    """

    def __init__(self, tokens: Tokens, context: int, batch: int, seed: int = 0, *, reset_documents: bool = True) -> None:
        _check(context=context, batch=batch)
        self.stream_length = (tokens.num_tokens - 1) // batch
        if self.stream_length < context:
            raise UserError(
                f"batch={batch} streams of context={context} need at least {batch * context + 1} tokens, "
                f"the text has {tokens.num_tokens}"
            )
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch, seed
        self.reset_documents = reset_documents
        self.steps_per_epoch = self.stream_length // context

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> TokenBatch:
        """The rows of `rank` in global batch number `step` (from 0)."""
        epoch, window = divmod(step, self.steps_per_epoch)
        slack = self.stream_length - self.steps_per_epoch * self.context
        shift = mix(self.seed, epoch) % (slack + 1) if epoch else 0
        rows = range(self.batch_size)[share(self.batch_size, rank, world_size)]
        places = [row * self.stream_length + shift + window * self.context for row in rows]
        out = _gather(self.tokens, places, self.context, self.reset_documents, [window == 0] * len(places))
        out.reset[:, 0] |= out.first
        return out


class EvalWindows:
    """Batches in which each token but the first is a scored target exactly once, so that a sum of losses over them is exact.

    stride: None (or context): windows side by side. Smaller: windows overlap, and in each but the first only the last `stride`
    targets are scored, which have at least context - stride inputs before them.
    carry: False: every window starts from an empty state. True: rows are streams as in SequentialStreams, each batch goes on
    from the states of the batch before it; `first` and `reset[:, 0]` are True in the first batch only. Needs stride None.

    Padding has input 0 and target IGNORE. Rows that fill up the last batch are all padding. Other arguments as RandomWindows;
    tokens: at least 2.
    """

    def __init__(
        self,
        tokens: Tokens,
        context: int,
        batch: int,
        stride: int | None = None,
        *,
        carry: bool = False,
        reset_documents: bool = True,
    ) -> None:
        _check(context=context, batch=batch)
        if stride is not None and not 1 <= stride <= context:
            raise UserError(f"stride={stride} must lie between 1 and context={context}")
        if carry and stride not in (None, context):
            raise UserError(f"stride={stride}: a carried state needs windows that do not overlap")
        if tokens.num_tokens < 2:
            raise UserError(f"an evaluation needs at least 2 tokens, the text has {tokens.num_tokens}")
        self.tokens, self.context, self.batch_size = tokens, context, batch
        self.stride = context if stride is None else stride
        self.carry, self.reset_documents = carry, reset_documents
        self.num_targets = tokens.num_tokens - 1
        self._stream_length = -(-self.num_targets // batch)

    def __len__(self) -> int:
        """Batches."""
        if self.carry:
            return -(-self._stream_length // self.context)
        return -(-self._num_windows // self.batch_size)

    def __iter__(self) -> Iterator[TokenBatch]:
        return (self.batch(number) for number in range(len(self)))

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> TokenBatch:
        """The rows of `rank` in global batch `number`."""
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        rows = range(self.batch_size)[share(self.batch_size, rank, world_size)]
        windows = [self._window(number, row) for row in rows]
        first = [not self.carry or number == 0] * len(windows)
        out = _gather(self.tokens, [w[0] for w in windows], self.context, self.reset_documents, first, [w[2] for w in windows])
        for row, (start, scored_from, _) in enumerate(windows):
            out.targets[row, : scored_from - start] = IGNORE
        if self.carry:
            out.reset[:, 0] |= out.first
        return out

    @property
    def _num_windows(self) -> int:
        return 1 + max(0, -(-(self.num_targets - self.context) // self.stride))

    def _window(self, number: int, row: int) -> tuple[int, int, int]:
        """(first input, first input whose target is scored, end of the inputs); equal where the row is padding."""
        if self.carry:
            stop = min(self.num_targets, (row + 1) * self._stream_length)
            start = min(stop, row * self._stream_length + number * self.context)
            return start, start, min(stop, start + self.context)
        window = number * self.batch_size + row
        if window >= self._num_windows:
            return 0, 0, 0
        start = window * self.stride
        scored_from = start if window == 0 else start + self.context - self.stride
        return start, scored_from, min(self.num_targets, start + self.context)


def _gather(
    tokens: Tokens,
    places: list[int],
    context: int,
    reset_documents: bool,
    first: list[bool],
    stops: list[int] | None = None,
) -> TokenBatch:
    """Rows of inputs [place, place + context), or up to the row's stop, padded."""
    inputs = torch.zeros(len(places), context, dtype=torch.int64)
    targets = torch.full((len(places), context), IGNORE, dtype=torch.int64)
    reset = torch.zeros(len(places), context, dtype=torch.bool)
    for row, place in enumerate(places):
        stop = place + context if stops is None else stops[row]
        if stop == place:
            continue
        piece = torch.from_numpy(tokens.read(place, stop + 1))
        inputs[row, : stop - place] = piece[:-1]
        targets[row, : stop - place] = piece[1:]
        if reset_documents:
            starts = tokens.starts_in(place, stop)
            if len(starts):
                reset[row, torch.from_numpy(starts - place)] = True
    return TokenBatch(inputs, targets, reset, torch.tensor(first, dtype=torch.bool))


def share(batch: int, rank: int, world_size: int) -> slice:
    """The rows of one process: neighbours, equally many. Raises UserError where they do not divide."""
    if not 0 <= rank < world_size:
        raise UserError(f"rank={rank} is not below world_size={world_size}")
    if batch % world_size:
        raise UserError(f"batch={batch} is not divisible by the number of processes, {world_size}")
    each = batch // world_size
    return slice(rank * each, (rank + 1) * each)


def mix(*parts: object) -> int:
    """63 bits that look random and depend on all parts, as `str` writes them: a seed."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1")
