"""Scalar gates: one number a head, always in float32 or better, whatever the rest of the layer runs in."""

import torch
from torch import Tensor, nn

from openxlstm.layers.init import linspace_init
from openxlstm.ops.gates import gate_preactivations
from openxlstm.ops.numerics import soft_cap

GATE_MODES = ("learned", "bias", "fixed")
"""What of a scalar gate is learned: weights and bias, the bias alone, or nothing."""

FORGET_GATE_MODES = (*GATE_MODES, "one")
"""And "one" for a forget gate that forgets nothing."""

OPEN = 40.0
"""Bias of a gate that stays 1: sigmoid(40) is 1 in float64 too. Under a soft cap of 15 it is 1 - 3e-7."""


def scalar_gates(inputs: tuple[Tensor, ...], weight: Tensor, bias: Tensor, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """i_pre and f_pre [B, T, H] = weight @ cat(inputs) + bias, soft-capped; the concatenation is never made.

    weight: [2 H, sum of the inputs' widths], bias: [2 H], input gates first. Autocast is off here.
    """
    with torch.autocast(weight.device.type, enabled=False):
        i_pre, f_pre = soft_cap(gate_preactivations(inputs, weight, bias), cap).chunk(2, -1)
    return i_pre, f_pre


class ScalarGates(nn.Module):
    """Gates of an mLSTM of which a part is fixed, in the place of nn.Linear(in_features, 2 * num_heads): the gate ablation of
    the xLSTM paper (arXiv 2405.04517, table 2).

    in_features: width of what the gates read. input_gate: out of GATE_MODES. forget_gate: out of FORGET_GATE_MODES. What is not
    learned is a weight of 0 or a buffer, so that only what is learned counts as a parameter. Raises ValueError for other modes.
    """

    W_i: nn.Parameter | None
    W_f: nn.Parameter | None
    b_i: Tensor
    b_f: Tensor

    def __init__(self, in_features: int, num_heads: int, *, input_gate: str = "learned", forget_gate: str = "learned") -> None:
        super().__init__()
        for name, mode, modes in (("input", input_gate, GATE_MODES), ("forget", forget_gate, FORGET_GATE_MODES)):
            if mode not in modes:
                raise ValueError(f"{name}_gate_mode must be one of {', '.join(modes)}, got {mode!r}")
        self.in_features, self.num_heads, self.input_gate, self.forget_gate = in_features, num_heads, input_gate, forget_gate
        for gate, mode in (("i", input_gate), ("f", forget_gate)):
            weight = nn.Parameter(torch.empty(num_heads, in_features)) if mode == "learned" else None
            self.register_parameter(f"W_{gate}", weight)
            if mode in ("learned", "bias"):
                self.register_parameter(f"b_{gate}", nn.Parameter(torch.empty(num_heads)))
            else:
                self.register_buffer(f"b_{gate}", torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights 0; i bias N(0, 0.1), fixed 0; f bias equidistant in 3..6, learned or fixed, or OPEN."""
        for weight in (self.W_i, self.W_f):
            if weight is not None:
                nn.init.zeros_(weight)
        nn.init.normal_(self.b_i, std=0.0 if self.input_gate == "fixed" else 0.1)
        if self.forget_gate == "one":
            nn.init.constant_(self.b_f, OPEN)
        else:
            linspace_init(self.b_f, 3.0, 6.0)

    @property
    def weight(self) -> Tensor:
        """[2 H, in_features], input gates first."""
        blank = self.b_i.new_zeros(self.num_heads, self.in_features)
        return torch.cat([blank if W is None else W for W in (self.W_i, self.W_f)])

    @property
    def bias(self) -> Tensor:
        """[2 H], input gates first."""
        return torch.cat([self.b_i, self.b_f])

    def extra_repr(self) -> str:
        return f"{self.in_features}, num_heads={self.num_heads}, input_gate={self.input_gate}, forget_gate={self.forget_gate}"
