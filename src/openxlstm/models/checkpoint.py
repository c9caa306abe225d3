"""Folders of our own: config.json + model.safetensors, written aside and renamed, read strictly."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import openxlstm
from openxlstm.errors import UserError, missing_extra
from openxlstm.files import write_atomic
from openxlstm.models.config import StackConfig
from openxlstm.models.tensors import WEIGHTS, TensorFiles, one_line, open_tensors, read_json, save_tensors, writing

CONFIG = "config.json"
MODEL_TYPE = "openxlstm"
_META = ("model_type", "architecture", "openxlstm_version")

Model = TypeVar("Model", bound=nn.Module)


def save_folder(model: nn.Module, config: StackConfig, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`. Raises UserError when the folder cannot be written."""
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model.state_dict(), folder / WEIGHTS)
    meta = {"model_type": MODEL_TYPE, "architecture": type(model).__name__, "openxlstm_version": openxlstm.__version__}
    with writing(folder / CONFIG):
        write_atomic(folder / CONFIG, json.dumps(meta | config.to_dict(), indent=2) + "\n")


def read_config(folder: Path, architecture: str) -> dict[str, Any]:
    """The settings in our config.json. Raises UserError when it is another model's."""
    file = folder / CONFIG
    settings = read_json(file)
    if settings.get("model_type") != MODEL_TYPE:
        raise UserError(f"{file}: model_type is {settings.get('model_type')!r}, not {MODEL_TYPE!r}")
    if settings.get("architecture") != architecture:
        raise UserError(f"{file}: this is a {settings.get('architecture')!r}, not a {architecture!r}")
    return {name: value for name, value in settings.items() if name not in _META}


def load_folder(
    kind: type[Model],
    config_type: type[StackConfig],
    folder: Path,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Model:
    """A model of class `kind`, as `save_folder` wrote it, in evaluation mode. Raises UserError, which names keys and file."""
    config = config_type.from_dict(read_config(folder, kind.__name__), source=str(folder / CONFIG))
    if backend is not None:
        config = replace(config, backend=backend)
    files = open_tensors(folder)
    model = on_meta(lambda: kind(config))
    check_names(files, {name: tuple(t.shape) for name, t in model.state_dict().items()})
    return fill(model, {name: files.get(name) for name in files.shapes}, device=device, dtype=dtype)


def on_meta(build: Callable[[], Model]) -> Model:
    """Build without memory or initialisation."""
    with torch.device("meta"):
        return build()


def check_device(device: torch.device | str) -> None:
    """Raise UserError for a device that torch does not know or cannot reach here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None


def fill(model: Model, tensors: dict[str, Tensor], *, device: Any = None, dtype: torch.dtype | None = None) -> Model:
    """Put tensors into a model that was built on the meta device; they keep their dtype unless one is given.

    Raises UserError for a device that cannot be used.
    """
    if device is not None:
        check_device(device)
    for name in list(tensors):
        stored = tensors.pop(name)
        own = torch.empty(stored.shape, device=device, dtype=dtype if stored.is_floating_point() and dtype else stored.dtype)
        tensors[name] = own.copy_(stored)
    model.load_state_dict(tensors, strict=True, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise RuntimeError(f"buffer {name} is not in the checkpoint and has no value")
    return model.eval()


def check_names(files: TensorFiles, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise UserError unless the files hold exactly these names with these shapes; the message names keys and file."""
    missing = [name for name in expected if name not in files]
    unexpected = [name for name in files.shapes if name not in expected]
    misshapen = [
        f"{name} is {list(files.shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in files and files.shapes[name] != shape
    ]
    problems = [
        f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        if names
    ]
    if problems:
        raise UserError(f"{files.where}: the weights do not fit the config; {'; '.join(problems)}")


def resolve(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The folder itself, or where the Hub's copy of it lies on this machine. Raises UserError when there is neither."""
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(path_or_hub_id)
    if folder.exists():
        raise UserError(f"{folder}: a checkpoint is a folder, this is a file")
    if folder.parent != Path() and folder.parent.is_dir():  # runs/my-rum: no network is asked about a slip
        raise UserError(f"{name}: no such folder")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or "\\" in name or not all(name.split("/")):
        raise UserError(f"{name}: no such folder (and not a Hub id of the form owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise missing_extra("huggingface-hub", "hf", f"no folder {name!r} here, and fetching it from the Hub") from None
    try:
        patterns = ["*.json", "*.yaml", "*.safetensors", "tokenizer*"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # network, no such model, no access: the Hub's own classes, httpx's, OSError
        raise UserError(f"{name}: no such folder here, and the Hub did not give it: {one_line(error)}") from None
