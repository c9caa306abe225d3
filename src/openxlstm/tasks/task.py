"""What a task is: samples, what of them is scored and how, and what the score is compared with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.data.windows import IGNORE

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Batch(NamedTuple):
    """Sequences of one task, padded at the end: causal models need no mask for that."""

    inputs: Tensor  # [B, T] int64 token ids, or [B, T, F] float32 vectors; 0 is padding
    targets: Tensor  # [B, T] int64 classes, or [B, T, G] float32 values or bits; IGNORE or NaN where a step is not scored
    lengths: Tensor  # [B] int64  steps before the padding

    @property
    def scored(self) -> Tensor:
        """[B, T] bool: the loss mask, and the steps that the metric looks at."""
        return scored(self.targets)

    @property
    def reset(self) -> Tensor:
        """[B, T] bool, all False: a row is one sequence and starts from the empty state anyway."""
        return torch.zeros(self.inputs.shape[:2], dtype=torch.bool, device=self.inputs.device)

    @property
    def num_tokens(self) -> int:
        """Steps that are not padding."""
        return int(self.lengths.sum())

    def rows(self, which: slice | Tensor) -> Self:
        """Some of the sequences."""
        return type(self)(*(part[which] for part in self))

    def cut(self) -> Self:
        """The same without steps that are padding in all sequences."""
        longest = int(self.lengths.max())
        return type(self)(self.inputs[:, :longest], self.targets[:, :longest], self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on a device."""
        return type(self)(*(part.to(device, non_blocking=non_blocking) for part in self))


def scored(targets: Tensor) -> Tensor:
    """[B, T] bool: the targets that count, of [B, T] classes or [B, T, G] values or bits."""
    return ~targets.isnan().any(-1) if targets.is_floating_point() else targets != IGNORE


def nothing_scored(batch: int, length: int, values: int | None = None) -> Tensor:
    """Targets to fill in: IGNORE [B, T], or NaN [B, T, values]."""
    return torch.full((batch, length), IGNORE) if values is None else torch.full((batch, length, values), torch.nan)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a model of the task reads and answers at every step: one of the first two and one of the last three are given.

    vocab_size: the inputs are token ids below it. input_dim: they are vectors of that width.
    num_classes: the targets are classes, the outputs their logits. num_values: the targets are so many real numbers.
    num_bits: the targets are so many zeros and ones, each for itself, the outputs their logits.
    """

    vocab_size: int | None = None
    input_dim: int | None = None
    num_classes: int | None = None
    num_values: int | None = None
    num_bits: int | None = None

    @property
    def num_outputs(self) -> int:
        """Width of the output head."""
        return self.num_classes or self.num_values or self.num_bits or 0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean over the scored targets of all samples together.

    name: what it is called. higher_is_better: its direction.
    points: of each target; (outputs [N, C], targets [N] or [N, G]) -> [N].
    constant: (targets) -> the mean of the points of the best answer that is always the same; chosen with these very targets in
        view, so that no model beats it by their frequencies alone.
    floor: where above 0, the score is (mean - floor) / (1 - floor): 0 for guessing and 1 for perfect.
    root: the score is the square root of the mean. total: it is the sum of the points.
    """

    name: str
    higher_is_better: bool
    points: Callable[[Tensor, Tensor], Tensor]
    constant: Callable[[Tensor], float]
    floor: float = 0.0
    root: bool = False
    total: bool = False

    def score(self, mean_points: float, answers: int = 1) -> float:
        """The score of so many answers with these points on average."""
        if self.total:
            return mean_points * answers
        return math.sqrt(mean_points) if self.root else (mean_points - self.floor) / (1 - self.floor)

    def better(self, a: float, b: float) -> float:
        """The better of two scores."""
        return max(a, b) if self.higher_is_better else min(a, b)


def _frequencies(targets: Tensor) -> Tensor:
    counts = targets.bincount()
    return counts[counts > 0].double() / targets.numel()


def _entropy(targets: Tensor) -> float:
    p = _frequencies(targets)
    return float(-(p * p.log()).sum())


def _binary_entropy(p: Tensor) -> Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target's, 0 elsewhere and where one is NaN, which argmax takes for the largest."""
    chosen = outputs.argmax(-1)
    known = ~outputs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).isnan()
    return ((chosen == targets) & known).float()


ACCURACY = Metric(
    name="accuracy",
    higher_is_better=True,
    points=_right,
    constant=lambda targets: float(_frequencies(targets).max()),
)
CROSS_ENTROPY = Metric(
    name="cross-entropy",  # nats
    higher_is_better=False,
    points=lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
    constant=_entropy,
)
BITS = Metric(
    name="negative log-likelihood",  # nats a step
    higher_is_better=False,
    points=lambda outputs, targets: F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(-1),
    constant=lambda targets: float(_binary_entropy(targets.double().mean(0)).sum()),
)
SQUARED_ERROR = Metric(
    name="mean squared error",
    higher_is_better=False,
    points=lambda outputs, targets: (outputs - targets).square().mean(-1),
    constant=lambda targets: float(targets.double().var(0, correction=0).mean()),
)


class Anchor(NamedTuple):
    """A published score of a model on this task."""

    model: str
    score: float
    source: str
    checked: bool = True  # False: from memory, or of another paper; not read in the source itself


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Samples and their score. Subclasses are frozen dataclasses whose fields are the settings of the task.

    Training, validation and test never share a sample; each subclass says how. Batches for training are a function of the
    generator that is handed in, those for evaluation are always the same.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """What models of this task read and answer."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The score and its direction."""

    @property
    def other_metrics(self) -> tuple[Metric, ...]:
        """What is reported beside the score."""
        return ()

    @property
    def chosen_by_loss(self) -> bool:
        """Whether weights are chosen by their validation loss: where the score has too few steps to tell models apart."""
        return False

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """Published scores."""
        return ()

    @abstractmethod
    def chance(self, length: int) -> float:
        """Mean points of a guesser that has learnt nothing, on sequences of this length."""

    @property
    @abstractmethod
    def trained(self) -> str:
        """The lengths of training samples, "N" or "N-M"."""

    @property
    @abstractmethod
    def reports(self) -> tuple[str, ...]:
        """The lengths that are evaluated, as `evaluation` takes them. The first is what the score of the task is about."""

    @abstractmethod
    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        """So many training samples."""

    def train_batches(self, batch: int, count: int, rng: torch.Generator) -> list[Batch] | None:
        """`count` of them at once, where that is cheaper than one after the other."""
        return None

    def train_batch_at(self, batch: int, rng: torch.Generator, progress: float) -> Batch:
        """The same when a share `progress` of the run, from 0 to below 1, is done: for samples that change in its course."""
        return self.train_batch(batch, rng)

    @abstractmethod
    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        """All samples of a split with these lengths, in batches, each with the length or the range "N-M" that it belongs to."""

    @property
    def description(self) -> str:
        """One line about the samples."""
        return f"task {self.name}"

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes the samples besides the settings: the content of files."""
        return ""

    @property
    def beside(self) -> Mapping[str, Any]:
        """What is needed to use a trained model on rows as they come from a sensor; saved beside it as sensors.json."""
        return {}
