"""The largest Lyapunov exponent: how fast neighbouring trajectories part."""

from typing import NamedTuple

import numpy as np

from openxlstm.data.dynamics.system import System

DISTANCE = 1e-7
"""Between twins after each measurement: far above rounding, far below where the growth is no longer linear."""


class Exponent(NamedTuple):
    """A largest Lyapunov exponent, per unit of time, and the standard error of it."""

    value: float
    error: float


def largest_exponent(system: System, rows: int = 32, steps: int = 2000, every: int = 10, seed: int = 0) -> Exponent:
    """By the method of Benettin et al. 1976: the mean growth rate of a small distance, which is made small again each time.

    rows: trajectories on the attractor, each with a twin. steps: samples that each is followed for, after as many again divided
    by four in which the twins turn into the direction of fastest growth. every: samples between two measurements. The error is
    from the spread over trajectories.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    wait = max(round(system.transient / system.dt), 1)
    states = system.advance(system.initial(rows, rng), wait)[:, -1]
    turns = max(steps // 4 // every, 1)
    offset = rng.normal(size=states.shape)
    growth = np.zeros(rows)
    for number in range(turns + steps // every):
        offset *= DISTANCE / np.linalg.norm(offset, axis=1, keepdims=True)
        after = system.advance(np.concatenate([states, states + offset]), every)[:, -1]
        states, offset = after[:rows], after[rows:] - after[:rows]
        if number >= turns:
            growth += np.log(np.linalg.norm(offset, axis=1) / DISTANCE)
    rates = growth / (steps // every * every * system.dt)
    return Exponent(float(rates.mean()), float(rates.std(ddof=1) / np.sqrt(rows)) if rows > 1 else float("nan"))
