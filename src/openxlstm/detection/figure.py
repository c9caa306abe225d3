"""A picture of a series and its anomalies."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import missing_extra
from openxlstm.forecasting.figure import label_dates
from openxlstm.training.record import canvas


def draw(
    path: Path, title: str, times: NDArray[Any], values: NDArray[Any], scores: NDArray[Any], threshold: float, training: int
) -> None:
    """The series with its anomalies marked, and its scores below, as a PNG. training: rows at the beginning, which are shaded.

    Raises UserError without matplotlib (extra `plot`).
    """
    fired = np.flatnonzero((scores >= threshold) & (np.arange(len(scores)) >= training))
    try:
        with canvas(path, title, (10.0, 5.0)) as figure:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
            upper.plot(times, values, color="#1f4e79", linewidth=0.8)
            upper.plot(times[fired], values[fired], "o", color="#c0392b", markersize=5, label=f"{len(fired)} anomalies")
            lower.plot(times, scores, color="0.35", linewidth=0.7)
            lower.axhline(threshold, color="#c0392b", linestyle="--", linewidth=1.0, label=f"threshold {threshold:g}")
            for axes in (upper, lower):
                if training:
                    axes.axvspan(times[0], times[training - 1], color="0.93", zorder=0, label="training")
                axes.grid(alpha=0.25)
                axes.legend(framealpha=0.9, edgecolor="none", fontsize=8, loc="upper left")
            lower.set_ylim(0, 1)
            lower.set_ylabel("score")
            if np.issubdtype(times.dtype, np.datetime64):
                label_dates(lower)
    except ImportError:
        raise missing_extra("matplotlib", "plot", "drawing anomalies") from None
