"""Music as piano rolls: which of the 88 keys sound in each step. From MAT-files and JSON; from and to MIDI by symusic."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openxlstm.data.matlab import read_mat
from openxlstm.errors import UserError, missing_extra
from openxlstm.files import atomic_path

KEYS = 88
LOWEST = 21  # the MIDI number of key 0, A0
TICKS = 480  # of a MIDI file, in a quarter note
PIANO = 0  # program number of General MIDI
LOUDNESS = 80  # velocity of every note, 127 at most
LARGEST = 100_000  # steps of a MIDI file; more are a mistake in its times

Roll = NDArray[np.uint8]
"""[T, 88], 1 where a key sounds. A note that is struck again at once cannot be told from one that is held."""


class PianoRolls(NamedTuple):
    """Pieces of music, as their file parts them."""

    train: tuple[Roll, ...]
    validation: tuple[Roll, ...]
    test: tuple[Roll, ...]


def read_piano_rolls(path: str | Path, name: str) -> PianoRolls:
    """The pieces of a file, or of the file `name` in a folder.

    path: a MAT-file with the cell arrays `traindata`, `validdata` and `testdata` of [T, 88] zeros and ones, or a .json of lists
        `train`, `valid` and `test` of pieces, each a list of steps, each a list of MIDI pitches, where 0 is a rest.
    Raises UserError, with file and reason, for anything else.
    """
    path = Path(path)
    if path.is_dir():
        path /= name
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _read(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, changed: int) -> PianoRolls:
    parts = _json_parts(Path(path)) if path.endswith(".json") else _mat_parts(Path(path))
    for name, part in zip(PianoRolls._fields, parts):
        if not part:
            raise UserError(f"{path}: there is no piece for {name}")
    return PianoRolls(*parts)


def _mat_parts(path: Path) -> list[tuple[Roll, ...]]:
    found = read_mat(path)
    return [_part(path, found, name, _matrix) for name in ("traindata", "validdata", "testdata")]


def _json_parts(path: Path) -> list[tuple[Roll, ...]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text at byte {error.start}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expects an object with the lists train, valid and test")
    return [_part(path, found, name, _steps) for name in ("train", "valid", "test")]


def _part(path: Path, found: dict[str, Any], name: str, convert: Callable[[Any], Roll]) -> tuple[Roll, ...]:
    if name not in found:
        raise UserError(f"{path}: there is no {name!r}, only {', '.join(map(str, found)) or 'nothing'}")
    pieces = found[name]
    if isinstance(pieces, np.ndarray) and pieces.dtype == object:
        pieces = list(pieces.flat)
    if not isinstance(pieces, list):
        raise UserError(f"{path}: {name!r} is no list of pieces")
    rolls = []
    for number, piece in enumerate(pieces):
        try:
            rolls.append(convert(piece))
        except ValueError as error:
            raise UserError(f"{path}: piece {number} of {name!r} {error}") from None
    return tuple(rolls)


def _matrix(piece: Any) -> Roll:
    """Raises ValueError for what is no [T, 88] of zeros and ones."""
    if not isinstance(piece, np.ndarray) or piece.ndim != 2 or piece.shape[1] != KEYS or len(piece) < 2:
        raise ValueError(f"has the shape {list(np.shape(piece))}, expected two steps or more of {KEYS} keys")
    if not np.isin(piece, (0, 1)).all():
        raise ValueError("has numbers other than 0 and 1")
    return piece.astype(np.uint8)


def _steps(piece: Any) -> Roll:
    """Raises ValueError for what is no list of lists of MIDI pitches."""
    if not isinstance(piece, list) or len(piece) < 2 or not all(isinstance(step, list) for step in piece):
        raise ValueError("is no list of two or more steps, each a list of pitches")
    return roll_of(piece)


def roll_of(steps: Sequence[Sequence[int]]) -> Roll:
    """The piano roll of the MIDI pitches that sound in each step; 0 is a rest. Raises ValueError for pitches off the piano."""
    roll = np.zeros((len(steps), KEYS), np.uint8)
    for number, pitches in enumerate(steps):
        for pitch in pitches:
            if type(pitch) is not int or (pitch and not LOWEST <= pitch < LOWEST + KEYS):
                raise ValueError(f"has pitch {pitch!r} in step {number}, expected 0 or {LOWEST} to {LOWEST + KEYS - 1}")
            if pitch:
                roll[number, pitch - LOWEST] = 1
    return roll


def midi_package() -> Any:
    """The package symusic; raises UserError where it is not installed."""
    try:
        import symusic
    except ImportError:
        raise missing_extra("symusic", "music", "reading and writing MIDI") from None
    return symusic


class Notation(NamedTuple):
    """What a piano roll does not say by itself, but MIDI must know."""

    lowest: int = LOWEST  # MIDI number of key 0
    steps_per_quarter: int = 4

    def higher(self, semitones: int) -> "Notation":
        """The same keys, so much higher in MIDI."""
        return self._replace(lowest=self.lowest + semitones)


def read_midi(path: str | Path, notation: Notation) -> Roll:
    """The piano roll of a MIDI file, drums left out. Notes begin and end at the nearest step and last one step at least.

    Raises UserError for a file that is no MIDI, is empty or much too long, or has notes outside the 88 keys.
    """
    path = Path(path)
    symusic = midi_package()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        score = symusic.Score.from_midi(path.read_bytes())
    except Exception as error:  # symusic raises classes of its own and plain RuntimeErrors
        raise UserError(
            f"{path}: cannot be read as MIDI: {str(error).splitlines()[0] if str(error) else 'malformed'}"
        ) from None
    ticks = score.ticks_per_quarter / notation.steps_per_quarter  # of a step
    notes = [note for track in score.tracks if not track.is_drum for note in track.notes]
    if not notes:
        raise UserError(f"{path}: has no notes")
    begins = [int(np.floor(note.time / ticks + 0.5)) for note in notes]
    ends = [max(int(np.floor(note.end / ticks + 0.5)), begin + 1) for note, begin in zip(notes, begins)]
    if max(ends) > LARGEST:
        raise UserError(f"{path}: is {max(ends):,} steps long, at most {LARGEST:,} are read")
    roll = np.zeros((max(ends), KEYS), np.uint8)
    for note, begin, end in zip(notes, begins, ends):
        key = note.pitch - notation.lowest
        if not 0 <= key < KEYS:
            lowest, highest = notation.lowest, notation.lowest + KEYS - 1
            raise UserError(f"{path}: has the MIDI pitch {note.pitch}, and the model knows {lowest} to {highest}")
        roll[begin:end, key] = 1
    return roll


def write_midi(path: str | Path, roll: Roll, notation: Notation, tempo: float = 100.0) -> None:
    """Write a piano roll as a MIDI file of one piano track; a key that sounds on is one long note.

    tempo: quarter notes a minute. The file is written aside and renamed.
    """
    symusic = midi_package()
    score = symusic.Score(TICKS)
    score.tempos.append(symusic.Tempo(0, tempo))
    track = symusic.Track("piano", PIANO, False)
    padded = np.pad(roll.astype(np.int8), ((1, 1), (0, 0)))
    for key in range(KEYS):
        changes = np.diff(padded[:, key])
        for begin, end in zip(np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)):
            start, stop = (int(step) * TICKS // notation.steps_per_quarter for step in (begin, end))
            track.notes.append(symusic.Note(start, stop - start, key + notation.lowest, LOUDNESS))
    score.tracks.append(track)
    with atomic_path(path) as aside:
        aside.write_bytes(score.dumps_midi())
