"""Log-mel features of sound: for a whole recording, and for a stream piece by piece with the very same numbers."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from openxlstm.errors import UserError

SCALES = ("slaney", "htk")
LINEAR_HZ_PER_MEL = 200 / 3  # Slaney, Auditory Toolbox (1998): linear up to 1 kHz, which is mel 15,
KNEE_HZ, KNEE_MEL = 1000.0, 15.0
LOG_STEP = math.log(6.4) / 27  # and 27 mels to each factor of 6.4 above


def hz_to_mel(hz: Tensor, scale: str = "slaney") -> Tensor:
    """Frequencies in mel. "slaney": Auditory Toolbox (1998); "htk": 2595 log10(1 + hz / 700)."""
    check_scale(scale)
    if scale == "htk":
        return 2595 * torch.log10(1 + hz / 700)
    above = KNEE_MEL + torch.log(hz.clamp(min=KNEE_HZ) / KNEE_HZ) / LOG_STEP
    return torch.where(hz < KNEE_HZ, hz / LINEAR_HZ_PER_MEL, above)


def mel_to_hz(mel: Tensor, scale: str = "slaney") -> Tensor:
    """The reverse."""
    check_scale(scale)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = KNEE_HZ * torch.exp(LOG_STEP * (mel - KNEE_MEL).clamp(min=0))
    return torch.where(mel < KNEE_MEL, mel * LINEAR_HZ_PER_MEL, above)


def check_scale(scale: str) -> None:
    """Raise ValueError for a mel scale that there is not."""
    if scale not in SCALES:
        raise UserError(f"mel scale {scale!r} must be one of {', '.join(SCALES)}")


def mel_filters(rate: int, window: int, num_mels: int, low: float, high: float, scale: str = "slaney") -> Tensor:
    """Triangular filters [window // 2 + 1, num_mels], float64, that sum the power of the bins of a Fourier transform.

    rate: samples a second. window: samples of the transform. low, high: the band in Hz; the num_mels + 2 corners of the
    triangles are equidistant in mel. Each triangle has the area 1 (in Hz): 2 / its width is the height.
    """
    ends = hz_to_mel(torch.tensor([low, high], dtype=torch.float64), scale)
    corners = mel_to_hz(torch.linspace(float(ends[0]), float(ends[1]), num_mels + 2, dtype=torch.float64), scale)
    bins = torch.arange(window // 2 + 1, dtype=torch.float64)[:, None] * rate / window  # [bins, 1]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    triangles = torch.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)).clamp(min=0)
    return triangles * 2 / (right - left)


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Log-mel features, some frames joined to a step of the model.

    Frame n sees the samples n * hop to n * hop + window and nothing else: no padding at the ends, so that a stream has the
    frames of the recording. rate: samples a second. window: samples of a frame (Hann). hop: samples from frame to frame.
    num_mels: bands. low, high: of the bands, in Hz; high 0 is half the rate. scale: "slaney" or "htk". floor: is added to
    every energy, so that silence has a logarithm. mean, std: of the logarithms; what is given out is (log - mean) / std; the
    defaults are those of the Free Spoken Digit Dataset. stack: frames of a step; the step has stack * num_mels numbers.
    Raises ValueError for settings that no filters can be made of.
    """

    rate: int = 8000
    window: int = 256
    hop: int = 80
    num_mels: int = 40
    low: float = 50.0
    high: float = 0.0
    scale: str = "slaney"
    floor: float = 1e-6
    mean: float = -9.2
    std: float = 3.5
    stack: int = 2

    def __post_init__(self) -> None:
        for name in ("rate", "window", "hop", "num_mels", "stack"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        check_scale(self.scale)
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise UserError(f"the bands go from {self.low:g} to {self.top:g} Hz; expected 0 <= low < high <= {self.rate / 2:g}")
        if not (self.floor > 0 and self.std > 0):
            raise UserError(f"floor={self.floor:g} and std={self.std:g} must be positive")
        if not bool((_filters(self) > 0).any(0).all()):
            raise UserError(
                f"num_mels={self.num_mels} bands are narrower than the {self.rate / self.window:.1f} Hz between the bins of "
                f"window={self.window}: take fewer bands or a longer window"
            )

    @property
    def top(self) -> float:
        """The upper end of the bands in Hz."""
        return self.high or self.rate / 2

    @property
    def dim(self) -> int:
        """Numbers in a step."""
        return self.stack * self.num_mels

    @property
    def step(self) -> int:
        """Samples from step to step."""
        return self.stack * self.hop

    @property
    def sight(self) -> int:
        """Samples that a step sees."""
        return (self.stack - 1) * self.hop + self.window

    def num_steps(self, samples: int) -> int:
        """Steps of so many samples."""
        return max((samples - self.sight) // self.step + 1, 0)

    def __call__(self, samples: Tensor) -> Tensor:
        """The features [..., T, dim], float32, of samples [..., N] from -1 to 1.

        Computed in float64: the sums of a Fourier transform depend on how many frames are transformed at once, and rounded to
        float32 they do not any more.
        """
        steps = self.num_steps(samples.shape[-1])
        lead = samples.shape[:-1]
        if not steps:
            return samples.new_zeros(*lead, 0, self.dim, dtype=torch.float32)
        used = samples[..., : (steps - 1) * self.step + self.sight].double().reshape(-1, (steps - 1) * self.step + self.sight)
        hann = torch.hann_window(self.window, dtype=torch.float64, device=samples.device)
        spectrum = torch.stft(used, self.window, self.hop, window=hann, center=False, return_complex=True)  # [B, bins, frames]
        power = spectrum.real.square() + spectrum.imag.square()
        energy = power.mT @ _filters(self).to(samples.device)  # [B, frames, num_mels]
        features = ((energy + self.floor).log() - self.mean) / self.std
        return features.reshape(*lead, steps, self.dim).float()

    def stream(self) -> "LogMelStream":
        """The same features of samples that come piece by piece."""
        return LogMelStream(self)


@lru_cache(maxsize=8)
def _filters(features: LogMel) -> Tensor:
    f = features
    return mel_filters(f.rate, f.window, f.num_mels, f.low, f.top, f.scale)


class LogMelStream:
    """Features of one stream. It keeps the samples of the steps that are not complete: less than a step and its sight."""

    def __init__(self, features: LogMel) -> None:
        self.features = features
        self._rest = torch.zeros(0)

    def feed(self, samples: Tensor) -> Tensor:
        """The steps [T, dim] that are complete with these samples [N]; T may be 0."""
        held = torch.cat([self._rest, samples])
        found = self.features(held)
        self._rest = held[len(found) * self.features.step :].clone()
        return found
