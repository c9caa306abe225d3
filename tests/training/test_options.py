import pytest

from openxlstm.errors import UserError
from openxlstm.recipes import RECIPES, recipe
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


def test_the_digest_changes_with_any_setting():
    base = recipe("tiny")
    assert override(base, {"seed": "1"}).digest() != base.digest()
    assert override(base, {"trainer.steps": "21"}).digest() != base.digest()
    assert recipe("tiny").digest() == base.digest()
