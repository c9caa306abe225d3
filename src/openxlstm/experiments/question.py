"""What a question is: a claim, what would settle it, and how much of that a scale affords."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SCALES = ("minutes", "hours", "gpu")
"""What an answer may cost: at most an hour on two cores, a night on two cores, a GPU."""

Verdict = Literal["holds", "does not hold here", "not tested at this scale"]
Rows = Mapping[str, Mapping[str, Any]]
"""Model -> its row of a comparison: means over the seeds."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number that the claim predicts.

    what: the number in words.
    measure: it, from the rows of the comparison; KeyError where a model of it was not trained.
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
class Setting:
    """How a question is asked at one scale.

    models: the patterns that are compared, with equal parameters.
    seeds: how many, from 0 on.
    lrs: learning rates of which each model may choose by validation; none = the recipe's.
    options: settings on top of the recipe, as on the command line.
    """

    models: tuple[str, ...]
    seeds: int = 1
    lrs: tuple[float, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A claim about xLSTM and the comparison that tests it.

    name: short, for the command line and folders.
    claim: what is claimed, in a sentence.
    published: the numbers and where they stand.
    recipe: what is trained: a recipe for text or a task.
    checks: all must hold.
    settings: scale -> Setting; a scale that is not there does not ask the question.
    """

    name: str
    claim: str
    published: str
    recipe: str
    checks: tuple[Check, ...]
    settings: Mapping[str, Setting]

    def command(self, scale: str) -> str:
        """The command that trains the same models."""
        setting = self.settings[scale]
        words = [f"openxlstm compare {self.recipe} --models '{','.join(setting.models)}'"]
        words.append(f"--seeds {','.join(map(str, range(setting.seeds)))}")
        words += [f"--lrs {','.join(f'{lr:g}' for lr in setting.lrs)}"] * bool(setting.lrs)
        return " ".join([*words, *(f"--{name}={value}" for name, value in setting.options.items())])


def score(model: str) -> Callable[[Rows], float]:
    """The score of a model on the test samples."""
    return lambda rows: rows[model]["score"]


def score_at(model: str, lengths: str) -> Callable[[Rows], float]:
    """The same at other lengths."""
    return lambda rows: next(other["score"] for other in rows[model]["other_lengths"] if other["lengths"] == lengths)


def share(model: str, of: str) -> Callable[[Rows], float]:
    """A model's score over another's, for scores of which less is better."""
    return lambda rows: rows[model]["score"] / rows[of]["score"]


def grown(model: str, context: int) -> Callable[[Rows], float]:
    """Nats a token when read in windows of `context`, minus those in windows as long as in training."""
    return lambda rows: rows[model]["by_context"][context] - rows[model]["by_context"][min(rows[model]["by_context"])]


def less(model: str, than: str) -> Callable[[Rows], float]:
    """A model's nats a token minus another's."""
    return lambda rows: rows[model]["nats_per_token"] - rows[than]["nats_per_token"]
