"""Forecasting benchmarks, in one command that goes on where it was interrupted:

    python benchmarks/forecasting.py --data FOLDER --out FOLDER [--sets ETTh1,ETTh2] [--horizons 96] [--seeds 0,1,2]

FOLDER holds ETTh1.csv, ETTm1.csv.gz, weather.csv.gz, exchange_rate.csv, Hourly-train.csv, vix-daily.csv, ... at any depth.
ETT, Weather and Exchange: the standard splits, standardised by the training part, MSE and MAE over all windows of the test part
(Zhou et al., AAAI 2021; Zeng et al., AAAI 2023). Every choice is made on the validation part: each model's learning rate, its
loss and, for `xlstm`, the kind of block have the lowest squared error there with seed 0 at a horizon of 96 rows, and serve all
horizons and seeds.
M4 hourly: sMAPE, MASE and OWA. VIX and S&P 500: walk-forward, against the last value.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import competitions
import numpy as np
import torch
from measure import kept, run, some_of, spell
from numpy.typing import NDArray

from openxlstm.cli.arguments import numbers
from openxlstm.data.series import read_table
from openxlstm.errors import UserError
from openxlstm.files import write_atomic
from openxlstm.forecasting.calibration import calibrate, calibrated
from openxlstm.forecasting.fit import LOSSES, FitConfig, fit_model
from openxlstm.forecasting.linear import KINDS, LinearConfig, LinearModel
from openxlstm.forecasting.rows import Rows, walk
from openxlstm.models.config import ForecastConfig
from openxlstm.models.count import count_parameters
from openxlstm.models.forecast import ForecastModel
from openxlstm.models.match import match_parameters

LEVELS = (0.1, 0.9)
UNTRAINED = ("naive", *competitions.BASELINES)
COLUMNS = {"M4": ("smape", "mase", "owa")} | dict.fromkeys(competitions.PRICES, ("rmse", "mae", "mape", "rmse_next_day"))
HORIZONS = {"M4": competitions.M4_HORIZON} | dict.fromkeys(competitions.PRICES, competitions.PRICE_HORIZON)


@dataclass(frozen=True)
class Set:
    """A data set. borders: rows where the training, validation and test parts end. steps, validate_rows: see `FitConfig`."""

    file: str
    borders: Callable[[int], tuple[int, int, int]]
    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 400
    validate_rows: int = 4


def months(rows_a_day: int) -> Callable[[int], tuple[int, int, int]]:
    """12, 4 and 4 months of 30 days."""
    return lambda rows: tuple(days * rows_a_day for days in (360, 480, 600))  # type: ignore[return-value]


def shares(rows: int) -> tuple[int, int, int]:
    """70, 10 and 20 %."""
    return int(rows * 0.7), rows - int(rows * 0.2), rows


SETS = {
    "ETTh1": Set("ETTh1.csv", months(24)),
    "ETTh2": Set("ETTh2.csv", months(24)),
    "ETTm1": Set("ETTm1.csv.gz", months(96), model={"patch": 96}, validate_rows=16),
    "Weather": Set(
        "weather.csv.gz",
        shares,
        model={"patch": 96, "dropout": 0.1, "input_dropout": 0.1},
        steps=1200,
        validate_rows=16,
    ),
    "Exchange": Set("exchange_rate.csv", shares, model={"centre": "last"}),
}


@dataclass(frozen=True)
class Trial:
    """A setting that validation chooses among."""

    block: str
    lr: float
    loss: str = "mse"

    def __str__(self) -> str:
        return f"{self.block}, {self.lr:g}, {self.loss}"


RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
"""Learning rates that validation chooses among."""
BLOCKS = {"xlstm": ("slstm", "mlstm")}
"""Models whose kind of block validation chooses."""
TRIED_HORIZON = 96


def base_model(horizon: int, changes: dict[str, Any]) -> ForecastConfig:
    """One sLSTM block of width 64."""
    settings: dict[str, Any] = dict(dim=64, blocks=("slstm",), horizon=horizon, context=512, patch=24, quantiles=LEVELS)
    return ForecastConfig(**(settings | dict(centre="mean", dropout=0.3, input_dropout=0.3) | changes))


def build(block: str, horizon: int, chosen: Set) -> ForecastModel | LinearModel:
    """A model of one kind of block, with as many parameters as that of sLSTM, or a linear map."""
    base = base_model(horizon, chosen.model)
    if block in KINDS:
        return LinearModel(LinearConfig(horizon=horizon, context=base.context, kind=block))
    memory = FitConfig().length if block == "transformer" else 0
    blocks = ("attention",) if block == "transformer" else (block,)
    twin = replace(base, blocks=blocks, memory=memory)
    if blocks != base.blocks:
        twin = match_parameters(twin, count_parameters(base))
    return ForecastModel(twin)


def find(folder: Path, name: str) -> Path:
    """The file of this name, at any depth."""
    found = sorted(folder.rglob(name))
    if not found:
        raise UserError(f"{folder}: no file {name} in it")
    return found[0]


@cache
def load(folder: Path, name: str) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """All columns of a set but the first as numbers [T, C], standardised by the training part, and the borders."""
    chosen = SETS[name]
    table = read_table(find(folder, chosen.file), "latin-1")
    columns = list(table.columns)[1:]
    values = np.stack([table.numbers(name, False) for name in columns], 1)
    borders = chosen.borders(len(values))
    values = values[: borders[2]]
    known = values[: borders[0]]
    deviation = known.std(0)
    return (values - known.mean(0)) / np.where(deviation > 0, deviation, 1.0), borders


def channels(values: NDArray[np.float64], stop: int) -> list[Rows]:
    """Each column to row `stop` as a series of its own."""
    return [Rows(torch.tensor(column[:stop, None], dtype=torch.float32)) for column in values.T]


def fitted(folder: Path, name: str, horizon: int, trial: Trial, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A model trained on one set, how, and its error in validation."""
    chosen = SETS[name]
    values, (train, validation, _) = load(folder, name)
    series, held = channels(values, validation), validation - train
    torch.manual_seed(seed)
    model = build(trial.block, horizon, chosen)
    how = dict(steps=chosen.steps, validate_every=chosen.steps // 8, validate_rows=chosen.validate_rows, seed=seed)
    fit = FitConfig(lr=trial.lr, loss=trial.loss, **how)  # type: ignore[arg-type]
    found = fit_model(model, series, held, fit, say)
    return {"model": model, "fit": fit, "best_step": found.best_step, "validation": error(model, series, held, None)}


def choice(folder: Path, name: str, model: str, out: Path, say: Callable[[str], None]) -> Trial:
    """The setting of a model with the lowest squared error in validation: block and rate first, then the loss. What each has is
    kept in `out`."""

    def tried(trial: Trial) -> float:
        def measure() -> dict[str, Any]:
            found = fitted(folder, name, TRIED_HORIZON, trial, 0, lambda line: say(f"{trial}: {line}"))
            return {"best_step": found["best_step"], "validation": found["validation"]}

        path = out / f"{name}-tried-{trial.block}-{trial.lr:g}-{trial.loss}.json"
        return float(kept(path, measure)["validation"]["mse"])

    best = min((Trial(block, lr) for block, lr in product(BLOCKS.get(model, (model,)), RATES)), key=tried)
    return min((replace(best, loss=loss) for loss in LOSSES), key=tried)


def cell(folder: Path, name: str, horizon: int, model: str, seed: int, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train one model on one set, and measure it on all windows of the test part."""
    values, (train, validation, test) = load(folder, name)
    series = channels(values, test)
    if model == "naive":
        return {"test": naive_error(series, test - validation, horizon), "num_parameters": 0}
    found = fitted(folder, name, horizon, choice(folder, name, model, out, say), seed, say)
    network, fit = found.pop("model"), found.pop("fit")
    levels = network.config.quantiles
    margins = None
    if levels:
        held = validation - train
        margins = calibrate(walk(network, channels(values, validation), held, every=fit.validate_rows), levels, held)
    found["num_parameters"] = sum(p.numel() for p in network.parameters())
    found["test"] = error(network, series, test - validation, margins)
    return found | {"model": asdict(network.config), "fit": asdict(fit)}


def error(model: Any, series: list[Rows], held: int, margins: torch.Tensor | None) -> dict[str, float]:
    """MSE and MAE over all windows of the held rows; with margins, coverage of the outer quantiles, raw and calibrated."""
    sums, count = dict.fromkeys(("mse", "mae", "raw_coverage", "coverage"), 0.0), 0
    for part in walk(model, series, held):
        off = part.forecast.point - part.truth
        sums["mse"] += float(off.double().square().sum())
        sums["mae"] += float(off.double().abs().sum())
        count += off.numel()
        if margins is not None:
            for key, forecast in (("raw_coverage", part.forecast), ("coverage", calibrated(part.forecast, margins))):
                q = forecast.quantiles
                sums[key] += float(((part.truth >= q[..., 0]) & (part.truth <= q[..., -1])).sum())
    shown = sums if margins is not None else {key: sums[key] for key in ("mse", "mae")}
    return {key: value / count for key, value in shown.items()} | {"windows": count // (len(series) * model.config.horizon)}


def naive_error(series: list[Rows], held: int, horizon: int) -> dict[str, float]:
    """The same of the last value."""
    off = []
    for one in series:
        x = one.values[-held - 1 :, 0].double()
        off.append(x[1:].unfold(0, horizon, 1) - x[:-horizon, None])
    errors = torch.stack(off)
    return {"mse": float(errors.square().mean()), "mae": float(errors.abs().mean()), "windows": errors.shape[1]}


def measure(
    folder: Path, name: str, horizon: int, model: str, seed: int, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """One cell, whatever the set. out: the folder of the results, for what is chosen by validation."""
    if name == "M4":
        return competitions.m4(folder, model, seed, say)
    if name in competitions.PRICES:
        return competitions.prices(folder, name, model, seed, say)
    return cell(folder, name, horizon, model, seed, out, say)


def table(results: dict[tuple[str, int, str], list[dict[str, Any]]]) -> str:
    """Markdown: mean over the seeds, and the deviation between them."""
    lines: list[str] = []
    before: tuple[str, ...] = ()
    for (name, horizon, model), cells in results.items():
        scores = COLUMNS.get(name, ("mse", "mae"))
        if scores != before:
            head = ["set", "horizon", "model", "parameters", "seeds", *scores, "80 % interval covers"]
            lines += [""] * bool(lines) + ["| " + " | ".join(head) + " |", "|---|---:|---|" + "---:|" * (len(head) - 3)]
            before = scores
        values = [name, str(horizon), model, f"{cells[0]['num_parameters']:,}", str(len(cells))]
        for score in scores:
            found = [one["test"][score] for one in cells]
            values.append(spell(found))
        covers = [one["test"]["coverage"] for one in cells if "coverage" in one["test"]]
        values.append(f"{statistics.mean(covers):.1%}" if covers else "")
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is not measured again")
    known = [*SETS, *HORIZONS]
    parser.add_argument("--sets", type=some_of(known), default="ETTh1,ETTh2", help=f"some of {','.join(known)}")
    parser.add_argument("--horizons", type=numbers(int, least=1), default="96")
    parser.add_argument(
        "--models",
        default="xlstm,lstm,nlinear,naive",
        help="xlstm (slstm or mlstm, by validation), slstm, mlstm, lstm, transformer, nlinear, linear, naive; "
        "for M4 also naive2, seasonal_naive, drift; not xlstm for M4 and prices",
    )
    parser.add_argument("--seeds", type=numbers(int, least=0), default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for name in args.sets:
        for horizon in [HORIZONS[name]] if name in HORIZONS else args.horizons:
            for model in args.models.split(","):
                for seed in [0] if model in UNTRAINED else args.seeds:
                    path = args.out / f"{name}-{horizon}-{model}-{seed}.json"
                    say = lambda line, what=path.stem: print(f"{what}: {line}", flush=True)  # noqa: E731
                    found = kept(path, partial(measure, args.data, name, horizon, model, seed, args.out, say))
                    results.setdefault((name, horizon, model), []).append(found)
                write_atomic(args.out / "table.md", table(results))
    print(table(results))


if __name__ == "__main__":
    run(main)
