"""The Free Spoken Digit Dataset: recordings named <digit>_<speaker>_<number>.wav, in a folder or in tar files."""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from openxlstm.data.audio import read_sound
from openxlstm.data.folders import files_in
from openxlstm.errors import UserError

NAME = re.compile(r"(?:^|/)([0-9])_([^/_]+)_([0-9]+)\.(?:wav|flac|ogg)$")
TAR = re.compile(r"\.(?:tar|tar\.gz|tgz)$")


class Recording(NamedTuple):
    """One spoken digit."""

    samples: Tensor  # [N] float32, -1 to 1, one channel
    digit: int
    speaker: str
    number: int  # which of the recordings of this digit by this speaker


def read_recordings(source: str, rate: int) -> tuple[Recording, ...]:
    """All recordings, by digit, speaker and number, at `rate` samples a second.

    source: a folder with them at any depth, or with .tar.gz files of them; or one such file.
    Raises UserError, with file and reason, where there is none, one is named twice or cannot be read.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: no such file or folder")
    tars = [path] if path.is_file() else sorted(found for found in path.iterdir() if TAR.search(found.name))
    places = tuple(map(str, tars if path.is_file() else [path, *tars]))
    return _read(source, places, tuple(Path(place).stat().st_mtime_ns for place in places), rate)


@lru_cache(maxsize=2)
def _read(source: str, places: tuple[str, ...], changed: tuple[int, ...], rate: int) -> tuple[Recording, ...]:
    found: dict[tuple[int, str, int], Recording] = {}
    for place in places:
        for name, content in files_in(place, NAME):
            digit, speaker, number = int(name[1]), name[2], int(name[3])
            where = f"{place}/{name.string.rpartition('/')[2]}"
            if (digit, speaker, number) in found:
                raise UserError(f"{where}: there are two recordings {number} of {digit} by {speaker}")
            found[digit, speaker, number] = Recording(read_sound(content, rate, where), digit, speaker, number)
    if not found:
        raise UserError(f"{source}: there is no recording named <digit>_<speaker>_<number>.wav in it")
    return tuple(found[key] for key in sorted(found))
