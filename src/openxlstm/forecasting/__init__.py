"""Forecasting: a Forecaster with fit, predict and update, baselines, calibration, scores."""

from openxlstm.forecasting.fit import FitConfig
from openxlstm.forecasting.forecaster import Forecaster
from openxlstm.forecasting.settings import ForecasterSettings

__all__ = ["FitConfig", "Forecaster", "ForecasterSettings"]
