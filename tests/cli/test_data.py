"""`openxlstm data`: results on stdout, talk on stderr, one line and exit code 2 for what the user can mend."""

import json
from pathlib import Path

import pytest

from openxlstm.cli.main import main


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} of some text\n" for i in range(500)))
    return str(path)


def test_prepare_then_inspect(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    options = ["--tokenizer", "bpe", "--vocab-size", "270", "--test", "0"]
    assert main(["data", "prepare", text, "--out", out, *options, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["tokenizer"] == {"kind": "bpe", "vocab_size": 270, "eos_id": 0}
    assert list(made["splits"]) == ["train", "validation"]
    assert main(["data", "inspect", out, "--json", "--tokens", "5"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["splits"] == made["splits"]
    assert seen["first_document"].startswith("line 0 of some text\nline 1")
    assert len(seen["first_tokens"]) == 5
    assert "".join(piece for _, piece in seen["first_tokens"]) in seen["first_document"]
    assert main(["data", "inspect", out]) == 0
    shown = capsys.readouterr().out
    assert "270 ids" in shown
    assert f"{made['splits']['train']['num_tokens']:,}" in shown


def test_inspect_a_source(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", text, "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert sum(part["num_bytes"] for part in seen["splits"].values()) == Path(text).stat().st_size
    assert main(["data", "inspect", text]) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prepare", "nowhere.txt", "--out", "OUT"], "nowhere.txt: no such file"),
        (["prepare", "TEXT"], "--out"),
        (["prepare", "TEXT", "--out", "OUT", "--vocab-sise", "9"], "--vocab-size"),
        (["prepare", "TEXT", "--out", "OUT", "--validation", "2"], "--validation"),
        (["prepare", "TEXT", "--out", "OUT", "--tokenizer", "letters"], "letters"),
        (["prepare", "TEXT", "--out", "OUT", "--tokenizer", "bpe", "--vocab-size", "9"], "257"),
        (["inspect", "nowhere"], "nowhere: no such file"),
        (["inspekt", "TEXT"], "did you mean 'inspect'"),
    ],
)
def test_what_the_user_can_mend(
    argv: list[str], message: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"TEXT": text, "OUT": str(tmp_path / "out")}
    assert main(["data", *(places.get(word, word) for word in argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("openxlstm: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_stream_without_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert main(["data", "inspect", str(tmp_path / "empty.jsonl"), "--streaming"]) == 2
    assert "empty.jsonl: no text to train on" in capsys.readouterr().err


def test_damage_is_reported(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["data", "prepare", text, "--out", str(out)]) == 0
    path = out / "validation" / "00000.bin"
    path.write_bytes(bytes(path.stat().st_size))
    capsys.readouterr()
    assert main(["data", "inspect", str(out)]) == 2
    assert "checksum" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["data"], ["data", "--help"], ["data", "prepare", "--help"], ["data", "inspect", "--help"]):
        assert main(argv) == 0
        assert "usage: openxlstm data" in capsys.readouterr().out
