"""A picture of forecasts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.data.series import ID, TIME
from openxlstm.errors import missing_extra
from openxlstm.forecasting.streams import Stream
from openxlstm.training.record import canvas, plain

if TYPE_CHECKING:
    from openxlstm.forecasting.forecaster import Forecaster


def draw(forecaster: "Forecaster", path: Path, columns: dict[str, NDArray[Any]], most: int) -> None:
    """History and forecast of the first `most` series, one below the other, as a PNG."""
    from openxlstm.forecasting.forecaster import NAME

    found = [(name, stream, c) for stream in forecaster.streams.values() for c, name in enumerate(stream.names)]
    shown = [one for one in found if one[0] in set(columns[ID].tolist())][:most]
    horizon = forecaster.settings.horizon
    try:
        with canvas(path, f"{horizon} rows ahead", (9.0, 2.4 * max(len(shown), 1) + 0.4)) as figure:
            grid = figure.subplots(max(len(shown), 1), 1, squeeze=False)[:, 0]
            for axes, (name, stream, channel) in zip(grid, shown):
                here = columns[ID] == name
                past, before = recent(stream, channel, forecaster, 4 * horizon)
                axes.plot(past, before, color="#1f4e79", linewidth=1.2, label=plain(name))
                axes.plot(columns[TIME][here], columns[NAME][here], color="#c0392b", linewidth=1.4, label="forecast")
                for level in sorted(forecaster.settings.levels, reverse=True):
                    low, high = (columns[f"{NAME}-{end}-{level}"][here] for end in ("lo", "hi"))
                    axes.fill_between(
                        columns[TIME][here], low, high, color="#c0392b", alpha=0.2, label=f"{level} %", linewidth=0
                    )
                if np.issubdtype(past.dtype, np.datetime64):
                    label_dates(axes)
                axes.grid(alpha=0.25)
                axes.legend(framealpha=0.9, edgecolor="none", fontsize=8, loc="upper left")
    except ImportError:
        raise missing_extra("matplotlib", "plot", "drawing a forecast") from None


def label_dates(axes: Any) -> None:
    """Dates that do not run into each other: each label has what is new in it."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def recent(stream: Stream, channel: int, forecaster: "Forecaster", rows: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The last rows of a stream, which are part of its state, and their times."""
    values = stream.unit.back(stream.state.rows[0])[-rows:, channel]
    step = forecaster.step
    assert step is not None
    return step.before(stream.last, len(values)), values
