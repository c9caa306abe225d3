"""Small series and a Forecaster that is trained in a second."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from openxlstm.forecasting import FitConfig, Forecaster

QUICK: dict[str, Any] = dict(horizon=6, context=16, patch=8, dim=16, num_heads=2)
FIT: dict[str, Any] = dict(steps=20, length=16, batch_size=8, validate_every=10)


def make_frame(rows: int = 150, names: str = "ab", seed: int = 0, noise: float = 0.3) -> pd.DataFrame:
    """Seasons of 12 rows at different levels, hourly."""
    rng, steps = np.random.default_rng(seed), np.arange(rows)
    parts = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range("2024-01-01", periods=rows, freq="h"),
                "y": 100 * (i + 1) + (5 + i) * np.sin(steps * 2 * np.pi / 12) + rng.normal(0, noise, rows),
            }
        )
        for i, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


def rows(frame: pd.DataFrame, start: int, stop: int | None = None) -> pd.DataFrame:
    """Rows start to stop of each series."""
    place = frame.groupby("unique_id").cumcount()
    return frame[(place >= start) & (place < (len(frame) if stop is None else stop))]


def make(fit: dict[str, Any] | None = None, **changes: Any) -> Forecaster:
    return Forecaster(**QUICK | changes, fit=FitConfig(**FIT | (fit or {})))


def stir(forecaster: Forecaster, read: pd.DataFrame) -> Forecaster:
    """Weights far from where they start, so that whatever the stack remembers shows in the forecasts; then it reads again."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in forecaster.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    forecaster.streams = {}
    return forecaster.update(read)


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    return make_frame()
