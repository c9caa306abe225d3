"""One text becomes another: an encoder that reads both ways, and a decoder that writes, with three ways between them."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from openxlstm.layers import BLOCKS, CrossAttention
from openxlstm.layers.cross_attention import AttentionMemory
from openxlstm.layers.init import small_init
from openxlstm.models.config import EncoderDecoderConfig, StackConfig
from openxlstm.models.stack import BlockStack, StackState, block_options, final_norm
from openxlstm.models.tokens import TokenModel
from openxlstm.ops.numerics import clear_padding
from openxlstm.ops.state import LSTMState, MLSTMState, SLSTMState, select


class DecoderState(NamedTuple):
    """What a decoder remembers: of the source, and of what it wrote itself."""

    blocks: StackState
    memory: tuple[AttentionMemory, ...]  # one a block for cross-attention, else none
    mask: Tensor | None  # [B, S] bool, False = padding of that memory

    def reorder(self, rows: Tensor) -> Self:
        """The states of some rows where each takes the place of one with the same source, whose memory can stay."""
        return self._replace(blocks=select(self.blocks, rows))


class EncoderDecoder(TokenModel):
    """Writes a text that depends on another: `state = model.encode(source)`, then `logits, state = model(ids, state)`.

    The second call is that of a LanguageModel: it trains on whole targets and writes token by token, and `openxlstm.inference`
    generates with it. Source and target share the embedding. `config.bridge` says how the decoder knows the source:

    cross_attention: each block of the decoder is followed by attention to the encoder's outputs.
    state: each block of the decoder starts from the last states of the encoder's block, of both directions; the first thing
        that the decoder reads is the mean of the encoder's outputs.
    prefix: the decoder reads the source, then goes on with the target. There is no encoder, and the source may come in pieces.
    """

    config_type = EncoderDecoderConfig
    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.encoder = BidirectionalStack(config.encoder) if config.encoder is not None else None
        self.decoder = BlockStack(config)
        crossed = config.num_blocks if config.bridge == "cross_attention" else 0
        self.cross = nn.ModuleList(
            CrossAttention(config.dim, config.num_heads, num_blocks=config.num_blocks, dropout=config.dropout)
            for _ in range(crossed)
        )
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        small_init(self.embedding.weight, config.dim)
        if self.lm_head is not None:
            small_init(self.lm_head.weight, config.dim)

    def encode(self, source: Tensor, mask: Tensor | None = None, state: DecoderState | None = None) -> DecoderState:
        """Read the source.

        source: [B, S] int64. mask: [B, S] bool, False = padding. state: for bridge "prefix" alone, what an earlier call
        returned: the source goes on. Returns the state in which the decoder begins.
        Raises ValueError for shapes, ids outside the vocabulary, and a state where whole sources are read.
        """
        if self.encoder is None:
            x, before = self.embed(source), None if state is None else state.blocks
            return DecoderState(self.decoder(x, before, mask=mask)[1], (), None)
        if state is not None:
            raise ValueError("an encoder that reads both ways reads whole sources: it takes no state")
        encoded, states = self.encoder(self.embed(source), mask)
        if self.config.bridge == "state":
            _, blocks = self.decoder(mean_step(encoded, mask), tuple(joined(*both) for both in states))
            return DecoderState(blocks, (), None)
        memories = tuple(cross.memory(encoded) for cross in self.cross)  # type: ignore[operator]
        return DecoderState((None,) * self.config.num_blocks, memories, mask)

    def forward(
        self, ids: Tensor, state: DecoderState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """Score every next token of the target.

        ids: [B, T] int64, what was written so far; the end token begins a target. state: what `encode` or an earlier call
        returned. mask: [B, T] bool, False = padding. Returns logits [B, T, V] (float32, or float64 in a float64 model) and the
        last state. Raises ValueError for shapes, ids outside the vocabulary, a missing state, and `reset`.
        """
        h, state = self.hidden(ids, state, reset=reset, mask=mask)
        return self.head(h), state

    def hidden(
        self, ids: Tensor, state: DecoderState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """What the head sees: h [B, T, D] after the final norm, and the last state. Arguments as in `forward`."""
        if state is None:
            raise ValueError("the decoder begins from what `encode` returns: give it as the state")
        if reset is not None:
            raise ValueError("a decoder writes one target a row: it takes no reset")
        x = self.embed(ids)
        if not self.cross:
            h, blocks = self.decoder(x, state.blocks, mask=mask)
            return h, state._replace(blocks=blocks)
        x = clear_padding(x, mask)
        after = []
        for block, cross, before, memory in zip(self.decoder.blocks, self.cross, state.blocks, state.memory, strict=True):
            x, new = block(x, before, mask=mask)
            x = cross(x, memory, state.mask)
            after.append(new)
        return self.decoder.norm(x), state._replace(blocks=tuple(after))


class BidirectionalStack(nn.Module):
    """Layers that read both ways: what a block that reads forwards and one that reads backwards add to the residual stream is
    added up. `attention` sees both sides by itself, and is one block."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.forwards, self.backwards = nn.ModuleList(), nn.ModuleList()
        for index, kind in enumerate(config.blocks):
            options = block_options(config, kind, index)
            both_sides = {"causal": False} if kind == "attention" else {}
            self.forwards.append(BLOCKS[kind](**options, **both_sides))
            self.backwards.append(nn.Identity() if both_sides else BLOCKS[kind](**options))
        self.norm = final_norm(config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[tuple[Any, Any]]]:
        """x [B, S, D], mask [B, S] bool. Returns y [B, S, D] and, for each layer, the last states of both directions (None
        where there is one block)."""
        x = clear_padding(x, mask)
        flipped = None if mask is None else mask.flip(1)
        states: list[tuple[Any, Any]] = []
        for forwards, backwards in zip(self.forwards, self.backwards, strict=True):
            y, last = forwards(x, mask=mask)
            first = None
            if not isinstance(backwards, nn.Identity):
                back, first = backwards(x.flip(1), mask=flipped)
                y = y + back.flip(1) - x  # x + what one adds + what the other adds
            states.append((last, first))
            x = y
        return self.norm(x), states


