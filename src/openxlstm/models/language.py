"""The language model: embedding, stack, head."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.init import small_init
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.pretrained import PretrainedModel
from openxlstm.models.stack import BlockStack, StackState
from openxlstm.ops.numerics import accumulation_dtype, soft_cap


class LanguageModel(PretrainedModel):
    """Predicts the next token: `logits, state = model(ids, state=None)`.

    The same call trains, reads a prompt and decodes a token; `state` is a tuple with one entry per block (openxlstm.ops.state
    has helpers for it). Built from a LanguageModelConfig, a preset (`openxlstm.models.presets`) or a checkpoint
    (`from_pretrained`). Embedding and head start as in the paper: N(0, 2/(5 dim)).
    """

    config_type = LanguageModelConfig
    config: LanguageModelConfig

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.stack = BlockStack(config)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        small_init(self.embedding.weight, config.dim)
        if self.lm_head is not None:
            small_init(self.lm_head.weight, config.dim)

    def forward(
        self, ids: Tensor, state: StackState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """Score every next token.

        ids: [B, T] int64. state: where to start, None is the empty state. reset: [B, T] bool, empty the state before this
        step (the first token of a document). mask: [B, T] bool, False = padding: the state passes.
        Returns logits [B, T, V] (float32, or float64 in a float64 model) and the last state.
        Raises ValueError for shapes, dtypes and ids outside the vocabulary.
        """
        h, state = self.hidden(ids, state, reset=reset, mask=mask)
        return self.head(h), state

    def hidden(
        self, ids: Tensor, state: StackState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """What the head sees: h [B, T, D] after the final norm, and the last state. Arguments as in `forward`."""
        check_ids(ids, self.config.vocab_size)
        x = F.dropout(self.embedding(ids), self.config.embedding_dropout, self.training)
        return self.stack(x, state, reset=reset, mask=mask)

    @property
    def head_weight(self) -> Tensor:
        """[V, D]: what hidden vectors are multiplied with."""
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight

    def head(self, h: Tensor) -> Tensor:
        """Logits [..., V] of hidden vectors [..., D], soft-capped if the config says so."""
        logits = F.linear(h, self.head_weight)
        return soft_cap(logits.to(accumulation_dtype(logits)), self.config.logit_soft_cap)

    @classmethod
    def _read(cls, folder: Path, **how: Any) -> Any:
        from openxlstm.models.weights import load_checkpoint

        return load_checkpoint(folder, **how)


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Raise ValueError unless `ids` is [B, T] integers in [0, vocab_size). (Values are looked at on the CPU only.)"""
    if ids.dim() != 2:
        raise ValueError(f"ids must be [B, T], got {list(ids.shape)}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"ids must be int64 or int32, got {ids.dtype}")
    if ids.numel() and ids.device.type == "cpu" and not torch.compiler.is_compiling() and type(ids) is Tensor:
        low, high = (int(x) for x in torch.aminmax(ids))
        if low < 0 or high >= vocab_size:
            raise ValueError(f"ids must be in [0, {vocab_size}), got {low if low < 0 else high}")
