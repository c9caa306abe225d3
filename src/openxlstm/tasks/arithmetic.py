"""Arithmetic modulo 5."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.tasks.formal_language import FormalLanguage, layout, numbered
from openxlstm.tasks.task import Batch

MODULUS = 5


@dataclass(frozen=True, kw_only=True)
class ModularArithmetic(FormalLanguage):
    """The value of an expression without brackets, products first. `2 - 4 * 2 =` -> 4."""

    name: ClassVar[str] = "modular_arithmetic"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "+", "-", "*", "=", *numbered("", MODULUS))
    num_answers: ClassVar[int] = MODULUS
    min_length: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        terms = length // 2
        digits = torch.randint(MODULUS, (batch, terms), generator=rng)
        operators = torch.randint(1, 4, (batch, terms - 1), generator=rng)  # + - *
        total, product = torch.zeros(batch, dtype=torch.int64), digits[:, 0]
        for t in range(1, terms):
            operator, digit = operators[:, t - 1], digits[:, t]
            times = operator == 3
            total = torch.where(times, total, total + product)
            product = torch.where(times, product, torch.where(operator == 2, -1, 1)) * digit % MODULUS
        question = torch.full((batch, 2 * terms), 4)
        question[:, ::2], question[:, 1:-1:2] = 5 + digits, operators
        return layout(question, 5 + ((total + product) % MODULUS)[:, None])


@dataclass(frozen=True, kw_only=True)
class ModularArithmeticBrackets(FormalLanguage):
    """The value of an expression with brackets. `( - 2 * ( 4 ) ) =` -> 2.

    Expressions are drawn as in the suite of Delétang et al. (`write_expression`).
    """

    name: ClassVar[str] = "modular_arithmetic_brackets"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "+", "-", "*", "=", "(", ")", *numbered("", MODULUS))
    num_answers: ClassVar[int] = MODULUS
    min_length: ClassVar[int] = 2

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        questions, answers = [], []
        for _ in range(batch):
            symbols: list[str] = []
            value = write_expression(symbols, length - 1, "+-*", uniform(length, rng))
            questions.append([self.tokens.index(symbol) for symbol in [*symbols, "="]])
            answers.append([self.tokens.index(str(value))])
        return layout(torch.tensor(questions), torch.tensor(answers))


@dataclass(frozen=True, kw_only=True)
class SolveEquation(FormalLanguage):
    """What is x? `( x - ( 3 ) ) = 4 [ACT]` -> 2.

    As in the suite of Delétang et al. there are no products, which would allow several solutions; the vocabulary has the sign
    all the same. Every digit of the expression is equally likely to be x.
    """

    name: ClassVar[str] = "solve_equation"
    tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "[ACT]", "+", "-", "*", "=", "(", ")", "x", *numbered("", MODULUS))
    num_answers: ClassVar[int] = MODULUS
    min_length: ClassVar[int] = 4
    train_length: str = "4-40"

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        questions, answers = [], []
        for _ in range(batch):
            symbols: list[str] = []
            draws = uniform(length, rng)
            value = write_expression(symbols, length - 3, "+-", draws)
            places = [place for place, symbol in enumerate(symbols) if symbol.isdigit()]
            place = places[int(next(draws) * len(places))]
            answers.append([self.tokens.index(symbols[place])])
            symbols[place] = "x"
            questions.append([self.tokens.index(symbol) for symbol in [*symbols, "=", str(value), "[ACT]"]])
        return layout(torch.tensor(questions), torch.tensor(answers))


def write_expression(symbols: list[str], length: int, operators: str, draws: Iterator[float]) -> int:
    """Append an expression of exactly `length` symbols and return its value modulo 5.

    A digit d, `-d`, `(d)` or `(-d)` for lengths up to 4; else `(left operator right)`, where all lengths of the left side are
    equally likely.
    """
    if length <= 4:
        digit = int(next(draws) * MODULUS)
        sign = [] if length % 2 else ["-"]
        body = [*sign, str(digit)]
        symbols += ["(", *body, ")"] if length > 2 else body
        return (-digit if sign else digit) % MODULUS
    left_length = 1 + int(next(draws) * (length - 4))
    operator = operators[int(next(draws) * len(operators))]
    symbols.append("(")
    left = write_expression(symbols, left_length, operators, draws)
    symbols.append(operator)
    right = write_expression(symbols, length - left_length - 3, operators, draws)
    symbols.append(")")
    return {"+": left + right, "-": left - right, "*": left * right}[operator] % MODULUS


def uniform(count: int, rng: torch.Generator) -> Iterator[float]:
    """Numbers in [0, 1), enough for an expression of `count` symbols: float64, so that a product with a small whole number
    stays below it."""
    return iter(torch.rand(2 * count + 1, generator=rng, dtype=torch.float64).tolist())
