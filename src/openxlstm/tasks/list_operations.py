"""Nested operations on lists of digits."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from openxlstm.errors import UserError
from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.published import LONG_RANGE_ARENA
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, nothing_scored

OPERATIONS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
"""Name -> value of a list of digits: the least, the greatest, the median (rounded down), the sum modulo 10."""

TOKENS = ("[PAD]", *"0123456789", *OPERATIONS, "]")


@dataclass(frozen=True, kw_only=True)
class ListOps(GeneratedTask):
    """The value of nested lists. `[MAX 4 3 [MIN 2 3 ] 1 0 ]` -> 4.

    The language of Long Range Arena's ListOps (Tay et al. 2020, arXiv 2011.04006; Nangia and Bowman 2018), at lengths that are
    learnt in minutes; with 500-2000 they are those of the benchmark. Expressions have exactly the length that is asked for:
    a list of n symbols gets 2 to `max_arguments` arguments, all divisions of the n - 2 symbols between them that a digit (1
    symbol) and a list (4 or more) allow being possible. The answer is due at the last symbol.

    max_arguments: of one operation.
    """

    name: ClassVar[str] = "listops"
    min_length: ClassVar[int] = 4

    train_length: str = "20-200"
    eval_length: str = "20-200"
    report_lengths: tuple[str, ...] = ("400",)
    max_arguments: int = 10

    def __post_init__(self) -> None:
        if self.max_arguments < 4:
            raise UserError(f"data.max_arguments={self.max_arguments} must be at least 4, or some lengths have no expression")
        super().__post_init__()

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=len(TOKENS), num_classes=10)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return LONG_RANGE_ARENA["lra_listops"] if self.eval_length == "500-2000" else ()

    def chance(self, length: int) -> float:
        """One of ten digits."""
        return 1 / 10

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        draw = Random(int(torch.randint(2**62, (), generator=rng)))
        rows, answers = [], []
        for _ in range(batch):
            symbols: list[str] = []
            answers.append(write_list(symbols, length, self.max_arguments, draw))
            rows.append([TOKENS.index(symbol) for symbol in symbols])
        targets = nothing_scored(batch, length)
        targets[:, -1] = torch.tensor(answers)
        return Batch(torch.tensor(rows), targets, torch.full((batch,), length))


def write_list(symbols: list[str], length: int, max_arguments: int, draw: Random) -> int:
    """Append an expression of exactly `length` symbols, 1 or at least 4, and return its value."""
    if length == 1:
        digit = draw.randrange(10)
        symbols.append(str(digit))
        return digit
    name = draw.choice(tuple(OPERATIONS))
    symbols.append(name)
    values = [write_list(symbols, size, max_arguments, draw) for size in divide(length - 2, max_arguments, draw)]
    symbols.append("]")
    return OPERATIONS[name](values)


def divide(total: int, max_arguments: int, draw: Random) -> list[int]:
    """Lengths of arguments that add up to `total` >= 2: each 1 or at least 4."""
    while True:
        count = draw.randint(2, min(max_arguments, total))
        spare = total - count  # what the lists among them have beyond one symbol: 3 or more each
        if spare == 0:
            return [1] * count
        lists = draw.randint(1, min(count, max(spare // 3, 1)))
        if spare >= 3 * lists:
            break
    cuts = sorted(draw.randint(0, spare - 3 * lists) for _ in range(lists - 1))
    extra = [b - a for a, b in zip([0, *cuts], [*cuts, spare - 3 * lists])]
    sizes = [1 + 3 + more for more in extra] + [1] * (count - lists)
    draw.shuffle(sizes)
    return sizes