def mean_step(encoded: Tensor, mask: Tensor | None) -> Tensor:
    """The mean [B, 1, D] of the steps that are not padding; encoded [B, S, D]."""
    if mask is None:
        return encoded.mean(1, keepdim=True)
    count = mask.sum(1).clamp(min=1)[:, None, None]
    return clear_padding(encoded, mask).sum(1, keepdim=True) / count.to(encoded.dtype)


def joined(forwards: Any, backwards: Any) -> Any:
    """One state out of the last states of a block that read forwards and one that read backwards: the mean of both memories,
    each brought to the same scale `m` first. What is not memory, the window of a convolution, is emptied. Of a block that sees
    both sides (backwards is None) it is that block's state."""
    if backwards is None:
        return forwards
    if isinstance(forwards, (MLSTMState, SLSTMState)):
        m = torch.maximum(forwards.m, backwards.m).detach()
        ours, theirs = (torch.exp(state.m - m) / 2 for state in (forwards, backwards))
        if isinstance(forwards, SLSTMState):
            c, n = (ours * a + theirs * b for a, b in ((forwards.c, backwards.c), (forwards.n, backwards.n)))
            return SLSTMState((forwards.h + backwards.h) / 2, c, n, m)
        C = ours[..., None, None] * forwards.C + theirs[..., None, None] * backwards.C
        return MLSTMState(C, ours[..., None] * forwards.n + theirs[..., None] * backwards.n, m)
    if isinstance(forwards, LSTMState):
        return LSTMState(*((a + b) / 2 for a, b in zip(forwards, backwards)))
    if isinstance(forwards, Tensor):
        return torch.zeros_like(forwards)
    if forwards is None:
        return None
    return type(forwards)(*(joined(a, b) for a, b in zip(forwards, backwards, strict=True)))
