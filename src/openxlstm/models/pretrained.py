"""Models that are saved to a folder and loaded from one, or from the Hub."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from openxlstm.models.checkpoint import load_folder, resolve, save_folder
from openxlstm.models.config import StackConfig
from openxlstm.models.count import num_parameters


class PretrainedModel(nn.Module):
    """A model that is built from a config alone. A subclass names the type of its config."""

    config_type: ClassVar[type[StackConfig]]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def num_parameters(self) -> int:
        """Number of parameters, tied ones once."""
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
        """Load a checkpoint folder, or one from the Hugging Face Hub (extra `hf`), in evaluation mode.

        A LanguageModel also reads folders of `xlstm` (xLSTMLMModel, xLSTMLarge) and of transformers' `xlstm`
        (docs/how-to/checkpoints.md). device, dtype: where to and as what; dtype None keeps what is stored.
        backend: replaces the config's. revision: a branch, tag or commit of the Hub.
        Raises UserError, which names the key or file, for what is missing, unexpected, misshapen or cut short.
        """
        return cls._read(resolve(path_or_hub_id, revision), device=device, dtype=dtype, backend=backend)

    @classmethod
    def _read(cls, folder: Path, **how: Any) -> Any:
        return load_folder(cls, cls.config_type, folder, **how)
