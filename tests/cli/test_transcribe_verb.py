"""`openxlstm transcribe`, from recordings of tones in place of words to their text."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from openxlstm.cli.main import main
from openxlstm.data import TextConfig
from openxlstm.tasks import TASKS
from openxlstm.training import RunConfig
from sounds import RATE, tone, write_digits, write_wav

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("jiwer")

OPTIONS = (
    "--data.train_length=1-3",
    "--data.eval_length=2-3",
    "--data.report_lengths=5",
    "--data.max_pause=0.1",
    "--data.validation_recordings=1",
    "--data.validation_samples=20",
    "--data.test_samples=20",
    "--data.num_mels=20",
    "--data.time_mask=0",
    "--data.mel_mask=0",
    "--model.dim=32",
    "--model.num_blocks=1",
    "--model.dropout=0",
    "--optimizer.lr=1e-2",
    "--schedule.warmup=10",
    "--trainer.batch_size=16",
    "--trainer.validate_every=60",
    "--trainer.threads=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on tones in place of words."""
    folder = tmp_path_factory.mktemp("speech")
    write_digits(folder / "digits")
    words = ["train", "digit_sequences", "--data", str(folder / "digits"), "--run-dir", str(folder / "run"), *OPTIONS]
    assert main([*words, "--trainer.steps=120"]) == 0
    return folder / "run"


def test_tones_are_recognised(run):
    report = json.loads((run / "report.json").read_text())
    test = report["test"]
    assert test["metric"] == "word error rate"
    assert not test["higher_is_better"]
    assert test["score"] < 0.45 < test["guess"]
    edits = test["substitutions"] + test["deletions"] + test["insertions"]
    assert test["score"] == pytest.approx(edits / test["num_targets"])
    assert [part["lengths"] for part in test["by_length"]] == ["2", "3"]
    assert test["num_targets"] == 10 * 2 + 10 * 3
    assert report["beam"]["beam"] == 8
    assert report["beam"]["score"] < 0.2
    assert report["other_lengths"][0]["lengths"] == "5"
    assert (run / "loss.png").stat().st_size > 0


def test_eval_says_the_same(run, capsys):
    report = json.loads((run / "report.json").read_text())
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == [report["test"], *report["other_lengths"]]
    assert main(["eval", str(run), "--lengths=2"]) == 0
    assert "word error rate" in capsys.readouterr().out


def test_twins_are_compared(run, here, capsys):
    words = ["compare", "digit_sequences", "--data", str(run.parent / "digits"), *OPTIONS, "--trainer.steps=2"]
    assert main([*words, "--models=slstm,lstm,transformer", "--model.num_heads=2"]) == 0
    out = capsys.readouterr().out
    assert "word error rate at 2-3" in out
    assert all(f"| {name} |" in out for name in ("slstm", "lstm", "transformer"))
    words = ["train", "spoken_digits", "--data", str(run.parent / "digits"), "--data.validation_recordings=1"]
    assert main([*words, "--data.split=anna", "--trainer.steps=2", "--trainer.batch_size=4", "--trainer.threads=1"]) == 0
    assert "accuracy" in capsys.readouterr().out


SAID = (3, 8, 0, 5)


def speech(rate=RATE, times=1):
    """Four words with pauses, by nobody who was heard in training."""
    pause = np.zeros(round(0.06 * rate))
    parts = [part for digit in SAID * times for part in (pause, tone(digit, pitch=1.03, seconds=0.12, rate=rate))]
    return np.concatenate([*parts, pause])


