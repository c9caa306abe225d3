"""`openxlstm generate`, from run folder to text."""

import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openxlstm.cli.main import main
from openxlstm.data import CharTokenizer
from openxlstm.inference.load import load_run
from openxlstm.inference.text import TextStream
from openxlstm.ops import native

SOURCE = Path(__file__).parents[2] / "src"


def run(capsys, *words):
    code = main(["generate", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_text_goes_to_stdout_and_talk_to_stderr(here, capsys, write_run):
    write_run(here / "runs" / "a")
    code, out, err = run(capsys, "runs/a", "--prompt", "def ", "--max-tokens", "12")
    assert code == 0
    assert out.startswith("def ")
    assert out.endswith("\n")
    assert "12 tokens" in err
    assert "tokens/s" in err
    assert "1 mlstm + 1 slstm" in err


def test_the_same_seed_writes_the_same_and_another_does_not(here, capsys, write_run):
    write_run(here / "runs" / "a")
    words = ["runs/a", "--prompt", "x", "--max-tokens", "30"]
    one, same, other = (run(capsys, *words, "--seed", seed)[1] for seed in "112")
    assert one == same != other


def test_json(here, capsys, write_run):
    write_run(here / "runs" / "a")
    code, out, _ = run(capsys, "runs/a", "--prompt", "ab", "--max-tokens", "8", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["prompt"], result["num_prompt_tokens"], result["num_tokens"]) == ("ab", 3, 8)
    assert result["ended_by"] == "length"
    plain = run(capsys, "runs/a", "--prompt", "ab", "--max-tokens", "8", "--no-echo")[1]
    assert plain == result["text"] + "\n"


def test_ways_to_decode(here, capsys, write_run):
    write_run(here / "runs" / "a")
    words = ["runs/a", "--prompt", "ab", "--max-tokens", "8", "--temperature", "0", "--json"]
    one, other = (json.loads(run(capsys, *words, "--decode", decode)[1]) for decode in ("auto", "torch"))
    assert one["text"] == other["text"]
    assert (one["decode"], other["decode"]) == ("native" if native.missing() is None else "torch", "torch")
    if native.missing() is None:
        rounded = json.loads(run(capsys, *words, "--weights", "int8")[1])
        assert (rounded["decode"], rounded["weights"], rounded["num_tokens"]) == ("native", "int8", 8)
    code, _, err = run(capsys, *words, "--decode", "torch", "--weights", "int8")
    assert code == 2
    assert "weights='int8' is for native decoding" in err


def test_the_newest_run_is_the_default(here, capsys, write_run):
    old, new = write_run(here / "runs" / "b_old"), write_run(here / "runs" / "a_new")
    os.utime(old / "model", (1e9, 1e9))
    (here / "runs" / "unfinished").mkdir()
    _, _, err = run(capsys, "--max-tokens", "1")
    assert f"using the newest run, {Path('runs') / new.name}" in err


def test_all_kinds_of_prompt(here, capsys, monkeypatch, write_run):
    write_run(here / "runs" / "a")
    (here / "p.txt").write_bytes("héllo\r\n".encode())
    tail = ["--max-tokens", "5"]
    given = run(capsys, "runs/a", "--prompt", "héllo\r\n", *tail)[1]
    assert run(capsys, "runs/a", "--prompt-file", "p.txt", *tail)[1] == given
    stdin = io.TextIOWrapper(io.BytesIO("héllo\r\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(capsys, "runs/a", "--prompt", "-", *tail)[1] == given
    assert run(capsys, "runs/a", *tail)[0] == 0  # no prompt: a new text


def test_a_model_folder_and_a_tokenizer_elsewhere(here, capsys, write_run):
    write_run(here / "runs" / "a")
    given = run(capsys, "runs/a", "--prompt", "x", "--max-tokens", "5")[1]
    assert run(capsys, "runs/a/model", "--prompt", "x", "--max-tokens", "5")[1] == given
    shutil.move("runs/a/model/tokenizer.json", "t.json")
    code, _, err = run(capsys, "runs/a", "--prompt", "x")
    assert code == 2
    assert "no tokenizer.json beside the model" in err
    assert run(capsys, "runs/a", "--prompt", "x", "--max-tokens", "5", "--tokenizer", "t.json")[1] == given


def test_a_padded_embedding_draws_only_what_the_tokenizer_knows(here, capsys, write_run):
    write_run(here / "runs" / "a", tokenizer=CharTokenizer("abc"), vocab_size=64)
    _, out, _ = run(
        capsys, "runs/a", "--prompt", "a", "--max-tokens", "200", "--temperature", "9", "--top-k", "0", "--top-p", "1"
    )
    assert set(out.strip()) == set("abc")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/firts"], "runs/firts: no such folder; did you mean 'runs/first'"),
        (["runs"], "runs: no finished model in this folder; there is one in 'runs/first'"),
        (["runs/half"], "no finished model in this folder (has its training ended?)"),
        (["runs/a", "--temperature", "-1"], "--temperature: expects a number at least 0, got -1"),
        (["runs/a", "--top-p", "2"], "--top-p: expects"),
        (["runs/a", "--max-tokens", "many"], "--max-tokens: expects a whole number, got 'many'"),
        (["runs/a", "--tempature", "1"], "did you mean '--temperature'"),
        (["runs/a", "--prompt", "x", "--prompt-file", "y"], "not allowed with"),
        (["runs/a", "--prompt-file", "none.txt"], "none.txt: no such file"),
        (["runs/a", "--prompt-file", "binary"], "binary: the prompt is not UTF-8"),
        (["runs/a", "--prompt-file", "runs"], "runs: this is a folder"),
        (["runs/a", "--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
        (["runs/a", "--device", "toaster"], "device 'toaster' cannot be used here"),
        (["runs/a", "--backend", "magic"], "'magic'"),
        (["runs/mismatch"], "vocabulary mismatch: the model knows 50 tokens and runs/mismatch/model has 257"),
        (["runs/cut"], "model.safetensors"),
    ],
)
def test_errors_are_one_line(here, capsys, words, message, write_run):
    write_run(here / "runs" / "a")
    write_run(here / "runs" / "mismatch", vocab_size=50)
    cut = write_run(here / "runs" / "cut") / "model" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    (here / "runs" / "half").mkdir()
    write_run(here / "runs" / "first")
    for run_folder in (here / "runs").iterdir():
        os.utime(run_folder, (1e9, 1e9 + (run_folder.name == "first")))
    (here / "binary").write_bytes(b"\xff\xfe\x00")
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("openxlstm: error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err


def test_without_any_run_it_says_what_to_do(here, capsys):
    code, _, err = run(capsys)
    assert code == 2
    assert "openxlstm train" in err


def test_ctrl_c_keeps_the_text(here, write_run):
    write_run(here / "runs" / "a", tokenizer=CharTokenizer("start"))  # no end token: it writes for ever
    env = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "openxlstm", "generate", "runs/a", "--prompt", "start", "--max-tokens", "0", "--no-echo"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell starts background jobs deaf to Ctrl-C
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, preexec_fn=heard) as process:
        assert process.stdout.read(20)  # it streams: text is there before the end
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"ended by interrupted" in err
    assert out.endswith(b"\n")


WITHOUT_EXTRAS = """
import sys
from openxlstm.cli.extras import OPTIONAL
from openxlstm.cli.main import main

absent = [entry.module for entry in OPTIONAL]


class Without:
    # A finder of modules that does not find the optional ones, as where they are not installed.

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)


sys.meta_path = [Without(finder) for finder in sys.meta_path]
generate = main(["generate", "runs/a", "--max-tokens", "3"])
evaluate = main(["eval", "runs/a", "--data", "t.txt"])
print(generate, evaluate, main(["doctor"]), main(["train"]))
"""


def test_generate_eval_and_doctor_need_no_extra(here, write_run):
    write_run(here / "runs" / "a")
    (here / "t.txt").write_text("some text " * 10)
    env = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, env=env)
    assert done.stdout.splitlines()[-1] == b"0 0 0 2", done.stderr.decode()
    assert (
        b"openxlstm: error: training needs the package 'lightning'; install it with: pip install 'openxlstm[train]'"
        in done.stderr
    )


def test_pieces_are_whole_characters_and_join_to_the_text(here, write_run):
    loaded = load_run(write_run(here / "runs" / "a"))
    ids = list("añ€😀".encode())  # what the model will "say"

    class Says:
        config = loaded.model.config
        training = False

        def parameters(self):
            return loaded.model.parameters()

        def __call__(self, tokens, state, mask=None):
            import torch

            place = 0 if state is None else int(state[0]) + 1
            logits = torch.full((1, tokens.shape[1], 257), -1e9)
            logits[:, -1, ids[place] if place < len(ids) else 256] = 0
            return logits, (torch.tensor([place]),)

    stream = TextStream(Says(), loaded.tokenizer, "x", 100)
    assert list(stream) == ["a", "ñ", "€", "😀"]
    assert (stream.ended_by, stream.num_tokens) == ("end of text", len(ids))
