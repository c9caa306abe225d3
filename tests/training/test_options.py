import dataclasses

import pytest

from openxlstm.errors import UserError
from openxlstm.models.config import LanguageModelConfig
from openxlstm.recipes import RECIPES, recipe
from openxlstm.tasks import TASKS
from openxlstm.training.config import CLASSIFIER_ONLY, PAIRS_ONLY, ModelSettings, build_model_config
from openxlstm.training.options import describe, from_dict, help_text, override, split_arguments


def test_values_get_the_type_of_their_field():
    config = override(
        recipe("tiny"),
        {
            "trainer.steps": "2_000",
            "optimizer.lr": "3e-3",
            "trainer.tbptt": "true",
            "model.gate_soft_cap": "15",
            "model.num_parameters": "none",
            "schedule.kind": "wsd",
            "trainer.report_contexts": "64,256",
            "seed": "7",
        },
    )
    assert config.trainer.steps == 2000
    assert config.optimizer.lr == 0.003
    assert config.trainer.tbptt is True
    assert config.model.gate_soft_cap == 15.0
    assert config.model.num_parameters is None
    assert config.schedule.kind == "wsd"
    assert config.trainer.report_contexts == (64, 256)
    assert config.seed == 7


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("trainer.stepz", "3", "did you mean --trainer.steps"),
        ("lr", "3", "did you mean --optimizer.lr"),
        ("trainer.steps", "many", "whole number"),
        ("optimizer.lr", "fast", "must be a number"),
        ("trainer.tbptt", "maybe", "true or false"),
        ("schedule.kind", "linear", "one of cosine, wsd, constant"),
        ("trainer.steps", "0", "at least 1"),
        ("trainer.accumulate", "3", "not divisible"),
        ("model.pattern", "gru", "model: unknown block 'gru'"),
        ("model.num_blocks", "0", "model: num_blocks must be at least 1"),
        ("model.num_heads", "3", "model: dim=32 is not divisible by num_heads=3"),
        ("model.qkv_block_size", "48", "model: projection_factor \\* dim = 64 is not divisible by qkv_block_size=48"),
        ("model.forget_gate", "relu", "one of sigmoid, exp"),
        ("model.backend", "cuda", "model: no backend 'cuda'; have auto, "),
        ("trainer.report_contexts", "64,0", r"trainer\.report_contexts=64,0 must each be at least 1"),
        ("optimizer.eps", "-1", r"optimizer\.eps=-1\.0 must be finite and not negative"),
        ("optimizer.lr", "inf", r"optimizer\.lr=inf must be positive and finite"),
        ("seed", "99999999999999999999", "seed=99999999999999999999 is beyond 64 bits"),
        ("model.projection_factor", "inf", "model: projection_factor must be positive and finite, got inf"),
        ("model.ffn_factor", "nan", "model: ffn_factor must be positive and finite, got nan"),
    ],
)
def test_a_mistake_is_one_line_that_helps(option, value, message):
    with pytest.raises(UserError, match=message) as caught:
        override(recipe("tiny"), {option: value})
    assert "\n" not in str(caught.value)


def test_arguments_may_be_written_both_ways():
    words, options = split_arguments(["tiny", "--a.b=1", "--c", "2", "--flag", "last"], flags=("flag",))
    assert words == ["tiny", "last"]
    assert options == {"a.b": "1", "c": "2", "flag": "true"}
    for wrong in (["--a"], ["--a", "--b=1"], ["--a=1", "--a=2"], ["-x"]):
        with pytest.raises(UserError):
            split_arguments(wrong)
    with pytest.raises(UserError, match=r"--flg needs a value: --flg=VALUE; did you mean --flag\?"):
        split_arguments(["--flg"], flags=("flag",))


@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_survives_json(name):
    import json

    config = RECIPES[name]()
    assert from_dict(type(config)(), json.loads(json.dumps(config.to_dict()))) == config


def test_wrong_json_names_the_key():
    with pytest.raises(UserError, match="file: unknown option 'stepz'"):
        from_dict(recipe("tiny"), {"trainer": {"stepz": 3}}, "file")
    with pytest.raises(UserError, match="file: steps must be int"):
        from_dict(recipe("tiny"), {"trainer": {"steps": "3"}}, "file")
    with pytest.raises(UserError, match="trainer must be an object"):
        from_dict(recipe("tiny"), {"trainer": 3}, "file")


def test_every_option_is_explained():
    unexplained = [name for name, (_, _, doc) in describe(recipe("tiny")).items() if not doc]
    assert not unexplained
    assert "--trainer.tbptt=false  (bool)" in help_text(recipe("tiny"))


def test_every_setting_of_a_model_can_be_reached():
    """Under its own name and with the same default, or it is one of these: the data and the pattern decide them."""
    derived = {"vocab_size", "blocks"}
    settings = {f.name: f.default for f in dataclasses.fields(ModelSettings)}
    for field in dataclasses.fields(LanguageModelConfig):
        if field.name not in derived and field.name != "dim":  # a model has no default width, a run has
            assert settings.pop(field.name) == field.default, field.name
    assert settings.keys() == {"pattern", "num_blocks", "dim", "num_parameters", *CLASSIFIER_ONLY, *PAIRS_ONLY}
    changed = override(recipe("tiny"), {"model.qk_factor": "1", "model.norm": "none", "model.chunk_size": "16"}).model
    found = build_model_config(changed, 256)
    assert (found.qk_factor, found.norm, found.chunk_size, found.vocab_size) == (1.0, "none", 16, 256)


def test_a_configuration_of_an_earlier_version_is_read():
    stored = recipe("tiny").to_dict()
    for name in ("forget_gate", "qk_factor", "lstm_num_heads", "chunk_size"):
        del stored["model"][name]
    assert from_dict(type(recipe("tiny"))(), stored) == recipe("tiny")


def test_the_digest_changes_with_any_setting():
    base = recipe("tiny")
    assert override(base, {"seed": "1"}).digest() != base.digest()
    assert override(base, {"trainer.steps": "21"}).digest() != base.digest()
    assert recipe("tiny").digest() == base.digest()
    assert len({recipe(name).digest() for name in TASKS}) == len(TASKS)
