import json
import math
from dataclasses import replace
from typing import Any

import pytest

from openxlstm.cli import recipes as verb
from openxlstm.cli.train import resolve
from openxlstm.cli.train import run as train_verb
from openxlstm.data import load_corpus, prepare
from openxlstm.errors import UserError
from openxlstm.models.count import count_parameters
from openxlstm.recipes import LARGER, MAKERS, NEEDS_DATA, RECIPES, recipe, summary
from openxlstm.tasks import TASKS, DynamicsTask, SequencePairs
from openxlstm.training import build_model_config, train
from pianorolls import write_pieces
from reviews import write_imdb, write_rotten_tomatoes, write_sst2, write_table
from sensorfiles import write_engines, write_recordings
from sounds import write_digits
from wordpairs import write_summaries, write_translations


def test_the_list_has_a_line_for_each(capsys):
    assert verb.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RECIPES) + len(LARGER)
    for name, line in zip((*RECIPES, *LARGER), lines):
        assert line.startswith(name)
        assert len(summary(name)) > 20


def test_shakespeare_is_the_size_that_its_bar_is_for():
    """The bar (1.60 nats per character) is for about a million parameters, 65 characters, 2000 steps."""
    config = recipe("shakespeare")
    assert 0.8e6 < count_parameters(build_model_config(config.model, 65)) < 1.2e6
    assert config.trainer.steps == 2000
    assert 64 <= config.trainer.context <= 256
    assert (config.data.validation, config.data.test) == (0.1, 0.0)


def lines(number):
    return [f"{n % 13} and {n % 7} make {n % 13 + n % 7} ." for n in range(number)]


def three_files(pattern):
    return lambda folder: [
        (folder / pattern.format(part)).write_text("".join(f"{line}\n" for line in lines(number)))
        for part, number in (("train", 1200), ("valid", 150), ("test", 150))
    ]


LAYOUTS = {
    "shakespeare": lambda folder: (folder / "input.txt").write_text("\n".join(lines(1200))),
    "wikitext2": three_files("wiki.{}.tokens"),
    "wikitext103": three_files("wiki.{}.tokens"),
    "ptb": three_files("ptb.{}.txt"),
    "enwik8": lambda folder: (folder / "enwik8").write_text("é" + "\n".join(lines(1200)), encoding="utf-8"),
    "slimpajama": lambda folder: [
        (folder / f"chunk_{n}.jsonl").write_text(
            "".join(json.dumps({"text": line * 9, "meta": n}) + "\n" for line in lines(200))
        )
        for n in range(4)
    ],
}
"""Recipe -> what writes its kind of data into a folder."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_on_its_kind_of_text(name, tmp_path, monkeypatch):
    """Two steps at a small width; the recipe's own blocks, tokenizer, streams and report."""
    monkeypatch.setenv("OPENXLSTM_CACHE", str(tmp_path / "cache"))
    config = RECIPES[name]()
    data = replace(config.data, max_bytes=200_000)
    assert name in LAYOUTS or name not in NEEDS_DATA
    if name in LAYOUTS:
        (tmp_path / "text").mkdir()
        LAYOUTS[name](tmp_path / "text")
        data = replace(data, source=str(tmp_path / "text"))
    config = replace(
        config,
        data=data,
        model=replace(config.model, dim=32, qkv_block_size=4),
        trainer=replace(config.trainer, steps=2, batch_size=2, context=16, validate_every=1, validate_tokens=500, threads=1),
    )
    report = train(config, tmp_path / "run").report
    for key in ("nats_per_token", "bits_per_byte", "perplexity", "num_tokens"):
        assert report["validation"][key] > 0, key
    for key in ("num_parameters", "tokens_seen", "seconds", "tokens_per_second"):
        assert report[key] > 0, key
    if name in ("wikitext2", "wikitext103", "ptb"):
        words = 150 * (6 + 1)  # "1 and 2 make 3 ." and one end mark a line
        total = report["validation"]["nats_per_token"] * report["validation"]["num_tokens"]
        assert report["validation"]["word_perplexity"] == pytest.approx(math.exp(min(total / words, 700)))
    assert report["xz"]["bits_per_byte"] > 0


def write_music(folder):
    folder.mkdir()
    write_pieces(folder / "pieces.mat")
    return folder / "pieces.mat"


def write_dialogues(folder):
    write_summaries(folder)
    for path in folder.glob("*.jsonl"):
        path.write_text(path.read_text().replace('"source"', '"dialogue"').replace('"target"', '"summary"'))
    return folder


FILES: dict[str, Any] = {
    "sst2": write_sst2,
    "rotten_tomatoes": write_rotten_tomatoes,
    "imdb": write_imdb,
    "text_classification": lambda folder: write_table(folder.with_suffix(".csv")),
    **dict.fromkeys(("multi30k", "translation"), write_translations),
    **dict.fromkeys(("scitldr", "summaries"), write_summaries),
    "dialogsum": write_dialogues,
    "digit_sequences": write_digits,
    "turbofan": write_engines,
    "activity": write_recordings,
    **dict.fromkeys(("jsb_chorales", "nottingham"), write_music),
}
"""Task -> what writes its kind of files, and returns what `--data` names."""

