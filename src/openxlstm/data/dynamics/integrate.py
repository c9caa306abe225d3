"""Solvers of ordinary differential equations in float64, for many trajectories at once."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Derivative = Callable[[Array], Array]
"""dx/dt [..., S] of states x [..., S]; the systems here do not depend on time."""

# Dormand & Prince 1980, RK5(4)7M: row i has the weights of the stages before stage i; the last row is the solution of order 5
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Order 5 minus order 4."""


def rk4(derivative: Derivative, start: Array, dt: float, steps: int, substeps: int = 1) -> Array:
    """The classic Runge-Kutta method of order 4 with a fixed step.

    start: states [..., S]. dt: time between the states that are returned, each reached in `substeps` equal steps.
    Returns the states after dt, 2 dt, ... [..., steps, S].
    """
    h = dt / substeps
    x = np.array(start, dtype=np.float64)
    out = np.empty((*x.shape[:-1], steps, x.shape[-1]))
    for step in range(steps):
        for _ in range(substeps):
            k1 = derivative(x)
            k2 = derivative(x + h / 2 * k1)
            k3 = derivative(x + h / 2 * k2)
            k4 = derivative(x + h * k3)
            x = x + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        out[..., step, :] = x
    return out


def dormand_prince(
    derivative: Derivative, start: Array, dt: float, steps: int, rtol: float = 1e-10, atol: float = 1e-10
) -> Array:
    """The method of order 5 by Dormand & Prince, with an error estimate of order 4 that chooses the step.

    Arguments and result as for `rk4`; rtol, atol: bound of the error estimate of a step, |error| <= atol + rtol |x| in the root
    mean square of each trajectory. All trajectories take the steps of the one that needs the shortest. Steps end exactly at the
    times asked for. Raises ValueError where the step would have to be shorter than rounding allows.
    """
    x = np.array(start, dtype=np.float64)
    out = np.empty((*x.shape[:-1], steps, x.shape[-1]))
    first = derivative(x)
    h = dt / 10
    for step in range(steps):
        left = dt
        while left > 0:
            last = h >= left * (1 - 1e-12)
            now = left if last else h
            stages = [first]
            for weights in STAGES:
                y = x + now * _weighted(weights, stages)
                stages.append(derivative(y))
            scale = atol + rtol * np.maximum(np.abs(x), np.abs(y))
            error = float(np.sqrt(np.mean((now * _weighted(ERROR, stages) / scale) ** 2, axis=-1)).max())
            factor = 5.0 if error == 0 else 0.9 * error**-0.2 if math.isfinite(error) else 0.2
            if error <= 1:  # False for NaN
                x, first, left = y, stages[-1], 0.0 if last else left - now
            # a step that was cut short to end at a wanted time says little about how long the next may be
            h = max(h, now * min(5.0, factor)) if error <= 1 and last else now * min(5.0, max(0.2, factor))
            if h < 1e-13 * dt:
                raise ValueError(f"no step is short enough for rtol={rtol:g}, atol={atol:g}: the solution leaves all bounds")
        out[..., step, :] = x
    return out


def _weighted(weights: Sequence[float], stages: Sequence[Array]) -> Array:
    return sum(weight * stage for weight, stage in zip(weights, stages) if weight)  # type: ignore[return-value]
