"""Every backend of every recurrence that can run here agrees with the reference: a new one is tested unasked."""

import pytest
import torch

from openxlstm.ops.conv1d import conv
from openxlstm.ops.glu import activation as gated
from openxlstm.ops.headnorm import norm
from openxlstm.ops.lstm import scan as lstm
from openxlstm.ops.mlstm import scan as mlstm
from openxlstm.ops.qkv import gates as qkv
from openxlstm.ops.slstm import scan as slstm
from openxlstm.testing import (
    check_conv1d_backend,
    check_gated_activation_backend,
    check_hard_gates,
    check_head_norm_backend,
    check_lstm_backend,
    check_mlstm_backend,
    check_qkv_gates_backend,
    check_slstm_backend,
)

CHECKS = {
    "mlstm": (mlstm.BACKENDS, check_mlstm_backend),
    "slstm": (slstm.BACKENDS, check_slstm_backend),
    "lstm": (lstm.BACKENDS, check_lstm_backend),
    "conv1d": (conv.BACKENDS, check_conv1d_backend),
    "gated_activation": (gated.BACKENDS, check_gated_activation_backend),
    "head_norm": (norm.BACKENDS, check_head_norm_backend),
    "qkv_gates": (qkv.BACKENDS, check_qkv_gates_backend),
}
HERE = [
    (op, b.name)
    for op, (backends, _) in CHECKS.items()
    for b in backends
    if b.missing() is None and b.name != "triton"  # which has tests/gpu
]
DTYPES = {"cpu": [torch.float32, torch.bfloat16]}  # the compiled kernels accumulate in float32
CASES = [(op, name, dtype) for op, name in HERE for dtype in DTYPES.get(name, [torch.float64, torch.float32])]


@pytest.mark.parametrize(("op", "name", "dtype"), CASES, ids=str)
def test_agrees_with_the_reference(op: str, name: str, dtype: torch.dtype) -> None:
    CHECKS[op][1](name, dtype=dtype)


@pytest.mark.parametrize(("op", "name"), [case for case in HERE if case[0] in ("mlstm", "slstm")])
def test_hard_gates(op: str, name: str) -> None:
    check_hard_gates(name, op=op)
