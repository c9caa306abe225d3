"""Settings of a Forecaster for a machine. Read the series' season into `context` (several of them) and `season`."""

from typing import Any

from openxlstm.forecasting import FitConfig, ForecasterSettings


def small(horizon: int, **changes: Any) -> ForecasterSettings:
    """One sLSTM block of width 64: minutes on a CPU core. The ETT sets are measured with it, but for the rate, the
    loss and the kind of block, which validation chooses there."""
    fit = FitConfig(steps=400)
    settings: dict[str, Any] = dict(context=512, fit=fit)
    return ForecasterSettings(horizon=horizon, **(settings | changes))


def gpu(horizon: int, **changes: Any) -> ForecasterSettings:
    """Two blocks, mLSTM and sLSTM, of width 256 for many or long series: minutes on one GPU. A starting point, not tuned."""
    fit = FitConfig(steps=4000, batch_size=512, length=128, lr=1e-3, warmup=200, validate_every=200, patience=6)
    settings: dict[str, Any] = dict(pattern="xlstm[1:1]", num_blocks=2, dim=256, context=512, patch=48, device="cuda", fit=fit)
    return ForecasterSettings(horizon=horizon, **(settings | changes))
