"""Strings that are to be said again in another order, or completed."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from openxlstm.tasks.formal_language import FormalLanguage, layout, numbered
from openxlstm.tasks.task import Batch

ACT = 1  # in the vocabularies that have it


@dataclass(frozen=True, kw_only=True)
class BucketSort(FormalLanguage):
    """Sort the letters. `3 1 2 1` -> 1 1 2 3."""

    name: ClassVar[str] = "bucket_sort"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", *numbered("", 10))
    num_answers: ClassVar[int] = 10

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        letters = torch.randint(1, 11, (batch, (length + 1) // 2), generator=rng)
        return layout(letters, letters.sort(1).values)


@dataclass(frozen=True, kw_only=True)
class MissingDuplicate(FormalLanguage):
    """A string said twice, the second time with a gap: what is missing? `4 8 2 4 [MIS] 2` -> 8."""

    name: ClassVar[str] = "missing_duplicate"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "[MIS]", *numbered("", 9))
    num_answers: ClassVar[int] = 9
    min_length: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        half = length // 2
        letters = torch.randint(2, 11, (batch, half), generator=rng)
        gap = torch.randint(half, (batch, 1), generator=rng)
        return layout(torch.cat([letters, letters.scatter(1, gap, 1)], 1), letters.gather(1, gap))


@dataclass(frozen=True, kw_only=True)
class _Said(FormalLanguage):
    """A string of letters and [ACT]; the answer is the same letters in another order."""

    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "[ACT]", *numbered("", 10))
    num_answers: ClassVar[int] = 10
    min_length: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        letters = torch.randint(2, 12, (batch, length // 2), generator=rng)
        return layout(torch.cat([letters, torch.full((batch, 1), ACT)], 1), self.reorder(letters))

    @staticmethod
    @abstractmethod
    def reorder(letters: Tensor) -> Tensor:
        """The answer to a string, both [B, n]."""


@dataclass(frozen=True, kw_only=True)
class OddsFirst(_Said):
    """The letters at odd places, then those at even places. `2 7 3 6 [ACT]` -> 2 3 7 6."""

    name: ClassVar[str] = "odds_first"

    @staticmethod
    def reorder(letters: Tensor) -> Tensor:
        return torch.cat([letters[:, ::2], letters[:, 1::2]], 1)


@dataclass(frozen=True, kw_only=True)
class Repetition(_Said):
    """Say the string again. `2 4 8 [ACT]` -> 2 4 8."""

    name: ClassVar[str] = "repetition"

    @staticmethod
    def reorder(letters: Tensor) -> Tensor:
        return letters


@dataclass(frozen=True, kw_only=True)
class ReverseString(_Said):
    """Say the string backwards. `2 4 8 [ACT]` -> 8 4 2."""

    name: ClassVar[str] = "reverse_string"

    @staticmethod
    def reorder(letters: Tensor) -> Tensor:
        return letters.flip(1)
