"""Times with a time zone, which are kept without it and shown with it."""

from dataclasses import dataclass, replace
from datetime import timezone, tzinfo
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import missing_extra


@dataclass(frozen=True)
class Zone:
    """A time zone, and how its times are kept.

    name: such as "UTC+01:00" or "Europe/Berlin". by_clock: as its clocks show them, so that days are always a day apart; else
    as those of UTC do, so that hours are always an hour apart.
    """

    name: str
    by_clock: bool = True

    @property
    def kept(self) -> str:
        """The zone whose clocks show the times that are kept."""
        return self.name if self.by_clock else "UTC"

    @property
    def offset(self) -> str:
        """From UTC, of a zone that never changes it: "UTC+01:00" -> "+01:00"."""
        return "+00:00" if self.name == "UTC" else self.name.removeprefix("UTC")

    def strip(self, series: Any) -> NDArray[Any]:
        """A pandas series of times with any zone as they are kept: datetime64[ns]."""
        local = series.dt.tz_convert(self.kept).dt.tz_localize(None)
        return local.to_numpy(dtype="datetime64[ns]")  # type: ignore[no-any-return]

    def add(self, times: NDArray[Any]) -> Any:
        """Kept times as a pandas series with this zone. An hour that the clocks show twice is the second, one that they leave
        out the next that they show."""
        series = import_pandas().Series(times)
        later = np.zeros(len(times), dtype=bool)
        return series.dt.tz_localize(self.kept, ambiguous=later, nonexistent="shift_forward").dt.tz_convert(self.name)


UTC = Zone("UTC")


def zone_of(series: Any) -> Zone | None:
    """The zone of a pandas series of times, None where it has none.

    Kept by the clock are zones that never change it, and rows that are all at the same time of day, which it shows once.
    """
    if series.dt.tz is None:
        return None
    zone = Zone(name_of(series.dt.tz))
    return zone if zone.name.startswith("UTC") else replace(zone, by_clock=daily(series, zone))


def name_of(tz: tzinfo) -> str:
    """What pandas finds a zone by; "UTC" where there is no such name (`dateutil.tz.tzlocal()`)."""
    name = str(timezone(tz.utcoffset(None)) if isinstance(tz, timezone) else tz)  # a fixed one may be called anything
    try:
        import_pandas().Timestamp(0, tz=name)
    except (KeyError, ValueError):
        return "UTC"
    return name


def daily(series: Any, zone: Zone) -> bool:
    """Whether the times are all at the same time of day, which the zone's clocks show once."""
    local = zone.strip(series)
    alike = np.unique(local - local.astype("datetime64[D]")).size <= 1
    return alike and bool((UTC.strip(zone.add(local)) == UTC.strip(series)).all())


def import_pandas() -> Any:
    """pandas, or a UserError that names the extra."""
    try:
        import pandas
    except ImportError:
        raise missing_extra("pandas", "series", "reading series") from None
    return pandas
