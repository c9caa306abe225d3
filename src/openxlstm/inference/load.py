"""From a path to a model with its tokenizer: run folders, model folders, checkpoints of other projects."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openxlstm.data.tokenizer import Tokenizer, load_tokenizer
from openxlstm.errors import UserError
from openxlstm.models.checkpoint import CONFIG, MODEL_TYPE
from openxlstm.models.language import LanguageModel
from openxlstm.models.sequence import SequenceModel
from openxlstm.models.translate import EncoderDecoder
from openxlstm.models.weights.settings import CONFIG_FILES

MODEL = "model"
"""The folder inside a run folder that holds the finished model."""

TOKENIZERS = ("tokenizer.json", "vocab.json")
PADDINGS = (64, 128)
"""Multiples to which embeddings are commonly padded, so that a model may know a few more ids than its tokenizer."""


@dataclass(frozen=True)
class LoadedRun:
    """A language model in evaluation mode, the tokenizer it was trained with, and where they were."""

    model: LanguageModel
    tokenizer: Tokenizer
    folder: Path


def load_run(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> LoadedRun:
    """Load a model to use.

    path: a run folder (with `model/` inside), a model folder (`config.json`, `model.safetensors`, `tokenizer.json`), a
        checkpoint folder of another project, or a Hub id `owner/name`.
    tokenizer: a tokenizer.json or a folder with one; None = the one beside the model.
    device, dtype, backend: as in `LanguageModel.from_pretrained`.

    Raises UserError for a folder without a finished model, a missing tokenizer, or one that does not fit the model.
    """
    folder = model_folder(path)
    model = LanguageModel.from_pretrained(folder, device=device, dtype=dtype, backend=backend)
    if tokenizer is None:
        places = [folder, folder.parent] if folder.name == MODEL else [folder]
        tokenizer = next((place for place in places if any((place / name).exists() for name in TOKENIZERS)), None)
        if tokenizer is None:
            raise UserError(
                f"{folder}: no {TOKENIZERS[0]} beside the model; name the tokenizer it was trained with (--tokenizer)"
            )
    loaded = load_tokenizer(tokenizer)
    check_vocabulary(model, loaded, tokenizer)
    return LoadedRun(model, loaded, folder)


def load_task_model(folder: Path, **how: Any) -> SequenceModel | EncoderDecoder:
    """The model of a task from its folder: an EncoderDecoder where the folder says so, else a SequenceModel. how: as in
    `from_pretrained`."""
    kind = EncoderDecoder if architecture(folder) == EncoderDecoder.__name__ else SequenceModel
    return kind.from_pretrained(folder, **how)


def model_folder(path: str | Path) -> Path:
    """The folder with the model that `path` means; a name that is no folder here is passed on as a Hub id."""
    folder = Path(path)
    if has_config(folder / MODEL):
        return folder / MODEL
    if not folder.exists():
        if folder.parent != Path() and not folder.parent.is_dir() and str(path).count("/") == 1:
            return folder  # owner/name
        siblings = [place.name for place in folder.parent.iterdir() if place.is_dir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, siblings, n=1)
        raise UserError(f"{folder}: no such folder" + (f"; did you mean {str(folder.parent / near[0])!r}?" if near else ""))
    if run_settings(folder):
        raise UserError(f"{folder}: this run has no finished model yet; to go on with it: openxlstm train --resume {folder}")
    if folder.is_dir() and not has_config(folder):
        around = [*folder.iterdir(), folder.parent]
        found = [place for place in around if has_config(place / MODEL)] or [place for place in around if has_config(place)]
        newest = max(found, key=lambda place: place.stat().st_mtime, default=None)
        hint = f"; there is one in {str(newest)!r}" if newest else " (has its training ended?)"
        raise UserError(f"{folder}: no finished model in this folder{hint}")
    return folder


def newest_run(root: str | Path = "runs") -> Path:
    """The run folder under `root` whose language model was finished last. Raises UserError when there is none."""
    finished = [path.parent.parent for name in CONFIG_FILES for path in Path(root).glob(f"*/{MODEL}/{name}")]
    finished = [run for run in finished if not of_a_task(run / MODEL)]
    if not finished:
        raise UserError(f"no finished run under {str(root)!r}: name a folder, or train a model first: openxlstm train")
    return max(finished, key=lambda run: (run / MODEL).stat().st_mtime)


def run_settings(folder: Path) -> dict[str, Any]:
    """What `config.json` says in a run folder; empty for any other folder."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) and "trainer" in settings and "data" in settings else {}


def of_a_task(folder: Path) -> bool:
    """True for a folder with one of our models that is no language model."""
    return architecture(folder) not in (None, LanguageModel.__name__)


def architecture(folder: Path) -> str | None:
    """The class of one of our models; None for any other folder."""
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(settings.get("architecture")) if settings.get("model_type") == MODEL_TYPE else None


def has_config(folder: Path) -> bool:
    """True for a folder that says what model it holds."""
    return any((folder / name).is_file() for name in CONFIG_FILES)


def check_vocabulary(model: Any, tokenizer: Tokenizer, where: object = "the tokenizer") -> None:
    """Raise UserError unless the tokenizer numbers its tokens as the model does, as far as their counts can tell."""
    knows, has = model.config.vocab_size, tokenizer.vocab_size
    if knows != has and knows not in [-(-has // multiple) * multiple for multiple in PADDINGS]:
        raise UserError(
            f"vocabulary mismatch: the model knows {knows} tokens and {where} has {has}; it is not the tokenizer that the "
            "model was trained with"
        )
