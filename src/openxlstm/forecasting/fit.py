"""Training a forecaster: pieces of series at random, a loss after every row, the weights that validation prefers."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.errors import UserError
from openxlstm.forecasting.rows import Batch, Rows, walk
from openxlstm.models.forecast import Forecast, ForecastState
from openxlstm.training.config import OptimizerConfig, ScheduleConfig
from openxlstm.training.optimizer import build_optimizer
from openxlstm.training.schedule import lr_factor

LOSSES = ("mse", "mae")
SAME = 96
"""Rows of a horizon for each row between forecasts in training. Neighbours have all but one of the rows ahead in common."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a forecaster is trained.

    steps: optimiser steps, at most. batch_size: pieces a step. length: rows of a piece.
    train_rows: forecast after every so manieth row of a piece; 0 is a 96th of the horizon, at least 1. A step with a horizon
        of 720 takes a quarter of its time then.
    lr: peak learning rate; warm-up over `warmup` steps, then half a cosine to a tenth of it.
    weight_decay: on matrices. clip: largest norm of the gradient.
    loss: of the point forecast, "mse" (it is a mean) or "mae" (a median). Quantiles have the pinball loss.
    average: what is validated and kept is a running average of the weights, with this decay; 0 is the weights themselves.
    validate_every: steps between validations. patience: stop after so many without a new best; 0 is never: some improve at
        the end, where the rate falls.
    validate_rows: forecast after every so manieth row in validation.
    seed: of weights, pieces and dropout.
    """

    steps: int = 600
    batch_size: int = 64
    length: int = 64
    train_rows: int = 0
    lr: float = 4e-3
    warmup: int = 20
    weight_decay: float = 0.0
    clip: float = 1.0
    loss: str = "mse"
    average: float = 0.98
    validate_every: int = 50
    patience: int = 0
    validate_rows: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "length", "validate_every", "validate_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.train_rows < 0:
            raise UserError(f"train_rows must be at least 0, got {self.train_rows}")
        if self.lr <= 0:
            raise UserError(f"lr must be positive, got {self.lr}")
        if self.loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if not 0 <= self.average < 1:
            raise UserError(f"average must be in [0, 1), got {self.average}")


@dataclass(frozen=True)
class Fitted:
    """What came of training. history: (step, training loss, validation loss)."""

    history: tuple[tuple[int, float, float], ...]
    best_step: int
    best: float


class Pieces:
    """Pieces of the training rows of several series, each with the window before and the horizon after it.

    A piece ends anywhere where the horizon after it is still in the training rows. Where a series is shorter than a piece,
    the piece is padded at its beginning.
    """

    def __init__(self, series: Sequence[Rows], held: int, context: int, horizon: int, length: int) -> None:
        """held: rows at the end of each series that are not for training."""
        self.context, self.horizon, self.length = context, horizon, length
        lead = context - 1 + length  # so that no index is below 0
        rows = [one.values[: len(one) - held] for one in series]
        self.values = torch.cat([F.pad(x, (0, 0, lead, 0), value=torch.nan) for x in rows])  # [sum of T + lead, C]
        self.covariates = None
        if series[0].covariates is not None:
            known = [one.covariates[: len(x)] for one, x in zip(series, rows) if one.covariates is not None]
            self.covariates = torch.cat([F.pad(x, (0, 0, lead, 0)) for x in known])
        self.static = (
            torch.stack([one.static for one in series if one.static is not None]) if series[0].static is not None else None
        )
        origins = [len(x) - horizon for x in rows]  # rows after which the horizon is in the training part
        if min(origins) < 1:
            short = origins.index(min(origins))
            raise UserError(f"series {short} has {len(rows[short])} rows to train on; horizon {horizon} needs {horizon + 1}")
        starts = torch.tensor([0, *(len(x) + lead for x in rows)]).cumsum(0)[:-1] + lead
        # where pieces may end, in the concatenated rows: not before a whole piece, if the series has one
        ends = [torch.arange(min(length, n) - 1, n) for n in origins]
        self.ends = torch.cat([start + end for start, end in zip(starts, ends)])
        self.first = torch.repeat_interleave(starts, torch.tensor([len(end) for end in ends]))
        self.owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(end) for end in ends]))

    def sample(self, count: int, rng: torch.Generator, device: Any = None) -> tuple[ForecastState, Batch, Tensor]:
        """State before the pieces, pieces (their covariates go on over the horizon), and truths [B, length, H, C]."""
        chosen = torch.randint(len(self.ends), (count,), generator=rng)
        end, first = self.ends[chosen], self.first[chosen]
        index = end[:, None] + torch.arange(-self.length + 2 - self.context, self.horizon + 1)
        # the window of a piece may reach back over the beginning of its series: that is padding, which lies there
        rows = self.values[index].to(device)  # [B, L - 1 + length + H, C]
        before, piece = rows[:, : self.context - 1], rows[:, self.context - 1 : -self.horizon]
        truth = rows[:, self.context :].unfold(1, self.horizon, 1).transpose(-1, -2)
        here = index[:, self.context - 1 : -self.horizon]
        mask = (here >= first[:, None]).to(device)
        known = None if self.covariates is None else self.covariates[index[:, self.context - 1 :]].to(device)
        static = None if self.static is None else self.static[self.owner[chosen]].to(device)
        state = ForecastState(before, torch.zeros(count, dtype=torch.long, device=device), None)
        return state, Batch(piece, known, static, None if bool(mask.all()) else mask), truth


def losses(forecast: Forecast, truth: Tensor, quantiles: Sequence[float], loss: str) -> Tensor:
    """Loss of each row [B, T, H, C]; NaN where there is no truth."""
    error = truth - forecast.point
    total = error.square() if loss == "mse" else error.abs()
    if quantiles:
        off = truth[..., None] - forecast.quantiles
        total = total + (error.new_tensor(quantiles) * off + F.relu(-off)).mean(-1)  # pinball
    return total


def fit_model(
    model: Any,
    series: Sequence[Rows],
    held: int,
    config: FitConfig,
    say: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Train `model` in place on all but the last `held` rows of each series; it ends with the weights that were best on those.

    Series are expected in units near 1, in which the loss is. Raises UserError for series too short for the horizon, and when
    the loss stops being finite.
    """
    device, shape = next(model.parameters()).device, model.config
    if held < shape.horizon:
        raise UserError(f"validation needs at least the horizon of {shape.horizon} rows, got {held}")
    pieces = Pieces(series, held, shape.context, shape.horizon, config.length)
    rng = torch.Generator().manual_seed(config.seed)
    optimizer = build_optimizer(model, OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay, beta2=0.99))
    schedule = ScheduleConfig(warmup=config.warmup, floor=0.1)
    average = copy.deepcopy(model)
    best, best_step, best_weights, history, waited = math.inf, 0, None, [], 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * lr_factor(schedule, step, config.steps)
            loss = train_step(model, pieces, optimizer, config, rng, device)
            move_average(average, model, min(config.average, (step + 1) / (step + 10)) if config.average else 0.0)
            if (step + 1) % config.validate_every and step + 1 < config.steps:
                continue
            found = validate(average, series, held, config)
            history.append((step + 1, loss, found))
            say(f"step {step + 1}: loss {loss:.4f}, validation {found:.4f}")
            waited += 1
            if found < best:
                best, best_step, waited = found, step + 1, 0
                best_weights = copy.deepcopy(average.state_dict())
            if config.patience and waited >= config.patience:
                break
    if best_weights is None:
        raise UserError("the validation loss was never finite; lower the learning rate")
    model.load_state_dict(best_weights)
    model.eval()
    return Fitted(tuple(history), best_step, best)