FEW: dict[str, dict[str, Any]] = {
    "python_code": dict(max_bytes=100_000, vocab_size=300),
    **{
        name: dict(vocab_size=300, batch_tokens=64)
        for name in MAKERS
        if name in TASKS and issubclass(TASKS[name], SequencePairs)
    },
    "digit_sequences": dict(validation_samples=3, test_samples=3, validation_recordings=1, report_lengths="1"),
    "program_evaluation": dict(validation_samples=3, test_samples=3, max_length=2),
    "turbofan": dict(validation_engines=2),
    **{
        name: dict(train_trajectories=2, train_samples=120, validation_trajectories=2, test_trajectories=2, horizon=0.5)
        for name, kind in TASKS.items()
        if issubclass(kind, DynamicsTask)
    },
}
"""Task -> settings that make little of its data."""


@pytest.mark.parametrize("name", MAKERS)
def test_every_larger_run_trains(name, tmp_path, monkeypatch):
    """Two steps of what is meant for a GPU, narrow and on a CPU: its own blocks, precision and report."""
    monkeypatch.setenv("OPENXLSTM_CACHE", str(tmp_path / "cache"))
    config = recipe(f"{name}_gpu")
    assert (config.name, config.trainer.device) == (f"{name}_gpu", "cuda")
    assert NEEDS_DATA.get(f"{name}_gpu") == NEEDS_DATA.get(name)
    assert (name in FILES) == (name in NEEDS_DATA)
    source = dict(source=str(FILES[name](tmp_path / "files"))) if name in FILES else {}
    config = replace(
        config,
        data=replace(config.data, **source, **FEW.get(name, {})),
        model=replace(config.model, dim=32),
        trainer=replace(config.trainer, steps=2, batch_size=2, validate_every=2, device="cpu", threads=1),
    )
    if name == "python_code":
        config = replace(config, trainer=replace(config.trainer, context=64, validate_tokens=500))
    report = train(config, tmp_path / "run").report
    assert report["steps_done"] == 2
    assert math.isfinite(report["validation"]["nats_per_token" if name == "python_code" else "loss"])


def test_ptb_is_read_as_its_tables_count_it(tmp_path):
    """A sentence a line, each ended by <eos>; words that are not in the training part are <unk>."""
    for part, text in (("train", " no it was n't\n the <unk> rose N %\n"), ("valid", " it rose\n she\n"), ("test", " N\n")):
        (tmp_path / f"ptb.{part}.txt").write_text(text)
    text = prepare(replace(recipe("ptb").data, source=str(tmp_path)), tmp_path / "prepared")
    assert text.tokenizer.vocab_size == 10  # 8 words, <unk>, <eos>
    predicted = text.validation.read(1, text.validation.num_tokens).tolist()
    unknown, end = text.tokenizer.encode("she\n")
    assert predicted == [*text.tokenizer.encode("it rose"), end, unknown, end]
    assert (unknown, end) == (text.tokenizer.unk_id, text.tokenizer.eos_id)


def test_enwik8_is_cut_by_bytes(tmp_path):
    """First 90 %, then 5 and 5, of bytes: here the characters of the first half are four times as long."""
    raw = ("\U0001f600" * 1000 + "a" * 4000).encode()
    (tmp_path / "enwik8").write_bytes(raw)
    corpus = load_corpus(replace(recipe("enwik8").data, source=str(tmp_path)))
    parts = ["".join(corpus.split(name)).encode() for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [7200, 400, 400]
    assert b"".join(parts) == raw


def test_recipes_that_need_data_say_what():
    with pytest.raises(UserError, match=r"'shakespeare' needs --data: .*input\.txt"):
        train_verb(["shakespeare"])
    with pytest.raises(UserError, match="did you mean 'shakespeare'"):
        train_verb(["shakespear"])


def test_options_come_on_top_of_the_recipe():
    config = resolve("shakespeare", {"data": "input.txt"}, {"trainer.steps": "7", "model.pattern": "xlstm[1:1]"})
    assert config.data.source == "input.txt"
    assert config.trainer.steps == 7
    assert config.model.pattern == "xlstm[1:1]"
    assert config.optimizer == recipe("shakespeare").optimizer


def test_print_config_prints_what_can_be_read_back(capsys, tmp_path):
    assert train_verb(["tiny", "--seed=3", "--print-config"]) == 0
    (tmp_path / "run.json").write_text(capsys.readouterr().out)
    assert resolve(None, {"config": str(tmp_path / "run.json")}, {}) == replace(recipe("tiny"), seed=3)


def test_help_explains_every_option(capsys):
    assert train_verb(["shakespeare", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--data", "--resume", "--print-config", "--trainer.steps=2000", "--optimizer.lr=0.003"):
        assert option in text
