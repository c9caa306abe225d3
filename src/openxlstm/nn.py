"""Recurrent modules that go where torch.nn.LSTM goes: the same call, shapes and options, with xLSTM inside.

    rnn = openxlstm.nn.SLSTM(input_size=20, hidden_size=64, num_layers=2, batch_first=True)
    output, state = rnn(x)            # x [B, T, 20] -> output [B, T, 64]
    output, state = rnn(x_next, state)

One thing differs from torch.nn.LSTM: `state` is a tree of tensors, batch first whatever `batch_first` says. Hand it back as
it is, cut it from the graph with `openxlstm.ops.state.detach`, take rows of it with `openxlstm.ops.state.select`.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from openxlstm.layers import BLOCKS
from openxlstm.layers.dropout import dropout
from openxlstm.layers.gates import scalar_gates
from openxlstm.layers.heads import head_width
from openxlstm.layers.init import linspace_init, power_law_init
from openxlstm.layers.norm import HeadNorm, LayerNorm
from openxlstm.ops import mlstm_scan, slstm_scan
from openxlstm.ops import state as states
from openxlstm.ops.numerics import clear_padding
from openxlstm.ops.state import MLSTMState, SLSTMState

__all__ = ["MLSTM", "SLSTM", "XLSTM"]

State: TypeAlias = tuple[tuple[Any, ...], ...]
"""state[layer][direction], 0 = forward in time, 1 = backward."""


class _Recurrent(nn.Module):
    """What the three modules share: layers, directions, shapes, packed sequences. A subclass makes the cells."""

    drops_between_layers = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        num_heads: int | None,
        backend: str,
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be between 0 and 1, got {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, float(dropout), bidirectional
        self.num_heads = math.gcd(hidden_size, 4) if num_heads is None else num_heads
        head_width(hidden_size, self.num_heads, "hidden_size")
        self.backend = backend

    def _build(self) -> None:
        directions = 2 if self.bidirectional else 1
        widths = [self.input_size] + [directions * self.hidden_size] * (self.num_layers - 1)
        self.layers = nn.ModuleList(
            nn.ModuleList(self._cell(width, layer) for _ in range(directions)) for layer, width in enumerate(widths)
        )

    def _cell(self, input_size: int, layer: int) -> nn.Module:
        raise TypeError(f"{type(self).__name__} has no cell")  # a subclass without one cannot be built

    def _cells(self) -> list[list[nn.Module]]:
        return [list(cells.children()) for cells in self.layers]

    def reset_parameters(self) -> None:
        """Draw new start values."""
        for cells in self._cells():
            for cell in cells:
                cell.reset_parameters()  # type: ignore[operator]

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """input: [T, B, input_size], or [B, T, input_size] with batch_first, or [T, input_size], or a PackedSequence.
        state: what an earlier call returned, or None. reset, mask: [B, T] bool (documents and padding, see `ops`), batch
        first in every case; a PackedSequence brings its own padding.

        Returns the output, in the form of the input with width hidden_size (times 2 if bidirectional), and the state:
        state[layer][direction], in the order of the caller's batch. The backward direction reads each row from its last
        valid step; its documents end where the next one is reset.
        """
        if isinstance(input, PackedSequence):
            if mask is not None or reset is not None:
                raise ValueError("a PackedSequence has its own padding: give reset and mask with a padded tensor instead")
            padded, lengths = pad_packed_sequence(input, batch_first=True)  # in the caller's order
            valid = torch.arange(padded.shape[1]) < lengths[:, None]
            every = bool(valid.all())
            y, state = self._run(padded, state, None, None if every else valid.to(padded.device))
            order = input.sorted_indices  # the output's data lies in the same order as the input's
            if order is not None:
                y, lengths = y.index_select(0, order), lengths[order.cpu()]
            data = pack_padded_sequence(y, lengths, batch_first=True).data
            return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), state
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            want = "[B, T, {0}]" if self.batch_first else "[T, B, {0}]"
            raise ValueError(f"input must be {want.format(self.input_size)} or [T, {self.input_size}], got {list(input.shape)}")
        x = input.unsqueeze(0) if input.dim() == 2 else input if self.batch_first else input.transpose(0, 1)
        y, state = self._run(x, state, reset, mask)
        if input.dim() == 2:
            return y.squeeze(0), state
        return (y if self.batch_first else y.transpose(0, 1)), state

    def _run(self, x: Tensor, state: State | None, reset: Tensor | None, mask: Tensor | None) -> tuple[Tensor, State]:
        if state is not None:
            self._check_state(state, x.shape[0])
        x = clear_padding(x, mask)
        flipped = _Reverse(reset, mask) if self.bidirectional else None
        after: list[tuple[Any, ...]] = []
        for layer, cells in enumerate(self._cells()):
            if layer and self.drops_between_layers:
                x = dropout(x, self.dropout, self.training)
            outputs, ends = [], []
            for direction, cell in enumerate(cells):
                start = None if state is None else state[layer][direction]
                if direction and flipped is not None:
                    y, end = cell(x.flip(1), start, reset=flipped.reset, mask=flipped.mask)
                    y = y.flip(1)
                else:
                    y, end = cell(x, start, reset=reset, mask=mask)
                outputs.append(y)
                ends.append(end)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            x = clear_padding(x, mask)
            after.append(tuple(ends))
        return x, tuple(after)

    def _check_state(self, state: State, batch: int) -> None:
        directions = 2 if self.bidirectional else 1
        if len(state) != self.num_layers or any(len(s) != directions for s in state):
            raise ValueError(
                f"state must have {self.num_layers} layers of {directions} direction(s): pass what this module returned"
            )
        for leaf in states.leaves(state):
            if leaf.shape[0] != batch:
                raise ValueError(f"state is for a batch of {leaf.shape[0]}, input has {batch}")

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = dict(num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False)
        return text + "".join(f", {name}={getattr(self, name)}" for name, d in defaults.items() if getattr(self, name) != d)


class _Reverse:
    """Masks for reading time backwards: the document that begins at t ends, read backwards, just before step t - 1."""

    def __init__(self, reset: Tensor | None, mask: Tensor | None) -> None:
        self.mask = None if mask is None else mask.flip(1)
        self.reset = None
        if reset is not None:
            self.reset = reset.roll(-1, 1)
            if reset.shape[1]:
                self.reset[:, -1] = False
            self.reset = self.reset.flip(1)


class _SLSTMCell(nn.Module):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_heads: int,
        bias: bool,
        forget_gate: str,
        depth: tuple[int, int],
        backend: str,
    ):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.forget_gate, self.depth, self.backend = forget_gate, depth, backend
        self.W = nn.Linear(input_size, 4 * hidden_size, bias=False)  # gates in the order i f z o
        self.R = nn.Parameter(torch.empty(num_heads, self.head_dim, 4, self.head_dim))  # head, from, gate, to
        self.b = nn.Parameter(torch.empty(4, num_heads, self.head_dim)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(+-1 / sqrt(inputs)) for R, U(+-1 / sqrt(hidden_size)) for W as torch.nn.LSTM, forget bias as sLSTM blocks."""
        bound = self.head_dim**-0.5
        nn.init.uniform_(self.W.weight, -bound / self.num_heads**0.5, bound / self.num_heads**0.5)
        nn.init.uniform_(self.R, -bound, bound)
        if self.b is not None:
            nn.init.zeros_(self.b)
            power_law_init(self.b[1], *self.depth, forget_gate=self.forget_gate)

    def forward(
        self, x: Tensor, state: SLSTMState | None, *, reset: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, SLSTMState]:
        gates = self.W(x).unflatten(-1, (4, self.num_heads, self.head_dim))
        b = self.b if self.b is not None else gates.new_zeros(4, self.num_heads, self.head_dim)
        h, state = slstm_scan(
            gates, self.R, b, state, reset=reset, mask=mask, forget_gate=self.forget_gate, backend=self.backend
        )
        return h.flatten(2), state


