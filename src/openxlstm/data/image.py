"""Image files: PNG and JPEG, and CIFAR-10 in its binary form. No pickle is ever loaded."""

import io

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import UserError, missing_extra

CIFAR_SIDE = 32


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
