"""What reads tokens or vectors: embedding or projection, and a stack. The base of the models that are not language models."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.init import small_init
from openxlstm.models.checkpoint import load_folder, read_config, resolve, save_folder
from openxlstm.models.config import EncoderConfig
from openxlstm.models.count import num_parameters
from openxlstm.models.language import check_ids
from openxlstm.models.stack import BlockStack


class Encoder(nn.Module):
    """Embedding of token ids, or linear projection of vectors, and the stack behind it; saving and loading."""

    config_type: ClassVar[type[EncoderConfig]]

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
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
        return F.dropout(e, self.config.input_dropout, self.training)

    def num_parameters(self) -> int:
        """Number of parameters."""
        return num_parameters(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, each aside first and then renamed. Raises UserError (a full disk)."""
        save_folder(self, self.config, folder)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load what `save_pretrained` wrote, from a folder or the Hub, in evaluation mode. Arguments as for LanguageModel.

        Raises UserError, which names the key or file.
        """
        folder = resolve(path_or_hub_id, revision)
        config = cls.config_type.from_dict(read_config(folder, cls.__name__), source=str(folder / "config.json"))
        if backend is not None:
            config = replace(config, backend=backend)
        return load_folder(lambda: cls(config), folder, device=device, dtype=dtype)
