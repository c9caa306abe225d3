"""A delay differential equation."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from openxlstm.data.dynamics.integrate import Array
from openxlstm.data.dynamics.system import System
from openxlstm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MackeyGlass(System):
    """Mackey & Glass 1977: blood cells that are made with a delay. x'(t) = beta x(t - tau) / (1 + x(t - tau)^n) - gamma x(t).

    RK4 with a fixed step h = dt / substeps, of which tau is a multiple. A state is the history at the 2 tau / h + 1 times
    t - tau, t - tau + h/2, ..., t: RK4 asks for the delayed value at the ends and in the middle of a step and nowhere else. The
    middle is filled in by the cubic through both ends of a step with the slopes there, of order 4 as the method. Jumps in
    derivatives, which a start from any history brings, lie at multiples of tau and so between steps.
    """

    dt: float = 1.0
    tau: float = 17.0
    beta: float = 0.2
    gamma: float = 0.1
    n: float = 10.0
    substeps: ClassVar[int] = 10
    transient: ClassVar[float] = 500.0

    def __post_init__(self) -> None:
        steps = self.tau * self.substeps / self.dt
        if self.tau <= 0 or abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
            raise UserError(f"tau={self.tau:g} must be a multiple of dt / {self.substeps} = {self.dt / self.substeps:g}")

    @property
    def channels(self) -> tuple[str, ...]:
        return ("x",)

    @property
    def delay_steps(self) -> int:
        """Steps of h in tau."""
        return round(self.tau * self.substeps / self.dt)

    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        """Constant histories."""
        return np.repeat(rng.uniform(0.4, 1.4, (rows, 1)), 2 * self.delay_steps + 1, 1)

    def slope(self, x: Array, delayed: Array) -> Array:
        """x' from x(t) and x(t - tau)."""
        return self.beta * delayed / (1 + delayed**self.n) - self.gamma * x

    def advance(self, states: Array, steps: int) -> Array:
        size = states.shape[1]
        h = self.dt / self.substeps
        path = np.empty((steps * self.substeps * 2 + size, len(states)))  # time first: a time is read in one piece
        path[:size] = states.T
        for now in range(size - 1, len(path) - 1, 2):
            x = path[now]
            at_start, halfway, at_end = path[now - size + 1 : now - size + 4]  # t - tau, and h/2 and h later
            k1 = self.slope(x, at_start)
            k2 = self.slope(x + h / 2 * k1, halfway)
            k3 = self.slope(x + h / 2 * k2, halfway)
            k4 = self.slope(x + h * k3, at_end)
            after = x + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            path[now + 1] = (x + after) / 2 + h / 8 * (k1 - self.slope(after, at_end))
            path[now + 2] = after
        windows = np.lib.stride_tricks.sliding_window_view(path, size, axis=0)  # [times, rows, S]
        return windows[2 * self.substeps :: 2 * self.substeps].swapaxes(0, 1)

    def observe(self, states: Array) -> Array:
        return states[..., -1:]
