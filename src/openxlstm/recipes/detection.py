"""Settings of an AnomalyDetector for a machine. Read a season or more into `context`."""

from typing import Any

from openxlstm.detection import DetectorSettings
from openxlstm.forecasting import FitConfig


def small(**changes: Any) -> DetectorSettings:
    """One sLSTM block of width 32: seconds on a CPU core. It is what NAB is measured with."""
    return DetectorSettings(**changes)


def gpu(**changes: Any) -> DetectorSettings:
    """An mLSTM and an sLSTM block of width 256, for long training parts: minutes on one GPU. A starting point, not tuned."""
    fit = FitConfig(steps=3000, batch_size=256, length=128, lr=1e-3, warmup=200, validate_every=200, patience=5)
    settings: dict[str, Any] = dict(pattern="xlstm[1:1]", num_blocks=2, dim=256, context=1024, patch=48, device="cuda", fit=fit)
    return DetectorSettings(**(settings | changes))
