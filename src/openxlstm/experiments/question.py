"""What a question is: a claim, what would settle it, and how much of that a scale affords."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCALES = ("minutes", "hours", "gpu")
"""What an answer may cost: at most an hour on two cores, a night on two cores, a GPU."""

Verdict = Literal["holds", "does not hold here", "not tested at this scale"]
Rows = Mapping[str, Mapping[str, Any]]
"""Model -> its row of a comparison: means over the seeds. `failed`, if there, is how many of them could not be trained."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number that the claim predicts.

    what: the number in words.
    measure: it, from the rows of the comparison, without those of models that failed; KeyError where one of it is not there.
    bar: what it must at least be, or at most where `at_most`.
    """

    what: str
    measure: Callable[[Rows], float]
    bar: float
    at_most: bool = False

    def holds(self, value: float) -> bool:
        """Whether a measured value is on the right side; NaN is not."""
        return value <= self.bar if self.at_most else value >= self.bar


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured for a question.

    rows: the numbers, by model. table: the same in Markdown. command: what measures them again.
    figure: a file in the question's folder, if one was drawn. failures: models that could not be measured, and why.
    interrupted: the signal that ended it before its end. trainings: seconds that each took, by its folder.
    machines: what each was trained on, where that is known.
    """

    rows: Rows
    table: str
    command: str
    figure: str | None = None
    failures: tuple[str, ...] = ()
    interrupted: int | None = None
    trainings: Mapping[str, float] = field(default_factory=dict)
    machines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Question(ABC):
    """A claim about xLSTM and what settles it.

    name: short, for the command line and folders.
    claim: what is claimed, in a sentence.
    published: the numbers and where they stand.
    checks: all must hold.
    data: the file or folder, where it does not come with Python.
    """

    name: str
    claim: str
    published: str
    checks: tuple[Check, ...]
    data: str | None = None

    @property
    def lacks(self) -> str:
        """What must be given before it can be asked, in a sentence; empty if nothing."""
        return ""

    @abstractmethod
    def ask(self, scale: str, folder: Path, cells: Path, say: Callable[[str], None], jobs: int = 1) -> Evidence | None:
        """Measure, or take up what is there; None where the scale does not afford the question or it lacks something.

        folder: of this question's tables and figures. cells: of trained models, which questions share. jobs: trainings at a
        time; times are taken of one alone.
        """


def score(model: str) -> Callable[[Rows], float]:
    """The score of a model on the test samples."""
    return lambda rows: rows[model]["score"]


def in_most(model: str) -> Callable[[Rows], float]:
    """The lowest score of a model once the worst seed in five is left aside; of fewer than five seeds the lowest of all."""
    return lambda rows: sorted(rows[model]["scores"])[len(rows[model]["scores"]) // 5]


def score_at(model: str, lengths: str) -> Callable[[Rows], float]:
    """The score of a model at further lengths, as data.report_lengths names them."""
    return lambda rows: next(other["score"] for other in rows[model]["other_lengths"] if other["lengths"] == lengths)


def share(model: str, of: str) -> Callable[[Rows], float]:
    """A model's score over another's, for scores of which less is better."""
    return lambda rows: rows[model]["score"] / rows[of]["score"]


def ahead(model: str, of: str) -> Callable[[Rows], float]:
    """A model's score minus another's."""
    return lambda rows: rows[model]["score"] - rows[of]["score"]


def worst(model: str) -> Callable[[Rows], float]:
    """A model's score at the length, or level, where it is lowest."""
    return lambda rows: min(part["score"] for part in rows[model]["by_length"])


def ahead_everywhere(model: str, of: str) -> Callable[[Rows], float]:
    """A model's score minus another's, at the length, or level, where that is least."""

    def measure(rows: Rows) -> float:
        pairs = zip(rows[model]["by_length"], rows[of]["by_length"], strict=True)
        return min(one["score"] - other["score"] for one, other in pairs)

    return measure


def grown(model: str, context: int) -> Callable[[Rows], float]:
    """Nats a token when read in windows of `context`, minus those in windows as long as in training."""
    return lambda rows: rows[model]["by_context"][str(context)] - next(iter(rows[model]["by_context"].values()))


def rarest_first(model: str, than: str) -> Callable[[Rows], float]:
    """By how many nats a model's gain over another is larger in the rarest tenth of the tokens than in any other tenth."""

    def measure(rows: Rows) -> float:
        gains = [b - a for a, b in zip(rows[model]["by_frequency"], rows[than]["by_frequency"], strict=True)]
        return gains[0] - max(gains[1:])

    return measure


def less(model: str, than: str) -> Callable[[Rows], float]:
    """A model's nats a token minus another's."""
    return lambda rows: rows[model]["nats_per_token"] - rows[than]["nats_per_token"]


def steepest(*models: str) -> Callable[[Rows], float]:
    """The largest rise of the nats a token from one model to the next; below 0 where each is better than the one before."""
    return lambda rows: max(
        rows[better]["nats_per_token"] - rows[worse]["nats_per_token"] for worse, better in itertools.pairwise(models)
    )


def of_law(model: str, what: str) -> Callable[[Rows], float]:
    """A number of a model's scaling law: "R2", "alpha" or "E"."""
    return lambda rows: rows[model][what]


def largest(model: str, than: str) -> Callable[[Rows], float]:
    """A model's nats a token at the largest size minus another's."""
    return lambda rows: rows[model]["largest"] - rows[than]["largest"]


def growth(model: str, what: str) -> Callable[[Rows], float]:
    """A cost at the longest context that memory suffices for over that at the shortest. what: "step", "state", "prefill" or
    "training"."""

    def measure(rows: Rows) -> float:
        costs = [cost for cost in rows[model][what] if cost is not None]
        if not costs:
            raise KeyError(what)
        return costs[-1] / costs[0]

    return measure
