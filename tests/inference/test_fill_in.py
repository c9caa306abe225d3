"""A model that was trained to fill in, in Python and on the command line."""

import json
from dataclasses import replace

import pytest
import torch

from openxlstm.cli.main import main
from openxlstm.data import ByteTokenizer, TextConfig
from openxlstm.errors import UserError
from openxlstm.inference import Sampling, fill_in, load_run
from openxlstm.recipes import recipe
from openxlstm.training import OptimizerConfig, TrainerConfig, train
from openxlstm.training.evaluate_fill_in import evaluate_fill_in
from openxlstm.training.loss import TokenLoss


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Lines that begin and end with the same letter, so that what comes next can only be known from behind."""
    folder = tmp_path_factory.mktemp("fill_in")
    letters = torch.randint(26, (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "letters.txt").write_text("".join(f"{chr(97 + n) * 3}." for n in letters))
    base = recipe("python_code")
    config = replace(
        base,
        data=TextConfig(source=str(folder / "letters.txt"), fill_in=0.9),
        model=replace(base.model, dim=32, num_blocks=2, num_heads=2, qkv_block_size=4),
        optimizer=OptimizerConfig(lr=1e-2),
        trainer=TrainerConfig(steps=120, batch_size=16, context=24, validate_every=0, validate_tokens=500, threads=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENXLSTM_CACHE", str(folder / "cache"))
        return train(config, folder / "run")


def test_the_report_says_what_the_suffix_is_worth(trained):
    found = trained.report["fill_in"]
    assert found["num_windows"] > 200
    assert found["bits_per_byte"] < 0.9 * found["prefix_only"]
    assert any(line.startswith("filling in: ") for line in trained.lines())


def test_the_middle_follows_the_suffix(trained):
    run = load_run(trained.folder)
    right = sum(fill_in(run, "aaa.bbb.", f"{letter * 2}.ccc.", 1) == letter for letter in "defghijklm")
    assert right >= 5  # one in 26 by chance
    options = {"sampling": Sampling(temperature=1.0), "decode": "torch"}
    assert fill_in(run, "aaa.", ".b", 12, seed=3, **options) == fill_in(run, "aaa.", ".b", 12, seed=3, **options)


def test_an_untrained_model_gains_nothing(trained):
    torch.manual_seed(0)
    model = load_run(trained.folder).model
    torch.nn.init.zeros_(model.head_weight)
    tokenizer = ByteTokenizer(fill_in="spm")

    class Ids:
        num_tokens = 400

        def read(self, start, stop):
            return torch.tensor(tokenizer.encode("abc " * 100)[start:stop]).numpy()

        def starts_in(self, start, stop):
            return []

    found = evaluate_fill_in(TokenLoss(model), Ids(), tokenizer, 20, windows=40)
    assert found.num_windows == 40
    assert found.bits_per_byte == pytest.approx(8.0224, abs=1e-3)  # log2(260)
    assert found.prefix_only == pytest.approx(found.bits_per_byte)


def test_the_command_line(trained, tmp_path, capsys):
    (tmp_path / "before").write_text("aaa.bbb.")
    (tmp_path / "after").write_text("dd.")
    words = ["generate", str(trained.folder), "--suffix", str(tmp_path / "after"), "--temperature", "0", "--max-tokens", "3"]
    assert main([*words, "--prefix", str(tmp_path / "before")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("aaa.bbb.")
    assert out.endswith("dd.")
    assert main([*words, "--prefix", str(tmp_path / "before"), "--no-echo"]) == 0
    middle = capsys.readouterr().out
    assert out == f"aaa.bbb.{middle.removesuffix(chr(10))}dd."
    assert main([*words, "--prompt", "aaa.bbb.", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompt"], found["suffix"], found["text"] + "\n") == ("aaa.bbb.", "dd.", middle)


def test_what_is_wrong_is_said(trained, tmp_path, capsys):
    (tmp_path / "text").write_bytes(b"abc\xff")
    assert main(["generate", str(trained.folder), "--prefix", str(tmp_path / "text")]) == 2
    assert "not UTF-8 text: invalid start byte at byte 3" in capsys.readouterr().err
    (tmp_path / "text").write_text("abc")
    assert main(["generate", str(trained.folder), "--prefix", str(tmp_path / "text")]) == 2
    assert "--prefix is for filling in and goes with --suffix" in capsys.readouterr().err
    run = load_run(trained.folder)
    with pytest.raises(UserError, match="no marks for filling in: its model was not trained with --data.fill_in"):
        fill_in(replace(run, tokenizer=ByteTokenizer()), "a", "b")


def test_streams_cannot_ask_for_middles(tmp_path):
    from openxlstm.training import RunConfig

    with pytest.raises(UserError, match="data.fill_in needs windows that start afresh"):
        RunConfig(data=TextConfig(fill_in=0.5), trainer=TrainerConfig(tbptt=True))
