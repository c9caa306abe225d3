"""Series as tensors, and forecasts after their rows, from the first to the last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openxlstm.models.forecast import Forecast

BUDGET = 2**22
"""Numbers in the windows and forecasts that are in memory at a time."""
GROUP = 64
"""Series that are read side by side."""


@dataclass(frozen=True)
class Rows:
    """A series, or several that are forecast together, in units near 1.

    values: [T, C] float32; NaN is a missing value. covariates: [T or more, K]. static: [S].
    """

    values: Tensor
    covariates: Tensor | None = None
    static: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


class Ahead(NamedTuple):
    """Forecasts after some rows, and what came."""

    series: list[int]  # B of the series
    first: int  # the first of these rows is so many rows after the first one that was asked for
    forecast: Forecast  # [B, n, H, C]
    truth: Tensor  # [B, n, H, C]


class Batch(NamedTuple):
    """Series side by side, padded at their beginning."""

    values: Tensor  # [B, T, C]
    covariates: Tensor | None
    static: Tensor | None
    mask: Tensor | None  # None: nothing is padded


def collate(series: Sequence[Rows], device: Any = None) -> Batch:
    """Several series as one batch; all end at the same row."""
    longest = max(map(len, series))
    missing = [longest - len(one) for one in series]
    values = torch.stack([pad(one.values, n, torch.nan) for one, n in zip(series, missing)])
    covariates = [pad(one.covariates, n, 0.0) for one, n in zip(series, missing) if one.covariates is not None]
    static = [one.static for one in series if one.static is not None]
    mask = torch.arange(longest) >= torch.tensor(missing)[:, None] if any(missing) else None
    parts = (values, torch.stack(covariates) if covariates else None, torch.stack(static) if static else None, mask)
    return Batch(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]


def pad(x: Tensor, rows: int, value: float) -> Tensor:
    """`rows` rows of a value before x [T, ...]."""
    return torch.cat([x.new_full((rows, *x.shape[1:]), value), x]) if rows else x


def rows_at_a_time(config: Any, batch: int) -> int:
    """How many rows of `batch` series fit the budget."""
    a_row = batch * config.num_channels * (config.context + config.horizon * (1 + len(config.quantiles)))
    return max(BUDGET // a_row, 1)


@torch.no_grad()
def walk(model: Any, series: Sequence[Rows], held: int, *, every: int = 1, warmup: int | None = None) -> Iterator[Ahead]:
    """Forecast the last `held` rows of each series, from every row after which the next H are among them.

    Each series is read from its beginning, or from `warmup` rows before the first forecast; no forecast sees a later row.
    model: a ForecastModel or LinearModel; it is put into evaluation mode. every: forecast after every so manieth row only.
    """
    model.eval()
    order = sorted(range(len(series)), key=lambda i: len(series[i]))
    for start in range(0, len(order), GROUP):
        members = order[start : start + GROUP]
        batch = collate([series[i] for i in members], next(model.parameters()).device)
        for first, forecast, truth in walk_batch(model, batch, held, every, warmup):
            yield Ahead(members, first, forecast, truth)


def walk_batch(model: Any, batch: Batch, held: int, every: int, warmup: int | None) -> Iterator[tuple[int, Forecast, Tensor]]:
    """`walk` for series that fit into memory together."""
    values, covariates, static, mask = batch
    H, L, T = model.config.horizon, model.config.context, values.shape[1]
    first, stop = T - held - 1, T - H  # rows after which to forecast
    begin = 0 if warmup is None else max(first - warmup, 0)
    state = model.empty_state(len(values), values)
    before = values[:, max(begin - L + 1, 0) : begin]  # the window is known, what the stack has read is not
    state = state._replace(rows=torch.cat([state.rows[:, before.shape[1] :], before], 1))
    chunk = rows_at_a_time(model.config, len(values))
    for a in range(begin, stop, chunk):
        b = min(a + chunk, stop)
        part = None if mask is None else mask[:, a:b]
        present = None if covariates is None else covariates[:, a:b]
        reading, state = model.read(values[:, a:b], state, covariates=present, static=static, mask=part)
        c = max(a, first)
        c += -(c - first) % every
        if c >= b:
            continue
        ahead = None if covariates is None else covariates[:, c + 1 : b + H]
        forecast = model.answer(reading.at(slice(c - a, None)), ahead)
        truth = values[:, c + 1 : b + H].unfold(1, H, 1).transpose(-1, -2)  # [B, n, H, C]
        yield c - first, Forecast(*(x[:, ::every] for x in forecast)), truth[:, ::every]
