"""Scaling laws: the loss as a function of the number of parameters, L(N) = E + A N^-alpha (Hoffmann et al. 2022, eq. 2, at a
fixed number of tokens)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openxlstm.training.record import canvas

ALPHAS = (0.01, 5.0)
"""Where exponents are looked for. At the lower end a power law is a logarithm, and E and A mean nothing."""


class ScalingLaw(NamedTuple):
    """L(N) = E + A N^-alpha, and how much of the losses' variance it explains."""

    E: float  # what no size gets below, >= 0
    A: float
    alpha: float
    R2: float

    def __call__(self, params: ArrayLike) -> NDArray[np.float64]:
        """The loss at each number of parameters."""
        return self.E + self.A * np.asarray(params, np.float64) ** -self.alpha

    def __str__(self) -> str:
        return f"{self.E:.3f} + {self.A:.3g} N^-{self.alpha:.3f} (R² {self.R2:.3f})"


def fit(params: Sequence[float] | NDArray[np.float64], losses: Sequence[float] | NDArray[np.float64]) -> ScalingLaw:
    """The law with the least squared error in the losses.

    params, losses: [runs], several runs of one size are welcome. For a given alpha the law is linear in E and A, which are then
    known in closed form; alpha is searched on a grid over ALPHAS that is made finer around its best point. E is not negative.
    Raises ValueError for fewer than three sizes, for numbers that are not positive and finite, and for losses that do not
    fall with size.
    """
    N, L = np.asarray(params, np.float64), np.asarray(losses, np.float64)  # [runs]
    if N.ndim != 1 or N.shape != L.shape:
        raise ValueError(f"params and losses must be two lists of one length, got {list(N.shape)} and {list(L.shape)}")
    if len(np.unique(N)) < 3:
        raise ValueError(f"three unknowns need at least three sizes, got {len(np.unique(N))}")
    for name, values in (("params", N), ("losses", L)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name} must be positive and finite, got {values.tolist()}")
    scale = np.exp(np.log(N).mean())  # N / scale is around 1, and so are its powers
    low, high = ALPHAS
    for _ in range(12):
        alphas = np.geomspace(low, high, 65)
        E, A, errors = _given(alphas, N / scale, L)
        best = int(errors.argmin())
        low, high = alphas[max(best - 1, 0)], alphas[min(best + 1, len(alphas) - 1)]
    if A[best] <= 0:
        raise ValueError("the losses do not fall with the number of parameters")
    alpha = float(alphas[best])
    R2 = 1 - float(errors[best] / np.square(L - L.mean()).sum())
    return ScalingLaw(float(E[best]), float(A[best] * scale**alpha), alpha, R2)


def _given(alphas: NDArray[np.float64], N: NDArray[np.float64], L: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Least squares for each of the exponents [K]: E, A and the sum of squared errors, [K] each."""
    x = N ** -alphas[:, None]  # [K, runs]
    centred = x - x.mean(1, keepdims=True)
    A = centred @ L / np.square(centred).sum(1)
    E = L.mean() - A * x.mean(1)
    A = np.where(E < 0, x @ L / np.square(x).sum(1), A)
    E = np.maximum(E, 0.0)
    return E, A, np.square(E[:, None] + A[:, None] * x - L).sum(1)


def draw(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path, title: str, unit: str = "nats per token"
) -> None:
    """A PNG of losses over numbers of parameters with the law through them. runs: model -> params and losses, as for `fit`.
    A model without a law is shown as its losses alone. Draws nothing without matplotlib."""
    try:
        with canvas(path, title, (7.2, 4.4)) as paper:
            axes = paper.add_subplot()
            for place, (model, (params, losses)) in enumerate(runs.items()):
                axes.plot(params, losses, "o", color=f"C{place}", markersize=4)
                try:
                    law = fit(params, losses)
                except ValueError as error:
                    axes.plot([], [], color=f"C{place}", label=f"{model}: {error}")
                    continue
                sizes = np.geomspace(min(params), max(params), 100)
                axes.plot(sizes, law(sizes), color=f"C{place}", label=f"{model}: {law}")
            axes.set_xscale("log")
            axes.set_xlabel("parameters N")
            axes.set_ylabel(f"loss, {unit}")
            axes.grid(alpha=0.25)
            if runs:
                axes.legend(frameon=False, fontsize=8)
    except ImportError:
        return
