"""Regular languages: a finite automaton suffices, and no model without a state that depends on its own past has one."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.tasks.formal_language import FormalLanguage, layout
from openxlstm.tasks.task import Batch


@dataclass(frozen=True, kw_only=True)
class Parity(FormalLanguage):
    """Is the number of b odd? `b a b b` -> b."""

    name: ClassVar[str] = "parity"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "a", "b")
    num_answers: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        bits = torch.randint(2, (batch, length), generator=rng)
        return layout(1 + bits, 1 + bits.sum(1, keepdim=True) % 2)


@dataclass(frozen=True, kw_only=True)
class EvenPairs(FormalLanguage):
    """Is the number of ab and ba together odd? `a b b a` -> a.

    It is where the first and the last letter differ.
    """

    name: ClassVar[str] = "even_pairs"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "a", "b")
    num_answers: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        bits = torch.randint(2, (batch, length), generator=rng)
        changes = (bits[:, 1:] != bits[:, :-1]).sum(1, keepdim=True)
        return layout(1 + bits, 1 + changes % 2)


@dataclass(frozen=True, kw_only=True)
class CycleNavigation(FormalLanguage):
    """Where on a ring of 5 places does a walk from place 0 end? `+ + STAY -` -> place 1."""

    name: ClassVar[str] = "cycle_navigation"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "-", "STAY", "+", "at0", "at1", "at2", "at3", "at4")
    num_answers: ClassVar[int] = 5

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        steps = torch.randint(-1, 2, (batch, length), generator=rng)
        return layout(2 + steps, 4 + steps.sum(1, keepdim=True) % 5)
