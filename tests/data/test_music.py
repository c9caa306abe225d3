"""Piano rolls from MAT-files, JSON and MIDI, all written here."""

import json

import numpy as np
import pytest

from openxlstm.data.matlab import read_mat
from openxlstm.data.music import Notation, read_midi, read_piano_rolls, write_midi
from openxlstm.errors import UserError
from pianorolls import scales, write_mat, write_pieces


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_mat_file_is_what_was_written(tmp_path, order, packed):
    written = {
        "numbers": np.arange(6, dtype=np.float64).reshape(2, 3) / 3,
        "tiny": np.array([[7]], np.int32),  # in the tag of its element
        "cells": [np.arange(12, dtype=np.uint8).reshape(3, 4), np.zeros((0, 4), np.uint8)],
    }
    write_mat(tmp_path / "a.mat", written, order=order, packed=packed)
    found = read_mat(tmp_path / "a.mat")
    assert list(found) == list(written)
    for name in ("numbers", "tiny"):
        assert np.array_equal(found[name], written[name])
        assert found[name].dtype == written[name].dtype
    assert found["cells"].shape == (1, 2)
    assert all(np.array_equal(a, b) for a, b in zip(found["cells"].flat, written["cells"]))


def test_scipy_writes_the_same_format(tmp_path):
    io = pytest.importorskip("scipy.io")
    cells = np.empty((1, 3), object)
    cells[0, :] = scales(3, 5)
    for packed in (True, False):
        io.savemat(tmp_path / "a.mat", {"x": np.eye(3), "cells": cells}, do_compression=packed)
        found = read_mat(tmp_path / "a.mat")
        assert np.array_equal(found["x"], np.eye(3))
        assert all(np.array_equal(a, b) for a, b in zip(found["cells"].flat, cells.flat))
    io.savemat(tmp_path / "a.mat", {"text": "words"})
    with pytest.raises(UserError, match=r"a\.mat: 'text' is made of structures, text"):
        read_mat(tmp_path / "a.mat")


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_mat_file_is_refused_or_read_but_never_a_crash(tmp_path, packed):
    path = tmp_path / "a.mat"
    write_mat(path, {"x": np.arange(6, dtype=np.float64).reshape(2, 3), "c": scales(2, 3)}, packed=packed)
    whole = path.read_bytes()
    refused = 0
    for size in [0, 10, 127, *range(129, len(whole), 7)]:
        names, reason = outcome(path, whole[:size])
        assert names < {"x", "c"}, "cut between two variables"
        refused += reason is not None
    assert refused > 20
    rng = np.random.RandomState(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randint(128, len(whole))] = rng.randint(256)
        outcome(path, damaged)


def outcome(path, content):
    """The variables of a file, and why it was refused."""
    path.write_bytes(content)
    try:
        return set(read_mat(path)), None
    except UserError as error:
        reason = str(error)
    assert reason.startswith(f"{path}: ")
    assert "\n" not in reason
    return set(), reason


def test_nested_without_end(tmp_path):
    value = [np.ones((1, 1))]
    for _ in range(40):
        value = [value]
    write_mat(tmp_path / "a.mat", {"x": value})
    with pytest.raises(UserError, match=r"a\.mat: cells are nested too deeply"):
        read_mat(tmp_path / "a.mat")


def test_pieces_of_a_mat_file(tmp_path):
    written = write_pieces(tmp_path / "JSB.mat")
    for source in (tmp_path, tmp_path / "JSB.mat"):
        found = read_piano_rolls(source, "JSB.mat")
        for part, rolls in zip(found, written.values()):
            assert len(part) == len(rolls)
            assert all(np.array_equal(a, b) and a.dtype == np.uint8 for a, b in zip(part, rolls))
    write_pieces(tmp_path / "JSB.mat", length=9)
    assert len(read_piano_rolls(tmp_path, "JSB.mat").train[0]) == 9, "a file that was replaced is read again"


def test_pieces_of_a_json_file(tmp_path):
    pieces = [[[60, 55, 52, 48], [60, 0, 52, 0], [0, 0, 0, 0]]]
    (tmp_path / "a.json").write_text(json.dumps({"train": pieces, "valid": pieces, "test": pieces}))
    (roll,) = read_piano_rolls(tmp_path / "a.json", "").train
    assert [np.flatnonzero(step).tolist() for step in roll] == [[27, 31, 34, 39], [31, 39], []]


