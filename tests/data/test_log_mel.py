"""Mel scales and filters against published values; a stream against the whole recording."""

import math

import numpy as np
import pytest
import torch

from openxlstm.data.log_mel import LogMel, hz_to_mel, mel_filters, mel_to_hz


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_slaney_scale():
    """The examples in the documentation of librosa.hz_to_mel, mel_to_hz and mel_frequencies (n_mels=40)."""
    close(hz_to_mel(numbers(60, 110, 220, 440)), [0.9, 1.65, 3.3, 6.6])
    close(mel_to_hz(numbers(1, 2, 3, 4, 5)), [66.667, 133.333, 200.0, 266.667, 333.333], 5e-4)
    corners = mel_to_hz(torch.linspace(0, float(hz_to_mel(numbers(11025))), 40, dtype=torch.float64))
    close(corners[:4], [0.0, 85.317, 170.635, 255.952], 6e-4)
    close(corners[11:16], [938.49, 1024.856, 1119.114, 1222.042, 1334.436], 6e-4)
    close(corners[-3:], [9246.028, 10096.408, 11025.0], 6e-4)


def test_htk_scale():
    """The HTK Book: 2595 log10(1 + f / 700), by which 1000 Hz is 1000 mel."""
    close(hz_to_mel(numbers(0, 700, 1000), "htk"), [0.0, 2595 * math.log10(2), 999.9855371], 1e-6)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_scales_are_invertible(scale):
    hz = torch.linspace(0, 20_000, 999, dtype=torch.float64)
    close(mel_to_hz(hz_to_mel(hz, scale), scale), hz, 1e-8)


def test_filters_are_those_of_librosa():
    """librosa.filters.mel(sr=22050, n_fft=2048): the first two rows as published with the crate mel_filter (docs.rs), which is
    held against librosa."""
    filters = mel_filters(22050, 2048, 128, 0, 11025)
    assert filters.shape == (1025, 128)
    first = [0, 0.016182853208219942, 0.032365706416439884, 0.028990088037379964, 0.012807234829160026, 0]
    close(filters[:6, 0], first)
    second = [0, 0, 0, 0.009779235793639925, 0.025962089001859864, 0.035393705451959974, 0.01921085224374004]
    close(filters[:9, 1], [*second, 0.003027999035520103, 0])


def test_a_frame_by_hand():
    """The definition, with sums in place of the Fourier transform."""
    features = LogMel(rate=8000, window=64, hop=16, num_mels=5, low=100, scale="htk", floor=1e-3, mean=0.5, std=2.0, stack=2)
    x = np.random.default_rng(0).normal(size=200) * 0.1
    found = features(torch.from_numpy(x))
    n = np.arange(64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 64)  # periodic
    filters = mel_filters(8000, 64, 5, 100, 4000, "htk").numpy()
    rows = []
    for frame in range((200 - 64) // 16 + 1):
        piece = x[frame * 16 : frame * 16 + 64] * window
        power = [abs(np.sum(piece * np.exp(-2j * np.pi * k * n / 64))) ** 2 for k in range(33)]
        rows.append((np.log(np.array(power) @ filters + 1e-3) - 0.5) / 2.0)
    steps = np.concatenate([np.stack(rows[0:8:2]), np.stack(rows[1:8:2])], 1)
    assert found.shape == (features.num_steps(200), features.dim) == (4, 10)
    np.testing.assert_allclose(found.numpy(), steps, atol=1e-6)


@pytest.mark.parametrize("piece", [1, 7, 80, 333, 4096])
@pytest.mark.parametrize("stack", [1, 3])
def test_a_stream_has_the_frames_of_the_recording(piece, stack):
    features = LogMel(stack=stack)
    x = 0.1 * torch.randn(4001, generator=torch.Generator().manual_seed(0))
    stream = features.stream()
    found = torch.cat([stream.feed(part) for part in x.split(piece)])
    assert torch.equal(found, features(x))
    assert len(found) == features.num_steps(4001)


def test_sounds_too_short_and_batches():
    features = LogMel(stack=2)
    assert features(torch.zeros(features.sight - 1)).shape == (0, 80)
    assert features(torch.zeros(3, features.sight)).shape == (3, 1, 80)
    x = torch.randn(2, 3, 2000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(features(x)[1, 2], features(x[1, 2]))
    assert features(torch.zeros(800)).isfinite().all(), "silence has a logarithm"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(scale="bark"), "mel scale 'bark' must be one of slaney, htk"),
        (dict(low=5000.0), "from 5000 to 4000 Hz"),
        (dict(high=4001.0), "expected 0 <= low < high <= 4000"),
        (dict(num_mels=300), "num_mels=300 bands are narrower than the 31.2 Hz between the bins of window=256"),
        (dict(hop=0), "hop=0 must be at least 1"),
        (dict(floor=0.0), "floor=0 and std=3.5 must be positive"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        LogMel(**settings)
