"""The language model: embedding, stack, head."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openxlstm.layers.init import small_init
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.stack import BlockStack, StackState
from openxlstm.models.tokens import TokenModel


class LanguageModel(TokenModel):
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
        return self.stack(self.embed(ids), state, reset=reset, mask=mask)

    @classmethod
    def _read(cls, folder: Path, **how: Any) -> Any:
        from openxlstm.models.weights import load_checkpoint

        return load_checkpoint(folder, **how)
