"""What an AnomalyDetector is made of."""

from dataclasses import dataclass, field

from openxlstm.data.series import STEPS
from openxlstm.errors import UserError
from openxlstm.forecasting.fit import FitConfig
from openxlstm.forecasting.settings import stack_config
from openxlstm.models.config import ForecastConfig


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """What an AnomalyDetector is made of.

    distances: how many rows before a row the forecasts were made that it is compared with. Near ones see spikes, far ones that
        a pattern is left.
    context: rows of the window that normalises forecasts, at most half of the training rows; a season or more.
    patch: rows of its end that the stack is shown at each step.
    pattern: blocks of the stack ("slstm", "xlstm[1:1]", "lstm", ...). num_blocks, dim, num_heads, dropout: their number, width,
        heads and dropout.
    num_parameters: bring the model within 1 % of this many parameters by adapting widths, for comparisons; None is as set.
    centre: what is subtracted from a window, its "last" value or its "mean".
    steps: "equal", or "rows" where the time between rows differs.
    fit: how the forecaster is trained.
    device: where; "cpu" or "cuda".
    """

    distances: tuple[int, ...] = (1, 6, 24)
    context: int = 336
    patch: int = 24
    pattern: str = "slstm"
    num_blocks: int = 1
    dim: int = 32
    num_heads: int = 4
    dropout: float = 0.1
    num_parameters: int | None = None
    centre: str = "last"
    steps: str = "equal"
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(steps=300, batch_size=32, length=32, lr=3e-3, validate_every=25, patience=5)
    )
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "distances", tuple(self.distances))
        if not self.distances or min(self.distances) < 1 or len(set(self.distances)) < len(self.distances):
            raise UserError(f"distances must be one or more numbers of rows from 1, each once, got {list(self.distances)}")
        if self.steps not in STEPS:
            raise UserError(f"steps must be one of {', '.join(STEPS)}, got {self.steps!r}")
        self.model_config(self.least_rows)

    @property
    def horizon(self) -> int:
        """The farthest distance."""
        return max(self.distances)

    @property
    def least_rows(self) -> int:
        """Rows that training needs."""
        return 6 * (self.horizon + 8)

    def held(self, rows: int) -> int:
        """How many of the training rows, at their end, choose the weights."""
        return max(rows // 4, self.horizon + 8)

    def model_config(self, rows: int) -> ForecastConfig:
        """The forecaster for so many training rows. Raises UserError for what no model can be built from."""
        context = min(self.context, rows // 2)
        return stack_config(self, context=context, patch=min(self.patch, context))
