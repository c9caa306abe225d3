"""Chaotic ordinary differential equations."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from openxlstm.data.dynamics.integrate import Array, dormand_prince
from openxlstm.data.dynamics.system import Flow, System


@dataclass(frozen=True, kw_only=True)
class Lorenz63(Flow):
    """Lorenz 1963: convection in three numbers. x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z."""

    dt: float = 0.02
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3
    substeps: ClassVar[int] = 5

    @property
    def channels(self) -> tuple[str, ...]:
        return "x", "y", "z"

    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        return np.array([0.0, 0.0, 25.0]) + 10 * rng.uniform(-1, 1, (rows, 3))

    def derivative(self, x: Array) -> Array:
        x, y, z = np.moveaxis(x, -1, 0)
        return np.stack([self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z], -1)


@dataclass(frozen=True, kw_only=True)
class Roessler(Flow):
    """Roessler 1976. x' = -y - z, y' = x + a y, z' = b + z (x - c)."""

    dt: float = 0.1
    a: float = 0.2
    b: float = 0.2
    c: float = 5.7
    substeps: ClassVar[int] = 5
    transient: ClassVar[float] = 100.0

    @property
    def channels(self) -> tuple[str, ...]:
        return "x", "y", "z"

    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        return np.concatenate([rng.uniform(-5, 5, (rows, 2)), rng.uniform(0, 1, (rows, 1))], 1)

    def derivative(self, x: Array) -> Array:
        x, y, z = np.moveaxis(x, -1, 0)
        return np.stack([-y - z, x + self.a * y, self.b + z * (x - self.c)], -1)


@dataclass(frozen=True, kw_only=True)
class Lorenz96(Flow):
    """Lorenz 1996: a ring of places. x_i' = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F."""

    dt: float = 0.02
    places: int = 8
    forcing: float = 8.0
    substeps: ClassVar[int] = 4

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"x{i}" for i in range(1, self.places + 1))

    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        return self.forcing + rng.uniform(-1, 1, (rows, self.places))

    def derivative(self, x: Array) -> Array:
        after, before, two = (np.roll(x, shift, -1) for shift in (-1, 1, 2))
        return (after - two) * before - x + self.forcing


@dataclass(frozen=True, kw_only=True)
class DoublePendulum(System):
    """Two equal point masses on equal rods, without friction: angles from below and their momenta (m = l = 1).

    Energy is conserved, so trajectories belong to one energy: that of both rods at rest at angle `release` (radians).
    """

    dt: float = 0.05
    release: float = 2 * np.pi / 3
    gravity: float = 9.81
    transient: ClassVar[float] = 10.0

    @property
    def channels(self) -> tuple[str, ...]:
        return "sin1", "cos1", "sin2", "cos2", "omega1", "omega2"

    def potential(self, angles: Array) -> Array:
        """V [...] of angles [..., 2]."""
        return -self.gravity * (2 * np.cos(angles[..., 0]) + np.cos(angles[..., 1]))

    def energy(self, x: Array) -> Array:
        """H [...] of states [..., 4]: p' M^-1 p / 2 + V with the mass matrix M = ((2, c), (c, 1)), c = cos(th1 - th2)."""
        omega = self.velocities(x)
        return (omega * x[..., 2:]).sum(-1) / 2 + self.potential(x[..., :2])

    def velocities(self, x: Array) -> Array:
        """Angular velocities M^-1 p [..., 2] of states [..., 4]."""
        c = np.cos(x[..., 0] - x[..., 1])
        p1, p2 = x[..., 2], x[..., 3]
        return np.stack([p1 - c * p2, 2 * p2 - c * p1], -1) / (2 - c * c)[..., None]

    def derivative(self, x: Array) -> Array:
        """Hamilton's equations, [..., 4]."""
        omega = self.velocities(x)
        pull = np.sin(x[..., 0] - x[..., 1]) * omega[..., 0] * omega[..., 1]
        forces = [-2 * self.gravity * np.sin(x[..., 0]) - pull, -self.gravity * np.sin(x[..., 1]) + pull]
        return np.concatenate([omega, np.stack(forces, -1)], -1)

    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        """Angles anywhere that the energy reaches, and momenta in a random direction that make it up."""
        total = float(self.potential(np.full(2, self.release)))
        angles = np.empty((0, 2))
        while len(angles) < rows:
            tried = rng.uniform(-np.pi, np.pi, (4 * rows, 2))
            angles = np.concatenate([angles, tried[self.potential(tried) < total]])[:rows]
        direction = rng.normal(size=(rows, 2))
        kinetic = (self.velocities(np.concatenate([angles, direction], 1)) * direction).sum(1) / 2
        momenta = direction * np.sqrt((total - self.potential(angles)) / kinetic)[:, None]
        return np.concatenate([angles, momenta], 1)

    def advance(self, states: Array, steps: int) -> Array:
        return dormand_prince(self.derivative, states, self.dt, steps)

    def observe(self, states: Array) -> Array:
        sine, cosine = np.sin(states[..., :2]), np.cos(states[..., :2])
        return np.concatenate([np.stack([sine, cosine], -1).reshape(*states.shape[:-1], 4), self.velocities(states)], -1)