GOOD = {"traindata": scales(1, 4), "validdata": scales(1, 4), "testdata": scales(1, 4)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traindata": [np.zeros((4, 87), np.uint8)]}, r"piece 0 of 'traindata' has the shape \[4, 87\]"),
        (
            {"validdata": [GOOD["validdata"][0], GOOD["validdata"][0] * 2]},
            "piece 1 of 'validdata' has numbers other than 0 and 1",
        ),
        ({"testdata": [np.zeros((1, 88), np.uint8)]}, "piece 0 of 'testdata' has the shape"),
        ({"testdata": np.zeros((4, 88))}, "'testdata' is no list of pieces"),
        ({"testdata": []}, "there is no piece for test"),
    ],
)
def test_other_mat_files_are_refused(tmp_path, changes, message):
    write_mat(tmp_path / "a.mat", GOOD | changes)
    with pytest.raises(UserError, match=r"a\.mat: " + message):
        read_piano_rolls(tmp_path, "a.mat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "expects an object with the lists train, valid and test"),
        ('{"train": [[[60], [60]]]}', "there is no 'valid', only train"),
        ('{"train": 3}', "'train' is no list of pieces"),
        ('{"train": [[[60], 60]]}', "piece 0 of 'train' is no list of two or more steps"),
        ('{"train": [[[60], [60]], [[60], [20]]]}', "piece 1 of 'train' has pitch 20 in step 1, expected 0 or 21 to 108"),
        ('{"train": [[[60], [60.5]]]}', "has pitch 60.5 in step 1"),
        ('{"train": [[[60], [true]]]}', "has pitch True in step 1"),
    ],
)
def test_other_json_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json: ") as found:
        read_piano_rolls(tmp_path / "a.json", "")
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.mat: no such file"):
        read_piano_rolls(tmp_path, "nowhere.mat")
    with pytest.raises(UserError, match=r"nowhere\.mat: no such file"):
        read_mat(tmp_path / "nowhere.mat")


@pytest.mark.parametrize("notation", [Notation(), Notation(9, 1), Notation(21, 2), Notation(21, 3)], ids=str)
def test_midi_there_and_back(tmp_path, notation):
    pytest.importorskip("symusic")
    (roll,) = scales(1, 23)
    roll[4] = 0  # a rest
    roll[20:, 60] = 1  # so that the piece ends with a note
    write_midi(tmp_path / "a.mid", roll, notation)
    assert np.array_equal(read_midi(tmp_path / "a.mid", notation), roll)
    higher = read_midi(tmp_path / "a.mid", notation.higher(3))
    assert np.array_equal(higher[:, :-3], roll[:, 3:]), "the same notes are lower keys of a higher notation"


def test_midi_of_others(tmp_path):
    symusic = pytest.importorskip("symusic")
    score = symusic.Score(96)
    piano, drums = symusic.Track("a", 0, False), symusic.Track("b", 0, True)
    # a little late and long; a grace note, which lasts a step; off the grid by less than half a step
    for time, duration, pitch in ((3, 100, 60), (96, 5, 64), (180, 90, 67)):
        piano.notes.append(symusic.Note(time, duration, pitch, 90))
    drums.notes.append(symusic.Note(0, 960, 36, 90))
    score.tracks.extend([piano, drums])
    (tmp_path / "a.mid").write_bytes(score.dumps_midi())
    roll = read_midi(tmp_path / "a.mid", Notation(21, 1))
    assert [(np.flatnonzero(step) + 21).tolist() for step in roll] == [[60], [64], [67]]
    with pytest.raises(UserError, match=r"a\.mid: has the MIDI pitch 60, and the model knows 61 to 148"):
        read_midi(tmp_path / "a.mid", Notation(61, 1))
    (tmp_path / "b.mid").write_bytes(b"MThd nonsense")
    with pytest.raises(UserError, match=r"b\.mid: cannot be read as MIDI"):
        read_midi(tmp_path / "b.mid", Notation())
    (tmp_path / "c.mid").write_bytes(symusic.Score(96).dumps_midi())
    with pytest.raises(UserError, match=r"c\.mid: has no notes"):
        read_midi(tmp_path / "c.mid", Notation())
    with pytest.raises(UserError, match=r"d\.mid: no such file"):
        read_midi(tmp_path / "d.mid", Notation())
