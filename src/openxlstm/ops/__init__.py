"""The recurrences and their neighbours, as functions on tensors. Nothing here owns a parameter."""

from importlib import import_module

from openxlstm.ops.backend import Backend
from openxlstm.ops.conv1d.conv import causal_conv1d
from openxlstm.ops.lstm.scan import lstm_layer, lstm_scan
from openxlstm.ops.mlstm.scan import mlstm_scan
from openxlstm.ops.slstm.scan import slstm_scan
from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState

__all__ = ["LSTMState", "MLSTMState", "SLSTMState", "causal_conv1d", "lstm_layer", "lstm_scan", "mlstm_scan", "slstm_scan"]

DOORS = {
    "causal_conv1d": ("openxlstm.ops.conv1d.conv", "BACKENDS"),
    "lstm_layer": ("openxlstm.ops.lstm.scan", "LAYER_BACKENDS"),
    "lstm_scan": ("openxlstm.ops.lstm.scan", "BACKENDS"),
    "mlstm_scan": ("openxlstm.ops.mlstm.scan", "BACKENDS"),
    "slstm_scan": ("openxlstm.ops.slstm.scan", "BACKENDS"),
}
"""Where each door keeps the tuple of its backends."""


def backends_of(door: str) -> tuple[Backend, ...]:
    """The backends of a door by its name, in order of preference."""
    module, name = DOORS[door]
    return getattr(import_module(module), name)
