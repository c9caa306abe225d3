"""From another project's tensor names and layouts to ours: a list of entries, checked whole before anything is read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openxlstm.models.checkpoint import check_names
from openxlstm.models.tensors import TensorFiles


def rows(*parts: Tensor) -> Tensor:
    """Put tensors on top of each other: how three linear maps become one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def plus_one(x: Tensor) -> Tensor:
    """A norm weight that is stored minus one."""
    return 1 + x


@dataclass(frozen=True)
class Entry:
    """One of our parameters out of one or more of their tensors."""

    target: str
    """Our name."""
    sources: Mapping[str, tuple[int, ...]]
    """Their names and shapes."""
    read: Callable[..., Tensor] = rows
    """Their tensors, in the order of `sources`, to ours."""


def translate(entries: Iterable[Entry], files: TensorFiles, ignored: Iterable[str] = ()) -> dict[str, Tensor]:
    """Read every entry. Raises UserError with their names, and the file, for what is missing, unexpected or misshapen."""
    entries = list(entries)
    expected = {name: shape for entry in entries for name, shape in entry.sources.items()}
    expected |= {name: files.shapes[name] for name in ignored if name in files}
    check_names(files, expected)
    return {entry.target: entry.read(*map(files.get, entry.sources)) for entry in entries}
