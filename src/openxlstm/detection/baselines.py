"""Detectors that learn nothing, to be held against. Each takes a series [T] and gives a score from 0 to 1 for each row [T]."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openxlstm.detection.surprise import Surprise, score_of
from openxlstm.errors import UserError

Array = NDArray[np.float64]


def null(values: Array) -> Array:
    """Never changes its mind: 0 on the scale of the benchmark."""
    return np.full(len(values), 0.5)


def random(values: Array, seed: int) -> Array:
    """Looks at nothing."""
    return np.random.default_rng(seed).random(len(values))


def moving_z_score(values: Array, window: int) -> Array:
    """How far a value is from the mean of the `window` values before it, in their deviations z, as z / (1 + z).

    A value that differs at all from a window that never changed scores 1; rows before the second score 0.
    """
    if window < 2:
        raise UserError(f"window must be at least 2 rows, got {window}")
    found = np.zeros(len(values))
    for row in range(2, len(values)):
        before = values[max(row - window, 0) : row]
        away, deviation = abs(values[row] - before.mean()), before.std()
        if away > 1e-12 * abs(values[row]):
            found[row] = away / (away + deviation)
    return found


def last_value(values: Array, training: int, distances: Sequence[int]) -> Array:
    """The AnomalyDetector with a forecaster that knows nothing: the series stays where it is. What is left is its surprise.

    training: rows whose deviation is the unit. distances: as in DetectorSettings.
    """
    x = values / (values[:training].std() or 1.0)
    surprise = Surprise(len(distances))
    steps = [[x[row] - x[row - h] if row >= h else np.nan for h in distances] for row in range(len(x))]
    return np.asarray([score_of(surprise.step(errors)) for errors in steps])
