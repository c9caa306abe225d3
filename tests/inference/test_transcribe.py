"""A recogniser of tones: the same text however the sound is cut, at other rates, in constant memory."""

import pytest
import torch

from openxlstm.data.alphabet import Alphabet, of_letters, of_words
from openxlstm.data.log_mel import LogMel
from openxlstm.inference.transcribe import SILENCE, Recognizer
from openxlstm.models.config import SequenceConfig
from openxlstm.models.sequence import SequenceModel
from openxlstm.ops.state import leaves

FEATURES = LogMel(num_mels=20, stack=2)
ALPHABET = of_words(("ba", "na", "na-na"))


def model_of(blocks=("slstm", "mlstm"), outputs=4):
    """Untrained weights, made large: its labels change all the time, which is the hardest text to keep the same."""
    torch.manual_seed(0)
    config = SequenceConfig(dim=16, num_heads=2, blocks=blocks, input_dim=FEATURES.dim, num_outputs=outputs)
    model = SequenceModel(config).double()
    with torch.no_grad():
        model.output.weight.mul_(20)
    return model


def sound(seconds=1.5, rate=8000):
    return 0.1 * torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(1))


def text_of(recognizer, samples, piece):
    return "".join([*(recognizer.feed(part) for part in samples.split(piece)), recognizer.finish()])


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize("rate", [8000, 11025, 16000])
def test_pieces_give_the_text_of_the_whole(beam, rate):
    model, samples = model_of(), sound(rate=rate)
    whole = text_of(Recognizer(model, FEATURES, ALPHABET, rate=rate, beam=beam), samples, len(samples))
    assert len(whole.split(" ")) > 8
    assert set(whole.split(" ")) <= set(ALPHABET.pieces)
    for piece in (601, 5000):
        assert text_of(Recognizer(model, FEATURES, ALPHABET, rate=rate, beam=beam), samples, piece) == whole


def test_the_text_is_that_of_the_model():
    """Written out: features of the sound and the silence behind it, one call of the model, the likeliest labels."""
    model, samples = model_of(), sound()
    padded = torch.cat([samples, torch.zeros(round(SILENCE * 8000))])
    with torch.no_grad():
        labels = model(FEATURES(padded)[None].double())[0][0].argmax(-1).tolist()
    expected = [label for before, label in zip([0, *labels], labels) if label and label != before]
    assert text_of(Recognizer(model, FEATURES, ALPHABET), samples, 1000) == ALPHABET.text(expected)


def size(recognizer):
    """Numbers that a recogniser holds."""
    beams = sum(len(prefix) + 2 for prefix in getattr(recognizer._decoder, "_beams", {}))
    held = [*leaves(recognizer._state), recognizer._frames._rest, recognizer._resampler._held]
    return beams, sum(part.numel() for part in held)


@pytest.mark.parametrize("blocks", [("slstm", "mlstm"), ("attention",)])
def test_memory_is_flat(blocks):
    recognizer = Recognizer(model_of(blocks), FEATURES, ALPHABET, rate=16_000, beam=4)
    samples, sizes = sound(1.0, 16_000), []
    for _ in range(8):
        for part in samples.split(1600):
            recognizer.feed(part)
        sizes.append(size(recognizer))
    assert max(beams for beams, _ in sizes) < 4 * 60
    if blocks == ("attention",):
        assert sizes[-1][1] > 2 * sizes[1][1], "the measure sees what grows"
    else:
        assert max(held for _, held in sizes[2:]) <= max(held for _, held in sizes[:2])
    assert recognizer.seconds == 8.0
    latency = recognizer.latency
    assert latency.num_pieces == 80
    assert 0 < latency.mean <= latency.worst


def test_nothing_heard_and_too_little():
    for samples in (torch.zeros(0), torch.zeros(3)):
        recognizer = Recognizer(model_of(), FEATURES, ALPHABET)
        assert recognizer.feed(samples) == ""
        recognizer.finish()


def test_what_does_not_fit_together():
    with pytest.raises(ValueError, match="the model reads 40 numbers and answers 4; the features have 40 and the labels are 3"):
        Recognizer(model_of(), FEATURES, of_words(("ba", "na")))
    with pytest.raises(ValueError, match="a sample rate of -5 Hz"):
        Recognizer(model_of(), FEATURES, ALPHABET, rate=-5)


def test_alphabets():
    words, letters = of_words(("two", "one")), of_letters(("two", "one"))
    assert words.labels(["one", "two"]) == [2, 1]
    assert words.text([2, 1]) == "one two"
    assert letters == Alphabet((" ", "e", "n", "o", "t", "w"))
    assert letters.text(letters.labels(["one", "two"])) == "one two"
    assert (len(words), len(letters)) == (3, 7)
    for alphabet, missing in ((words, "six"), (letters, "s")):
        with pytest.raises(ValueError, match=f"there is no label for '{missing}'"):
            alphabet.labels(["six"])