class SLSTM(_Recurrent):
    """Layers of bare sLSTM cells: gates = W x + R h + b, h = o c / n.

    Arguments in torch.nn.LSTM's order: input_size, hidden_size, num_layers, bias, batch_first (input and output are
    [B, T, .]), dropout (on the output of all layers but the last), bidirectional (outputs of both directions side by side).
    num_heads: R is block-diagonal over heads; None takes the largest of 4, 2, 1 that divides hidden_size.
    forget_gate: "sigmoid" or "exp". backend: as `ops.slstm_scan`. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        num_heads: int | None = None,
        forget_gate: str = "sigmoid",
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, num_heads, backend)
        self.forget_gate = forget_gate
        self._build()

    def _cell(self, input_size: int, layer: int) -> nn.Module:
        depth = (layer, self.num_layers)
        return _SLSTMCell(input_size, self.hidden_size, self.num_heads, self.bias, self.forget_gate, depth, self.backend)


class _MLSTMCell(nn.Module):
    def __init__(
        self, input_size: int, hidden_size: int, num_heads: int, bias: bool, cap: float | None, eps: float, backend: str
    ) -> None:
        super().__init__()
        self.hidden_size, self.num_heads, self.cap, self.backend = hidden_size, num_heads, cap, backend
        self.qkvo = nn.Linear(input_size, 4 * hidden_size, bias=bias)  # one product: q, k, v, o
        self.gates = nn.Linear(input_size, 2 * num_heads)  # input gates, then forget gates; always with a bias
        self.norm = HeadNorm(num_heads, hidden_size // num_heads, eps=eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(+-1 / sqrt(input_size)) for q, k, v, o; gates read nothing at first; i bias N(0, 0.1), f bias 3..6."""
        self.norm.reset_parameters()
        bound = self.qkvo.weight.shape[1] ** -0.5
        nn.init.uniform_(self.qkvo.weight, -bound, bound)
        if self.qkvo.bias is not None:
            nn.init.zeros_(self.qkvo.bias)
        nn.init.zeros_(self.gates.weight)
        nn.init.normal_(self.gates.bias[: self.num_heads], std=0.1)
        linspace_init(self.gates.bias[self.num_heads :], 3.0, 6.0)

    def forward(
        self, x: Tensor, state: MLSTMState | None, *, reset: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, MLSTMState]:
        q, k, v, o = self.qkvo(x).chunk(4, -1)
        i_pre, f_pre = scalar_gates((x,), self.gates.weight, self.gates.bias, self.cap)
        q, k, v = (y.unflatten(-1, (self.num_heads, self.hidden_size // self.num_heads)) for y in (q, k, v))
        h, state = mlstm_scan(q, k, v, i_pre, f_pre, state, reset=reset, mask=mask, backend=self.backend)
        return torch.sigmoid(o) * self.norm(h), state


class MLSTM(_Recurrent):
    """Layers of mLSTM cells: q, k, v, gates and o are linear in x; h = sigmoid(o) * HeadNorm(C q / max(|n q|, 1)).

    Arguments as SLSTM. bias: of q, k, v and o (the scalar gates always have one). gate_soft_cap: bound of the gate
    pre-activations, or None. num_heads: None takes the largest of 4, 2, 1 that divides hidden_size. backend: as
    `ops.mlstm_scan`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        num_heads: int | None = None,
        gate_soft_cap: float | None = 15.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, num_heads, backend)
        self.gate_soft_cap, self.norm_eps = gate_soft_cap, norm_eps
        self._build()

    def _cell(self, input_size: int, layer: int) -> nn.Module:
        return _MLSTMCell(
            input_size, self.hidden_size, self.num_heads, self.bias, self.gate_soft_cap, self.norm_eps, self.backend
        )


class _BlockCell(nn.Module):
    """One direction of an XLSTM layer: into the residual stream, one block, and out through a norm if it is the last."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, block: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, hidden_size, bias=bias) if input_size != hidden_size else None
        self.block, self.norm = block, norm

    def reset_parameters(self) -> None:
        """torch.nn.Linear's start for the way in, the block's own for the rest."""
        for part in (self.input, self.block, self.norm):
            if part is not None:
                part.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor, state: Any, *, reset: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Any]:
        if self.input is not None:
            x = self.input(x)
        x, state = self.block(x, state, reset=reset, mask=mask)
        return (x if self.norm is None else self.norm(x)), state


class XLSTM(_Recurrent):
    """A stack of whole residual xLSTM blocks, one a layer, with a LayerNorm at the end.

    Arguments as SLSTM. dropout: on the blocks' residual branches. pattern: names out of `openxlstm.layers.BLOCKS`, repeated
    until there are num_layers; "mlstm,slstm" or a sequence of names. An input of another width than hidden_size goes through
    a linear map first (and so do the two directions of every layer after the first). block_options: more arguments
    for blocks by name, e.g. {"slstm": {"conv_width": 0}}.
    """

    drops_between_layers = False  # the blocks drop on their own branches; the residual stream is left whole

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        num_heads: int | None = None,
        pattern: str | Sequence[str] = "mlstm,slstm",
        norm_eps: float = 1e-5,
        backend: str = "auto",
        block_options: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, num_heads, backend)
        names = [name.strip() for name in pattern.split(",")] if isinstance(pattern, str) else list(pattern)
        unknown = [name for name in names if name not in BLOCKS]
        if unknown or not names:
            raise ValueError(f"pattern must name blocks out of {', '.join(BLOCKS)}, got {', '.join(unknown) or 'nothing'}")
        self.pattern = tuple(names[layer % len(names)] for layer in range(num_layers))
        self.norm_eps, self.block_options = norm_eps, dict(block_options or {})
        strangers = [name for name in self.block_options if name not in self.pattern]
        if strangers:
            raise ValueError(f"block_options name {', '.join(strangers)}, and the layers are {', '.join(self.pattern)}")
        self._build()

    def _cell(self, input_size: int, layer: int) -> nn.Module:
        name = self.pattern[layer]
        options: dict[str, Any] = dict(num_blocks=self.num_layers, dropout=self.dropout, norm_eps=self.norm_eps)
        if name != "attention":
            options["backend"] = self.backend
        if name == "slstm":
            options["block_index"] = layer
        heads = 1 if name.startswith("lstm") else self.num_heads  # the classic LSTM is dense, as in models
        block = BLOCKS[name](self.hidden_size, heads, **{**options, **self.block_options.get(name, {})})
        norm = LayerNorm(self.hidden_size, eps=self.norm_eps) if layer == self.num_layers - 1 else None
        return _BlockCell(input_size, self.hidden_size, self.bias, block, norm)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pattern={','.join(self.pattern)}"
