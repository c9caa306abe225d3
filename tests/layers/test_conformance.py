"""All blocks, by name, pass the public conformance suite in float64."""

import pytest
import torch

from openxlstm.layers import BLOCKS
from openxlstm.testing import conformance

CHECKS = (*conformance.CHECKS, conformance.check_gradients, conformance.check_extreme_gates)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", BLOCKS)
def test_block(name: str, check) -> None:
    torch.manual_seed(0)
    block = BLOCKS[name](8, 2, num_blocks=2, dropout=0.1).double()
    check(conformance.shake(block), 8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlstm", dict(input_gate="sigmoid", gate_soft_cap=15.0, projection_factor=1.5)),
        ("mlstm", dict(conv_width=0)),
        ("mlstm", dict(input_gate_mode="fixed", forget_gate_mode="learned")),
        ("mlstm", dict(input_gate_mode="learned", forget_gate_mode="one", gate_soft_cap=15.0)),
        ("mlstm", dict(input_gate_mode="bias", forget_gate_mode="bias")),
        ("slstm", dict(conv_width=0, forget_gate="exp")),
        ("mlstm_large", dict(input_gate="sigmoid", normalize=False, bias=True)),
        ("ssd", dict(conv_width=0, state_dim=3, projection_factor=1.5)),
        ("mlstm_large", dict(qk_factor=1.0, v_factor=2.0, gate_soft_cap=None)),
    ],
    ids=str,
)
def test_options(name: str, options: dict) -> None:
    torch.manual_seed(0)
    conformance.check_layer(BLOCKS[name](8, 2, **options).double(), 8)


def test_dense_lstm_block() -> None:
    conformance.check_layer(BLOCKS["lstm"](8).double(), 8)
