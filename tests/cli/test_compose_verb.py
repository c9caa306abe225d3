"""`openxlstm compose`, from the pieces to the MIDI file."""

import json

import numpy as np
import pytest

from openxlstm.cli.compose import key
from openxlstm.cli.main import main
from openxlstm.data import TextConfig
from openxlstm.data.music import Notation, read_midi, write_midi
from openxlstm.inference import compose as composing
from openxlstm.tasks import TASKS
from openxlstm.training import RunConfig
from pianorolls import scales, write_pieces

pytest.importorskip("symusic")
NOTATION = Notation(9, 1)  # of the chorales' MAT-file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the recipe, four steps long."""
    folder = tmp_path_factory.mktemp("music")
    write_pieces(folder / "JSB_Chorales.mat")
    options = ["--trainer.steps=4", "--trainer.validate_every=2", "--trainer.batch_size=4", "--trainer.threads=1"]
    options += ["--model.dim=16", "--model.num_parameters=none"]
    assert main(["train", "jsb_chorales", "--data", str(folder), "--run-dir", str(folder / "run"), *options]) == 0
    return folder / "run"


def test_the_run_is_one_like_any_other(run, capsys):
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["metric"] == "negative log-likelihood"
    assert report["test"]["num_targets"] == 5 + 6
    assert (run / "loss.png").stat().st_size > 0
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0] == report["test"]


def test_models_are_compared(run, here, capsys):
    words = [
        "compare",
        "jsb_chorales",
        "--data",
        str(run.parent),
        "--models=slstm,lstm",
        "--trainer.steps=2",
        "--trainer.threads=1",
    ]
    assert main([*words, "--model.dim=16", "--model.num_parameters=none", "--trainer.batch_size=2"]) == 0
    out = capsys.readouterr().out
    assert "negative log-likelihood at 6-10" in out
    assert "| 8.45 |" in out, "the published LSTM"


def test_a_piece_and_its_picture(run, here, capsys):
    assert main(["compose", str(run), "--out", "a/piece.mid", "--steps", "20", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == ["a/piece.mid", "a/piece.png"]
    assert "0 steps read, 20 written" in shown.err
    assert (here / "a" / "piece.png").read_bytes().startswith(b"\x89PNG")
    roll = read_midi(here / "a" / "piece.mid", NOTATION)
    assert 1 <= len(roll) <= 20
    assert main(["compose", str(run), "--out", "b.mid", "--steps", "20", "--seed", "3", "--json", "--figure", "c.png"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["midi"], result["figure"], result["num_steps"]) == ("b.mid", "c.png", 20)
    assert (here / "b.mid").read_bytes() == (here / "a" / "piece.mid").read_bytes()


def test_a_melody_goes_on_in_its_key(run, here, capsys):
    (melody,) = scales(1, 9)
    write_midi("melody.mid", melody, NOTATION)
    write_midi("higher.mid", melody, NOTATION.higher(2))
    for name, words in (
        ("a", ["melody.mid"]),
        ("b", ["higher.mid", "--key", "D"]),
        ("c", ["melody.mid", "--prime-steps", "4"]),
    ):
        assert main(["compose", str(run), "--out", f"{name}.mid", "--steps", "12", "--prime", *words]) == 0
    plain, short = (read_midi(f"{name}.mid", NOTATION) for name in "ac")
    higher = read_midi("b.mid", NOTATION.higher(2))
    assert np.array_equal(plain[:9], melody)
    assert np.array_equal(higher, plain), "the model reads and writes in C"
    assert np.array_equal(short[:4], melody[:4])
    assert len(short) <= 16


def test_what_was_written_before_ctrl_c_is_kept(run, here, capsys, monkeypatch):
    original = composing.compose

    def interrupted(*args, **options):
        for number, step in enumerate(original(*args, **options)):
            if number == 7:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(composing, "compose", interrupted)
    assert main(["compose", str(run), "--out", "a.mid", "--steps", "50"]) == 130
    assert "7 written and interrupted" in capsys.readouterr().err
    assert len(read_midi("a.mid", NOTATION)) <= 7
    assert (here / "a.png").exists()


def test_keys():
    assert {name: key(name) for name in ("C", "c", "F#", "Gb", "G", "Bb", "A")} == {
        "C": 0, "c": 0, "F#": 6, "Gb": 6, "G": -5, "Bb": -2, "A": -3,
    }  # fmt: skip


def test_mistakes_are_one_line(run, here, capsys, write_run):
    (here / "bad.mid").write_text("no music")
    for name, data in (("parity", TASKS["parity"]()), ("text", TextConfig())):
        write_run(here / name)
        (here / name / "config.json").write_text(json.dumps(RunConfig(data=data).to_dict()))
    for words, message in (
        ([str(run)], "the following arguments are required: --out"),
        ([str(run), "--out", "a.wav"], "--out a.wav: a MIDI file ends in .mid"),
        ([str(run), "--out", "a.mid", "--figure", "a.jpg"], "--figure a.jpg: a picture ends in .png"),
        ([str(run), "--out", "a.mid", "--key", "H"], "--key: expects a key such as C, F# or Bb, got 'H'"),
        ([str(run), "--out", "a.mid", "--prime", "no.mid"], "no.mid: no such file"),
        ([str(run), "--out", "a.mid", "--prime", "bad.mid"], "bad.mid: cannot be read as MIDI"),
        ([str(run), "--out", "a.mid", "--prime-steps", "3"], "--prime-steps needs --prime"),
        ([str(run), "--out", "a.mid", "--temperature", "-1"], "expects a number at least 0"),
        ([str(run), "--out", "a.mid", "--backend", "quick"], "quick"),
        (["nowhere", "--out", "a.mid"], "nowhere: no such folder"),
        ([str(run / "model"), "--out", "a.mid"], "model: this is no run folder"),
        (["parity", "--out", "a.mid"], "parity: this run is about parity; compose needs one of jsb_chorales or nottingham"),
        (["text", "--out", "a.mid"], "text: this run is about text; compose needs"),
    ):
        assert main(["compose", *words]) == 2, words
        shown = capsys.readouterr()
        assert message in shown.err.splitlines()[-1], words
        assert "Traceback" not in shown.err
        assert shown.out == ""
    assert not (here / "a.mid").exists()
