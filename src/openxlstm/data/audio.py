"""Sound files in, samples out: whatever the package soundfile reads (WAV, FLAC, Ogg, MP3, ...), mixed to one channel.

soundfile reads the beginning of a file that is cut short without a word. That is found out here and refused.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from openxlstm.data.resample import Resampler
from openxlstm.errors import UserError, missing_extra

UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # what programs that write into a pipe put down for a size they do not know
SAMPLES_AT_ONCE = 65_536
PCM_BYTES = 2  # of a raw sample
PCM_SCALE = 32_768


def soundfile_package() -> Any:
    """The package soundfile; raises UserError where it is not installed."""
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: without its library libsndfile
        raise missing_extra("soundfile", "speech", "reading sound files") from None
    return soundfile


class SoundFile:
    """A sound file, or its content: its `rate`, and its samples piece by piece.

    source: the path, or the content as bytes. where: its name in messages; None is the path.
    Raises UserError, with name and reason, for a file that is none, is cut short, has no sample or a sample that is no number.
    """

    def __init__(self, source: str | Path | bytes, where: str | None = None) -> None:
        self.where = where or str(source)
        package = soundfile_package()
        try:
            self._file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
        except FileNotFoundError:
            raise UserError(f"{self.where}: no such file") from None
        except IsADirectoryError:
            raise UserError(f"{self.where}: this is a folder, not a sound file") from None
        check_whole(self._file, self.where)
        try:
            self._sound = package.SoundFile(self._file)
        except package.LibsndfileError as error:
            raise UserError(f"{self.where}: cannot be read as sound: {reason(error)}") from None
        self.rate: int = self._sound.samplerate
        self.num_samples: int = self._sound.frames
        if not self.num_samples:
            raise UserError(f"{self.where}: has no samples")

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.num_samples / self.rate

    def blocks(self, size: int = SAMPLES_AT_ONCE) -> Iterator[Tensor]:
        """All samples, from -1 to 1, in tensors [N] float32 of `size` and a last one of less; channels are averaged."""
        package = soundfile_package()
        done = 0
        while done < self.num_samples:
            try:
                block = self._sound.read(min(size, self.num_samples - done), dtype="float32", always_2d=True)
            except package.LibsndfileError as error:
                raise UserError(f"{self.where}: cannot be read behind sample {done:,}: {reason(error)}") from None
            if not len(block):
                raise UserError(f"{self.where}: ends after {done:,} of {self.num_samples:,} samples; is it cut short?")
            samples = torch.from_numpy(block).mean(1)
            if not bool(samples.isfinite().all()):
                first = done + int((~samples.isfinite()).nonzero()[0])
                raise UserError(f"{self.where}: sample {first:,} is no finite number")
            done += len(block)
            yield samples


def read_sound(source: str | Path | bytes, rate: int, where: str | None = None) -> Tensor:
    """A whole sound file as one channel at `rate`, float32 [N]. Arguments and errors as for SoundFile."""
    sound = SoundFile(source, where)
    resampler = Resampler(sound.rate, rate)
    return torch.cat([*(resampler.feed(block) for block in sound.blocks()), resampler.finish()])


def reason(error: Exception) -> str:
    """What libsndfile says, without the name of a Python object."""
    text = str(getattr(error, "error_string", error)).strip()
    return text.rstrip(".") or "malformed"


def check_whole(file: BinaryIO, where: str) -> None:
    """Raise UserError for a file that ends before its own header says. The file is left at its beginning."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    file.seek(0)
    if not size:
        raise UserError(f"{where}: is empty")
    if magic == b"RIFF":
        check_chunks(file, where, size, "<I")
    elif magic in (b"RIFX", b"FORM"):
        check_chunks(file, where, size, ">I")
    elif magic == b"OggS":
        check_ogg(file, where, size)
    file.seek(0)


def check_chunks(file: BinaryIO, where: str, size: int, number: str) -> None:
    """The same for the chunks of a WAV or AIFF file: four letters, the number of bytes, and so many bytes."""
    place = 12
    while place + 8 <= size:
        file.seek(place)
        name, length = file.read(4), struct.unpack(number, file.read(4))[0]
        sound = name in (b"data", b"SSND")
        if sound and length in UNKNOWN_SIZE:
            return
        missing = place + 8 + length - size
        if missing > 0 and sound:
            raise UserError(f"{where}: is cut short: {missing:,} of {length:,} bytes of sound are missing")
        if missing > 0:
            raise UserError(f"{where}: is cut short or malformed: its part {name!r} goes {missing:,} bytes beyond the end")
        place += 8 + length + length % 2  # parts begin at even bytes


def check_ogg(file: BinaryIO, where: str, size: int) -> None:
    """The same for the pages of an Ogg file (RFC 3533): the last one is complete and says that it is the last."""
    place, flags = 0, 0
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            raise UserError(f"{where}: is cut short or malformed: no Ogg page at byte {place:,}")
        flags = head[5]
        lengths = file.read(head[26])
        place += 27 + head[26] + sum(lengths)
        if len(lengths) < head[26] or place > size:
            raise UserError(f"{where}: is cut short: its last Ogg page is not complete")
    if not flags & 4:
        raise UserError(f"{where}: is cut short: its last Ogg page does not end the stream")


class RawSound:
    """Raw sound as it comes out of a pipe: 16-bit little-endian samples, channels taking turns.

    num_channels: they are averaged. Raises ValueError for less than one.
    """

    def __init__(self, num_channels: int = 1) -> None:
        if num_channels < 1:
            raise UserError(f"num_channels={num_channels} must be at least 1")
        self.num_channels = num_channels
        self._rest = b""

    def feed(self, content: bytes) -> Tensor:
        """The samples, [N] float32 from -1 to 1, that are complete with these bytes."""
        content = self._rest + content
        whole = len(content) - len(content) % (PCM_BYTES * self.num_channels)
        self._rest = content[whole:]
        if not whole:
            return torch.zeros(0)
        values = torch.frombuffer(bytearray(content[:whole]), dtype=torch.int16)
        return values.view(-1, self.num_channels).float().mean(1) / PCM_SCALE

    def finish(self) -> None:
        """Raise UserError where the stream ended within a sample."""
        if self._rest:
            raise UserError(
                f"the stream ended within a sample: {len(self._rest)} bytes are left; expected 16-bit samples of "
                f"{self.num_channels} channel{'s' * (self.num_channels > 1)}"
            )
