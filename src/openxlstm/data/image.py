"""Image files: PNG and JPEG, in a folder or a tar file, and CIFAR-10 in its binary form. No pickle is ever loaded."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from re import Match, Pattern

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import UserError, missing_extra

CIFAR_SIDE = 32


def files_in(source: str | Path, wanted: Pattern[str]) -> Iterator[tuple[Match[str], bytes]]:
    """Name and content of the files below a folder or in a .tar or .tar.gz, where `wanted` is found in "folder/name".

    Names begin with that of the folder, so that it may be the one that `wanted` speaks of or one above it. The order is that
    of the names in a folder and that of a tar file. Raises UserError for what cannot be read.
    """
    source = Path(source)
    if source.is_dir():
        for here, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(names):
                path = Path(here, name)
                if found := wanted.search((Path(source.resolve().name) / path.relative_to(source)).as_posix()):
                    yield found, path.read_bytes()
        return
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                if member.isfile() and (found := wanted.search(member.name)):
                    file = tar.extractfile(member)
                    yield found, file.read() if file else b""
    except FileNotFoundError:
        raise UserError(f"{source}: no such file or folder") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{source}: cannot be read as a tar file: {error}; is it cut short?") from None


def decode(content: bytes, where: str, mode: str) -> NDArray[np.uint8]:
    """A PNG or JPEG image as [height, width] for `mode` "L", which is grey, or [height, width, 3] for "RGB"."""
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("pillow", "images", "reading PNG and JPEG images") from None
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return np.array(image.convert(mode), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "is no PNG or JPEG image" if isinstance(error, Image.UnidentifiedImageError) else f"cannot be read: {error}"
        raise UserError(f"{where}: {reason}") from None


def read_cifar_batch(content: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, 32, 32, 3] and labels [N] of one of CIFAR-10's binary files.

    A record is a label and the 32 x 32 red, then green, then blue values, row by row (cs.toronto.edu/~kriz/cifar.html).
    """
    record = 1 + 3 * CIFAR_SIDE**2
    if not content or len(content) % record:
        raise UserError(f"{where}: {len(content):,} bytes are not a number of images of {record:,} bytes; is it cut short?")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    if (worst := int(rows[:, 0].max())) > 9:
        raise UserError(f"{where}: image {int(rows[:, 0].argmax())} has label {worst}, and there are ten; is it CIFAR-10?")
    return rows[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1), rows[:, 0]
