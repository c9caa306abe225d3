"""Spoken digits: who belongs to which part, what is drawn, and what is wrong with bad files."""

import tarfile
from dataclasses import replace

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from openxlstm.tasks.speech import DIGITS, by_speaker
from sounds import tone, write_digits, write_wav

pytest.importorskip("soundfile")
PLAIN = dict(speed=0.0, gain=0.0, noise=0.0, time_mask=0, mel_mask=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def task_of(name, folder, **options):
    return TASKS[name](source=str(folder), validation_recordings=1, **options)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def names(task, split):
    return {(one.digit, one.speaker, one.number) for one in task.recordings(split)}


@pytest.mark.parametrize("name", ["spoken_digits", "digit_sequences"])
def test_parts(name, folder):
    task = task_of(name, folder)
    assert {number for _, _, number in names(task, "test")} == {0, 1}
    assert {number for _, _, number in names(task, "validation")} == {5}
    assert {number for _, _, number in names(task, "train")} == {9, 10}
    assert sum(len(names(task, split)) for split in ("train", "validation", "test")) == 100
    alone = replace(task, split="anna")
    assert {speaker for _, speaker, _ in names(alone, "test")} == {"anna"}
    assert len(names(alone, "test")) == 50
    assert {(speaker, number) for _, speaker, number in names(alone, "train")} == {("bert", n) for n in (0, 1, 9, 10)}
    assert {(speaker, number) for _, speaker, number in names(alone, "validation")} == {("bert", 5)}
    assert task.fingerprint != alone.fingerprint


def test_tar_files_are_the_folder(folder, tmp_path):
    for part, wanted in (("train", (5, 9, 10)), ("test", (0, 1))):
        with tarfile.open(tmp_path / f"{part}.tar.gz", "w:gz") as tar:
            for path in sorted(folder.iterdir()):
                if int(path.stem.split("_")[2]) in wanted:
                    tar.add(path, f"recordings/{path.name}")
    packed, plain = task_of("spoken_digits", tmp_path), task_of("spoken_digits", folder)
    assert packed.fingerprint == plain.fingerprint
    assert len(task_of("spoken_digits", tmp_path / "train.tar.gz", split="bert").recordings("test")) == 30
    (tmp_path / "more").mkdir()
    write_wav(tmp_path / "more" / "3_anna_5.wav", tone(3))
    with pytest.raises(UserError, match=r"3_anna_5.wav: there are two recordings 5 of 3 by anna"):
        task_of("spoken_digits", tmp_path).recordings("train")


def test_recordings_at_another_rate(tmp_path, folder):
    """Of 16 kHz, as those of 8 kHz: the tones are the same."""
    write_digits(tmp_path, rate=16_000)
    higher, plain = (task_of("spoken_digits", place).recordings("train") for place in (tmp_path, folder))
    assert [len(one.samples) for one in higher] == [len(one.samples) for one in plain]
    assert max(float((a.samples - b.samples).abs().max()) for a, b in zip(higher, plain)) < 0.02


def test_what_is_read_and_asked(folder):
    task = task_of("spoken_digits", folder, **PLAIN)
    found = [batch for _, batch in task.evaluation("test", task.reports[0])]
    digits = torch.cat([batch.targets[batch.scored] for batch in found])
    assert digits.bincount().tolist() == [4] * 10, "every recording once"
    assert sum(len(batch.lengths) for batch in found) == 40
    batch, pool = found[0], {task.steps(one): one for one in task.recordings("test")}
    for row, steps in enumerate(batch.lengths.tolist()):
        assert batch.scored[row].nonzero().tolist() == [[steps - 1]]
        assert not batch.inputs[row, steps:].any()
        assert steps in pool
    first = next(one for one in task.recordings("train") if one.digit == 7)
    inputs, lengths = task.heard([first.samples, torch.zeros(5000)])
    assert torch.equal(inputs[0, : lengths[0]], task.features(first.samples)), "company changes nothing"
    few = [batch for _, batch in task.evaluation("test", "4")]
    assert {int(steps) for batch in few for steps in batch.lengths} == {4}
    with pytest.raises(UserError, match="no recording of the test part is 99 steps long"):
        next(task.evaluation("test", "99"))


def test_training_changes_recordings(folder):
    task = task_of("spoken_digits", folder, speed=0.2, gain=10.0, noise=0.01)
    batch, again = task.train_batch(32, rng()), task.train_batch(32, rng())
    assert torch.equal(batch.inputs, again.inputs)
    assert not torch.equal(batch.inputs, task.train_batch(32, rng(1)).inputs)
    x = torch.ones(1000)
    lengths = [len(task.spoken(x, rng(seed))) for seed in range(200)]
    assert 1000 / 1.2 - 1 <= min(lengths) < 860
    assert 1200 < max(lengths) <= 1251
    levels = [float(task.louder(x, rng(seed))[0]) for seed in range(200)]
    assert 10**-0.5 <= min(levels) < 0.36
    assert 2.8 < max(levels) <= 10**0.5
    noises = [float((task.noisy(x, rng(seed)) - 1).std()) for seed in range(200)]
    assert max(noises) < 0.011
    assert min(noises) < 0.001


def test_masks_are_of_steps_and_bands(folder):
    task = task_of("spoken_digits", folder, time_mask=3, mel_mask=4, stack=2)
    lengths = torch.tensor([40, 20, 3])
    found = task.masked(torch.ones(3, 40, task.features.dim), lengths, rng()).unflatten(-1, (2, 40))
    assert torch.equal(found[:, :, 0], found[:, :, 1]), "both frames of a step"
    assert found[1, 20:].all(), "padding is left alone"
    steps = [(found[row, :n, 0].sum(1) == 0).sum() for row, n in enumerate(lengths)]
    bands = [(found[row, :n, 0].sum(0) == 0).sum() for row, n in enumerate(lengths)]
    assert max(steps) <= 6
    assert steps[2] == 0, "a fifth of three steps is none"
    assert 0 < max(bands) <= 8
    assert (found == 0).any()


def spelled(samples, digits, pool):
    """The recordings that `samples` is put together from, found by trying."""
    if not digits:
        return [] if not len(samples) else None
    for one in pool:
        size = len(one.samples)
        if one.digit == digits[0] and torch.equal(samples[:size], one.samples):
            rest = spelled(samples[size:], digits[1:], pool)
            if rest is not None:
                return [one, *rest]
    return None


def test_sequences_are_of_one_speaker_and_one_part(folder):
    task = task_of("digit_sequences", folder, max_pause=0.0, **PLAIN)
    for split in ("train", "test"):
        pools = by_speaker(task.recordings(split))
        assert [len(pool) for pool in pools] == [20, 20]
        speakers = set()
        for seed in range(20):
            samples, digits = task.sequence(pools, 4, rng(seed), training=True)
            parts = spelled(samples, digits, task.recordings(split))
            assert parts is not None
            assert len({one.speaker for one in parts}) == 1
            speakers.add(parts[0].speaker)
        assert speakers == {"anna", "bert"}


def test_texts_of_sequences(folder):
    task = task_of("digit_sequences", folder, train_length="2-5", test_samples=11, validation_samples=4)
    batch = task.train_batch(64, rng())
    assert batch.targets[:, 0].equal(batch.lengths)
    texts = [task.alphabet.text(labels).split() for labels in batch.labels()]
    assert {len(text) for text in texts} == {2, 3, 4, 5}
    assert {word for text in texts for word in text} == set(DIGITS)
    assert batch.scored.sum() == sum(map(len, texts))
    some = batch.rows(slice(0, 7, 3)).to("cpu")
    assert some.labels() == batch.labels()[0:7:3], "the class is kept"
    found = list(task.evaluation("test", "3-5"))
    assert [label for label, _ in found] == ["3", "4", "5"]
    assert [len(part.lengths) for _, part in found] == [4, 4, 3]
    again = list(task.evaluation("test", "3-5"))
    assert all(a.inputs.equal(b.inputs) and a.labels() == b.labels() for (_, a), (_, b) in zip(found, again))
    spelt = replace(task, units="letters")
    assert [spelt.alphabet.text(labels).split() for labels in spelt.train_batch(64, rng()).labels()] == texts


def test_pauses_and_levels(folder):
    task = task_of("digit_sequences", folder, max_pause=0.5, **PLAIN)
    pauses = [len(task.pause(rng(seed))) for seed in range(300)]
    assert 0 <= min(pauses) < 100
    assert 3900 < max(pauses) <= 4000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(split="carl"), "data.split='carl': expected official or a speaker: anna, bert"),
        (dict(source="nowhere"), "nowhere: no such file or folder"),
        (dict(source=""), "task spoken_digits needs --data: a folder with the recordings"),
    ],
)
def test_mistakes_in_naming(options, message, folder):
    with pytest.raises(UserError) as error:
        TASKS["spoken_digits"](**{"source": str(folder), "validation_recordings": 1, **options}).recordings("train")
    assert message in str(error.value)


