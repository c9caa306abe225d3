"""A model that was trained to fill in, in Python and on the command line."""

import json
from dataclasses import replace

import pytest
import torch

from openxlstm.cli.main import main
from openxlstm.data import ByteTokenizer, TextConfig
from openxlstm.data.fill_in import ask
from openxlstm.errors import UserError
from openxlstm.inference import Sampling, fill_in, load_run
from openxlstm.recipes import recipe
from openxlstm.training import OptimizerConfig, TrainerConfig, train
from openxlstm.training.evaluation.fill_in import evaluate_fill_in
from openxlstm.training.loss import TokenLoss


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Groups of three letters, trained for seconds."""
    folder = tmp_path_factory.mktemp("fill_in")
    letters = torch.randint(4, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "letters.txt").write_text("".join(f"{chr(97 + n) * 3}." for n in letters))
    base = recipe("python_code")
    config = replace(
        base,
        data=TextConfig(source=str(folder / "letters.txt"), fill_in=0.9),
        model=replace(
            base.model, pattern="slstm", dim=32, num_blocks=1, num_heads=1, qkv_block_size=64, recurrent_init="normal"
        ),
        optimizer=OptimizerConfig(lr=2e-2),
        trainer=TrainerConfig(steps=150, batch_size=32, context=24, validate_every=0, validate_tokens=500, threads=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENXLSTM_CACHE", str(folder / "cache"))
        return train(config, folder / "run")


def test_the_report_says_how_well_middles_are_known(trained):
    found = trained.report["fill_in"]
    assert found["num_windows"] > 200
    assert found["bits_per_byte"] < 1.3  # of log2(5) = 2.3
    assert found["prefix_only"] < 1.3
    assert any(line.startswith("filling in: ") for line in trained.lines())


def test_the_same_seed_fills_in_the_same(trained):
    run = load_run(trained.folder)
    options = {"sampling": Sampling(temperature=1.0), "decode": "torch"}
    one, same, other = (fill_in(run, "aaa.", ".b", 12, seed=seed, **options) for seed in (3, 3, 4))
    assert one == same != other
    stream = ask(run.tokenizer, "aaa.", "b.")
    logits, _ = run.model(torch.tensor([stream]))
    assert fill_in(run, "aaa.", "b.", 1) == run.tokenizer.decode([int(logits[0, -1].argmax())])


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
    with pytest.raises(UserError, match="no marks for filling in: its model was not trained with"):
        fill_in(replace(run, tokenizer=ByteTokenizer()), "a", "b")


def test_streams_cannot_ask_for_middles(tmp_path):
    from openxlstm.training import RunConfig

    with pytest.raises(UserError, match=r"data.fill_in needs windows that start afresh"):
        RunConfig(data=TextConfig(fill_in=0.5), trainer=TrainerConfig(tbptt=True))
