"""What models that read and score tokens share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.dropout import dropout
from openxlstm.models.pretrained import PretrainedModel
from openxlstm.ops.numerics import accumulation_dtype, soft_cap


class TokenModel(PretrainedModel):
    """A model with an embedding of tokens and a head that scores them.

    lm_head: None where the head shares the embedding.
    """

    config: Any
    embedding: nn.Embedding
    lm_head: nn.Linear | None

    @property
    def head_weight(self) -> Tensor:
        """[V, D]: what hidden vectors are multiplied with."""
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight

    def head(self, h: Tensor) -> Tensor:
        """Logits [..., V] of hidden vectors [..., D], soft-capped if the config says so."""
        logits = F.linear(h, self.head_weight)
        return soft_cap(logits.to(accumulation_dtype(logits)), self.config.logit_soft_cap)

    def embed(self, ids: Tensor) -> Tensor:
        """Tokens [B, T] as vectors [B, T, D]. Raises ValueError for shapes, dtypes and ids outside the vocabulary."""
        check_ids(ids, self.config.vocab_size)
        return dropout(self.embedding(ids), self.config.embedding_dropout, self.training)


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
