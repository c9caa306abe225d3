"""MATLAB's MAT-files of version 5: matrices of numbers and cell arrays of them. Nothing in such a file is ever executed."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.errors import UserError

HEADER = 128  # bytes: text, version, and two letters that tell the byte order
INT8, UINT32, MATRIX, COMPRESSED = 1, 6, 14, 15  # types of data elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CELL, FIRST_NUMERIC, LAST_NUMERIC = 1, 6, 15  # classes of arrays; 2 to 5 are structures, objects, text and sparse matrices
COMPLEX = 0x0800
LARGEST = 2**30  # bytes that one variable may unpack to
DEEPEST = 16  # cells in cells


class Malformed(Exception):
    """What is wrong with the file."""


def read_mat(path: str | Path) -> dict[str, Any]:
    """The variables of a MAT-file: arrays of numbers, and cell arrays as NumPy arrays of objects.

    The format is MathWorks' "MAT-File Format", level 5 (MATLAB 5 to 7.2, save -v6 or -v7), compressed or not, of either byte
    order. Raises UserError, with file and reason, for other files and for what is not made of numbers.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
        if order is None:
            raise Malformed("no MAT-file of version 5 (save it with -v7)")
        return dict(variables(content[HEADER:], order))
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def variables(content: bytes, order: str) -> Iterator[tuple[str, Any]]:
    """Name and value of each variable. order: "<" or ">", as in `struct`."""
    for kind, data in elements(content, order):
        if kind == COMPRESSED:
            kind, data = first(unpack(data), order)
        if kind != MATRIX:
            raise Malformed(f"an element of type {kind} where a variable should be")
        yield array(data, order)


def unpack(data: bytes) -> bytes:
    """What zlib packed."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, LARGEST)
    except zlib.error as error:
        raise Malformed(f"a variable cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise Malformed("a packed variable is cut short or unreasonably large")
    return found


def elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of the elements that follow each other. Data of up to four bytes stands in the tag itself."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise Malformed("cut short in the tag of an element")
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, after = place + 4, place + 8
        else:
            start, after = place + 8, place + 8 + size + (0 if kind == COMPRESSED else -size % 8)  # padded to 8 bytes
        if start + size > len(content) or (start == place + 4 and size > 4):
            raise Malformed(f"an element of {size:,} bytes is cut short")
        yield kind, content[start : start + size]
        place = after


def first(content: bytes, order: str) -> tuple[int, bytes]:
    """The first element."""
    for element in elements(content, order):
        return element
    raise Malformed("an element is empty")


def array(data: bytes, order: str, depth: int = 0) -> tuple[str, Any]:
    """Name and value of a matrix element: flags, dimensions, name, and then cells or numbers. depth: cells around it."""
    if depth > DEEPEST:
        raise Malformed("cells are nested too deeply")
    parts = elements(data, order)
    head = [part for _, (_, part) in zip(range(3), parts)]
    if len(head) < 3 or len(head[0]) < 8 or len(head[1]) % 4:
        raise Malformed("a variable without flags, dimensions and name")
    flags = struct.unpack_from(f"{order}I", head[0])[0]
    shape = tuple(np.frombuffer(head[1], f"{order}i4").tolist())
    name = head[2].decode("latin-1")
    kind = flags & 0xFF
    if any(n < 0 for n in shape):
        raise Malformed(f"{name!r} has the shape {shape}")
    count = int(np.prod(shape, dtype=object)) if shape else 0
    if kind == CELL:
        return name, cells(name, list(parts), shape, count, order, depth + 1)
    if not FIRST_NUMERIC <= kind <= LAST_NUMERIC or flags & COMPLEX:
        raise Malformed(
            f"{name!r} is made of structures, text, sparse matrices or complex numbers; only plain numbers are read"
        )
    return name, numbers(name, next(parts, (0, b"")), shape, count, order)


def cells(
    name: str, parts: list[tuple[int, bytes]], shape: tuple[int, ...], count: int, order: str, depth: int
) -> NDArray[np.object_]:
    """The arrays in a cell array."""
    if len(parts) != count or any(kind != MATRIX for kind, _ in parts):
        raise Malformed(f"{name!r} holds {len(parts)} cells, its dimensions say {count}")
    found = np.empty(count, object)
    for number, (_, part) in enumerate(parts):
        found[number] = array(part, order, depth)[1] if part else np.zeros((0, 0))
    return found.reshape(shape, order="F")


def numbers(name: str, part: tuple[int, bytes], shape: tuple[int, ...], count: int, order: str) -> NDArray[Any]:
    """The numbers of an array, in the type in which they are stored, column by column."""
    kind, data = part
    if kind not in NUMBERS:
        raise Malformed(f"{name!r} holds data of type {kind}, which is no number")
    dtype = np.dtype(order + NUMBERS[kind])
    if len(data) != count * dtype.itemsize:
        raise Malformed(f"{name!r} holds {len(data) // dtype.itemsize:,} numbers, its dimensions say {count:,}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape, order="F")
