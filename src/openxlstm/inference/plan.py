"""A language model as the list of operations that csrc/decode.h describes: which, on what, and when threads wait."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from openxlstm.inference.memory import AttentionMemory, BlockMemory, ConvMemory, MLSTMMemory, RecurrentMemory
from openxlstm.inference.packing import STORAGES, Shape, interleave, pack, strips_for
from openxlstm.layers import (
    AttentionBlock,
    GatedFeedForward,
    HeadNorm,
    HeadwiseLinear,
    LayerNorm,
    LSTMBlock,
    LSTMResidualBlock,
    MLSTMBlock,
    MLSTMLargeBlock,
    RMSNorm,
    SLSTMBlock,
)
from openxlstm.layers.gates import ScalarGates
from openxlstm.layers.lstm import LSTMBlockState
from openxlstm.layers.mlstm import MLSTMBlockState
from openxlstm.layers.mlstm_large import MLSTMLargeBlockState
from openxlstm.layers.slstm import SLSTMBlockState
from openxlstm.models.language import LanguageModel
from openxlstm.ops import LSTMState, SLSTMState

ACTIVATIONS = {"none": 0, "silu": 1, "sigmoid": 2, "gelu": 3, "soft cap": 4}

SMALL_BLOCK = 16
"""Diagonal blocks narrower than this are applied a row at a time, wider ones as products."""

Pointer = ctypes.c_void_p
_int, _long, _float = ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class Place(ctypes.Structure):
    _fields_ = (("before", _long), ("width", _int), ("offset", _int), ("own", _long))


class Matrix(ctypes.Structure):
    _fields_ = (
        ("panels", Pointer), ("scale", Pointer), ("bias", Pointer),
        ("storage", _int), ("inner", _int), ("groups", _int), ("count", _int), ("strips", _int),
    )  # fmt: skip


class Op(ctypes.Structure):
    _fields_ = (("kind", _int), ("wait", _int), ("args", Pointer))


class Plan(ctypes.Structure):
    _fields_ = (
        ("ops", Pointer), ("num_ops", _long), ("slots", _long),
        ("own_width", _long), ("common_width", _long), ("thread_width", _long), ("steps", Pointer),
    )  # fmt: skip


class Embed(ctypes.Structure):
    _fields_ = (("to", Place), ("table", Pointer), ("vocab_size", _long), ("dim", _int), ("bf16", _int))


class Norm(ctypes.Structure):
    _fields_ = (
        ("source", Place), ("to", Place), ("weight", Pointer), ("bias", Pointer),
        ("dim", _int), ("rms", _int), ("eps", _float),
    )  # fmt: skip


class Add(ctypes.Structure):
    _fields_ = (("source", Place), ("to", Place), ("dim", _int))


class Convolve(ctypes.Structure):
    _fields_ = (
        ("source", Place), ("to", Place), ("taps", Pointer), ("bias", Pointer), ("state", Pointer),
        ("channels", _int), ("width", _int),
    )  # fmt: skip


class Headwise(ctypes.Structure):
    _fields_ = (("source", Place), ("to", Place), ("weight", Pointer), ("channels", _int), ("size", _int))


class HeadNormalise(ctypes.Structure):
    _fields_ = (
        ("source", Place), ("scale", Place), ("skip_from", Place), ("gate", Place), ("to", Place), ("head", _long),
        ("weight", Pointer), ("bias", Pointer), ("skip", Pointer),
        ("heads", _int), ("dim", _int), ("scaled", _int), ("gated", _int), ("eps", _float),
    )  # fmt: skip


class Join(ctypes.Structure):
    _fields_ = (("source", Place), ("to", Place), ("h", Pointer), ("group", _long), ("heads", _int), ("dim", _int))


class Quantise(ctypes.Structure):
    _fields_ = (
        ("source", Place), ("to", Place), ("source_group", _long), ("to_group", _long), ("groups", _int), ("inner", _int),
    )  # fmt: skip


class Rotary(ctypes.Structure):
    _fields_ = (("to", Place), ("frequency", Pointer), ("position", Pointer), ("half", _int))


class Product(ctypes.Structure):
    _fields_ = (
        ("matrix", Matrix), ("source", Place), ("to", Place), ("source_group", _long), ("to_group", _long),
        ("outer", _int), ("activation", _int), ("cap", _float), ("is_head", _int),
    )  # fmt: skip


class Gates(ctypes.Structure):
    _fields_ = (
        ("source", Place * 3), ("to", Place), ("weight", Pointer), ("bias", Pointer), ("m", Pointer),
        ("inputs", _int), ("width", _int * 3), ("heads", _int), ("sigmoid_input", _int), ("normalize", _int), ("cap", _float),
    )  # fmt: skip


class Mlstm(ctypes.Structure):
    _fields_ = (
        ("q", Place), ("k", Place), ("v", Place), ("gates", Place), ("to", Place), ("scale", Place),
        ("C", Pointer), ("n", Pointer), ("head", _long),
        ("heads", _int), ("key_dim", _int), ("value_dim", _int), ("normalize", _int), ("eps", _float),
    )  # fmt: skip


class Recurrent(ctypes.Structure):
    _fields_ = (
        ("matrix", Matrix), ("if_source", Place), ("zo_source", Place), ("to", Place),
        ("h", Pointer), ("c", Pointer), ("n", Pointer), ("m", Pointer), ("group", _long), ("head", _long),
        ("heads", _int), ("dim", _int), ("exp_forget", _int),
    )  # fmt: skip


class Attend(ctypes.Structure):
    _fields_ = (
        ("qkv", Place), ("table", Place), ("to", Place), ("k", Pointer), ("v", Pointer), ("alive", Pointer),
        ("length", Pointer), ("position", Pointer), ("capacity", _long), ("heads", _int), ("dim", _int),
    )  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """An operation by its number in csrc/decode.h. by_row: a row is computed by one thread (or by each for itself); else the
    work on all rows is split."""

    number: int
    args: type[ctypes.Structure]
    by_row: bool


EMBED, NORM, ADD = Kind(0, Embed, True), Kind(1, Norm, True), Kind(2, Add, True)
CONVOLVE, HEADWISE, HEAD_NORM = Kind(3, Convolve, True), Kind(4, Headwise, True), Kind(5, HeadNormalise, True)
JOIN, QUANTISE, ROTARY = Kind(6, Join, True), Kind(7, Quantise, True), Kind(8, Rotary, True)
PRODUCT, GATED, GATES = Kind(9, Product, False), Kind(10, Product, False), Kind(11, Gates, False)
MLSTM, RECURRENT, ATTEND = Kind(12, Mlstm, False), Kind(13, Recurrent, False), Kind(14, Attend, False)
KINDS = (
    EMBED, NORM, ADD, CONVOLVE, HEADWISE, HEAD_NORM, JOIN, QUANTISE, ROTARY, PRODUCT, GATED, GATES, MLSTM, RECURRENT, ATTEND,
)  # fmt: skip

GO, WAIT, WAIT_IF_SHARED = 0, 1, 2


@dataclass
class Pending:
    """A matrix of an operation that gets its place in memory once the sizes of all are known."""

    shape: Shape
    parts: list[Tensor]
    bias: list[Tensor] | None
    matrix: Matrix


@dataclass
class Builder:
    """Collects the operations of a model.

    slots: streams that have a memory. lanes: floats in a vector of the library. threads: how many will share the work (for
    the sizes of panels; any number may run). storage: how weights are kept.
    """

    slots: int
    lanes: int
    threads: int
    storage: str
    steps: Tensor  # [slots] int64
    memories: list[Any] = field(default_factory=list)  # one a block: how to read and write its state
    kept: list[Any] = field(default_factory=list)  # what addresses point to
    weight_bytes: int = 0  # read for each step
    waits: int = 0
    _ops: list[tuple[Kind, int, ctypes.Structure]] = field(default_factory=list)
    _pending: list[Pending] = field(default_factory=list)
    _places: dict[tuple[str, int, bool], Place] = field(default_factory=dict)
    _widths: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # own, common
    _thread_width: int = 16

    # Parts of a plan.

    def place(self, name: str, width: int, *, own: bool = False) -> Place:
        """Where a vector of `width` stands; the same name and width is the same place."""
        padded = -(-width // 16) * 16
        key = (name, padded, own)
        if key not in self._places:
            self._places[key] = Place(self._widths[own], padded, 0, own)
            self._widths[own] += padded
        return self._places[key]

    def add(self, kind: Kind, *, along: bool = False, **args: Any) -> ctypes.Structure:
        """One more operation. along: it needs nothing of the one before, and the threads go on to it without waiting."""
        before = self._ops[-1][0] if self._ops else None
        if before is None or along or (before.by_row and kind.by_row):
            wait = GO
        else:
            wait = WAIT_IF_SHARED if before.by_row else WAIT
            self.waits += wait == WAIT
        op = kind.args(**args)
        self._ops.append((kind, wait, op))
        return op

    def numbers(self, x: Tensor, *, pad: bool = True) -> int:
        """The address of a float32 copy of x, its last dimension filled up to a multiple of 16."""
        x = x.detach().float()
        if pad:
            x = nn.functional.pad(x, (0, -x.shape[-1] % 16))
        x = x.contiguous().clone()
        self.kept.append(x)
        self.weight_bytes += x.numel() * 4
        return x.data_ptr()

    def maybe(self, x: Tensor | None) -> int | None:
        """The same where there may be nothing."""
        return None if x is None else self.numbers(x)

    def pack(self, matrix: Matrix, parts: Sequence[Tensor], bias: Sequence[Tensor] | None = None) -> None:
        """`matrix`, of an operation, will be packed of parts [outer, inner] or [groups, outer, inner]."""
        full = [x.detach() if x.dim() == 3 else x.detach()[None] for x in parts]
        groups, outer, inner = full[0].shape
        strips = strips_for(-(-outer // self.lanes), len(parts), groups, self.threads)
        shape = Shape(
            groups=groups, outer=outer, inner=inner, parts=len(parts), lanes=self.lanes, strips=strips, storage=self.storage
        )
        matrix.storage, matrix.inner, matrix.groups = STORAGES[self.storage], inner, groups
        matrix.count, matrix.strips = shape.count, strips
        biases = None if bias is None else [b.detach().reshape(groups, outer) for b in bias]
        self._pending.append(Pending(shape, full, biases, matrix))

    def ready(self, name: str, source: Place, inner: int, *, groups: int = 1, group: int = 0) -> tuple[Place, int]:
        """Vectors as products want them, and the distance between those of two groups: quantised where weights are int8."""
        if self.storage != "int8":
            return source, group
        words = -(-(4 + -(-inner // 4) * 4 + 16) // 16) * 16
        to = self.place(f"{name} quantised", groups * words, own=True)
        self.add(QUANTISE, source=source, to=to, source_group=group, to_group=words, groups=groups, inner=inner)
        return to, words

    def product(
        self,
        source: Place,
        to: Place | None,
        *weights: Tensor,
        bias: Sequence[Tensor] | None = None,
        activation: str = "none",
        cap: float | None = None,
        along: bool = False,
        source_group: int = 0,
    ) -> None:
        """to = activation(W source + bias), or with two weights activation(W source) * (V source); `to` None: the logits."""
        groups = weights[0].shape[0] if weights[0].dim() == 3 else 1
        outer = weights[0].shape[-2]
        op = self.add(
            PRODUCT if len(weights) == 1 else GATED,
            along=along,
            source=source,
            source_group=source_group,
            to_group=outer if groups > 1 else 0,
            outer=outer,
            activation=ACTIVATIONS[activation],
            cap=cap or 0.0,
            is_head=to is None,
        )
        self.pack(op.matrix, weights, bias)
        if to is not None:
            op.to = to

    def norm(self, name: str, norm: nn.Module, source: Place, dim: int) -> Place:
        """LayerNorm or RMSNorm."""
        assert isinstance(norm, (LayerNorm, RMSNorm))
        to = self.place(name, dim, own=True)
        self.add(
            NORM, source=source, to=to, weight=self.numbers(norm.weight), bias=self.maybe(norm.bias),
            dim=dim, rms=isinstance(norm, RMSNorm), eps=norm.eps,
        )  # fmt: skip
        return to

    def head_norm(
        self,
        norm: HeadNorm,
        source: Place,
        head: int,
        *,
        scale: Place | None = None,
        skip: tuple[Tensor, Place] | None = None,
        gate: Place | None = None,
    ) -> Place:
        """LayerNorm of every head; its vectors stand `head` floats apart."""
        to = self.place("normed heads", norm.dim, own=True)
        op = self.add(
            HEAD_NORM, source=source, to=to, head=head, weight=self.numbers(norm.weight), bias=self.maybe(norm.bias),
            heads=norm.num_heads, dim=norm.head_dim, scaled=scale is not None, gated=gate is not None, eps=norm.eps,
        )  # fmt: skip
        if scale is not None:
            op.scale = scale
        if skip is not None:
            op.skip, op.skip_from = self.numbers(skip[0]), skip[1]
        if gate is not None:
            op.gate = gate
        return to

    def feed_forward(self, ffn: GatedFeedForward, norm: nn.Module, x: Place) -> None:
        """x += down(act(gate) * up) of the normed x."""
        u, _ = self.ready("ffn input", self.norm("normed", norm, x, ffn.dim), ffn.dim)
        hidden = self.place("hidden", ffn.hidden)
        gate, up = ffn.up.weight.chunk(2)
        bias = None if ffn.up.bias is None else ffn.up.bias.chunk(2)
        self.product(u, hidden, gate, up, bias=bias, activation=ffn.activation)
        self.residual("down", hidden, ffn.down, x)

    def residual(self, name: str, source: Place, linear: nn.Linear, x: Place) -> None:
        """x += linear(source)."""
        u, _ = self.ready(name, source, linear.in_features)
        y = self.place(name, linear.out_features)
        self.product(u, y, linear.weight, bias=_biases(linear))
        self.add(ADD, source=y, to=x, dim=linear.out_features)

    # Blocks.

    def mlstm(self, block: MLSTMBlock, x: Place) -> None:
        inner, H = block.inner, block.num_heads
        D = inner // H
        u, _ = self.ready("up", self.norm("normed", block.norm, x, block.dim), block.dim)
        wide, z = self.place("u", inner), self.place("z", inner)
        first, second = block.up.weight.chunk(2)
        self.product(u, wide, first)
        self.product(u, z, second, activation="silu", along=True)
        a, conv = self.convolution(block.conv, wide, inner)
        q, k, v = self.block_diagonal((block.q, block.k, block.v), (a, a, wide), inner)
        h, scale, distance, memory = self.cell(
            (q, k, v), H, D, D,
            gates=block.gates, inputs=(q, k, v), cap=block.gate_soft_cap, input_gate=block.input_gate,
            normalize=True, eps=1e-6, along=False,
        )  # fmt: skip
        y = self.head_norm(block.head_norm, h, distance, scale=scale, skip=(block.skip, a), gate=z)
        self.residual("down", y, block.down, x)
        self.memories.append(BlockMemory(MLSTMBlockState, (conv, memory)))

    def mlstm_large(self, block: MLSTMLargeBlock, x: Place) -> None:
        H, K, V = block.num_heads, block.qk_dim, block.v_dim
        normed = self.norm("normed", block.norm, x, block.dim)
        u, _ = self.ready("qkvo", normed, block.dim)
        qkv, o = self.place("qkv", 2 * K + V), self.place("o", V)
        sizes = (2 * K + V, V)
        first, second = block.qkvo.weight.split(sizes)
        bias = (None, None) if block.qkvo.bias is None else tuple([b] for b in block.qkvo.bias.split(sizes))
        self.product(u, qkv, first, bias=bias[0])
        self.product(u, o, second, bias=bias[1], activation="sigmoid", along=True)
        q, k, v = _part(qkv, 0), _part(qkv, K), _part(qkv, 2 * K)
        h, scale, distance, memory = self.cell(
            (q, k, v), H, K // H, V // H,
            gates=block.gates, inputs=(normed,), cap=block.gate_soft_cap, input_gate=block.input_gate,
            normalize=block.normalize, eps=block.cell_eps, along=True,
        )  # fmt: skip
        y = self.head_norm(block.head_norm, h, distance, scale=scale, gate=o)
        self.residual("out", y, block.out, x)
        self.feed_forward(block.ffn, block.ffn_norm, x)
        self.memories.append(BlockMemory(MLSTMLargeBlockState, (memory,)))

    def slstm(self, block: SLSTMBlock, x: Place) -> None:
        u = self.norm("normed", block.norm, x, block.dim)
        a, conv = self.convolution(block.conv, u, block.dim)
        memory = self.recurrent(block, a, u, SLSTMState)
        self.head_norm_residual(block.head_norm, x)
        self.feed_forward(block.ffn, block.ffn_norm, x)
        self.memories.append(BlockMemory(SLSTMBlockState, (conv, memory)))

    def lstm(self, block: LSTMBlock, x: Place) -> None:
        assert block.norm is not None
        assert block.head_norm is not None
        u = self.norm("normed", block.norm, x, block.dim)
        memory = self.recurrent(block, u, u, LSTMState)
        self.head_norm_residual(block.head_norm, x)
        if block.ffn is not None and block.ffn_norm is not None:
            self.feed_forward(block.ffn, block.ffn_norm, x)
        self.memories.append(BlockMemory(LSTMBlockState, (memory,)))

    def attention(self, block: AttentionBlock, x: Place) -> None:
        dim, H = block.dim, block.num_heads
        D = dim // H
        u, _ = self.ready("qkv", self.norm("normed", block.norm, x, dim), dim)
        memory = AttentionMemory(self.slots, H, D)
        frequency = block.rope_base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        self.kept.append(frequency)
        table = self.place("rotary", D, own=True)
        self.add(ROTARY, to=table, frequency=frequency.data_ptr(), position=memory.position.data_ptr(), half=D // 2)
        qkv, h = self.place("qkv", 3 * dim), self.place("attended", dim)
        self.product(u, qkv, block.qkv.weight)
        op = self.add(ATTEND, qkv=qkv, table=table, to=h, heads=H, dim=D)
        memory.attach(op)
        self._thread_width = max(self._thread_width, 2 * (-(-D // 16) * 16))
        self.residual("out", h, block.out, x)
        self.feed_forward(block.ffn, block.ffn_norm, x)
        self.memories.append(memory)

    # Their parts.

    def convolution(self, conv: Any, source: Place, dim: int) -> tuple[Place, ConvMemory | None]:
        """silu(conv(source)), or without a convolution the source itself."""
        if conv is None:
            return source, None
        width = conv.weight.shape[1]
        memory = ConvMemory(self.slots, width, dim, self.steps)
        to = self.place("convolved", dim, own=True)
        self.add(
            CONVOLVE, source=source, to=to, taps=self.numbers(conv.weight.T), bias=self.maybe(conv.bias),
            state=memory.ring.data_ptr(), channels=dim, width=width,
        )  # fmt: skip
        return to, memory

    def block_diagonal(self, maps: Sequence[HeadwiseLinear], sources: Sequence[Place], dim: int) -> list[Place]:
        """One block-diagonal map after another, q, k and v."""
        size = dim // maps[0].num_blocks
        if size < SMALL_BLOCK:
            places = [self.place(name, dim, own=True) for name in "qkv"]
            for to, each, source in zip(places, maps, sources, strict=True):
                weight = each.weight.permute(2, 0, 1).reshape(size, dim)  # [from, to]
                self.add(HEADWISE, source=source, to=to, weight=self.numbers(weight), channels=dim, size=size)
            return places
        places = [self.place(f"{name} of blocks", dim) for name in "qkv"]
        options: dict[str, Any] = dict(groups=dim // size, group=size)
        ready = [self.ready("convolved", sources[0], size, **options)] * 2 + [self.ready("u", sources[2], size, **options)]
        for to, each, (source, group) in zip(places, maps, ready, strict=True):
            self.product(source, to, each.weight, source_group=group, along=to is not places[0])
        return places

    def cell(
        self,
        qkv: Sequence[Place],
        H: int,
        K: int,
        V: int,
        *,
        gates: nn.Linear | ScalarGates,
        inputs: Sequence[Place],
        cap: float | None,
        input_gate: str,
        normalize: bool,
        eps: float,
        along: bool,
    ) -> tuple[Place, Place, int, MLSTMMemory]:
        """Gates and step of the mLSTM: where the read-outs of the heads stand, what they are to be multiplied by, the
        distance of two heads, and the memory. along: the gates need nothing of the products before."""
        memory = MLSTMMemory(self.slots, H, K, V, self.lanes)
        pre, distance = self.place("gates", 4 * H), -(-V // 16) * 16
        h, scale = self.place("h", H * distance), self.place("scale", H)
        op = self.add(
            GATES, along=along, to=pre, weight=self.numbers(gates.weight, pad=False), bias=self.numbers(gates.bias),
            m=memory.m.data_ptr(), inputs=len(inputs), heads=H, sigmoid_input=input_gate == "sigmoid", normalize=normalize,
            cap=cap or 0.0,
        )  # fmt: skip
        for j, source in enumerate(inputs):
            op.source[j], op.width[j] = source, gates.in_features // len(inputs)
        self.add(
            MLSTM, q=qkv[0], k=qkv[1], v=qkv[2], gates=pre, to=h, scale=scale, C=memory.C.data_ptr(), n=memory.n.data_ptr(),
            head=distance, heads=H, key_dim=K, value_dim=V, normalize=normalize, eps=eps,
        )  # fmt: skip
        return h, scale, distance, memory

    def recurrent(self, block: Any, a: Place, u: Place, kind: type) -> RecurrentMemory:
        """Gates and step of sLSTM or LSTM. The gates i and f see a, z and o see u; each head's own last output stands behind
        its inputs, so that [W R] is one matrix."""
        H, D = block.num_heads, block.dim // block.num_heads
        memory = RecurrentMemory(self.slots, H, D, kind, self.steps)
        group = -(-2 * D // 16) * 16
        joined: dict[int, tuple[Place, int]] = {}
        for name, source in (("a", a), ("u", u)):
            if id(source) not in joined:
                to = self.place(f"{name} and h", H * group, own=True)
                self.add(JOIN, source=source, to=to, h=memory.h.data_ptr(), group=group, heads=H, dim=D)
                joined[id(source)] = self.ready(f"{name} and h", to, 2 * D, groups=H, group=group)
        (if_source, distance), (zo_source, _) = joined[id(a)], joined[id(u)]
        R = block.R.permute(2, 0, 3, 1)  # [gate, head, to, from]
        weights = [torch.cat([block.W[g], R[g]], -1) for g in range(4)]  # i f z o: [H, D, 2 D]
        padded = -(-D // 16) * 16
        op = self.add(
            RECURRENT, if_source=if_source, zo_source=zo_source, to=self.place("units", H * padded),
            h=memory.h.data_ptr(), c=memory.c.data_ptr(),
            n=memory.n.data_ptr() if memory.n is not None else None, m=memory.m.data_ptr() if memory.m is not None else None,
            group=distance, head=padded, heads=H, dim=D, exp_forget=getattr(block, "forget_gate", "") == "exp",
        )  # fmt: skip
        self.pack(op.matrix, weights, list(block.b))
        return memory

    def head_norm_residual(self, norm: HeadNorm, x: Place) -> None:
        """x += HeadNorm(units)."""
        padded = -(-norm.head_dim // 16) * 16
        y = self.head_norm(norm, self.place("units", norm.num_heads * padded), padded)
        self.add(ADD, source=y, to=x, dim=norm.dim)

    # The whole.

    def model(self, model: LanguageModel) -> None:
        """Embedding, blocks, final norm, head."""
        config = model.config
        x = self.place("x", config.dim, own=True)
        bf16 = self.storage != "fp32"
        table = model.embedding.weight.detach().to(torch.bfloat16 if bf16 else torch.float32, copy=True).contiguous()
        self.kept.append(table)
        self.add(EMBED, to=x, table=table.data_ptr(), vocab_size=config.vocab_size, dim=config.dim, bf16=bf16)
        for block in model.stack.blocks:
            BLOCKS[type(block)](self, block, x)
        h = x if isinstance(model.stack.norm, nn.Identity) else self.norm("normed", model.stack.norm, x, config.dim)
        h, _ = self.ready("head", h, config.dim)
        weight = model.embedding.weight if model.lm_head is None else model.lm_head.weight
        cap = config.logit_soft_cap
        self.product(h, None, weight, activation="none" if cap is None else "soft cap", cap=cap)

    def plan(self, allocate: Callable[[int], Tensor]) -> Plan:
        """Pack the matrices into one block of memory, in the order of use, and write the list of operations."""
        arena = allocate(sum(p.shape.bytes for p in self._pending))
        self.kept.append(arena)
        start = 0
        for pending in self._pending:
            panels = arena[start : start + pending.shape.bytes]
            start += pending.shape.bytes
            scale = pack(pending.shape, pending.parts, panels)
            pending.matrix.panels = panels.data_ptr()
            if scale is not None:
                pending.matrix.scale = self.numbers(scale)
            if pending.bias is not None:
                pending.matrix.bias = self.numbers(interleave(pending.shape, pending.bias).flatten())
        self._pending.clear()
        self.weight_bytes += start
        ops = (Op * len(self._ops))()
        for i, (kind, wait, args) in enumerate(self._ops):
            ops[i] = Op(kind.number, wait, ctypes.addressof(args))
        self.kept += [ops, self._ops]
        return Plan(
            ops=ctypes.addressof(ops), num_ops=len(ops), slots=self.slots, own_width=self._widths[True],
            common_width=self._widths[False], thread_width=self._thread_width, steps=self.steps.data_ptr(),
        )  # fmt: skip


BLOCKS: dict[type[nn.Module], Callable[[Builder, Any, Place], None]] = {
    MLSTMBlock: Builder.mlstm,
    MLSTMLargeBlock: Builder.mlstm_large,
    SLSTMBlock: Builder.slstm,
    LSTMBlock: Builder.lstm,
    LSTMResidualBlock: Builder.lstm,
    AttentionBlock: Builder.attention,
}
"""What each kind of block becomes."""


def _part(place: Place, offset: int) -> Place:
    return Place(place.before, place.width, offset, place.own)


def _biases(linear: nn.Linear) -> list[Tensor] | None:
    return None if linear.bias is None else [linear.bias]
