"""The recurrences and their neighbours, as functions on tensors. Nothing here owns a parameter."""

from openxlstm.ops.mlstm.scan import mlstm_scan
from openxlstm.ops.slstm.scan import slstm_scan
from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState

__all__ = ["LSTMState", "MLSTMState", "SLSTMState", "mlstm_scan", "slstm_scan"]
