"""Filling in the middle: some training windows become prefix, suffix, middle (Bavarian et al. 2022, arXiv 2207.14255)."""

from collections.abc import Sequence
from random import Random

import torch

from openxlstm.data.tokenizer import Tokenizer, fill_in_ids
from openxlstm.data.windows import IGNORE, RandomWindows, TokenBatch, mix, share
from openxlstm.errors import UserError


class FillInWindows:
    """Windows of another source, a share of which asks for the text between two others.

        psm    [prefix] def double(x):\\n [suffix] \\n\\ndouble(2) [middle] return 2 * x [end]
        spm    [suffix] \\n\\ndouble(2) [prefix] def double(x):\\n [middle] return 2 * x [end]

    Each window for itself: its text is cut at two random places between characters, so that models learn to begin and end a
    middle within a word, and the three parts are encoded one by one. Before that the text is cut to between a quarter and all
    of the window: else every middle would end at the last step, and a model that counts learns when rather than where to end.
    What no longer fits is cut off at the beginning of the prefix and the end of the suffix. A window with parts of two
    documents, or that begins or ends within a character, stays as it is.

    tokenizer: one with `fill_in_ids` and an end token. rate: the share, 0 to 1. seed: chooses windows and places. A batch is a
    function of (seed, step, rank, world size), as those of `windows`.
    """

    def __init__(self, windows: RandomWindows, tokenizer: Tokenizer, rate: float, seed: int = 0) -> None:
        marks_of(tokenizer)
        assert tokenizer.eos_id is not None  # marks_of has seen it
        self.end = tokenizer.eos_id
        self.windows, self.tokenizer, self.rate, self.seed = windows, tokenizer, rate, seed

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> TokenBatch:
        """The rows of `rank` in global batch number `step` (from 0)."""
        found = self.windows.batch(step, rank, world_size)
        rows = range(self.windows.batch_size)[share(self.windows.batch_size, rank, world_size)]
        for place, row in enumerate(rows):
            draw = Random(mix("fill_in", self.seed, step, row))
            if draw.random() >= self.rate or bool(found.reset[place, 1:].any()):
                continue
            ids = self.moved([*found.inputs[place].tolist(), int(found.targets[place, -1])], draw)
            if ids is None:
                continue
            read = len(ids) - 1
            found.inputs[place, :read], found.inputs[place, read:] = torch.tensor(ids[:-1]), 0
            found.targets[place, :read], found.targets[place, read:] = torch.tensor(ids[1:]), IGNORE
        return found

    def moved(self, ids: Sequence[int], draw: Random) -> list[int] | None:
        """The tokens of a window [T + 1] with its middle at the end, at most as many; None where it stays as it is."""
        text = self.tokenizer.decode(ids[: draw.randint(len(ids) // 4, len(ids))])
        if "\ufffd" in text:
            return None
        start, stop = sorted(draw.randint(0, len(text)) for _ in range(2))
        middle = [*self.tokenizer.encode(text[start:stop]), self.end]
        room = len(ids) - len(middle)
        question = ask(self.tokenizer, text[:start], text[stop:], room) if room >= 3 else None
        return None if question is None else [*question, *middle]


def ask(tokenizer: Tokenizer, prefix: str, suffix: str, most: int | None = None) -> list[int]:
    """The tokens after which a model writes what is between prefix and suffix, in the order of the marks' numbers.

    most: of these, at least 3; what is too much is cut off the beginning of the prefix and the end of the suffix, the longer
    one first. Raises UserError for a tokenizer that has no marks.
    """
    before, after, between = marks_of(tokenizer)
    left, right = tokenizer.encode(prefix), tokenizer.encode(suffix)
    if most is not None:
        room = max(most - 3, 0)
        kept = min(len(left), max(room - len(right), room - room // 2))
        left = left[len(left) - kept :]
        right = right[: room - kept]
    first, second = [before, *left], [after, *right]
    return [*first, *second, between] if before < after else [*second, *first, between]


def marks_of(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Ids of the marks before prefix, suffix and middle. Raises UserError for a tokenizer without them or without an end."""
    found = fill_in_ids(tokenizer)
    if found is None or tokenizer.eos_id is None:
        raise UserError(
            f"this tokenizer ({tokenizer.kind}) has no marks for filling in: its model was not trained with --data.fill_in"
        )
    return found
