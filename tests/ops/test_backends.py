"""Every backend of every recurrence that can run here agrees with the reference: a new one is tested unasked."""

import math

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
    relative_error,
)
from openxlstm.testing.inputs import cell_inputs, generator, lstm_state, mlstm_inputs, mlstm_state, slstm_state

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


RECURRENCES = {
    "mlstm": (mlstm.mlstm_scan, lambda rng: mlstm_inputs(2, 9, 2, 4, 3, rng), lambda rng: mlstm_state(2, 2, 4, 3, rng)),
    "slstm": (slstm.slstm_scan, lambda rng: cell_inputs(2, 9, 2, 3, rng), lambda rng: slstm_state(2, 2, 3, rng)),
    "lstm": (lstm.lstm_scan, lambda rng: cell_inputs(2, 9, 2, 3, rng), lambda rng: lstm_state(2, 2, 3, rng)),
}
RECURRENT = [case for case in HERE if case[0] in RECURRENCES]


@pytest.mark.parametrize("pre", [-math.inf, -1e16, -1e7])
@pytest.mark.parametrize(("op", "name"), RECURRENT)
def test_gates_that_are_shut(op: str, name: str, pre: float) -> None:
    """Steps that write nothing, forget everything, or (the mLSTM, whose read-out has a floor) both, also before anything was
    seen: the definition's outputs and gradients, nowhere NaN."""
    scan, inputs, _ = RECURRENCES[op]
    found = {}
    for backend, dtype in (("reference", torch.float64), (name, torch.float32)):
        given = [x.to(dtype) for x in inputs(generator(0))]
        i, f = (given[3], given[4]) if op == "mlstm" else (given[0][:, :, 0], given[0][:, :, 1])
        i[0, 3], f[0, 5], f[1, 8] = pre, pre, pre
        if op == "mlstm":
            i[0, 5], i[1, 0] = pre, pre
        leaves = [x.requires_grad_() for x in given]
        h, last = scan(*leaves, backend=backend)
        found[backend] = [h, *torch.autograd.grad(h.square().sum(), leaves), scan(*leaves, last, backend=backend)[0]]
    for here, truth in zip(found[name], found["reference"], strict=True):
        assert relative_error(here.detach(), truth.detach()) < 1e-5


@pytest.mark.parametrize(("op", "name"), RECURRENT)
def test_a_reset_ends_what_is_not_finite(op: str, name: str) -> None:
    """A state full of NaN, emptied before the first step: as if there had been none, gradients too."""
    scan, inputs, state = RECURRENCES[op]
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 0] = True
    found = []
    for spoilt in (True, False):
        given = [x.float().requires_grad_() for x in inputs(generator(0))]
        begin = state(generator(1))
        begin = type(begin)(*(x.float() for x in begin))
        if spoilt:
            for leaf in begin:
                leaf[0] = math.nan
        begin = type(begin)(*(x.requires_grad_(field != "m") for field, x in begin._asdict().items()))
        h, last = scan(*given, begin, reset=reset, backend=name)
        found.append([h, *last, *torch.autograd.grad(h.square().sum(), [*given, *(x for x in begin if x.requires_grad)])])
    for spoilt, clean in zip(*found, strict=True):
        assert torch.equal(spoilt, clean)


@pytest.mark.parametrize(("op", "name"), [case for case in RECURRENT if case[0] != "mlstm"])
def test_a_reset_keeps_documents_apart_that_are_not_finite(op: str, name: str) -> None:
    scan, inputs, _ = RECURRENCES[op]
    gates, *weights = (x.float() for x in inputs(generator(0)))
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[:, 3] = reset[:, 6] = True
    found = []
    for spoilt in (True, False):
        leaf = gates.clone()
        if spoilt:
            leaf[:, 4] = math.nan
        h, last = scan(leaf.requires_grad_(), *weights, reset=reset, backend=name)
        (grad,) = torch.autograd.grad(h.square().sum(), leaf)
        found.append([h[:, :3], h[:, 6:], grad[:, :3], grad[:, 6:], *last])
    for spoilt, clean in zip(*found, strict=True):
        assert torch.equal(spoilt, clean)


@pytest.mark.parametrize(("op", "name"), RECURRENT)
def test_a_state_is_in_memory_of_its_own(op: str, name: str) -> None:
    """A view of all steps would keep them alive, and a caller who edits h would edit it."""
    scan, inputs, _ = RECURRENCES[op]
    h, last = scan(*(x.float() for x in inputs(generator(0))), backend=name)
    whole = sum(x.numel() * x.itemsize for x in last)  # kernels write the leaves side by side
    for leaf in last:
        assert leaf.untyped_storage().nbytes() <= whole
        assert leaf.untyped_storage().data_ptr() != h.untyped_storage().data_ptr()
