import json
from dataclasses import replace

import pytest

from openxlstm.errors import UserError
from openxlstm.training.compare import compare


@pytest.fixture
def base(changed):
    return changed(model={"dim": 96, "pattern": "slstm"}, steps=3, validate_every=2)


def test_a_table_of_equal_models_that_is_not_computed_twice(base, tmp_path):
    models = ["slstm", "lstm", "transformer"]
    found = compare(base, models, [0, 1], tmp_path / "cmp")
    assert [(c.model, c.seed) for c in found.cells] == [(m, s) for m in models for s in (0, 1)]
    for row in found.rows():
        assert row["num_parameters"] == pytest.approx(found.target, rel=0.01)
        assert row["seeds"] == 2
    table = found.table()
    assert table.count("\n") == 1 + len(models)
    assert "±" in table
    assert json.loads((tmp_path / "cmp" / "compare.json").read_text())["rows"] == found.rows()
    assert (tmp_path / "cmp" / "compare.png").stat().st_size > 0
    said = []
    again = compare(base, models, [0, 1], tmp_path / "cmp", said.append)
    assert again.rows() == found.rows()
    assert sum("finished before" in line for line in said) == 6
    said.clear()
    compare(replace(base, trainer=replace(base.trainer, steps=4)), ["lstm"], [0], tmp_path / "cmp", said.append)
    assert not any("finished before" in line for line in said), "other settings are another cell"


def test_a_cell_that_fails_is_reported_and_the_others_go_on(base, tmp_path):
    wild = replace(
        base,
        optimizer=replace(base.optimizer, lr=1e30, clip=0.0),
        trainer=replace(base.trainer, steps=20, max_bad_steps=2),
    )
    found = compare(wild, ["mlstm", "lstm"], [0], tmp_path / "cmp")
    assert len(found.cells) == 2
    failed = [cell for cell in found.cells if cell.failure]
    assert failed
    assert "not finite" in failed[0].failure
    assert "0 of 1" in found.table()


def test_one_comparison_holds_models_that_differ_in_a_setting(base, tmp_path):
    models = ["mlstm", "mlstm{conv_width=0}", "mlstm{input_gate_mode=fixed,forget_gate_mode=one}", "lstm_residual"]
    found = compare(base, models, [0], tmp_path / "cmp")
    assert {row["model"] for row in found.rows()} == set(models)
    for row in found.rows():
        assert row["num_parameters"] == pytest.approx(found.target, rel=0.01)
    ran = [json.loads((cell.folder / "config.json").read_text())["model"] for cell in found.cells]
    assert [model["pattern"] for model in ran] == ["mlstm", "mlstm", "mlstm", "lstm_residual"]
    assert [model["conv_width"] for model in ran] == [4, 0, 4, 4]
    assert [model["forget_gate_mode"] for model in ran] == ["learned", "learned", "one", "learned"]
    assert len({row["nats_per_token"] for row in found.rows()}) == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mlstm{conv=0}", r"mlstm\{conv=0\}: unknown option --conv"),
        ("mlstm{conv_width=no}", r"mlstm\{conv_width=no\}: --conv_width must be a whole number, not 'no'"),
        ("mlstm{forget_gate_mode=off}", "must be one of learned, bias, fixed, one, not 'off'"),
        ("mlstm{num_parameters=3}", "num_parameters cannot stand in braces"),
        ("mlstm{conv_width=0", "not of the form"),
        ("gru{conv_width=0}", r"gru\{conv_width=0\}: model: unknown block 'gru'"),
    ],
)
def test_mistakes_in_braces(base, tmp_path, model, message):
    with pytest.raises(UserError, match=message):
        compare(base, [model], [0], tmp_path / "cmp")
    assert not (tmp_path / "cmp").exists()


def test_mistakes_are_found_before_training(base, tmp_path):
    nowhere = replace(base, data=replace(base.data, source=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="unknown block"):  # before the text is read, too
        compare(nowhere, ["mlstm", "gru"], [0], tmp_path / "cmp")
    with pytest.raises(UserError, match="named twice"):
        compare(base, ["mlstm"], [1, 1], tmp_path / "cmp")
    assert not (tmp_path / "cmp").exists()
