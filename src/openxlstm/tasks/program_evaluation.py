"""What does a small program print?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Literal

import torch
from torch import Tensor

from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks.generated import QUARTERS, ROUNDS, length_range, quarter
from openxlstm.tasks.task import ACCURACY, Batch, Metric, Signature, Split, Task, nothing_scored

NAMES = "abcdefghijklmnopqrstuvwyz"  # of variables; x is the one of loops
SYMBOLS = "\0" + "0123456789" + "abcdefghijklmnopqrstuvwxyz" + " \n()+-*=<>:"
"""What models read, by number; the first is padding."""
ANSWERS = "0123456789-."
"""What models write; the point ends an answer."""
BLEND = 0.2  # share of the mixed curriculum in the combined one, as in the authors' code
ROWS_AT_ONCE = 256  # in a batch for evaluation

Curriculum = Literal["none", "naive", "mixed", "combined"]


@dataclass
class Program:
    """A program that is being written: statements, then an expression with its value.

    length: digits of the numbers. draw: where chance comes from. names: variables that were not used yet.
    """

    length: int
    draw: Random
    statements: list[str] = field(default_factory=list)
    code: str = ""
    value: int = 0
    names: list[str] = field(default_factory=lambda: list(NAMES))

    def operands(self, count: int) -> list[tuple[str, int]]:
        """Code and value of what the next operation takes: the expression so far, in any place, and new numbers."""
        numbers = [self.draw.randint(1, 10**self.length) for _ in range(count)]
        found = [(str(number), number) for number in numbers]
        if self.code:
            found[self.draw.randrange(count)] = (self.code, self.value)
        return found

    def small(self) -> int:
        """A factor or number of turns, small enough for one pass over the program."""
        return self.draw.randint(1, 4 * self.length)

    def name(self) -> str:
        """A variable that is not in use."""
        return self.names.pop(self.draw.randrange(len(self.names)))

    def text(self) -> str:
        """The source, whose last line prints the expression."""
        return "".join(f"{line}\n" for line in [*self.statements, f"print({self.code})"])


def add(p: Program) -> None:
    """(a+b)"""
    (a, x), (b, y) = p.operands(2)
    p.code, p.value = f"({a}+{b})", x + y


def subtract(p: Program) -> None:
    """(a-b)"""
    (a, x), (b, y) = p.operands(2)
    p.code, p.value = f"({a}-{b})", x - y


def multiply(p: Program) -> None:
    """(a*n) or (n*a), n small."""
    ((a, x),) = p.operands(1)
    n = p.small()
    p.code, p.value = f"({a}*{n})" if p.draw.random() < 0.5 else f"({n}*{a})", x * n


def assign(p: Program) -> None:
    """v=a, then (v+b) or (v-b)."""
    (a, x), (b, y) = p.operands(2)
    v, sign = p.name(), p.draw.choice((1, -1))
    p.statements.append(f"{v}={a}")
    p.code, p.value = f"({v}{'+' if sign > 0 else '-'}{b})", x + sign * y


def choose(p: Program) -> None:
    """(c if a<b else d), or with >."""
    (a, x), (b, y), (c, yes), (d, no) = p.operands(4)
    sign = p.draw.choice("<>")
    p.code = f"({c} if {a}{sign}{b} else {d})"
    p.value = yes if (x < y if sign == "<" else x > y) else no


def loop(p: Program) -> None:
    """v=a, then n times v+=b or v-=b, n small; the expression is v."""
    (a, x), (b, y) = p.operands(2)
    v, n, sign = p.name(), p.small(), p.draw.choice((1, -1))
    p.statements += [f"{v}={a}", f"for x in range({n}):{v}{'+' if sign > 0 else '-'}={b}"]
    p.code, p.value = v, x + sign * n * y


OPERATIONS: tuple[Callable[[Program], None], ...] = (add, subtract, multiply, assign, choose, loop)


def write_program(length: int, nesting: int, draw: Random) -> tuple[str, int]:
    """Source of a program and what it prints. length: digits of its numbers. nesting: operations, each on the value of the
    one before."""
    program = Program(length, draw)
    for _ in range(nesting):
        draw.choice(OPERATIONS)(program)
    return program.text(), program.value


@dataclass(frozen=True, kw_only=True)
class ProgramEvaluation(Task):
    """What does a small Python program print? Read and answered character by character.

    Learning to execute (Zaremba and Sutskever 2014, arXiv 1410.4615): additions, subtractions, products with a small number,
    assignments, conditions and loops, `nesting` of them one in another, with numbers from 1 to 10^`length`; small are the
    numbers from 1 to 4 `length`. The answer ends with a point. It is read as it is written, also where a model erred
    (teacher forcing), and the score is the share of right characters, the point among them.

        j=8584
        for x in range(8):j+=920
        print((j+1500))
        17444.

    As the authors' generator, but for its operation that does nothing: here every program has exactly `nesting` operations.
    Levels are pairs of nesting and length, counted from 1 in the order of the published curriculum: all lengths of nesting 1,
    then those of nesting 2, ... A hash of the program chooses its split.

    max_length: of numbers.
    max_nesting: of operations.
    curriculum: of training samples. "none": all of the last level; "naive": of each level in turn; "mixed": any length and
        nesting; "combined": one in five mixed, the others naive.
    climb: the share of the run in which the naive curriculum climbs through its levels, which take equal parts of it.
    validation_samples: programs in a validation, over all levels.
    test_samples: programs in the test of a level.
    """

    name: ClassVar[str] = "program_evaluation"

    max_length: int = 2
    max_nesting: int = 1
    curriculum: Curriculum = "mixed"
    climb: float = 0.6
    validation_samples: int = 512
    test_samples: int = 512

    def __post_init__(self) -> None:
        for name in ("max_length", "max_nesting", "validation_samples", "test_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)} must be at least 1")
        if self.max_nesting > len(NAMES):
            raise UserError(f"data.max_nesting={self.max_nesting}: there are names for {len(NAMES)} variables")
        if self.max_length > 15:
            raise UserError(f"data.max_length={self.max_length}: numbers have at most 15 digits")
        if not 0 < self.climb <= 1:
            raise UserError(f"data.climb={self.climb:g} must be above 0 and at most 1")

    @property
    def num_levels(self) -> int:
        return self.max_length * self.max_nesting

    def length_and_nesting(self, level: int) -> tuple[int, int]:
        """What a level, from 1, means."""
        nesting, length = divmod(level - 1, self.max_length)
        return length + 1, nesting + 1

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=len(SYMBOLS), num_classes=len(ANSWERS))

    @property
    def metric(self) -> Metric:
        return ACCURACY

    def chance(self, length: int) -> float:
        """Any character of an answer."""
        return 1 / len(ANSWERS)

    @property
    def trained(self) -> str:
        return self.reports[0] if self.curriculum != "none" else str(self.num_levels)

    @property
    def reports(self) -> tuple[str, ...]:
        """The levels."""
        return (f"1-{self.num_levels}" if self.num_levels > 1 else "1",)

    @property
    def description(self) -> str:
        return (
            f"task {self.name}: numbers of up to {self.max_length} digits, up to {self.max_nesting} operations, curriculum "
            f"{self.curriculum}"
        )

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        return self.train_batch_at(batch, rng, 1.0)

    def train_batch_at(self, batch: int, rng: torch.Generator, progress: float) -> Batch:
        """Programs of the levels that the curriculum has reached when a share `progress` of the run is done."""
        anything = torch.randint(1, self.num_levels + 1, (batch,), generator=rng)
        reached = min(int(progress / self.climb * self.num_levels) + 1, self.num_levels)
        fixed = torch.full((batch,), self.num_levels if self.curriculum == "none" else reached)
        mixed = {"mixed": 1.0, "combined": BLEND}.get(self.curriculum, 0.0)
        levels = torch.where(torch.rand(batch, generator=rng) < mixed, anything, fixed)
        return self.draw("train", levels, rng)

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        levels = length_range(lengths)
        if levels[-1] > self.num_levels:
            raise UserError(f"{self.name} has the levels 1 to {self.num_levels}, and {lengths} were asked for")
        for level in levels:
            rng = torch.Generator().manual_seed(mix(self.name, split, *self.length_and_nesting(level)))
            left = self.test_samples
            if split == "validation":
                left = max(self.validation_samples // self.num_levels, 1)
            while left:
                rows = min(left, ROWS_AT_ONCE)
                yield str(level), self.draw(split, torch.full((rows,), level), rng)
                left -= rows

    def draw(self, split: Split, levels: Tensor, rng: torch.Generator) -> Batch:
        """A program of a split for each of `levels` [B], in their order. Raises UserError where there is none."""
        random = Random(int(torch.randint(2**62, (), generator=rng)))
        found: dict[int, tuple[str, str]] = {}  # row -> program and answer
        missing = dict(enumerate(levels.tolist()))
        for _ in range(ROUNDS):
            tried = {row: written(*self.length_and_nesting(level), random) for row, level in missing.items()}
            quarters = quarter(layout(list(tried.values())).inputs).tolist()
            found |= {row: pair for (row, pair), q in zip(tried.items(), quarters, strict=True) if q in QUARTERS[split]}
            missing = {row: level for row, level in missing.items() if row not in found}
            if not missing:
                return layout([found[row] for row in range(len(levels))])
        raise UserError(f"{self.name}: no {split} program at level {next(iter(missing.values()))}")


def written(length: int, nesting: int, draw: Random) -> tuple[str, str]:
    """A program and its answer, with the point."""
    program, value = write_program(length, nesting, draw)
    return program, f"{value}."


def layout(pairs: list[tuple[str, str]]) -> Batch:
    """Programs and answers as a batch: the answer's first character is due at the end of the program, and each is read before
    the next."""
    texts = [program + answer[:-1] for program, answer in pairs]
    lengths = torch.tensor([len(text) for text in texts])
    inputs = torch.zeros(len(pairs), int(lengths.max()), dtype=torch.int64)
    targets = nothing_scored(*inputs.shape)
    for row, (text, (program, answer)) in enumerate(zip(texts, pairs, strict=True)):
        inputs[row, : len(text)] = torch.tensor([SYMBOL_IDS[symbol] for symbol in text])
        targets[row, len(program) - 1 : len(text)] = torch.tensor([ANSWERS.index(symbol) for symbol in answer])
    return Batch(inputs, targets, lengths)


SYMBOL_IDS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
