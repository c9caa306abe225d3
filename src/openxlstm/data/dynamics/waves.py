"""A partial differential equation: fronts that move and merge."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

from openxlstm.data.dynamics.integrate import Array
from openxlstm.data.dynamics.system import System


@dataclass(frozen=True, kw_only=True)
class KuramotoSivashinsky(System):
    """u_t = -u u_x - u_xx - u_xxxx on a ring of circumference `length`, seen at `points` places.

    Fourier modes in space, ETDRK4 in time (Cox & Matthews 2002): the linear part, which is stiff, is solved exactly.
    """

    dt: float = 0.25
    length: float = 22.0
    points: int = 32
    substeps: ClassVar[int] = 4
    transient: ClassVar[float] = 100.0

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(f"u{i}" for i in range(self.points))

    @property
    def wave_numbers(self) -> Array:
        """[points / 2 + 1]"""
        return 2 * np.pi / self.length * np.arange(self.points // 2 + 1)

    def initial(self, rows: int, rng: np.random.Generator) -> Array:
        """A few long waves; their mean, which never changes, is 0."""
        x = 2 * np.pi * np.arange(self.points) / self.points
        waves = np.stack([f(k * x) for k in (1, 2, 3) for f in (np.sin, np.cos)])
        return rng.normal(size=(rows, len(waves))) @ waves

    def nonlinear(self, v: Array) -> Array:
        """-(u^2)_x / 2 in Fourier space, of v [..., K] there. A third of the modes stay empty: products of the others fall on
        these where they alias (Orszag's rule)."""
        k = self.wave_numbers
        u = np.fft.irfft(v, self.points)
        return -0.5j * k * np.fft.rfft(u * u) * self.kept

    @cached_property
    def kept(self) -> Array:
        """[K] bool: the modes that are not kept empty."""
        return np.arange(self.points // 2 + 1) < self.points / 3

    def advance(self, states: Array, steps: int) -> Array:
        h = self.dt / self.substeps
        k = self.wave_numbers
        c = etdrk4(tuple(k**2 - k**4), h)
        v = np.fft.rfft(states) * self.kept
        out = np.empty((len(states), steps, self.points))
        for step in range(steps):
            for _ in range(self.substeps):
                nv = self.nonlinear(v)
                a = c.half * v + c.q * nv
                na = self.nonlinear(a)
                nb = self.nonlinear(c.half * v + c.q * na)
                nc = self.nonlinear(c.half * a + c.q * (2 * nb - nv))
                v = c.whole * v + c.first * nv + 2 * c.middle * (na + nb) + c.last * nc
            out[:, step] = np.fft.irfft(v, self.points)
        return out


class Coefficients(NamedTuple):
    """Of one step of ETDRK4, for each mode: e^(Lh/2), e^(Lh), and the weights of the nonlinear terms."""

    half: Array
    whole: Array
    q: Array
    first: Array
    middle: Array
    last: Array


@lru_cache(maxsize=8)
def etdrk4(linear: tuple[float, ...], h: float) -> Coefficients:
    """The coefficients for the diagonal linear part `linear` and step h.

    Their formulas cancel where L h is small; the mean over a circle around it in the complex plane does not (Kassam & Trefethen
    2005, section 3).
    """
    L = h * np.array(linear)
    z = L[:, None] + np.exp(2j * np.pi * (np.arange(32) + 0.5) / 32)  # [K, 32]
    e = np.exp(z)
    return Coefficients(
        half=np.exp(L / 2),
        whole=np.exp(L),
        q=h * ((np.exp(z / 2) - 1) / z).mean(1).real,
        first=h * ((-4 - z + e * (4 - 3 * z + z**2)) / z**3).mean(1).real,
        middle=h * ((2 + z + e * (z - 2)) / z**3).mean(1).real,
        last=h * ((-4 - 3 * z - z**2 + e * (4 - z)) / z**3).mean(1).real,
    )
