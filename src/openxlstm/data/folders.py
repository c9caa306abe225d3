"""Files below a folder or in a tar file, one after another."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from re import Match, Pattern

from openxlstm.errors import UserError


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
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{source}: cannot be read as a tar file: {error}; is it cut short or damaged?") from None