def transcribed(words, capsys):
    assert main(["transcribe", *map(str, words)]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_files_of_any_kind_have_the_same_text(run, here, capsys):
    write_wav(here / "a.wav", speech())
    write_wav(here / "b.wav", np.stack([speech(44_100)] * 2, 1), 44_100)
    soundfile.write(here / "c.flac", speech(16_000), 16_000)
    text, talk = transcribed([run, "a.wav", "--beam=8"], capsys)
    assert text == "three eight zero five\n"
    assert "0.8 s of sound" in talk
    for name in ("b.wav", "c.flac"):
        assert transcribed([run, name, "--beam=8"], capsys)[0] == text


def test_a_stream_has_the_text_of_the_file(run, here, capsys, monkeypatch):
    sound = speech(times=5)
    write_wav(here / "a.wav", sound)
    for beam in ("--beam=0", "--beam=8"):
        text, _ = transcribed([run, "a.wav", beam], capsys)
        assert len(text.split()) > 10
        streamed, talk = transcribed([run, "a.wav", beam, "--stream", "--chunk-ms=30"], capsys)
        assert streamed == text
        assert "pieces, a piece took" in talk
        raw = np.stack([sound, sound], 1) * 32767
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw.round().astype("<i2").tobytes())))
        assert transcribed([run, "-", beam, f"--rate={RATE}", "--channels=2"], capsys)[0] == text


def test_json(run, here, capsys):
    write_wav(here / "a.wav", speech())
    lines, _ = transcribed([run, "a.wav", "--stream", "--beam=8", "--json"], capsys)
    *pieces, whole = map(json.loads, lines.splitlines())
    assert whole["text"] == "three eight zero five" == "".join(piece["text"] for piece in pieces)
    assert whole["seconds"] == pytest.approx(len(speech()) / RATE)
    assert whole["num_pieces"] == 8
    assert 0 < whole["mean_ms"] <= whole["worst_ms"]
    assert not whole["interrupted"]
    lines, _ = transcribed([run, "a.wav", "--json"], capsys)
    assert len(lines.splitlines()) == 1


class Interrupted(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 8000:
            raise KeyboardInterrupt
        return super().read(size)


def test_ctrl_c_ends_a_live_stream_with_its_text(run, capsys, monkeypatch):
    raw = (speech() * 32767).round().astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Interrupted(raw)))
    assert main(["transcribe", str(run), "-", "--beam=8"]) == 130
    assert capsys.readouterr().out.startswith("three eight")


def test_mistakes_are_one_line(run, here, capsys, write_run, monkeypatch):
    write_wav(here / "cut.wav", speech())
    (here / "cut.wav").write_bytes((here / "cut.wav").read_bytes()[:-1000])
    (here / "text.wav").write_text("no sound at all, no sound at all")
    for name, data in (("parity", TASKS["parity"]()), ("text", TextConfig())):
        write_run(here / name)
        (here / name / "config.json").write_text(json.dumps(RunConfig(data=data).to_dict()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\0" * 4001)))
    for words, message in (
        ([run], "the following arguments are required: FILE"),
        ([run, "no.wav"], "no.wav: no such file"),
        ([run, "cut.wav"], "cut.wav: is cut short: 1,000 of 12,480 bytes of sound are missing"),
        ([run, "text.wav"], "text.wav: cannot be read as sound: Format not recognised"),
        ([run, "cut.wav", "--rate=8000"], "--rate and --channels are for raw samples on stdin"),
        ([run, "-", "--rate=0"], "--rate: expects a whole number at least 1"),
        ([run, "-"], "the stream ended within a sample: 1 bytes are left"),
        ([run, "cut.wav", "--beam=-1"], "--beam: expects a whole number at least 0"),
        (["nowhere", "cut.wav"], "nowhere: no such folder"),
        ([run / "model", "cut.wav"], "model: this is no run folder"),
        (["parity", "cut.wav"], "parity: this run is about parity; transcribe needs one of digit_sequences"),
        (["text", "cut.wav"], "text: this run is about text; transcribe needs"),
    ):
        assert main(["transcribe", *map(str, words)]) == 2, words
        shown = capsys.readouterr()
        assert message in shown.err.splitlines()[-1], words
        assert "Traceback" not in shown.err
        assert not shown.out.strip()
