"""A forecast after every row of a series: a window that normalises, a stack that remembers, a linear path beside it.

What is said after row t depends on the last `context` rows and on the state of the stack. The window is part of the state, so
its mean and deviation are those of rows that a stream has seen, and they are computed anew at each row (running sums would
drift). Reading a series row by row therefore gives the forecasts of reading it at once, and a row costs the same after any
number of rows.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.attention import keep_recent
from openxlstm.layers.dropout import dropout
from openxlstm.models.config import ForecastConfig
from openxlstm.models.pretrained import PretrainedModel
from openxlstm.models.stack import BlockStack, StackState
from openxlstm.ops.numerics import accumulation_dtype

EPS = 1e-5
"""Added to the variance of a window, whose rows are expected in units near 1: a constant window is divided by 0.003."""


class ForecastState(NamedTuple):
    """What a forecaster remembers."""

    rows: Tensor  # [B, L - 1, C]  the last rows; NaN where nothing was seen
    steps: Tensor  # [B] int64  rows read
    stack: StackState | None


class Reading(NamedTuple):
    """What T rows come to: all that the forecasts after them depend on, but for covariates of rows to come."""

    h: Tensor  # [B, T, D]  what the stack says
    window: Tensor  # [B, T, C, L]  the last L rows, (x - centre) / scale; 0 where nothing was seen
    centre: Tensor  # [B, T, C]
    scale: Tensor  # [B, T, C]

    def at(self, rows: slice) -> "Reading":
        """Some of the rows."""
        return Reading(*(part[:, rows] for part in self))


class Forecast(NamedTuple):
    """What comes next, in the units of the rows."""

    point: Tensor  # [B, T, H, C]
    quantiles: Tensor  # [B, T, H, C, Q]  rising
    scale: Tensor  # [B, T, C]  deviation of the window: a forecast's natural unit


class ForecastModel(PretrainedModel):
    """`forecast, state = model(rows, state=None, ...)`: after each row, point and quantiles of the next `horizon` rows.

    forecast = centre + scale * (skip(window) + output(stack(patch))), where centre and scale are those of the last `context`
    rows (reversible instance normalisation, Kim et al., ICLR 2022), `patch` is the window's end, and the stack reads a patch a
    row. With centre "last", skip is NLinear (Zeng et al., AAAI 2023). Both paths start at 0: an untrained model forecasts the
    centre.

    Known covariates enter twice: the present row's with the patch, those of the rows ahead in the head, as
    W (A c * (1 + h)) for the covariates c of a row and the features h. Static ones are added to the patch.
    """

    config_type = ForecastConfig
    config: ForecastConfig

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__(config)
        C, K, answers = config.num_channels, config.num_covariates, 1 + len(config.quantiles)
        self.projection = nn.Linear(config.patch * C * (2 if config.missing else 1) + K, config.dim)
        self.static = nn.Linear(config.num_static, config.dim, bias=False) if config.num_static else None
        self.stack = BlockStack(config)
        self.output = nn.Linear(config.dim, config.horizon * C * answers)
        self.skip = nn.Linear(config.context, config.horizon, bias=False) if config.skip else None
        self.ahead = nn.Linear(K, config.dim) if K else None
        self.ahead_output = nn.Linear(config.dim, C * answers, bias=False) if K else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Whatever writes the forecast starts at 0."""
        for part in (self.output, self.skip, self.ahead_output):
            if part is not None:
                nn.init.zeros_(part.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        rows: Tensor,
        state: ForecastState | None = None,
        *,
        covariates: Tensor | None = None,
        static: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Forecast, ForecastState]:
        """Forecast after each row.

        rows: [B, T, C], in units near 1; NaN is a missing value (only with config.missing).
        covariates: [B, T + H, K], of the rows and of the `horizon` rows after the last. static: [B, S].
        mask: [B, T] bool, False = padding, which comes before a series: it is no row, the state passes.
        Returns the forecasts after the T rows, and the state. Raises ValueError for shapes, and for NaN in a model without
        `missing`.
        """
        T = rows.shape[1]
        present, ahead = (None, None) if covariates is None else (covariates[:, :T], covariates[:, 1:])
        reading, state = self.read(rows, state, covariates=present, static=static, mask=mask)
        return self.answer(reading, ahead), state

    def read(
        self,
        rows: Tensor,
        state: ForecastState | None = None,
        *,
        covariates: Tensor | None = None,
        static: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Reading, ForecastState]:
        """As `forward`, without the forecasts. covariates: [B, T, K], of the rows."""
        config = self.config
        self._check(rows, covariates, static, mask)
        B, T, _ = rows.shape
        state = self.empty_state(B, rows) if state is None else state
        if mask is not None:
            rows = rows.masked_fill(~mask[..., None], torch.nan)
        history = torch.cat([state.rows, rows], 1)  # [B, L - 1 + T, C]
        window, seen, centre, scale = normalise(history, config.context, config.centre)
        patch = window[..., -config.patch :].flatten(2)
        if config.missing:
            patch = torch.cat([patch, seen[..., -config.patch :].flatten(2).to(patch.dtype)], -1)
        if covariates is not None:
            patch = torch.cat([patch, covariates], -1)
        e = self.projection(patch)
        if static is not None and self.static is not None:
            e = e + self.static(static)[:, None]
        e = dropout(e, config.input_dropout, self.training)
        valid = torch.ones(B, T, dtype=torch.bool, device=rows.device) if mask is None else mask
        place = state.steps[:, None] + valid.cumsum(1) - valid.long()  # rows read before this one
        reset = valid & (place % config.memory == 0) & (place > 0) if config.memory else None
        h, stack = self.stack(e, state.stack, reset=reset, mask=mask)
        if config.memory:
            stack = keep_recent(stack, config.memory)  # older keys are behind a reset
        return Reading(h, window, centre, scale), ForecastState(history[:, T:], state.steps + valid.sum(1), stack)

    def answer(self, reading: Reading, ahead: Tensor | None = None, every: int = 1) -> Forecast:
        """The forecasts after the rows of a reading.

        every: the reading holds every so manieth row.
        ahead: [B, (T - 1) * every + H, K], covariates of all rows from the one after the first to the last's horizon.
        """
        config = self.config
        B, T, C = reading.centre.shape
        shape = (B, T, config.horizon, C, 1 + len(config.quantiles))
        h = dropout(reading.h, config.input_dropout, self.training)
        y = self.output(h).view(shape)
        if self.ahead is not None and self.ahead_output is not None:
            expected = [B, (T - 1) * every + config.horizon, config.num_covariates]
            if ahead is None or list(ahead.shape) != expected:
                raise ValueError(f"covariates ahead must be {expected}, got {None if ahead is None else list(ahead.shape)}")
            known = windows(self.ahead(ahead), config.horizon)[:, ::every].transpose(-1, -2)  # [B, T, H, D]
            y = y + self.ahead_output(known * (1 + h[:, :, None])).view(shape)
        y = y.to(accumulation_dtype(y))
        if self.skip is not None:
            y = y + self.skip(reading.window).transpose(-1, -2)[..., None]
        y = reading.centre[:, :, None, :, None] + reading.scale[:, :, None, :, None] * y
        # Quantiles that cross are sorted, which brings them nearer to the true ones (Chernozhukov et al., 2010).
        return Forecast(y[..., 0], y[..., 1:].sort(-1).values, reading.scale)

    def empty_state(self, batch: int, like: Tensor) -> ForecastState:
        """The state before the first row, with the device and dtype of a tensor."""
        rows = like.new_full((batch, self.config.context - 1, self.config.num_channels), torch.nan)
        return ForecastState(rows, torch.zeros(batch, dtype=torch.long, device=like.device), None)

    def _check(self, rows: Tensor, covariates: Tensor | None, static: Tensor | None, mask: Tensor | None) -> None:
        """Raise ValueError for what does not fit the config."""
        config = self.config
        if rows.dim() != 3 or rows.shape[2] != config.num_channels:
            raise ValueError(f"rows must be [B, T, {config.num_channels}], got {list(rows.shape)}")
        B, T = rows.shape[:2]
        for name, given, shape in (
            ("covariates", covariates, [B, T, config.num_covariates]),
            ("static", static, [B, config.num_static]),
        ):
            if (given is None) != (shape[-1] == 0) or (given is not None and list(given.shape) != shape):
                expected = shape if shape[-1] else None
                raise ValueError(f"{name} must be {expected}, got {None if given is None else list(given.shape)}")
        if not config.missing:
            unseen = rows.isnan().any(-1) if mask is None else rows.isnan().any(-1) & mask
            if unseen.any():
                raise ValueError(f"{int(unseen.sum())} rows have missing values; the model was built without missing=True")


