"""IDX files, the format of MNIST: a header, then the numbers of one array."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import UserError

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file; names ending in `.gz` are unpacked. Raises UserError for a file that is none.

    The header is two zero bytes, the type (8: unsigned byte, the only one read here), the number of dimensions, and the
    dimensions as big-endian 32-bit integers (yann.lecun.com/exdb/mnist).
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE or len(content) < 4 + 4 * content[3]:
        raise UserError(f"{path}: not an IDX file of bytes")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    numbers = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if numbers.size != math.prod(shape):
        raise UserError(f"{path}: holds {numbers.size:,} numbers, its header says {math.prod(shape):,}; is it cut short?")
    return numbers.reshape(shape)