def train_step(
    model: Any, pieces: Pieces, optimizer: torch.optim.Optimizer, config: FitConfig, rng: torch.Generator, device: Any
) -> float:
    """One optimiser step; returns its loss."""
    model.train()
    state, batch, truth = pieces.sample(config.batch_size, rng, device)
    length, horizon = batch.values.shape[1], model.config.horizon
    first, every = train_rows(config, length, horizon, rng)
    rows = slice(first, None, every)
    present, ahead = None, None
    if batch.covariates is not None:
        last = range(length)[rows][-1]
        present, ahead = batch.covariates[:, :length], batch.covariates[:, first + 1 : last + horizon + 1]
    reading, _ = model.read(batch.values, state, covariates=present, static=batch.static, mask=batch.mask)
    forecast, truth = model.answer(reading.at(rows), ahead, every), truth[:, rows]
    seen = ~truth.isnan()
    if batch.mask is not None:
        seen = seen & batch.mask[:, rows, None, None]
    all_losses = losses(forecast, truth.nan_to_num(0.0), model.config.quantiles, config.loss)
    loss = torch.where(seen, all_losses, 0.0).sum() / seen.sum().clamp(min=1)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if not torch.isfinite(norm):
        raise UserError("the gradient is not finite; lower the learning rate")
    optimizer.step()
    return float(loss.detach())


def train_rows(config: FitConfig, length: int, horizon: int, rng: torch.Generator) -> tuple[int, int]:
    """The first row of a piece after which there is a forecast, and the rows from one to the next."""
    every = min(config.train_rows or max(horizon // SAME, 1), length)
    return (int(torch.randint(every, (), generator=rng)) if every > 1 else 0), every


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * model."""
    for mine, new in zip(average.parameters(), model.parameters(), strict=True):
        mine.lerp_(new, 1 - decay)


def validate(model: Any, series: Sequence[Rows], held: int, config: FitConfig) -> float:
    """Mean loss on the held rows. What the stack remembers begins a few pieces before them."""
    total, count = 0.0, 0
    for part in walk(model, series, held, every=config.validate_rows, warmup=4 * config.length):
        seen = ~part.truth.isnan()
        found = losses(part.forecast, part.truth.nan_to_num(0.0), model.config.quantiles, config.loss)
        total, count = total + float(found[seen].sum()), count + int(seen.sum())
    return total / max(count, 1)
