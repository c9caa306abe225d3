"""Gated feed-forward networks."""

import math

from torch import Tensor, nn

from openxlstm.layers.init import small_init, wang_init
from openxlstm.ops.glu.activation import gated_activation
from openxlstm.ops.glu.plain import ACTIVATIONS


def hidden_size(dim: int, factor: float, multiple_of: int = 64) -> int:
    """factor * dim, rounded up; to a multiple of 64 is what the published parameter counts say."""
    return math.ceil(factor * dim / multiple_of) * multiple_of


class GatedFeedForward(nn.Module):
    """down(act(gate) * up). [..., dim] -> [..., dim]. activation: "gelu" (GeGLU) or "silu" (SwiGLU).

    `up` makes both halves in one product, the gate first: weight [2 * hidden, dim].
    """

    def __init__(
        self,
        dim: int,
        factor: float = 1.3,
        *,
        activation: str = "gelu",
        bias: bool = False,
        num_blocks: int = 1,
        multiple_of: int = 64,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if factor <= 0:
            raise ValueError(f"ffn_factor must be positive, got {factor}")
        self.dim, self.num_blocks, self.activation = dim, num_blocks, activation
        if multiple_of < 1:
            raise ValueError(f"ffn_multiple must be at least 1, got {multiple_of}")
        self.multiple_of = multiple_of
        self.hidden = hidden_size(dim, factor, multiple_of)
        self.up = nn.Linear(dim, 2 * self.hidden, bias=bias)
        self.down = nn.Linear(self.hidden, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for `up`, wang_init for `down`, biases 0."""
        small_init(self.up.weight, self.dim)
        wang_init(self.down.weight, self.dim, self.num_blocks)
        for linear in (self.up, self.down):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gated_activation(self.up(x), activation=self.activation))

    def extra_repr(self) -> str:
        return f"activation={self.activation}"
