"""Running averages of sensors: what a noisy row shows only together with those before it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Averages(NamedTuple):
    """Exponential averages of all rows so far, for each of K half-lives: sums [K, C] and weights [K]."""

    sums: Array
    weights: Array


def with_averages(rows: Array, half_lives: Sequence[int], state: Averages | None = None) -> tuple[Array, Averages]:
    """Rows [T, C] with their averages beside them [T, (1 + K) C], and the state to go on from.

    An average weighs a row that is a half-life old by 1/2, and is one of the rows seen: the first row is its own average.
    """
    decay = 0.5 ** (1 / np.asarray(half_lives, np.float64))  # [K]
    if state is None:
        state = Averages(np.zeros((len(decay), rows.shape[1])), np.zeros(len(decay)))
    sums, weights = state
    found = np.empty((len(rows), 1 + len(decay), rows.shape[1]))
    for step, row in enumerate(rows):
        sums, weights = decay[:, None] * sums + row, decay * weights + 1
        found[step, 0], found[step, 1:] = row, sums / weights[:, None]
    return found.reshape(len(rows), -1), Averages(sums, weights)
