"""Sound files of one's own making: digits as tones, written with the standard library."""

import math
import wave

import numpy as np

RATE = 8000
SPEAKERS = {"anna": 1.0, "bert": 1.06}  # how much higher than the others they speak


def tone(digit, *, pitch=1.0, seconds=0.12, rate=RATE, seed=0):
    """Digit d as a tone of its own with a little noise, float64 [N]."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(t))
    return 0.3 * np.sin(2 * math.pi * 300 * 1.22**digit * pitch * t) * np.hanning(len(t)) + 0.001 * noise


def write_wav(path, samples, rate=RATE):
    """A 16-bit WAV file of samples [N] or, with channels, [N, C]."""
    samples = np.asarray(samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())


def write_digits(folder, *, digits=range(10), numbers=(0, 1, 5, 9, 10), rate=RATE):
    """Recordings <digit>_<speaker>_<number>.wav: with one validation recording, 0 and 1 are for the official test, 5 for
    validation and the others for training."""
    for digit in digits:
        for speaker, pitch in SPEAKERS.items():
            for number in numbers:
                seconds = 0.10 + 0.01 * (number % 4)
                sound = tone(digit, pitch=pitch, seconds=seconds, rate=rate, seed=number)
                write_wav(folder / f"{digit}_{speaker}_{number}.wav", sound, rate)
    return folder
