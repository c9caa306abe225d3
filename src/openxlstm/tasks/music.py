"""Music, step by step: which of the 88 keys sound next?"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from openxlstm.data.music import KEYS, LOWEST, Notation, PianoRolls, Roll, read_piano_rolls
from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.generated import length_range
from openxlstm.tasks.published import tcn_anchors
from openxlstm.tasks.task import BITS, Anchor, Batch, Metric, Signature, Split, nothing_scored

STEPS_AT_ONCE = 16_384  # in a batch for evaluation


@dataclass(frozen=True, kw_only=True)
class PianoRoll(FileTask):
    """Which keys sound next? A probability for each key, given all steps before.

    Before a piece stands a silent step, so that a model can begin one by itself. How pieces begin is learnt but not scored: as
    in arXiv 1803.01271 the score is about steps 2 to T.

    source: the file with the pieces, or its folder.
    window: longer training pieces are cut to so many steps, from anywhere; 0 = whole pieces.
    transpose: training pieces are moved by up to so many semitones, up or down, each time they are drawn; 0 = never.
    """

    file: ClassVar[str]  # in a folder
    lengths: ClassVar[str]  # of the pieces in it

    window: int = 0
    transpose: int = 0

    def __post_init__(self) -> None:
        if self.window < 0 or self.window == 1:
            raise UserError(f"data.window={self.window} must be at least 2, or 0 for whole pieces")
        if not 0 <= self.transpose <= 12:
            raise UserError(f"data.transpose={self.transpose} must be from 0 to 12 semitones")

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=KEYS, num_bits=KEYS)

    @property
    def metric(self) -> Metric:
        return BITS

    def chance(self, length: int) -> float:
        """A coin for each key."""
        return KEYS * math.log(2)

    @property
    def reports(self) -> tuple[str, ...]:
        if not self.source:
            return (self.lengths,)
        sizes = [len(piece) for part in self.pieces for piece in part]
        return (f"{min(sizes)}-{max(sizes)}",)

    @property
    def pieces(self) -> PianoRolls:
        """The three parts. Raises UserError, with file and reason, for files that are not the task's."""
        self.check_source()
        return read_piano_rolls(self.source, self.file)

    @property
    @abstractmethod
    def notation(self) -> Notation:
        """How keys and steps are written as MIDI."""

    @property
    def in_c(self) -> bool:
        """Whether all pieces were brought to the key of C."""
        return True

    @property
    def description(self) -> str:
        train = self.pieces.train
        return f"task {self.name}: {len(train):,} pieces of {self.source} to train on, {sum(map(len, train)):,} steps"

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        pieces: tuple[Roll, ...] = getattr(self.pieces, split)
        yield from (*pieces, np.array(len(pieces)))

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        pieces = self.pieces.train
        rows, begins = [], []
        for number in torch.randint(len(pieces), (batch,), generator=rng).tolist():
            piece, begin = pieces[number], 0
            if self.window and len(piece) > self.window:
                begin = int(torch.randint(len(piece) - self.window + 1, (), generator=rng))
                piece = piece[begin : begin + self.window]
            rows.append(self.moved(piece, rng))
            begins.append(begin == 0)
        return pad(rows, begins)

    def moved(self, piece: Roll, rng: torch.Generator) -> Roll:
        """The piece in another key, never so far that a note would leave the piano."""
        used = np.flatnonzero(piece.any(0))
        if not self.transpose or not len(used):
            return piece
        low, high = max(-self.transpose, -int(used[0])), min(self.transpose, KEYS - 1 - int(used[-1]))
        return np.roll(piece, int(torch.randint(low, high + 1, (), generator=rng)), 1)

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        wanted = length_range(lengths)
        pieces = sorted((piece for piece in getattr(self.pieces, split) if len(piece) in wanted), key=len)
        if not pieces:
            raise UserError(f"{self.source}: no piece of the {split} part is {lengths} steps long")
        rows: list[Roll] = []
        for piece in pieces:
            if rows and (len(rows) + 1) * len(piece) > STEPS_AT_ONCE:
                yield lengths, pad(rows, [False] * len(rows))
                rows = []
            rows.append(piece)
        yield lengths, pad(rows, [False] * len(rows))


def pad(pieces: Sequence[Roll], begins: Sequence[bool]) -> Batch:
    """A batch that reads silence and then each piece but its last step, and is asked for the step that comes next.

    begins: whether the first step of the piece is asked for too.
    """
    longest = max(map(len, pieces))
    inputs = torch.zeros(len(pieces), longest, KEYS)
    targets = nothing_scored(len(pieces), longest, KEYS)
    for row, (piece, asked) in enumerate(zip(pieces, begins)):
        played = torch.from_numpy(piece).float()
        inputs[row, 1 : len(piece)] = played[:-1]
        targets[row, : len(piece)] = played
        if not asked:
            targets[row, 0] = torch.nan
    return Batch(inputs, targets, torch.tensor([len(piece) for piece in pieces]))


@dataclass(frozen=True, kw_only=True)
class JSBChorales(PianoRoll):
    """Which notes come next in a chorale by Bach? 382 chorales in quarter notes.

    Boulanger-Lewandowski et al. 2012 (arXiv 1206.6392), whose split and whose key of C, major or minor, the MAT-file has.

    source: JSB_Chorales.mat, a .json of the same layout as jsb_chorales_16th.json, or a folder with the first.
    """

    name: ClassVar[str] = "jsb_chorales"
    needs: ClassVar[str] = "JSB_Chorales.mat, or a folder with it"
    file: ClassVar[str] = "JSB_Chorales.mat"
    lengths: ClassVar[str] = "25-160"

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(RNN=8.91, LSTM=8.45, GRU=8.43, TCN=8.10)

    @property
    def in_c(self) -> bool:
        return not self.source.endswith(".json")

    @property
    def notation(self) -> Notation:
        """A key of the MAT-file is an octave lower than on a piano: else all sopranos would go up to C7."""
        return Notation(LOWEST - 12, steps_per_quarter=1) if self.in_c else Notation(LOWEST, steps_per_quarter=4)


@dataclass(frozen=True, kw_only=True)
class Nottingham(PianoRoll):
    """Which notes come next in a folk tune with chords? 1,037 British and American tunes.

    Boulanger-Lewandowski et al. 2012 (arXiv 1206.6392), whose split and whose key of C, major or minor, the MAT-file has.

    source: Nottingham.mat, or a folder with it.
    """

    name: ClassVar[str] = "nottingham"
    needs: ClassVar[str] = "Nottingham.mat, or a folder with it"
    file: ClassVar[str] = "Nottingham.mat"
    lengths: ClassVar[str] = "40-1793"

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(RNN=4.05, LSTM=3.29, GRU=3.46, TCN=3.07)

    @property
    def notation(self) -> Notation:
        return Notation(LOWEST, steps_per_quarter=2)
