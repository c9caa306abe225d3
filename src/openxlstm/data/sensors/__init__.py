"""Files of sensors: runs of turbofans to their failure, .ts files of recordings with a label, series with anomalies."""

from openxlstm.data.sensors.recordings import Recordings, read_ts
from openxlstm.data.sensors.turbofan import Engine, read_engines, read_remaining

__all__ = ["Engine", "Recordings", "read_engines", "read_remaining", "read_ts"]
