"""How good a free run is. All about normalised trajectories [N, T, F]: each channel has variance 1 on the attractor."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def normalised_error(predicted: Array, truth: Array) -> Array:
    """[N, T]: root mean squared error over the channels at each step, in standard deviations."""
    with np.errstate(over="ignore", invalid="ignore"):  # a run may leave all bounds
        return np.sqrt(np.square(predicted - truth).mean(-1))


def valid_steps(predicted: Array, truth: Array, threshold: float) -> Array:
    """[N]: steps before the normalised error reaches the threshold for the first time; T where it never does."""
    over = ~(normalised_error(predicted, truth) < threshold)  # NaN is over too
    return np.where(over.any(1), over.argmax(1), over.shape[1])


def spectrum(paths: Array) -> Array:
    """[T // 2, F]: the share of each frequency but 0 in the variance of a channel, on average over trajectories.

    With a Hann window, so that what is not periodic in T does not leak into all frequencies.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        window = np.hanning(paths.shape[1])[:, None]
        power = np.square(np.abs(np.fft.rfft((paths - paths.mean(1, keepdims=True)) * window, axis=1))).mean(0)[1:]
        return power / power.sum(0)


def spectrum_distance(predicted: Array, truth: Array) -> float:
    """Hellinger distance between the spectra, on average over channels: 0 for the same, 1 for those with nothing in common.

    Trajectories that left all bounds have no spectrum and count as 1 each, the others together.
    """
    finite = np.isfinite(predicted).all((1, 2)) & (np.abs(np.nan_to_num(predicted)) < 1e6).all((1, 2))
    if not finite.any():
        return 1.0
    p, q = spectrum(predicted[finite]), spectrum(truth)
    with np.errstate(invalid="ignore"):
        distance = np.sqrt(np.maximum(1 - np.sqrt(p * q).sum(0), 0))
    # a channel that has come to rest has no power at any frequency
    together = float(np.where(np.isfinite(distance), distance, 1.0).mean())
    return float(finite.mean()) * together + float(1 - finite.mean())
