"""The linear models that forecasters are held against (Zeng et al., AAAI 2023)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.errors import UserError
from openxlstm.models.forecast import Forecast, ForecastState, Reading, windows
from openxlstm.models.pretrained import PretrainedModel

KINDS = ("linear", "nlinear")


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """horizon, context: rows ahead and rows read. kind: "nlinear" subtracts the last value before and adds it after, "linear"
    does not. num_channels: values in a row; each is forecast from its own past by the same map. quantiles: levels; they are the
    point forecast until they are calibrated."""

    horizon: int
    context: int = 336
    kind: str = "nlinear"
    num_channels: int = 1
    quantiles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        return asdict(self) | {"quantiles": list(self.quantiles)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "LinearConfig":
        """The config with these values. Raises UserError, which names `source`, for those it does not know."""
        known = dict(values) | {"quantiles": tuple(values.get("quantiles", ()))}
        try:
            return cls(**known)
        except TypeError as error:
            raise UserError(f"{source}: {error}") from None


class LinearModel(PretrainedModel):
    """One linear map from the last `context` rows to the next `horizon`. Called as ForecastModel; covariates are refused."""

    config_type = LinearConfig  # type: ignore[assignment]
    config: LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.map = nn.Linear(config.context, config.horizon)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(
        self, rows: Tensor, state: ForecastState | None = None, **more: Tensor | None
    ) -> tuple[Forecast, ForecastState]:
        """rows: [B, T, C], without missing values. Returns the forecasts after each, and the state."""
        reading, state = self.read(rows, state, **more)
        return self.answer(reading), state

    def read(self, rows: Tensor, state: ForecastState | None = None, **more: Tensor | None) -> tuple[Reading, ForecastState]:
        """The windows at each row. What was not seen is 0, or the last value."""
        if any(more.get(name) is not None for name in ("covariates", "static")):
            raise ValueError("a linear model takes no covariates")
        state = self.empty_state(len(rows), rows) if state is None else state
        history = torch.cat([state.rows, rows], 1)
        x = windows(history, self.config.context)  # [B, T, C, L]
        # Padding is NaN, and a loss that leaves it out would still send 0 * NaN back.
        centre = x[..., -1].nan_to_num(0.0) if self.config.kind == "nlinear" else torch.zeros_like(x[..., -1])
        window = (x - centre[..., None]).nan_to_num(0.0)
        reading = Reading(rows[..., :0], window, centre, torch.ones_like(centre))
        return reading, ForecastState(history[:, rows.shape[1] :], state.steps + rows.shape[1], None)

    def answer(self, reading: Reading, ahead: Tensor | None = None, every: int = 1) -> Forecast:
        """The forecasts after the rows of a reading."""
        point = reading.centre[:, :, None] + self.map(reading.window).transpose(-1, -2)
        quantiles = point.detach()[..., None].expand(*point.shape, len(self.config.quantiles))  # the loss is the point's alone
        return Forecast(point, quantiles, reading.scale)

    def empty_state(self, batch: int, like: Tensor) -> ForecastState:
        """The state before the first row."""
        rows = like.new_full((batch, self.config.context - 1, self.config.num_channels), torch.nan)
        return ForecastState(rows, torch.zeros(batch, dtype=torch.long, device=like.device), None)
