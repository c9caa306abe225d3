"""Forecasting benchmarks that are no sliding windows over one table: M4 hourly, and prices against the last value."""

import csv
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import twin
from numpy.typing import NDArray

from openxlstm.data.series import read_table
from openxlstm.forecasting import FitConfig, ForecasterSettings
from openxlstm.forecasting.baselines import drift, naive, naive2, seasonal_naive
from openxlstm.forecasting.calibration import calibrate, calibrated
from openxlstm.forecasting.fit import fit_model
from openxlstm.forecasting.linear import KINDS
from openxlstm.forecasting.rows import Rows, walk
from openxlstm.forecasting.scores import mase, smape
from openxlstm.forecasting.streams import unit_of
from openxlstm.models.count import count_parameters

Array = NDArray[np.float64]
M4_HORIZON, M4_SEASON = 48, 24
M4_RATES = (4e-3, 8e-3, 1.6e-2)
"""Learning rates of M4: validation chooses one for each model and seed. At 2e-3 an sLSTM is far behind an LSTM."""
PRICES = {"VIX": ("vix-daily.csv", "CLOSE"), "SP500": ("sp500-2000.csv", "close")}
PRICE_HORIZON = 5
BASELINES: dict[str, Callable[[Array], Array]] = {
    "naive": lambda history: naive(history, M4_HORIZON),
    "naive2": lambda history: naive2(history, M4_HORIZON, M4_SEASON),
    "seasonal_naive": lambda history: seasonal_naive(history, M4_HORIZON, M4_SEASON),
    "drift": lambda history: drift(history, M4_HORIZON),
}


def built(settings: ForecasterSettings, pattern: str) -> Any:
    """The untrained model for one channel with other blocks and as many parameters, or a linear map."""
    if pattern in KINDS:
        return replace(settings, pattern=pattern).build(1)
    return twin(settings, pattern, count_parameters(settings.model_config(1))).build(1)


def ragged(path: Path) -> dict[str, Array]:
    """Rows of an id and values, padded with empty cells."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {row[0]: np.array([float(cell) for cell in row[1:] if cell]) for row in rows}


def m4(folder: Path, model: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """sMAPE, MASE and OWA on the 414 hourly series of the M4 competition. OWA is relative to naive2, as published."""
    history, future = (ragged(next(folder.rglob(f"Hourly-{part}.csv"))) for part in ("train", "test"))
    reference = m4_scores(history, future, {name: BASELINES["naive2"](x) for name, x in history.items()})
    about: dict[str, Any] = {"num_parameters": 0}
    if model in BASELINES:
        forecasts = {name: BASELINES[model](x) for name, x in history.items()}
    else:
        forecasts, about = m4_model(history, model, seed, say)
    found = m4_scores(history, future, forecasts)
    owa = (found["smape"] / reference["smape"] + found["mase"] / reference["mase"]) / 2
    return about | {"test": found | {"owa": owa}}


def m4_scores(history: dict[str, Array], future: dict[str, Array], forecasts: dict[str, Array]) -> dict[str, float]:
    """Means over the series."""
    return {
        "smape": float(np.mean([smape(future[name], forecasts[name]) for name in history])),
        "mase": float(np.mean([mase(future[name], forecasts[name], history[name], M4_SEASON) for name in history])),
    }


def m4_model(
    history: dict[str, Array], model: str, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Forecasts after each history. The last 48 hours before it choose the weights and the learning rate."""
    settings = ForecasterSettings(horizon=M4_HORIZON, context=336, dropout=0.1, levels=())
    steps = 500 if model in KINDS else 1200
    units = {name: unit_of(x[:-M4_HORIZON, None]) for name, x in history.items()}
    series = [Rows(units[name].into(x[:, None])) for name, x in history.items()]
    tried = []
    for lr in M4_RATES:
        fit = FitConfig(steps=steps, validate_every=100, loss="mae", lr=lr, patience=4, seed=seed)
        torch.manual_seed(seed)
        network = built(settings, model)
        tried.append((fit_model(network, series, M4_HORIZON, fit, say), network, fit))
    fitted, network, fit = min(tried, key=lambda one: one[0].best)
    blank = torch.zeros(M4_HORIZON, 1)  # in place of the hours to come, which nothing sees
    forecasts: dict[str, Array] = {}
    names = list(history)
    for part in walk(network, [Rows(torch.cat([one.values, blank])) for one in series], M4_HORIZON):
        for place, index in enumerate(part.series):
            forecasts[names[index]] = units[names[index]].back(part.forecast.point[place, 0])[:, 0]
    about = {"num_parameters": network.num_parameters(), "best_step": fitted.best_step, "fit": asdict(fit)}
    about["validation"] = {str(one.lr): found.best for found, _, one in tried}
    return forecasts, about


def prices(folder: Path, name: str, model: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Walk-forward over the last 20 % of the days, after each the next 5: RMSE, MAE, MAPE in the units of the price.

    Trained on logarithms of the first 60 %; the 20 % between choose the weights and calibrate the interval.
    """
    file, column = PRICES[name]
    log = np.log(read_table(next(folder.rglob(file))).numbers(column, False))
    train, validation, H = int(0.6 * len(log)), int(0.8 * len(log)), PRICE_HORIZON
    unit = unit_of(log[:train, None])
    rows = unit.into(log[:, None])
    held, last = validation - train, len(log) - validation
    days = np.exp(log[validation:])
    truth = np.lib.stride_tricks.sliding_window_view(days, H)
    before = np.exp(log[validation - 1 : -H])
    about: dict[str, Any] = {"num_parameters": 0}
    covered = None
    if model == "naive":
        forecast = np.repeat(before[:, None], H, 1)
    else:
        fit = FitConfig(steps=400, lr=1e-3, length=64, patience=4, seed=seed)
        settings = ForecasterSettings(
            horizon=H, context=64, patch=16, dim=32, centre="last", levels=(80,), steps="rows", fit=fit
        )
        torch.manual_seed(seed)
        network = built(settings, model)
        known = [Rows(rows[:validation])]
        fitted = fit_model(network, known, held, fit, say)
        margins = calibrate(walk(network, known, held), settings.quantiles, held)
        parts = [calibrated(part.forecast, margins) for part in walk(network, [Rows(rows)], last)]
        back = lambda x: np.exp(unit.back(x[0]))  # noqa: E731
        forecast = np.concatenate([back(part.point)[..., 0] for part in parts])
        low, high = (np.concatenate([back(part.quantiles[..., i])[..., 0] for part in parts]) for i in (0, -1))
        covered = float(((truth >= low) & (truth <= high)).mean())
        about = {"num_parameters": network.num_parameters(), "best_step": fitted.best_step, "fit": asdict(fit)}
    off = truth - forecast
    scores = {"rmse": float(np.sqrt((off**2).mean())), "mae": float(np.abs(off).mean())}
    scores |= {"mape": float(100 * np.abs(off / truth).mean()), "rmse_next_day": float(np.sqrt((off[:, 0] ** 2).mean()))}
    return about | {"test": scores | ({} if covered is None else {"coverage": covered})}
