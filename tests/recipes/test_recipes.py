import math
from dataclasses import replace

import pytest

from openxlstm.cli import recipes as verb
from openxlstm.cli.train import resolve
from openxlstm.cli.train import run as train_verb
from openxlstm.errors import UserError
from openxlstm.models.count import count_parameters
from openxlstm.recipes import NEEDS_DATA, RECIPES, recipe, summary
from openxlstm.training import build_model_config, train


def test_the_list_has_a_line_for_each(capsys):
    assert verb.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RECIPES)
    for name, line in zip(RECIPES, lines):
        assert line.startswith(name)
        assert len(summary(name)) > 20


def test_shakespeare_is_the_size_that_its_bar_is_for():
    """The bar (1.60 nats per character) is for about a million parameters, 65 characters, 2000 steps."""
    config = recipe("shakespeare")
    assert 0.8e6 < count_parameters(build_model_config(config.model, 65)) < 1.2e6
    assert config.trainer.steps == 2000
    assert 64 <= config.trainer.context <= 256
    assert (config.data.validation, config.data.test) == (0.1, 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_on_its_kind_of_text(name, tmp_path, monkeypatch):
    """Two steps at a small width; the recipe's own blocks, tokenizer, streams and report."""
    monkeypatch.setenv("OPENXLSTM_CACHE", str(tmp_path / "cache"))
    config = RECIPES[name]()
    data = replace(config.data, max_bytes=200_000)
    if name in NEEDS_DATA:
        (tmp_path / "text").mkdir()
        for part, lines in (("train", 1200), ("valid", 150), ("test", 150)):
            text = "".join(f"{n % 13} and {n % 7} make {n % 13 + n % 7} .\n" for n in range(lines))
            (tmp_path / "text" / f"wiki.{part}.tokens").write_text(text)
        source = tmp_path / "text" if name == "wikitext2" else tmp_path / "text" / "wiki.train.tokens"
        data = replace(data, source=str(source))
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
    if name == "wikitext2":
        words = 150 * (6 + 1)  # "1 and 2 make 3 ." and one end mark a line
        total = report["validation"]["nats_per_token"] * report["validation"]["num_tokens"]
        assert report["validation"]["word_perplexity"] == pytest.approx(math.exp(min(total / words, 700)))
    assert report["xz"]["bits_per_byte"] > 0


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
