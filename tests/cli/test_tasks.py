"""Tasks on the command line."""

import json

import pytest

from openxlstm.cli import main as cli
from openxlstm.cli.train import resolve
from openxlstm.errors import UserError
from openxlstm.tasks import TASKS

QUICK = [
    "--trainer.steps=2", "--trainer.batch_size=4", "--trainer.threads=1", "--model.dim=16", "--data.train_length=3-5",
    "--data.eval_length=5-6", "--data.report_lengths=8", "--data.validation_samples=10", "--data.test_samples=10",
]  # fmt: skip


def test_the_list_has_a_line_for_each(capsys):
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    assert [line.split()[0] for line in lines if line.endswith("[--data]")] == [
        "sequential_mnist",
        "permuted_mnist",
        "lra_listops",
        "lra_text",
        "lra_retrieval",
        "lra_image",
        "lra_pathfinder",
        "jsb_chorales",
        "nottingham",
        "spoken_digits",
        "digit_sequences",
        "sst2",
        "rotten_tomatoes",
        "imdb",
        "text_classification",
        "turbofan",
        "activity",
        "multi30k",
        "translation",
        "scitldr",
        "dialogsum",
        "summaries",
    ]


def test_the_list_for_programs(capsys):
    assert cli.main(["tasks", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(TASKS)
    assert found["adding"]["metric"] == "mean squared error"
    assert not found["adding"]["higher_is_better"]
    assert found["parity"]["lengths"] == {"training": "3-40", "score": "40-256", "further": ["512"]}


def test_a_task_is_trained_by_its_name(here, capsys):
    assert cli.main(["train", "parity", *QUICK]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("validation: scaled accuracy ")
    assert "test: scaled accuracy" in shown.out
    assert "sample (" not in shown.out
    (run,) = (here / "runs").iterdir()
    settings = json.loads((run / "config.json").read_text())
    assert settings["data"]["task"] == "parity"
    assert settings["data"]["train_length"] == "3-5"
    assert cli.main(["generate", str(run)]) == 2, "there is no text to write"
    assert "this is a 'SequenceModel', not a 'LanguageModel'" in capsys.readouterr().err
    assert cli.main(["generate"]) == 2, "and it is not the newest language model"
    assert "no finished run under 'runs'" in capsys.readouterr().err


def test_a_trained_model_is_scored_at_other_lengths(here, capsys):
    assert cli.main(["train", "parity", *QUICK, "--run-dir=run"]) == 0
    report = json.loads((here / "run" / "report.json").read_text())
    capsys.readouterr()
    assert cli.main(["eval", "run", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results == [report["test"], *report["other_lengths"]]
    assert cli.main(["eval", "run", "--lengths=7, 9-12", "--split=validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["lengths", "scaled", "accuracy", "guessing", "loss", "answers"]
    assert [line.split()[0] for line in lines[1:]] == ["7", "9-12", "9", "10", "11", "12"]
    for words, message in (
        (["eval", "run", "--context=4"], "--context is about text; run is the run of a task"),
        (["eval", "run", "--lengths=x"], "'x' is not a length N or a range"),
        (["eval", "run", "--lengths=7,"], "--lengths 7,: a length is empty"),
        (["eval", "run", "--tasks=piqa"], "--tasks is about zero-shot tasks of language models; run is the run of a task"),
        (["eval", "run", "--limit=3"], "--limit is about zero-shot tasks of language models; run is the run of a task"),
    ):
        assert cli.main(words) == 2
        assert message in capsys.readouterr().err


def test_models_are_compared_on_a_task(here, capsys):
    assert cli.main(["compare", "parity", *QUICK, "--models=slstm,lstm", "--lrs=1e-3,1e-2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in found["rows"]} == {"slstm", "lstm"}
    assert all(row["lr"] in (1e-3, 1e-2) for row in found["rows"])


def test_a_recipe_of_one_block_is_compared_without_mixtures(here, capsys):
    assert cli.main(["compare", "majority", *QUICK, "--model.num_blocks=1", "--json"]) == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"mlstm", "slstm", "lstm", "transformer"}
    assert cli.main(["compare", "majority", *QUICK, "--model.num_blocks=1", "--models=xlstm[1:1]"]) == 2
    assert "needs num_blocks >= 2, got 1" in capsys.readouterr().err


def test_a_comparison_with_other_settings_is_not_written_over(here, capsys):
    words = ["compare", "parity", *QUICK, "--models=slstm", "--out=table"]
    assert cli.main(words) == 0
    before = (here / "table" / "compare.json").read_text()
    assert cli.main([*words, "--optimizer.lr=0.5"]) == 2
    lr = json.loads(before)["task"]["optimizer"]["lr"]
    message = f"table: holds a comparison with other settings (optimizer.lr is {lr} there and 0.5 here); name another folder"
    assert message in capsys.readouterr().err
    assert (here / "table" / "compare.json").read_text() == before
    assert cli.main([*words, "--seeds=1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "paritty"], "unknown recipe 'paritty'; did you mean 'parity'?"),
        (["train", "parity", "--data=x.txt"], "parity makes its samples itself; it takes no --data"),
        (["train", "parity", "--data.train_lenght=3"], "did you mean --data.train_length"),
        (["train", "parity", "--data.train_length=x"], "'x' is not a length N or a range N-M of lengths"),
        (["train", "parity", "--trainer.context=9"], "trainer.context is about text; see the settings data.* of task 'parity'"),
        (["train", "sequential_mnist"], "'sequential_mnist' needs --data: a folder with MNIST's four IDX files"),
        (["train", "permuted_mnist", "--data=nowhere"], "nowhere: there is no train-images-idx3-ubyte"),
        (["compare", "parity", "--lrs=0"], "--lrs=0 must be positive"),
        (["compare", "parity", "--lrs="], "--lrs needs at least one number"),
        (["compare", "parity", "--lr-seeds=0"], "--lr-seeds says who tries the learning rates; name these with --lrs"),
        (
            ["compare", "parity", "--lrs=1e-3", "--lr-seeds=1"],
            "seed 1 is to try the learning rates and is not among the seeds 0",
        ),
        (["compare", "parity", "--lrs=1e-3", "--optimizer.lr=1"], "--optimizer.lr and --lrs are the same"),
        (["tasks", "parity"], "'parity' is one argument too many; to see a task's settings: openxlstm train parity --help"),
    ],
)
def test_mistakes_are_one_line(words, message, here, capsys):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_help_explains_every_setting_of_a_task(capsys):
    assert cli.main(["train", "mqar", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--data.num_pairs=4  (int)", "--data.train_length=64", "--data.validation_samples=512"):
        assert option in out
    from openxlstm.recipes import recipe
    from openxlstm.training.options import describe

    for name in TASKS:
        assert not [option for option, (_, _, doc) in describe(recipe(name)).items() if not doc], name


def test_options_come_on_top_of_the_task():
    config = resolve("mqar", {}, {"data.num_pairs": "2", "trainer.steps": "3"})
    assert config.data.num_pairs == 2
    assert config.trainer.steps == 3
    with pytest.raises(UserError, match="2000 pairs need even lengths"):
        resolve("mqar", {}, {"data.num_pairs": "2000", "data.vocab_size": "8192"})
