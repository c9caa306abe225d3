"""The block of xLSTM Large and 7B (arXiv 2503.13427): mLSTM without convolution, then a SwiGLU."""

from typing import NamedTuple

from torch import Tensor, nn

from openxlstm.layers.dropout import Dropout
from openxlstm.layers.feedforward import GatedFeedForward
from openxlstm.layers.gates import scalar_gates
from openxlstm.layers.heads import head_width
from openxlstm.layers.init import linspace_init, small_init, wang_init
from openxlstm.layers.norm import HeadNorm, RMSNorm
from openxlstm.ops import MLSTMState, mlstm_scan


class MLSTMLargeBlockState(NamedTuple):
    """What an MLSTMLargeBlock remembers."""

    cell: MLSTMState


class MLSTMLargeBlock(nn.Module):
    """u = x + out(sigmoid(o) * HeadNorm(mLSTM(q, k, v))), then u + SwiGLU(RMSNorm(u)); all of q, k, v, o, i, f read RMSNorm(x).

    dim: model width. num_heads: heads of the cell. num_blocks: blocks of the stack (scales the start of what writes).
    qk_factor, v_factor: width of all queries (keys) and of all values / dim. ffn_factor: hidden width / dim, rounded up to
    a multiple of ffn_multiple. gate_soft_cap: bound of the gate pre-activations, or None. bias: in linear maps and norms.
    input_gate: "exp" or "sigmoid"; normalize=False with "sigmoid" is TFLA's mLSTMsig. dropout: on the residual branches.
    norm_eps: of the norms. cell_eps, backend, chunk_size: as `ops.mlstm_scan`. Raises ValueError for widths that do not divide.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 1,
        qk_factor: float = 0.5,
        v_factor: float = 1.0,
        ffn_factor: float = 2.667,
        ffn_multiple: int = 64,
        gate_soft_cap: float | None = 15.0,
        bias: bool = False,
        input_gate: str = "exp",
        normalize: bool = True,
        dropout: float = 0.0,
        norm_eps: float = 1e-6,
        cell_eps: float = 1e-6,
        backend: str = "auto",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        qk_dim, v_dim = int(qk_factor * dim), int(v_factor * dim)
        head_width(qk_dim, num_heads, "qk_factor * dim")
        head_dim = head_width(v_dim, num_heads, "v_factor * dim")
        self.dim, self.qk_dim, self.v_dim = dim, qk_dim, v_dim
        self.num_heads, self.num_blocks = num_heads, num_blocks
        self.gate_soft_cap, self.input_gate, self.normalize, self.cell_eps = gate_soft_cap, input_gate, normalize, cell_eps
        self.backend, self.chunk_size = backend, chunk_size
        self.norm = RMSNorm(dim, eps=norm_eps, bias=bias)
        self.qkvo = nn.Linear(dim, 2 * qk_dim + 2 * v_dim, bias=bias)  # one product: q, k, v, o
        self.gates = nn.Linear(dim, 2 * num_heads)  # input gates, then forget gates; always with a bias
        self.head_norm = HeadNorm(num_heads, head_dim, eps=norm_eps, bias=bias)
        self.out = nn.Linear(v_dim, dim, bias=bias)
        self.ffn_norm = RMSNorm(dim, eps=norm_eps, bias=bias)
        self.ffn = GatedFeedForward(
            dim, ffn_factor, activation="silu", bias=bias, num_blocks=num_blocks, multiple_of=ffn_multiple
        )
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published recipe: small_init for q, k, v; wang_init for out; i, f and o read nothing at first; i bias -10, so
        that the memory is written gently; f bias 3..6 over the heads."""
        H = self.num_heads
        for part in (self.norm, self.head_norm, self.ffn_norm, self.ffn):
            part.reset_parameters()
        small_init(self.qkvo.weight, self.dim)
        nn.init.zeros_(self.qkvo.weight[-self.v_dim :])
        wang_init(self.out.weight, self.dim, self.num_blocks)
        for linear in (self.qkvo, self.out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.gates.weight)
        nn.init.constant_(self.gates.bias[:H], -10.0)
        linspace_init(self.gates.bias[H:], 3.0, 6.0)

    def forward(
        self,
        x: Tensor,
        state: MLSTMLargeBlockState | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, MLSTMLargeBlockState]:
        """x [B, T, dim] -> y [B, T, dim] and the state. reset, mask: [B, T] bool (see `ops`)."""
        u = self.norm(x)
        q, k, v, o = self.qkvo(u).split((self.qk_dim, self.qk_dim, self.v_dim, self.v_dim), -1)
        i_pre, f_pre = scalar_gates((u,), self.gates.weight, self.gates.bias, self.gate_soft_cap)
        heads = (self.num_heads, -1)
        h, cell = mlstm_scan(
            q.unflatten(-1, heads),
            k.unflatten(-1, heads),
            v.unflatten(-1, heads),
            i_pre,
            f_pre,
            state.cell if state is not None else None,
            reset=reset,
            mask=mask,
            input_gate=self.input_gate,
            normalize=self.normalize,
            eps=self.cell_eps,
            backend=self.backend,
            chunk_size=self.chunk_size,
        )
        x = x + self.dropout(self.out(self.head_norm(h, gate=o, activation="sigmoid")))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x, MLSTMLargeBlockState(cell)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, gate_soft_cap={self.gate_soft_cap}, input_gate={self.input_gate}"
