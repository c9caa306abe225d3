"""Decoding of CTC against all alignments of small sequences."""

import itertools
import math

import pytest
import torch

from openxlstm.inference import ctc
from openxlstm.inference.ctc import Greedy, PrefixBeam, decode


def probabilities(T, C, seed, scale=2.0):
    return (scale * torch.randn(T, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).log_softmax(-1)


def collapsed(path):
    return tuple(label for label, _ in itertools.groupby(path) if label)


def all_texts(log_probs):
    """Every text with its probability: the sum over its alignments."""
    T, C = log_probs.shape
    found = {}
    for path in itertools.product(range(C), repeat=T):
        p = math.exp(sum(float(log_probs[t, label]) for t, label in enumerate(path)))
        found[collapsed(path)] = found.get(collapsed(path), 0.0) + p
    return found


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_finds_the_likeliest_text(seed):
    log_probs = probabilities(1 + seed % 5, 3 + seed % 2, seed)
    texts = all_texts(log_probs)
    beam = PrefixBeam(10_000, math.inf)
    assert tuple(beam.push(log_probs) + beam.finish()) == max(texts, key=texts.get)
    beam.push(log_probs)
    kept = {prefix: sum(math.exp(p) for p in both) for prefix, both in beam._beams.items()}
    given = collapsed(()) if beam._last == 0 else (beam._last,)
    if not given:  # nothing was certain: the beam holds every text there is
        for text, p in texts.items():
            assert kept.get(text, 0.0) == pytest.approx(p, abs=1e-12)


def test_a_beam_is_better_than_the_likeliest_labels():
    """The blank is the likeliest label twice, 0.36, but the alignments of the label 1 together have 0.64."""
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64).log()
    assert decode(log_probs) == []
    assert decode(log_probs, beam=4) == [1]


@pytest.mark.parametrize("beam", [0, 1, 4, 16])
@pytest.mark.parametrize("piece", [1, 5, 400])
def test_pieces_decode_as_the_whole(beam, piece):
    log_probs = probabilities(400, 6, seed=3, scale=3.0)
    decoder = ctc.decoder(beam)
    found = [label for part in log_probs.split(piece) for label in decoder.push(part)]
    assert found + decoder.finish() == decode(log_probs, beam)
    assert decoder.push(log_probs) + decoder.finish() == decode(log_probs, beam), "a new stream begins"


def test_the_same_label_again_needs_a_blank():
    one_hot = torch.eye(3).mul(50).log_softmax(-1)
    for beam in (0, 8):
        assert decode(one_hot[[1, 1, 0, 1, 2, 2]], beam) == [1, 1, 2]
    beam = PrefixBeam(8)
    assert beam.push(one_hot[[1, 1]]) + beam.push(one_hot[[1, 0, 1]]) + beam.finish() == [1, 1]


def test_memory_of_a_beam_has_a_bound(monkeypatch):
    monkeypatch.setattr(ctc, "MOST_UNDECIDED", 5)
    # two labels that are always equally likely: the first is never certain
    row = torch.tensor([[0.2, 0.4, 0.4]], dtype=torch.float64).log()
    beam, given = PrefixBeam(8), []
    for _ in range(300):
        given += beam.push(row)
        assert max(map(len, beam._beams)) <= 7
        assert len(beam._beams) <= 8
    assert len(given) > 50


def test_greedy_over_pieces():
    decoder = Greedy()
    one_hot = torch.eye(3)
    assert decoder.push(one_hot[[0, 1]]) == [1]
    assert decoder.push(one_hot[[1, 0, 1, 2]]) == [1, 2]
    assert decoder.finish() == []


def test_settings():
    with pytest.raises(ValueError, match="width=0 must be at least 1"):
        PrefixBeam(0)
    with pytest.raises(ValueError, match="prune=0 above 0"):
        PrefixBeam(3, 0)
