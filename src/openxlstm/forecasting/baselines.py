"""Forecasts that need no training. Each takes a history [T] and gives the next H values [H]."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import UserError

Array = NDArray[np.float64]


def naive(history: Array, horizon: int) -> Array:
    """The last value again: the best forecast of a random walk."""
    return np.repeat(history[-1:], horizon)


def seasonal_naive(history: Array, horizon: int, season: int) -> Array:
    """What was one season before; the last value where the history is shorter than a season."""
    return naive(history, horizon) if len(history) < season else history[-season:][np.arange(horizon) % season]


def drift(history: Array, horizon: int) -> Array:
    """The line through the first and the last value, continued."""
    slope = (history[-1] - history[0]) / max(len(history) - 1, 1)
    return history[-1] + slope * np.arange(1, horizon + 1)


def naive2(history: Array, horizon: int, season: int) -> Array:
    """`naive` of the seasonally adjusted series, times the season: what the M4 competition measures by.

    Adjusted, by classical multiplicative decomposition, where the autocorrelation at the season's lag is significant (90 %).
    """
    if not is_seasonal(history, season):
        return naive(history, horizon)
    factors = season_factors(history, season)
    steps = np.arange(len(history), len(history) + horizon) % season
    return history[-1] / factors[(len(history) - 1) % season] * factors[steps]


def is_seasonal(history: Array, season: int) -> bool:
    """The M4 competition's test: |r_m| > 1.645 sqrt((1 + 2 (r_1^2 + ... + r_{m-1}^2)) / T), from three seasons on."""
    if season < 2 or len(history) < 3 * season:
        return False
    x = history - history.mean()
    power = (x * x).sum()
    if power == 0:
        return False
    r = np.array([(x[lag:] * x[:-lag]).sum() / power for lag in range(1, season + 1)])
    limit = 1.645 * np.sqrt((1 + 2 * (r[:-1] ** 2).sum()) / len(x))
    return bool(abs(r[-1]) > limit)


def season_factors(history: Array, season: int) -> Array:
    """What each step of a season is multiplied with: mean ratio to the centred moving average, with mean 1. [season]"""
    weights = np.ones(season) / season
    if season % 2 == 0:
        weights = np.concatenate([[0.5], np.ones(season - 1), [0.5]]) / season
    trend = np.convolve(history, weights, "valid")
    first = (len(weights) - 1) // 2
    ratio = history[first : first + len(trend)] / trend
    place = (np.arange(len(trend)) + first) % season
    factors = np.array([ratio[place == step].mean() for step in range(season)])
    return factors / factors.mean()


def baselines(season: int) -> dict[str, Callable[[Array, int], Array]]:
    """Name -> forecast. season: rows of a season, 1 for none."""
    if season < 1:
        raise UserError(f"season must be at least 1 row, got {season}")
    found: dict[str, Callable[[Array, int], Array]] = {"naive": naive, "drift": drift}
    if season > 1:
        found["seasonal_naive"] = lambda history, horizon: seasonal_naive(history, horizon, season)
    return found
