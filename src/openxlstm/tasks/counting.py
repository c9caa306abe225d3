"""Counting and remembering which letters came."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from openxlstm.tasks.formal_language import PAD, FormalLanguage, layout, numbered
from openxlstm.tasks.task import Batch


@dataclass(frozen=True, kw_only=True)
class Majority(FormalLanguage):
    """Which letter came most often? `1 7 6 4 7` -> 7.

    The alphabet has an order, and of several letters that came equally often the smallest is the answer.
    """

    name: ClassVar[str] = "majority"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", *(str(number) for number in range(1, 64)))
    num_answers: ClassVar[int] = 63

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        letters = torch.randint(1, 64, (batch, length), generator=rng)
        counts = occurrences(letters, 64)
        # argmax does not promise the first of equal counts
        smaller = (counts == counts.max(1, keepdim=True).values).int().cumsum(1) == 0
        return layout(letters, smaller.sum(1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class MajorityCount(FormalLanguage):
    """How often did the most frequent letter come? `1 7 6 4 7` -> 2.

    The answer is a letter too, so never more than 63.
    """

    name: ClassVar[str] = "majority_count"
    tokens: ClassVar[tuple[str, ...]] = Majority.tokens
    num_answers: ClassVar[int] = 63

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        letters = torch.randint(1, 64, (batch, length), generator=rng)
        return layout(letters, occurrences(letters, 64).max(1, keepdim=True).values.clamp(max=63))


@dataclass(frozen=True, kw_only=True)
class OrderedSet(FormalLanguage):
    """The letters that came, each once, in the order of their first coming. `2 5 2 [ACT]` -> 2 5."""

    name: ClassVar[str] = "set"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "[ACT]", *numbered("", 126))
    num_answers: ClassVar[int] = 126
    min_length: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        letters = torch.randint(2, 128, (batch, length // 2), generator=rng)
        fresh = torch.stack([~(letters[:, :t] == letters[:, t : t + 1]).any(1) for t in range(letters.shape[1])], 1)
        order = torch.argsort(~fresh, dim=1, stable=True)  # new letters first, otherwise as they came
        answer = letters.gather(1, order)
        return layout(torch.cat([letters, torch.full((batch, 1), 1)], 1), answer, fresh.sum(1))


def occurrences(letters: Tensor, size: int) -> Tensor:
    """How often each of `size` tokens comes in each row of `letters` [B, n]: [B, size]."""
    counts = torch.zeros(letters.shape[0], size, dtype=torch.int64)
    return counts.scatter_add_(1, letters, torch.ones_like(letters)).index_fill_(1, torch.tensor([PAD]), 0)
