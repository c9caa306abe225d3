"""Which project a checkpoint folder comes from, and loading it whichever it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openxlstm.errors import UserError
from openxlstm.models.checkpoint import MODEL_TYPE, load_folder
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.models.weights import huggingface, large, neurips
from openxlstm.models.weights.settings import Settings, read_settings

OPENXLSTM, NEURIPS, LARGE, HUGGINGFACE = "openxlstm", "neurips", "large", "huggingface"

READERS: dict[str, Callable[..., LanguageModel]] = {
    NEURIPS: neurips.read,
    LARGE: large.read,
    HUGGINGFACE: huggingface.read,
}
"""Format -> read(folder, settings, *, device, dtype)."""


def detect(folder: str | Path) -> str:
    """The format of a checkpoint folder: "openxlstm", "neurips", "large" or "huggingface". Raises UserError for others."""
    return _classify(read_settings(_folder(folder)))


def load_checkpoint(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> LanguageModel:
    """Load a language model from a folder of any format that `detect` knows, in evaluation mode.

    dtype None keeps what is stored. backend: replaces the config's.
    Raises UserError, which names the key or file, for what is missing, unexpected, misshapen, unsupported or cut short.
    """
    folder = _folder(folder)
    settings = read_settings(folder)
    kind = _classify(settings)
    if kind == OPENXLSTM:
        return load_folder(LanguageModel, LanguageModelConfig, folder, device=device, dtype=dtype, backend=backend)
    return READERS[kind](folder, settings, device=device, dtype=dtype, backend=backend or "auto")


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return folder


def _classify(settings: Settings) -> str:
    values: Any = settings.values
    model_type = values.get("model_type")
    if model_type == MODEL_TYPE:
        return OPENXLSTM
    if model_type == "xlstm":
        return HUGGINGFACE
    if model_type is not None:
        raise UserError(f"{settings.source}: model_type is {model_type!r}; this reads 'openxlstm' and 'xlstm'")
    if "mlstm_block" in settings or "slstm_block" in settings:
        return NEURIPS
    if "num_blocks" in settings and "num_heads" in settings and ("embedding_dim" in settings or "hidden_size" in settings):
        return LARGE
    inside = settings.source.parent / "model"
    if (inside / "config.json").is_file():
        raise UserError(f"{settings.source}: not the config of a model; did you mean {str(inside)!r}?")
    raise UserError(
        f"{settings.source}: not a config of openxlstm, of transformers' xlstm (model_type), of xLSTMLMModel (mlstm_block, "
        "slstm_block) or of xLSTMLarge (embedding_dim, num_blocks, num_heads)"
    )