def windows(history: Tensor, context: int) -> Tensor:
    """The last `context` of L - 1 + T rows, at each of the last T: [B, L - 1 + T, C] -> [B, T, C, L], a view. T may be 0."""
    if history.shape[1] < context:
        return history.new_empty(len(history), 0, history.shape[2], context)
    return history.unfold(1, context, 1)


def normalise(history: Tensor, context: int, centre: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The windows of L - 1 + T rows, NaN where nothing was seen, as (x - centre) / scale, and seen, centre and scale.

    scale: standard deviation; centre: the mean or the last value that was seen. Of an empty window they are 1 and 0.
    Windows are the largest tensor of a forecaster: what can be found out in the rows is.
    """
    gaps = history.isnan()
    seen = windows(~gaps, context)
    if history.shape[1] >= context and not gaps.any():  # the usual case
        x = windows(history, context)
        variance, middle = torch.var_mean(x, -1, correction=0)
        middle = x[..., -1] if centre == "last" else middle
        scale = (variance + EPS).sqrt()
        return (x - middle[..., None]) / scale[..., None], seen, middle, scale
    filled, empty = history.masked_fill(gaps, 0.0), windows(gaps, context)
    x = windows(filled, context)
    seen_before = F.pad((~gaps).cumsum(1), (0, 0, 1, 0))
    count = seen_before[:, context:] - seen_before[:, : x.shape[1]]  # [B, T, C]
    middle = x.sum(-1) / count.clamp(min=1)
    off = (x - middle[..., None]).masked_fill_(empty, 0.0)
    variance = torch.linalg.vector_norm(off, dim=-1).square() / count.clamp(min=1)
    scale = torch.where(count > 0, (variance + EPS).sqrt(), 1.0)
    if centre == "last":
        rows = torch.arange(history.shape[1], device=history.device)[:, None]
        newest = torch.where(gaps, 0, rows).cummax(1).values[:, context - 1 :]
        middle = torch.where(count > 0, filled.gather(1, newest), 0.0)
        off = (x - middle[..., None]).masked_fill_(empty, 0.0)
    return off / scale[..., None], seen, middle, scale
