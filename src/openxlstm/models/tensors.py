"""Named tensors in files: safetensors (one file or shards) and tensors-only `.pt`, read one at a time, never unpickled."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openxlstm.errors import UserError
from openxlstm.files import atomic_path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("model.pt", "model.pth", "pytorch_model.bin")
_NUMBERED = re.compile(r"model_(\d+)\.safetensors")
_NUMBERED_OF = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")


class TensorFiles:
    """The tensors of a checkpoint, by name. They are read when asked for, so that a large one is in memory once."""

    def __init__(self, where: Path, shapes: dict[str, tuple[int, ...]], files: dict[str, Path], get: Callable[[str], Tensor]):
        self.where = where
        """The file, or the folder of several: for messages."""
        self.shapes = shapes
        """Name -> shape."""
        self.files = files
        """Name -> file."""
        self._get = get

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def get(self, name: str) -> Tensor:
        """The tensor, as stored. Raises UserError, which names the file, when it cannot be read."""
        try:
            return self._get(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(f"{self.files[name]}: cannot read {name!r}: {one_line(error)}") from None


def open_tensors(folder: Path) -> TensorFiles:
    """Find the weights in a folder: model.safetensors; shards with an index; model_0.safetensors, model_1...; model.pt.

    Raises UserError, which names the file: none there, a shard missing, a file cut short or not what its name says.
    """
    if (folder / WEIGHTS).is_file():
        return _open_safetensors(folder / WEIGHTS, [folder / WEIGHTS])
    if (folder / INDEX).is_file():
        return _open_indexed(folder)
    names = sorted(path.name for path in folder.iterdir())
    numbered = {int(m[1]): folder / m[0] for m in map(_NUMBERED.fullmatch, names) if m}
    if numbered:
        return _open_safetensors(folder, _without_gaps(folder, numbered, range(max(numbered) + 1), "model_{}.safetensors"))
    parts = [m for m in map(_NUMBERED_OF.fullmatch, names) if m]
    if parts:
        width, total = len(parts[0][1]), int(parts[0][2])
        found = {int(m[1]): folder / m[0] for m in parts}
        shape = f"model-{{:0{width}d}}-of-{parts[0][2]}.safetensors"
        return _open_safetensors(folder, _without_gaps(folder, found, range(1, total + 1), shape))
    for name in PICKLED:
        if (folder / name).is_file():
            return open_pt(folder / name)
    raise UserError(f"{folder}: no weights here (looked for {WEIGHTS}, {INDEX}, model_0.safetensors, {', '.join(PICKLED)})")


def open_pt(file: Path) -> TensorFiles:
    """A file of `torch.save`, read with `weights_only=True`: tensors and nothing else, perhaps one level down."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, KeyError... for what is no such file
        raise UserError(f"{file}: not a tensors-only checkpoint, or cut short: {one_line(error)}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise UserError(f"{file}: expected a dictionary of tensors (a state dict)")
    tensors = {str(name): tensor for name, tensor in content.items()}
    return TensorFiles(file, {n: tuple(t.shape) for n, t in tensors.items()}, dict.fromkeys(tensors, file), tensors.__getitem__)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write safetensors aside and rename. Raises UserError (a full disk, no permission); the old file is then untouched."""
    with writing(file), atomic_path(file) as aside:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, aside, metadata={"format": "pt"})


class writing:
    """Turns errors of writing `file` into one line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, SafetensorError)):
            raise UserError(f"cannot write {self.file}: {one_line(error)}") from None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError, which names the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _open_safetensors(where: Path, files: Iterable[Path]) -> TensorFiles:
    shapes: dict[str, tuple[int, ...]] = {}
    owners: dict[str, Path] = {}
    handles: dict[Path, Any] = {}
    for file in files:
        try:
            handles[file] = safe_open(os.fspath(file), framework="pt")
            for name in handles[file].keys():  # noqa: SIM118 (not a mapping)
                if name in owners:
                    raise UserError(f"{file}: {name!r} is also in {owners[name].name}")
                shapes[name] = tuple(handles[file].get_slice(name).get_shape())
                owners[name] = file
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not a safetensors file, or cut short: {one_line(error)}") from None
    return TensorFiles(where, shapes, owners, lambda name: handles[owners[name]].get_tensor(name))


def _open_indexed(folder: Path) -> TensorFiles:
    index = read_json(folder / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise UserError(f"{folder / INDEX}: no 'weight_map' of tensor names to files")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise UserError(f"{file}: missing, but {INDEX} names it")
    tensors = _open_safetensors(folder, files)
    for name, file_name in weight_map.items():
        if name not in tensors or tensors.files[name].name != file_name:
            raise UserError(f"{folder / file_name}: no tensor {name!r}, but {INDEX} says it is there")
    return tensors


def _without_gaps(folder: Path, found: dict[int, Path], wanted: range, shape: str) -> list[Path]:
    for number in wanted:
        if number not in found:
            raise UserError(f"{folder / shape.format(number)}: missing, but other shards are there")
    return [found[number] for number in wanted]
