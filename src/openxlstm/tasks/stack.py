"""A stack, and what is done to it."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.tasks.formal_language import FormalLanguage, layout, numbered
from openxlstm.tasks.task import Batch

ACT, POP, PUSH, LETTER = 1, 2, 3, 7  # the first of 4 each of the last two
NUM_LETTERS = 4


@dataclass(frozen=True, kw_only=True)
class StackManipulation(FormalLanguage):
    """What is on the stack in the end, from the top? `1 0 2 POP PUSH3 [ACT]` -> 3 0 1.

    The first letters are the stack, its top last; then come POP and PUSH, all five equally likely. POP leaves an empty stack
    as it is. Stacks that are empty in the end, where there is nothing to answer, are drawn again.
    """

    name: ClassVar[str] = "stack_manipulation"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "[ACT]", "POP", *numbered("PUSH", 4), *numbered("", 4))
    num_answers: ClassVar[int] = NUM_LETTERS
    min_length: ClassVar[int] = 4
    train_length: str = "4-40"

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        size = length // 2  # letters and actions; the stack cannot be larger than this in the end
        rows: list[list[int]] = []
        stacks: list[list[int]] = []
        while len(rows) < batch:
            heights = torch.randint(1, size, (batch,), generator=rng).tolist()
            letters = torch.randint(LETTER, LETTER + NUM_LETTERS, (batch, size), generator=rng).tolist()
            actions = torch.randint(POP, PUSH + NUM_LETTERS, (batch, size), generator=rng).tolist()
            for height, row, todo in zip(heights, letters, actions):
                stack = row[:height]
                for action in todo[height:]:
                    if action >= PUSH:
                        stack.append(action - PUSH + LETTER)
                    elif stack:
                        stack.pop()
                if stack and len(rows) < batch:
                    rows.append([*row[:height], *todo[height:], ACT])
                    stacks.append(stack[::-1])
        answer = torch.tensor([[*stack, *[LETTER] * (size - len(stack))] for stack in stacks])
        return layout(torch.tensor(rows), answer, torch.tensor([len(stack) for stack in stacks]))
