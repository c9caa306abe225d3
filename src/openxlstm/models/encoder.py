"""What reads tokens or vectors: embedding or projection, and a stack. The base of the models that are not language models."""

from typing import ClassVar

from torch import Tensor, nn

from openxlstm.layers.dropout import dropout
from openxlstm.layers.init import small_init
from openxlstm.models.config import EncoderConfig
from openxlstm.models.pretrained import PretrainedModel
from openxlstm.models.stack import BlockStack
from openxlstm.models.tokens import check_ids


class Encoder(PretrainedModel):
    """Embedding of token ids, or linear projection of vectors, and the stack behind it."""

    config_type: ClassVar[type[EncoderConfig]]
    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        if config.vocab_size is not None:
            self.embedding = nn.Embedding(config.vocab_size, config.dim)
            small_init(self.embedding.weight, config.dim)
        else:
            self.projection = nn.Linear(config.input_dim or 0, config.dim)
        self.stack = BlockStack(config)

    def embed(self, x: Tensor) -> Tensor:
        """[B, T] token ids or [B, T, input_dim] vectors as [B, T, D]. Raises ValueError for another shape or ids outside."""
        if self.config.vocab_size is not None:
            check_ids(x, self.config.vocab_size)
            e = self.embedding(x)
        else:
            if x.dim() != 3 or x.shape[-1] != self.config.input_dim:
                raise ValueError(f"x must be [B, T, {self.config.input_dim}], got {list(x.shape)}")
            e = self.projection(x)
        return dropout(e, self.config.input_dropout, self.training)
