"""The recurrences and their neighbours, as functions on tensors. Nothing here owns a parameter."""

from importlib import import_module

from openxlstm.ops.backend import Backend
from openxlstm.ops.conv1d.conv import causal_conv1d
from openxlstm.ops.glu.activation import gated_activation
from openxlstm.ops.headnorm.norm import head_norm
from openxlstm.ops.lstm.scan import lstm_layer, lstm_scan
from openxlstm.ops.mlstm.scan import mlstm_scan
from openxlstm.ops.qkv.gates import qkv_gates
from openxlstm.ops.slstm.scan import slstm_scan
from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState

__all__ = [
    "LSTMState",
    "MLSTMState",
    "SLSTMState",
    "causal_conv1d",
    "gated_activation",
    "head_norm",
    "lstm_layer",
    "lstm_scan",
    "mlstm_scan",
    "qkv_gates",
    "slstm_scan",
]

DOORS = {
    "causal_conv1d": ("openxlstm.ops.conv1d.conv", "BACKENDS"),
    "gated_activation": ("openxlstm.ops.glu.activation", "BACKENDS"),
    "head_norm": ("openxlstm.ops.headnorm.norm", "BACKENDS"),
    "lstm_layer": ("openxlstm.ops.lstm.scan", "LAYER_BACKENDS"),
    "lstm_scan": ("openxlstm.ops.lstm.scan", "BACKENDS"),
    "qkv_gates": ("openxlstm.ops.qkv.gates", "BACKENDS"),
    "mlstm_scan": ("openxlstm.ops.mlstm.scan", "BACKENDS"),
    "slstm_scan": ("openxlstm.ops.slstm.scan", "BACKENDS"),
}
"""Where each door keeps the tuple of its backends."""


def backends_of(door: str) -> tuple[Backend, ...]:
    """The backends of a door by its name, in order of preference."""
    module, name = DOORS[door]
    return getattr(import_module(module), name)
