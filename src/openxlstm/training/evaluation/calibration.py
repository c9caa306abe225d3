"""Whether a classifier's probabilities can be believed, and the temperature that makes them so (Guo et al. 2017)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15  # as in published tables
COLDEST, HOTTEST = 0.05, 20.0
BISECTIONS = 50


@dataclass(frozen=True)
class Bin:
    """Answers of about equal confidence.

    confidence: mean probability of the class that was chosen. accuracy: share of right choices. count: how many answers.
    """

    confidence: float
    accuracy: float
    count: int


def reliability(logits: Tensor, targets: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """Answers in equally wide bins of confidence; bins without any are left out. logits [N, C], targets [N]."""
    confidence, chosen = logits.double().softmax(-1).max(-1)
    right = (chosen == targets).double()
    place = (confidence * bins).ceil().clamp(1, bins) - 1
    members = [place == number for number in range(bins)]
    return tuple(
        Bin(float(confidence[mine].mean()), float(right[mine].mean()), int(mine.sum())) for mine in members if mine.any()
    )


def calibration_error(found: tuple[Bin, ...]) -> float:
    """The expected calibration error: |confidence - accuracy| of the bins, weighted by their counts."""
    total = sum(one.count for one in found)
    return math.fsum(one.count / total * abs(one.confidence - one.accuracy) for one in found)


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """The T for which softmax(logits / T) gives the targets the highest likelihood, between COLDEST and HOTTEST.

    Targets are smoothed as if each class had been right once more (Platt 1999): without that, a split on which all answers are
    right would ask for T = 0. The loss is convex in 1/T, and its derivative, the mean of E[logit] - logit of the
    target, rises: bisection. logits [N, C], targets [N].
    """
    z = logits.double()
    number, classes = z.shape
    share = classes / (number + classes)
    wanted = (1 - share) * z.gather(1, targets[:, None])[:, 0] + share * z.mean(-1)
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        slope = (((z * middle).softmax(-1) * z).sum(-1) - wanted).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def confusion(logits: Tensor, targets: Tensor) -> tuple[tuple[int, ...], ...]:
    """How often texts of each class (rows) were taken for each (columns)."""
    classes = logits.shape[1]
    counts = (targets * classes + logits.argmax(-1)).bincount(minlength=classes * classes)
    return tuple(map(tuple, counts.view(classes, classes).tolist()))


@torch.no_grad()
def divide_head(head: torch.nn.Linear, temperature: float) -> None:
    """Divide the logits of a linear head by a temperature, for good: softmax of what the model answers is then calibrated."""
    head.weight.div_(temperature)
    head.bias.div_(temperature)
