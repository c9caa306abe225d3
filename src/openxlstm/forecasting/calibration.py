"""Conformal calibration: each quantile is moved so that it covered what it should on rows that were not trained on.

One-sided split-conformal prediction (Romano et al., NeurIPS 2019, with the score (y - q) / scale for each level by itself), for
each step ahead, in units of the deviation of the window, so that a series in calm and in storm has margins of its own.

The theorem is about rows that are exchangeable, and windows that overlap are nearly one: 760 rows hold one window of 720. A
quantile is moved outwards as the rows say; inwards, where the model said too much, only as far as there are windows apart to
say so.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from openxlstm.forecasting.rows import Ahead
from openxlstm.models.forecast import Forecast

FEWEST = 5
"""Forecasts that must lie beyond a level for a margin of its own a step; below, all steps share one."""
MODEL = 20
"""Windows apart that the model's own quantile counts for, against those held out that say it lies too far out."""


def calibrate(parts: Iterable[Ahead], levels: Sequence[float], held: int) -> Tensor:
    """Margins [H, C, Q], in units of the window's deviation, from forecasts of the last `held` rows of each series."""
    scores = []
    for part in parts:
        scale = part.forecast.scale[:, :, None, :, None]
        score = (part.truth[..., None] - part.forecast.quantiles) / scale  # [B, n, H, C, Q]
        scores.append(score.flatten(0, 1).cpu())
    every = torch.cat(scores)
    apart = held / torch.arange(1.0, every.shape[1] + 1)[:, None]  # of each step ahead
    found = []
    for i, level in enumerate(levels):
        moved = margin(every[..., i], level)
        outwards = moved * (level - 0.5) > 0
        found.append(torch.where(outwards, moved, moved * apart / (apart + MODEL)))
    return torch.stack(found, -1)


def margin(scores: Tensor, level: float) -> Tensor:
    """The (n + 1) level-th smallest of n scores, over the first axis; [N, H, C] -> [H, C]. NaN scores do not count."""
    counts = (~scores.isnan()).sum(0)
    pooled = int(counts.min()) * min(level, 1 - level) < FEWEST
    rows = scores.reshape(1, -1) if pooled else scores.flatten(1).T  # [1 or H * C, N]
    ordered = rows.sort(1).values  # NaN come last
    known = (~rows.isnan()).sum(1)
    if not int(known.min()):
        return torch.zeros(scores.shape[1:])
    rank = ((known + 1) * level).ceil().clamp(min=1).minimum(known).long() - 1
    found = ordered.gather(1, rank[:, None])[:, 0]
    return found.expand(math.prod(scores.shape[1:])).reshape(scores.shape[1:]).clone()


def calibrated(forecast: Forecast, margins: Tensor) -> Forecast:
    """The forecast with its quantiles moved by the margins [H, C, Q]."""
    moved = forecast.quantiles + forecast.scale[:, :, None, :, None] * margins.to(forecast.quantiles)
    return forecast._replace(quantiles=moved.sort(-1).values)
