"""Sound files: rates, channels, formats, and what is wrong with malformed ones."""

import io
import math
import struct

import numpy as np
import pytest
import torch

from openxlstm.data.audio import RawSound, SoundFile, read_sound
from openxlstm.data.resample import Resampler, resample
from openxlstm.errors import UserError
from sounds import write_wav

soundfile = pytest.importorskip("soundfile")


def sine(hz, rate, seconds=0.5):
    return torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate), dtype=torch.float64) / rate)


@pytest.mark.parametrize(("rate", "to"), [(8000, 16000), (16000, 8000), (44100, 8000), (48000, 8000), (11025, 8000)])
def test_a_tone_at_another_rate(rate, to):
    """A tone that both rates have is the same tone; one that the lower rate does not have is gone."""
    found = resample(sine(1000, rate), rate, to)
    expected = sine(1000, to)
    assert len(found) == len(expected)
    middle = slice(100, -100)
    assert (found - expected)[middle].abs().max() < 2e-5
    if rate > to:
        assert resample(sine(0.55 * to, rate), rate, to)[middle].abs().max() < 1e-4


@pytest.mark.parametrize(("rate", "to"), [(8000, 8000), (16000, 8000), (44100, 8000), (8000, 11025)])
def test_pieces_resample_as_the_whole(rate, to):
    x = torch.randn(3001, generator=torch.Generator().manual_seed(0))
    resampler = Resampler(rate, to)
    found = torch.cat([*(resampler.feed(piece) for piece in x.split(37)), resampler.finish()])
    assert torch.equal(found, resample(x, rate, to))
    assert len(found) == math.ceil(3001 * to / rate)
    assert len(resampler._held) < 1000, "memory does not grow"


def test_rates_that_cannot_be():
    for rate in (0, 800_000):
        with pytest.raises(UserError, match=f"a sample rate of {rate} Hz must be a whole number from 1 to 768,000"):
            Resampler(rate, 8000)


def content(samples, fmt, rate=8000, subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=fmt, subtype=subtype)
    return file.getvalue()


def test_channels_are_averaged_and_pieces_are_the_file(tmp_path):
    left, right = sine(300, 8000).numpy(), 0.5 * sine(500, 8000).numpy()
    write_wav(tmp_path / "x.wav", np.stack([left, right], 1))
    sound = SoundFile(tmp_path / "x.wav")
    assert (sound.rate, sound.num_samples, sound.seconds) == (8000, 4000, 0.5)
    found = torch.cat(list(sound.blocks(333)))
    np.testing.assert_allclose(found.numpy(), (left + right) / 2, atol=1e-4)
    assert torch.equal(found, read_sound(tmp_path / "x.wav", 8000))
    assert len(read_sound(tmp_path / "x.wav", 16000)) == 8000


@pytest.mark.parametrize("fmt", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats_and_files_that_are_cut_short(fmt):
    whole = content(0.5 * sine(440, 16000, 2.0).numpy(), fmt, 16000)
    found = read_sound(whole, 16000, "x")
    assert abs(float(found[4000:20000].abs().max()) - 0.5) < 0.1
    for kept in (len(whole) // 2, len(whole) - 5):
        with pytest.raises(UserError, match=r"^x: (is cut short|ends after|cannot be read)"):
            read_sound(whole[:kept], 16000, "x")


def test_what_is_no_sound(tmp_path):
    wav = content(np.zeros(100), "WAV", subtype="PCM_16")
    bad = content(np.array([0, 0.5, np.nan]), "WAV", subtype="FLOAT")
    for given, message in (
        (b"", "x: is empty"),
        (b"no sound at all" * 9, "x: cannot be read as sound: Format not recognised"),
        (wav[:30], "x: is cut short or malformed: its part b'fmt ' goes 6 bytes beyond the end"),
        (wav[:-20], "x: is cut short: 20 of 200 bytes of sound are missing"),
        (content(np.zeros(0), "WAV"), "x: has no samples"),
        (bad, "x: sample 2 is no finite number"),
    ):
        with pytest.raises(UserError) as error:
            read_sound(given, 8000, "x")
        assert str(error.value) == message
    with pytest.raises(UserError, match=r"nowhere\.wav: no such file"):
        SoundFile(tmp_path / "nowhere.wav")
    with pytest.raises(UserError, match="this is a folder"):
        SoundFile(tmp_path)


def test_a_wav_file_from_a_pipe_has_no_size():
    wav = bytearray(content(np.full(100, 0.5), "WAV", subtype="PCM_16"))
    wav[40:44] = struct.pack("<I", 0xFFFFFFFF)
    assert len(read_sound(bytes(wav), 8000, "x")) == 100


def test_raw_samples_in_odd_pieces():
    values = np.arange(-6, 6, dtype="<i2").reshape(6, 2) * 1000
    raw, sound = values.tobytes(), RawSound(2)
    found = torch.cat([sound.feed(raw[i : i + 5]) for i in range(0, len(raw), 5)])
    np.testing.assert_allclose(found.numpy(), values.mean(1) / 32768, atol=1e-7)
    sound.finish()
    sound.feed(raw[:3])
    with pytest.raises(UserError, match="ended within a sample: 3 bytes are left; expected 16-bit samples of 2 channels"):
        sound.finish()
    with pytest.raises(UserError, match="num_channels=0"):
        RawSound(0)
