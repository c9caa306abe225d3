"""What a dynamical system is: states that go on by themselves, and what of them can be seen."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from openxlstm.data.dynamics.integrate import Array, rk4


@dataclass(frozen=True, kw_only=True)
class System(ABC):
    """A deterministic system in float64.

    dt: time between two samples. transient: time after which a trajectory from `initial` is taken to be on the attractor.
    channels: names of what is observed.
    """

    dt: float
    transient: ClassVar[float] = 20.0

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """Names of the F numbers that `observe` gives."""

    @abstractmethod
    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        """Random states [rows, S], near the attractor or on it."""

    @abstractmethod
    def advance(self, states: Array, steps: int) -> Array:
        """The states [rows, steps, S] after dt, 2 dt, ... from states [rows, S]."""

    def observe(self, states: Array) -> Array:
        """What is seen of states [..., S]: [..., F]. Here all of it."""
        return states

    def trajectories(self, rows: int, steps: int, seed: int) -> Array:
        """So many trajectories on the attractor, observed [rows, steps, F]. More steps continue those with fewer."""
        states = self.initial(rows, np.random.Generator(np.random.PCG64(seed)))
        wait = round(self.transient / self.dt)
        if wait:
            states = self.advance(states, wait)[:, -1]
        first, rest = self.observe(states), self.observe(self.advance(states, steps - 1))
        return np.concatenate([first[:, None], rest], 1)


@dataclass(frozen=True, kw_only=True)
class Flow(System):
    """An ordinary differential equation, solved by RK4 with a fixed step."""

    substeps: ClassVar[int]

    @abstractmethod
    def derivative(self, x: Array) -> Array:
        """dx/dt [..., S] at x [..., S]."""

    def advance(self, states: Array, steps: int) -> Array:
        return rk4(self.derivative, states, self.dt, steps, self.substeps)
