"""How unusual forecast errors are, one row after the other: constant time and memory, and nothing later is ever looked at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

FLOOR, LEAST_DEVIATION = 0.02, 0.1
"""Added to what errors are compared with: a fiftieth of the deviation of the training rows is nothing yet, however well a
series could be forecast before; and a tenth of the usual error is no deviation."""


@dataclass
class Surprise:
    """An error is compared with the mean of all errors before it at the same distance; their mean over the distances is the
    surprise of a row, and its score the deviations z that it is above all surprises before.

    The idea is that of the likelihood of Lavin and Ahmad (ICMLA 2015), with errors of real numbers at several
    distances in place of one between bit patterns, and all rows in place of a window: what was unusual twice is less so then.
    """

    distances: int
    counts: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    rows: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean (Welford)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * self.distances
        self.totals = self.totals or [0.0] * self.distances

    def step(self, errors: Sequence[float]) -> float:
        """z of a row. errors: of the forecasts for it, by distance; NaN where there was none yet."""
        ratios = []
        for place, error in enumerate(map(abs, errors)):
            if math.isnan(error):
                continue
            usual = self.totals[place] / self.counts[place] if self.counts[place] else error
            ratios.append(error / (usual + FLOOR))
            self.counts[place] += 1
            self.totals[place] += error
        if not ratios:
            return 0.0
        found = sum(ratios) / len(ratios)
        z = (found - self.mean) / (math.sqrt(self.squares / self.rows) + LEAST_DEVIATION) if self.rows else 0.0
        self.rows += 1
        off = found - self.mean
        self.mean += off / self.rows
        self.squares += off * (found - self.mean)
        return z


def score_of(z: float) -> float:
    """z as a number between 0 and 1: 0.5 is usual, 0.95 nine deviations above it."""
    return (1 + z / (1 + abs(z))) / 2
