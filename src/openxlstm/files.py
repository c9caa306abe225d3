"""Writing files so that an interrupted or failed write, or a second process, never damages what was there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from openxlstm.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed to `path`, on any error it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp makes it private; give it the mode of an ordinary new file
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path`, whole or not at all."""
    with atomic_path(path) as aside:
        if isinstance(content, str):
            aside.write_text(content, encoding="utf-8")
        else:
            aside.write_bytes(content)


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a folder to this process; UserError if another one holds it.

    The hold ends with its process, however that ends. Where folders cannot be locked (Windows, some network file systems) there
    is no hold.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process works in it; wait for it or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
