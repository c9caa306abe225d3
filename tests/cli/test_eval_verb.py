"""`openxlstm eval`: the numbers must be those of the model, on the text that was named."""

import json
import math

import pytest
import torch

from openxlstm.cli.main import main
from openxlstm.data import BPETokenizer, ByteTokenizer
from openxlstm.inference.load import load_run

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 10


def run(capsys, *words):
    code = main(["eval", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@torch.inference_mode()
def bits_per_byte(folder, text):
    """By hand: the whole text in one go."""
    loaded = load_run(folder)
    ids = torch.tensor([[256, *text.encode(), 256]])
    logits, _ = loaded.model(ids[:, :-1])
    nats = torch.nn.functional.cross_entropy(logits[0].double(), ids[0, 1:], reduction="sum")
    return float(nats) / math.log(2) / len(text.encode())


def test_a_file_is_read_whole_and_the_numbers_are_right(here, capsys, write_run):
    folder = write_run(here / "runs" / "a")
    (here / "t.txt").write_text(TEXT)
    code, out, _ = run(capsys, "runs/a", "--data", "t.txt", "--context", "100000", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["results"][0]["bits_per_byte"] == pytest.approx(bits_per_byte(folder, TEXT), rel=1e-5)
    assert result["results"][0]["num_tokens"] == len(TEXT) + 1


def test_carrying_the_state_is_reading_in_one_go(here, capsys, write_run):
    write_run(here / "runs" / "a")
    (here / "t.txt").write_text(TEXT)
    base = ["runs/a", "--data", "t.txt", "--json", "--batch-size", "1"]
    whole = json.loads(run(capsys, *base, "--context", "100000")[1])["results"][0]
    carried = json.loads(run(capsys, *base, "--context", "16", "--carry")[1])["results"][0]
    cut = json.loads(run(capsys, *base, "--context", "16")[1])["results"][0]
    assert carried["nats_per_token"] == pytest.approx(whole["nats_per_token"], rel=1e-6)
    assert cut["nats_per_token"] != pytest.approx(whole["nats_per_token"], rel=1e-6)


def test_table_for_several_contexts_and_by_position(here, capsys, write_run):
    write_run(here / "runs" / "a")
    (here / "t.txt").write_text(TEXT)
    code, out, _ = run(capsys, "runs/a", "--data", "t.txt", "--context", "8,64", "--by-position")
    assert code == 0
    lines = out.splitlines()
    assert "t.txt" in lines[0]
    assert [line.split()[0] for line in lines[2:4]] == ["8", "64"]
    assert "32-63" in out
    assert "word" not in out  # bytes are no words


def test_the_beginning_alone(here, capsys, write_run):
    write_run(here / "runs" / "a")
    (here / "t.txt").write_text(TEXT)
    _, out, _ = run(capsys, "runs/a", "--data", "t.txt", "--max-tokens", "100", "--context", "64")
    assert f"the first 100 of {len(TEXT) + 1} tokens" in out
    assert out.split()[-1] == "100"
    assert "bits/byte" not in out  # the bytes of a part are not known


def test_the_runs_own_validation_text_is_the_default(here, capsys, write_run):
    (here / "t.txt").write_text(TEXT)
    write_run(here / "runs" / "a", data=here / "t.txt")
    code, out, err = run(capsys)
    assert code == 0
    assert "validation part" in out
    assert out.splitlines()[2].split()[0] == "16"  # the run's context
    assert "newest run" in err
    code, again, err = run(capsys, "runs/a", "--data", str(here / "t.txt"))  # named, it is still the part that was held out
    assert again == out
    assert "note: the run was trained on this file" in err


def test_word_perplexity_of_a_bpe_model(here, capsys, write_run):
    tokenizer = BPETokenizer.train([TEXT], 270)
    write_run(here / "runs" / "a", tokenizer=tokenizer)
    (here / "t.txt").write_text(TEXT)
    _, out, _ = run(capsys, "runs/a", "--data", "t.txt", "--json", "--context", "64")
    result = json.loads(out)["results"][0]
    words = len(TEXT.split()) + TEXT.count("\n")
    total = result["nats_per_token"] * result["num_tokens"]
    assert result["word_perplexity"] == pytest.approx(math.exp(min(total / words, 700)), rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "none.txt"], "none.txt"),
        (["--data", "empty.txt"], "empty.txt"),
        ([], "name one with --data"),
        (["--data", "t.txt", "--context", "0"], "--context: expects a whole number at least 1, got 0"),
        (["--data", "t.txt", "--context", "8,x"], "--context: expects a whole number, got 'x'"),
        (["--data", "t.txt", "--carry", "--stride", "4"], "exclude each other"),
        (["--data", "t.txt", "--context", "8", "--stride", "9"], "--stride 9 is longer"),
        (["--data", "t.txt", "--split", "dev"], "--split"),
        (["--tasks", "piqa", "--precision", "bf16"], "--precision bf16 is about text or a run's own task"),
    ],
)
def test_errors_are_one_line(here, capsys, words, message, write_run):
    write_run(here / "runs" / "a")
    (here / "t.txt").write_text(TEXT)
    (here / "empty.txt").write_text("")
    code, out, err = run(capsys, "runs/a", *words)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("openxlstm: error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err


def test_text_prepared_with_another_tokenizer_is_refused(here, capsys, write_run):
    from openxlstm.data import TextConfig, prepare

    write_run(here / "runs" / "a", tokenizer=BPETokenizer.train([TEXT], 270))
    (here / "t.txt").write_text(TEXT)
    prepared = prepare(TextConfig(source=str(here / "t.txt")), here / "prepared")
    assert isinstance(prepared.tokenizer, ByteTokenizer)
    code, _, err = run(capsys, "runs/a", "--data", str(prepared.folder))
    assert code == 2
    assert "vocabulary mismatch" in err