def test_malformed_files(tmp_path):
    with pytest.raises(UserError, match=r"there is no recording named <digit>_<speaker>_<number>\.wav"):
        task_of("spoken_digits", tmp_path).recordings("train")
    write_digits(tmp_path, numbers=(0, 9))
    with pytest.raises(UserError, match=r"no recording belongs to the validation part of data\.split=official"):
        task_of("spoken_digits", tmp_path).recordings("train")
    write_digits(tmp_path, numbers=(5,))
    (tmp_path / "4_anna_9.wav").write_bytes((tmp_path / "4_anna_9.wav").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"4_anna_9.wav: is cut short: 100 of [\d,]+ bytes of sound are missing"):
        task_of("spoken_digits", tmp_path).recordings("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(validation_recordings=0), "data.validation_recordings=0 must be at least 1"),
        (dict(speed=1.0), "data.speed=1.0 must be from 0 to below 1"),
        (dict(gain=-1.0), "data.gain=-1.0 must not be negative"),
        (dict(mel_mask=41), "data.mel_mask=41 is more than data.num_mels=40"),
        (dict(num_mels=300), "data: num_mels=300 bands are narrower"),
        (dict(rate=50), "data: hop=0 must be at least 1"),
        (dict(train_length="5-3"), "'5-3' is not a length N or a range"),
        (dict(max_pause=-1.0), "data.max_pause=-1 must be from 0 to 60 seconds"),
        (dict(test_samples=0), "data.test_samples=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(UserError) as error:
        TASKS["digit_sequences"](**options)
    assert message in str(error.value)


def test_the_word_error_rate_is_of_whole_texts():
    with pytest.raises(TypeError, match="of whole texts"):
        TASKS["digit_sequences"]().metric.points(torch.zeros(1, 2), torch.zeros(1))
