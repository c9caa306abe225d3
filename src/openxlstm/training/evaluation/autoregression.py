"""What a linear model makes of the same trajectories."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_ROWS = 20_000  # to fit on: more change nothing and cost memory


@dataclass(frozen=True)
class LinearAutoregression:
    """x_{t+1} = c + A_1 x_t + ... + A_p x_{t-p+1}, by least squares.

    weights: [1 + p F, F], first c, then the latest sample's, then older ones.
    """

    order: int
    weights: Array

    @classmethod
    def fit(cls, paths: Array, order: int) -> "LinearAutoregression":
        """From trajectories [N, T, F]. Raises ValueError where they are too short for the order."""
        if paths.shape[1] <= order:
            raise ValueError(f"trajectories of {paths.shape[1]} samples are too short for order {order}")
        past = np.concatenate([paths[:, order - 1 - lag : -1 - lag] for lag in range(order)], -1)  # [N, T - p, p F]
        rows = past.reshape(-1, past.shape[-1])
        wanted = paths[:, order:].reshape(len(rows), -1)
        kept = slice(None, None, -(-len(rows) // MAX_ROWS))
        design = np.concatenate([np.ones((len(rows[kept]), 1)), rows[kept]], 1)
        return cls(order, np.linalg.lstsq(design, wanted[kept], rcond=None)[0])

    def free_run(self, prefix: Array, num_steps: int) -> Array:
        """The next samples [N, num_steps, F] after a prefix [N, W, F] with W >= p."""
        if prefix.shape[1] < self.order:
            raise ValueError(f"a prefix of {prefix.shape[1]} samples is too short for order {self.order}")
        last = list(np.moveaxis(prefix[:, -self.order :], 1, 0))
        found = np.empty((len(prefix), num_steps, prefix.shape[2]))
        with np.errstate(over="ignore", invalid="ignore"):  # fitted models may be unstable
            for step in range(num_steps):
                past = np.concatenate([np.ones((len(prefix), 1)), *reversed(last)], 1)
                found[:, step] = past @ self.weights
                last = [*last[1:], found[:, step]]
        return found
