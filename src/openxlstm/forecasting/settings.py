"""What a Forecaster is made of."""

from dataclasses import dataclass, field
from typing import Any

from openxlstm.data.series import STEPS
from openxlstm.errors import UserError
from openxlstm.forecasting.fit import FitConfig
from openxlstm.forecasting.linear import KINDS, LinearConfig, LinearModel
from openxlstm.models.checkpoint import check_device
from openxlstm.models.config import ForecastConfig
from openxlstm.models.forecast import ForecastModel
from openxlstm.models.match import match_parameters
from openxlstm.models.patterns import expand


@dataclass(frozen=True, kw_only=True)
class ForecasterSettings:
    """What a Forecaster is made of.

    horizon: rows ahead that it is trained for, and the most that it forecasts.
    context: rows of the window that normalises and that the linear path reads; a season or more.
    patch: rows of its end that the stack is shown at each step. None is 24, or the context if that is less.
    pattern: blocks of the stack, as `openxlstm.models.patterns.expand` reads them ("slstm", "xlstm[1:1]", "lstm",
        "transformer"), or "nlinear" or "linear", which are one linear map.
    num_blocks, dim, num_heads, dropout: their number, width, heads and dropout.
    num_parameters: bring the model within 1 % of this many parameters by adapting widths, for comparisons; None is as set.
    centre: what is subtracted from a window, its "mean" or its "last" value; the latter suits what wanders, such as prices.
    levels: intervals to forecast, in percent of the truths that they should cover.
    covariates: columns that are known in advance. static: columns that are constant in a series.
    multivariate: read and forecast all series together, row by row; they must have the same times.
    missing: targets may lack values (NaN).
    steps: "equal", or "rows" where the time between rows differs (trading days).
    season: rows of a season, for the seasonal baselines; 1 is none.
    fit: how it is trained.
    device: where; "cpu" or "cuda".
    """

    horizon: int
    context: int = 336
    patch: int | None = None
    pattern: str = "slstm"
    num_blocks: int = 1
    dim: int = 64
    num_heads: int = 4
    dropout: float = 0.3
    num_parameters: int | None = None
    centre: str = "mean"
    levels: tuple[int, ...] = (80,)
    covariates: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    multivariate: bool = False
    missing: bool = False
    steps: str = "equal"
    season: int = 1
    fit: FitConfig = field(default_factory=FitConfig)
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("levels", "covariates", "static"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if any(not 0 < level < 100 for level in self.levels) or len(set(self.levels)) < len(self.levels):
            raise UserError(f"levels must be percentages between 0 and 100, each once, got {list(self.levels)}")
        if self.steps not in STEPS:
            raise UserError(f"steps must be one of {', '.join(STEPS)}, got {self.steps!r}")
        if self.season < 1:
            raise UserError(f"season must be at least 1 row, got {self.season}")
        if self.pattern in KINDS and (self.covariates or self.static or self.missing):
            raise UserError(f"pattern {self.pattern!r} reads neither covariates nor static columns nor missing values")
        if self.pattern in KINDS and self.num_parameters is not None:
            raise UserError(f"pattern {self.pattern!r} has no widths to bring to num_parameters={self.num_parameters}")
        self.model_config(1)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Ends of the intervals, rising: 80 % goes from 0.1 to 0.9."""
        return tuple(sorted(q for level in self.levels for q in ((100 - level) / 200, (100 + level) / 200)))

    @property
    def first_rows(self) -> int:
        """Rows that a series needs before anything can be said about it; they fix its unit if it was not there in training."""
        return min(self.context, 64)

    def model_config(self, num_channels: int) -> Any:
        """The model's configuration. Raises UserError for what no model can be built from."""
        if self.pattern in KINDS:
            return LinearConfig(
                horizon=self.horizon,
                context=self.context,
                kind=self.pattern,
                num_channels=num_channels,
                quantiles=self.quantiles,
            )
        return stack_config(
            self,
            context=self.context,
            patch=min(24, self.context) if self.patch is None else self.patch,
            num_channels=num_channels,
            num_covariates=len(self.covariates),
            num_static=len(self.static),
            quantiles=self.quantiles,
            missing=self.missing,
        )

    def build(self, num_channels: int) -> Any:
        """The untrained model. Raises UserError for a device that cannot be used."""
        check_device(self.device)
        config = self.model_config(num_channels)
        return (LinearModel(config) if self.pattern in KINDS else ForecastModel(config)).to(self.device)


def stack_config(settings: Any, **more: Any) -> ForecastConfig:
    """The ForecastConfig for the pattern, widths, size, horizon, centre and fit of some settings. more: what else it takes.
    Raises UserError for what no model can be built from."""
    blocks = expand(settings.pattern, None if "," in settings.pattern else settings.num_blocks)
    config = ForecastConfig(
        dim=settings.dim,
        blocks=blocks,
        num_heads=settings.num_heads,
        dropout=settings.dropout,
        input_dropout=settings.dropout,
        horizon=settings.horizon,
        centre=settings.centre,
        memory=settings.fit.length if "attention" in blocks else 0,
        **more,
    )
    return config if settings.num_parameters is None else match_parameters(config, settings.num_parameters)
