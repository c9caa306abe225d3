"""How good forecasts are."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def smape(truth: Array, forecast: Array) -> Array:
    """Symmetric mean absolute percentage error over the last axis, 0 to 200 (Makridakis et al., 2020, eq. 1)."""
    size = np.abs(truth) + np.abs(forecast)
    error = np.divide(2 * np.abs(truth - forecast), size, out=np.zeros_like(size), where=size > 0)
    return 100 * error.mean(-1)


def mase(truth: Array, forecast: Array, history: Array, season: int) -> float:
    """Mean absolute error over that of the seasonal naive forecast within the history (the same, eq. 2).

    truth, forecast: [H]. history: [T], T > season. Infinite for a history that repeats exactly.
    """
    unit = np.abs(history[season:] - history[:-season]).mean()
    error = np.abs(truth - forecast).mean()
    return float(error / unit) if unit else (0.0 if error == 0 else float("inf"))


def coverage(truth: Array, low: Array, high: Array) -> float:
    """Share of the truths that are known and lie within [low, high]."""
    known = ~np.isnan(truth)
    return float(((truth >= low) & (truth <= high))[known].mean())
