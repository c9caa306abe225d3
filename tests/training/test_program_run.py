"""Program evaluation through the trainer: levels in the report, and a curriculum that resumes exactly."""

import json
from dataclasses import replace

import pytest

from openxlstm.cli.main import main
from openxlstm.recipes import recipe
from openxlstm.tasks import ProgramEvaluation
from openxlstm.training import train
from openxlstm.training.compare import compare
from openxlstm.training.jobs.programs import table
from openxlstm.training.loss import TaskLoss
from openxlstm.training.run import load_config


@pytest.fixture
def tiny():
    base = recipe("program_evaluation")
    return replace(
        base,
        data=ProgramEvaluation(max_nesting=2, curriculum="combined", climb=1.0, validation_samples=40, test_samples=20),
        model=replace(base.model, dim=16, num_blocks=1, pattern="slstm", qkv_block_size=4, num_parameters=None),
        trainer=replace(base.trainer, steps=8, batch_size=8, validate_every=4, checkpoint_every=3, threads=1),
    )


def test_the_report_is_by_level(tiny, tmp_path):
    result = train(tiny, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert load_config(tmp_path / "run") == tiny
    assert [(level["length"], level["nesting"]) for level in report["levels"]] == [(1, 1), (2, 1), (1, 2), (2, 2)]
    scores = [part["score"] for part in report["test"]["by_length"]]
    assert table(report) == [scores[:2], scores[2:]]
    lines = list(result.lines())
    assert f"        1{scores[0]:>10.4f}{scores[1]:>10.4f}" in lines
    assert f"        2{scores[2]:>10.4f}{scores[3]:>10.4f}" in lines
    assert (tmp_path / "run" / "loss.png").stat().st_size > 0


def test_one_level_is_enough(tiny, tmp_path):
    data = replace(tiny.data, max_length=1, max_nesting=1)
    result = train(replace(tiny, data=data), tmp_path / "run")
    assert len(result.report["levels"]) == 1


def test_a_run_that_was_stopped_climbs_on_as_if_it_had_not_been(tiny, tmp_path, losses, monkeypatch):
    """Stopped between two checkpoints; the level is a function of the step."""
    whole = train(tiny, tmp_path / "whole")
    original, calls = TaskLoss.forward, []

    def until(self, *args, **options):
        calls.append(self.training)
        if sum(calls) == 6:
            raise SystemExit("stopped")
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TaskLoss, "forward", until)
        with pytest.raises(SystemExit):
            train(tiny, tmp_path / "parts")
    resumed = train(resume=tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert resumed.report["test"] == whole.report["test"]


def test_models_are_compared_by_level(tiny, tmp_path):
    found = compare(tiny, ("slstm", "lstm"), [0], tmp_path, lambda line: None)
    rows = found.rows()
    assert [[part["lengths"] for part in row["by_length"]] for row in rows] == [["1", "2", "3", "4"]] * 2
    assert (tmp_path / "compare.png").exists()


def test_eval_takes_levels(tiny, tmp_path, capsys):
    train(tiny, tmp_path / "run")
    assert main(["eval", str(tmp_path / "run"), "--lengths", "3-4"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[0] == "3"
    assert main(["eval", str(tmp_path / "run"), "--lengths", "5"]) == 2
    assert "levels 1 to 4" in capsys.readouterr().err
