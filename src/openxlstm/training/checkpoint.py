"""Checkpoints of a run: one file, written aside and renamed, loaded without unpickling code.

They are our own rather than Lightning's because exact resume needs what its loops do not keep: the step that chooses the next
batch, the state that truncated backpropagation carries, and every process's random generators. Weights and optimiser are
stored whole (not sharded), so a run may be resumed with another number of processes or another strategy.
"""

import errno
import io
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from openxlstm.errors import UserError
from openxlstm.files import atomic_path
from openxlstm.ops.state import leaves, map_state

FORMAT = 1


class DiskFull(UserError):
    """A checkpoint that did not fit on the disk; the one before it is untouched."""


class _Recorder(io.RawIOBase):
    """A file that remembers the OSError of a failed write: torch.save reports such an error as an unrelated one."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (closed in close)
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view, done = memoryview(data).cast("B"), 0
        while done < len(view):
            try:
                done += self._file.write(view[done:]) or 0
            except OSError as error:
                self.error = self.error or error
                raise
        return done

    def close(self) -> None:
        self._file.close()
        super().close()


def write(path: Path, content: dict[str, Any]) -> None:
    """Save tensors, numbers, strings, lists and dicts to `path`, whole or not at all.

    Raises DiskFull when there is no room (disk, quota or file-size limit); whatever was at `path` stays as it was.
    """
    try:
        with atomic_path(path) as aside:
            target = _Recorder(aside)
            try:
                torch.save({"format": FORMAT, **content}, cast(Any, target))
            except Exception as error:
                raise target.error or error from None
            finally:
                target.close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = f"; the previous checkpoint {path} is intact" if path.exists() else ""
            raise DiskFull(f"no room to write the checkpoint {path} ({error.strerror}){kept}") from error
        raise


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint to CPU; UserError if it is missing, not ours, or damaged."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a readable checkpoint: {first}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not an openxlstm checkpoint of format {FORMAT}")
    return content


class RandomState(NamedTuple):
    """The generators that dropout draws from."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def current(cls, device: torch.device) -> "RandomState":
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)


def fill_state(template: Any, stored: list[Tensor], device: torch.device) -> Any:
    """A state shaped like `template` (a tree) holding the stored leaves, in order."""
    if len(leaves(template)) != len(stored):
        raise UserError(f"the checkpoint holds a state of {len(stored)} tensors, the model's has {len(leaves(template))}")
    rest = iter(stored)
    return map_state(lambda _: next(rest).to(device), template)


def weights_and_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Full (unsharded) CPU copies of both, by parameter name. Collective: every process calls it, only rank 0 gets content
    when the model is sharded."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_state_dict(model, optimizer, options=options)


def load_weights_and_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, Any], optimizer_state: dict[str, Any]
) -> None:
    """The reverse of `weights_and_optimizer`; every process passes the full content."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    try:
        set_state_dict(
            model,
            optimizer,
            model_state_dict=weights,
            optim_state_dict=optimizer_state,  # type: ignore[arg-type]
            options=StateDictOptions(full_state_dict=True),
        )
    except (RuntimeError, KeyError) as error:
        raise UserError(f"the checkpoint does not fit the model: {' '.join(str(error).split())[:300]}") from error
