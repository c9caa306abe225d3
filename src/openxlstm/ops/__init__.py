"""The recurrences and their neighbours, as functions on tensors. Nothing here owns a parameter."""

from openxlstm.ops.conv1d.conv import causal_conv1d
from openxlstm.ops.lstm.scan import lstm_layer, lstm_scan
from openxlstm.ops.mlstm.scan import mlstm_scan
from openxlstm.ops.slstm.scan import slstm_scan
from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState

__all__ = ["LSTMState", "MLSTMState", "SLSTMState", "causal_conv1d", "lstm_layer", "lstm_scan", "mlstm_scan", "slstm_scan"]
