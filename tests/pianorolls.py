"""MAT-files of piano rolls, written here byte by byte."""

import struct
import zlib

import numpy as np

KINDS = {"u1": (9, 2), "f8": (6, 9), "i4": (12, 5)}  # class of the array, type of its data


def element(kind, data, order):
    """A data element: tag, data, padding; small ones in the tag itself."""
    if 0 < len(data) <= 4:
        return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def variable(name, value, order):
    """The element of a matrix, or of a cell array for a list."""
    cells = isinstance(value, list)
    shape = (1, len(value)) if cells else value.shape
    kind = value.dtype.str[1:] if not cells else ""
    parts = [
        element(6, struct.pack(f"{order}II", 1 if cells else KINDS[kind][0], 0), order),
        element(5, struct.pack(f"{order}{len(shape)}i", *shape), order),
        element(1, name.encode(), order),
    ]
    if cells:
        parts += [variable("", one, order) for one in value]
    else:
        parts.append(element(KINDS[kind][1], value.astype(f"{order}{kind}").tobytes(order="F"), order))
    return element(14, b"".join(parts), order)


def write_mat(path, variables, *, order="<", packed=True):
    """Write a MAT-file of version 5. variables: name -> array, or list of arrays for a cell array."""
    content = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49)
    for name, value in variables.items():
        one = variable(name, value, order)
        if packed:
            data = zlib.compress(one)
            one = struct.pack(f"{order}II", 15, len(data)) + data
        content += one
    path.write_bytes(content)


def scales(count, length, *, seed=0):
    """Pieces of so many steps, each a bit longer: two voices that go up the keys and begin anew."""
    rng = np.random.RandomState(seed)
    pieces = []
    for number in range(count):
        roll = np.zeros((length + number, 88), np.uint8)
        start = rng.randint(30, 50)
        for step in range(len(roll)):
            roll[step, start + step % 6] = roll[step, start + 12 + (step // 2) % 4] = 1
        pieces.append(roll)
    return pieces


def write_pieces(path, *, length=6, **how):
    """A MAT-file of 5, 3 and 2 pieces; returns them."""
    parts = {
        name: scales(count, length, seed=seed)
        for seed, (name, count) in enumerate({"traindata": 5, "validdata": 3, "testdata": 2}.items())
    }
    write_mat(path, parts, **how)
    return parts
