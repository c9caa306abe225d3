"""Tasks through the same trainer as text."""

import json
import math
from dataclasses import replace

import pytest
import torch

from openxlstm import SequenceModel
from openxlstm.errors import UserError
from openxlstm.recipes import recipe
from openxlstm.tasks import TASKS
from openxlstm.tasks.generated import length_range
from openxlstm.training import RunConfig, TrainerConfig, train
from openxlstm.training.config import build_sequence_config, with_values
from openxlstm.training.evaluation.task import evaluate_task
from openxlstm.training.jobs.task import AT_ONCE, TaskBatches, TaskJob
from openxlstm.training.loss import TaskLoss
from openxlstm.training.run import load_config

SMALL = {
    "parity": {"train_length": "3-9", "eval_length": "6-20", "report_lengths": ("30",)},
    "mqar": {"vocab_size": 32, "num_pairs": 2, "train_length": "16", "eval_length": "16", "report_lengths": ("32",)},
    "nearest_neighbour": {"train_length": "2-9", "eval_length": "2-9", "report_lengths": ()},
    "copy": {"train_length": "24", "eval_length": "24", "report_lengths": ()},
}


@pytest.fixture
def tiny():
    """tiny("parity", dropout=0.1, steps=4): a run of the task's recipe that takes about a second."""

    def make(name="parity", *, dropout=0.0, **trainer):
        base = recipe(name)
        return replace(
            base,
            data=TASKS[name](**SMALL[name], validation_samples=40, test_samples=50),
            model=replace(base.model, dim=16, num_blocks=1, qkv_block_size=4, dropout=dropout),
            trainer=replace(
                base.trainer,
                **{"steps": 8, "batch_size": 8, "validate_every": 4, "checkpoint_every": 3, "threads": 1} | trainer,
            ),
        )

    return make


@pytest.mark.parametrize("name", SMALL)
def test_a_run_of_a_task_leaves_everything_in_its_folder(tiny, name, tmp_path, losses):
    config = tiny(name)
    result = train(config, tmp_path / "run")
    folder, report = result.folder, result.report
    for file in ("config.json", "environment.json", "metrics.csv", "report.json", "loss.png", "checkpoints/last.pt"):
        assert (folder / file).stat().st_size > 0, file
    assert load_config(folder) == config
    assert json.loads((folder / "config.json").read_text())["data"]["task"] == name
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    assert sorted(losses(folder)) == list(range(1, 9))
    assert sorted(losses(folder, "val_score")) == sorted(losses(folder, "val_loss")) == [4, 8]
    assert [report["test"]["lengths"], *(other["lengths"] for other in report["other_lengths"])] == list(config.data.reports)
    # the saved model is the reported one
    model = SequenceModel.from_pretrained(folder / "model")
    again = evaluate_task(model, config.data, "test")
    assert again.loss == pytest.approx(report["test"]["loss"], rel=1e-5)
    assert again.score == report["test"]["score"] or name in ("nearest_neighbour", "copy")
    lines = "\n".join(result.lines())
    assert f"test: {config.data.metric.name}" in lines
    assert ("published: " in lines) == bool(config.data.anchors)
    assert result.tokenizer is None


def test_a_run_that_was_stopped_resumes_bit_for_bit(tiny, tmp_path, losses, monkeypatch):
    """Dropout and early weights included; stopped between two checkpoints, after a validation."""
    config = tiny(dropout=0.2)
    whole = train(config, tmp_path / "whole")
    original, calls = TaskLoss.forward, []

    def until(self, *args, **options):
        calls.append(self.training)
        if sum(calls) > 5:
            raise RuntimeError("stopped")
        return original(self, *args, **options)

    monkeypatch.setattr(TaskLoss, "forward", until)
    with pytest.raises(RuntimeError, match="stopped"):
        train(config, tmp_path / "cut")
    monkeypatch.setattr(TaskLoss, "forward", original)
    resumed = train(resume=tmp_path / "cut")
    for column in ("loss", "lr", "grad_norm", "tokens", "val_loss", "val_score"):
        assert losses(resumed.folder, column) == losses(whole.folder, column), column
    model = "model/model.safetensors"
    assert (resumed.folder / model).read_bytes() == (whole.folder / model).read_bytes()


def test_weights_that_give_no_finite_loss_are_never_the_best(tiny, tmp_path, losses, monkeypatch):
    """A model of NaN answers with class 0, which here is as good as what was learnt before."""
    config = tiny(steps=8, validate_every=2)
    original, seen = TaskJob.validate, []

    def spoilt(self, loss, rank, world):
        found = original(self, loss, rank, world)
        seen.append(replace(found, score=0.0, loss=math.nan if len(seen) else found.loss))
        return seen[-1]

    monkeypatch.setattr(TaskJob, "validate", spoilt)
    result = train(config, tmp_path / "run")
    assert losses(result.folder, "val_loss")[4] == "nan"
    assert result.report["step"] == 2


@pytest.mark.parametrize("name", ["parity", "adding"])  # by a score that NaN cannot spoil, and by the loss
def test_a_run_that_was_never_finite_says_so(name, tmp_path):
    base = recipe(name)
    config = replace(
        base,
        data=replace(base.data, validation_samples=20, test_samples=20, eval_length="10", report_lengths=()),
        model=replace(base.model, dim=16, num_blocks=1, qkv_block_size=4),
        optimizer=replace(base.optimizer, lr=1e30),
        schedule=replace(base.schedule, warmup=0),
        trainer=replace(base.trainer, steps=3, batch_size=8, threads=1),
    )
    for run in (lambda: train(config, tmp_path / "run"), lambda: train(resume=tmp_path / "run")):
        with pytest.raises(UserError, match=r"in validation was never finite, to the last step, 3; try a lower"):
            run()
        assert not (tmp_path / "run" / "model").exists()


def test_accumulation_changes_rounding_alone(tiny, tmp_path, losses):
    """Rows have different lengths, and the mean is over the targets of the whole batch."""
    whole, parts = train(tiny(), tmp_path / "whole"), train(tiny(accumulate=4), tmp_path / "parts")
    for step, loss in losses(whole.folder).items():
        assert float(losses(parts.folder)[step]) == pytest.approx(float(loss), rel=1e-4)  # fp32 sums, AdamW's 1 / sqrt(v)


@pytest.mark.parametrize("name", ["parity", "adding", "pathfinder", "program_evaluation"])
def test_batches_that_are_made_together_are_batches(name):
    """Of one step each, all different, without columns that are padding everywhere; the last also comes alone."""
    task = TASKS[name]()
    source = TaskBatches(task, 4, seed=0, steps=40)
    found = [source.batch(step) for step in range(AT_ONCE + 2)]
    for batch in found:
        assert len(batch.lengths) == len(batch.inputs) == 4
        assert batch.inputs.shape[1] == batch.targets.shape[1] == batch.lengths.max()
        assert batch.scored.any(1).all()
    assert len({batch.inputs.numpy().tobytes() for batch in found}) == len(found)
    alone = TaskBatches(task, 4, seed=0, steps=40).batch(AT_ONCE + 1)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(alone, found[-1]))


def test_batches_are_a_function_of_seed_step_and_rank():
    task = TASKS["parity"]()
    source = TaskBatches(task, 8, seed=3)
    batch = source.batch(5)
    again = TaskBatches(TASKS["parity"](), 8, seed=3).batch(5)
    assert all(torch.equal(a, b) for a, b in zip(batch, again))
    halves = [source.batch(5, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([half.inputs for half in halves]), batch.inputs)
    assert not torch.equal(source.batch(6).lengths, batch.lengths)
    assert not torch.equal(TaskBatches(task, 8, seed=4).batch(5).lengths, batch.lengths)
    with pytest.raises(UserError, match="not divisible by the number of processes"):
        source.batch(0, 0, 3)


def test_two_processes_are_one(tiny, command, tmp_path, losses):
    """At the same global batch, with sharded weights; sums over rows are made in two halves (see test_distributed). The best
    weights are not the last ones, so that they are loaded into the shards."""
    config = replace(tiny(strategy="fsdp2"), seed=10)  # of which that is true
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.to_dict()))
    process = command("train", "--config", path, "--run-dir", tmp_path / "two", processes=2)
    one = train(config, tmp_path / "one")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert out.count("test: ") == 1, "process 0 alone reports"
    for column in ("loss", "grad_norm", "tokens", "val_loss"):
        found, expected = losses(tmp_path / "two", column), losses(one.folder, column)
        assert found.keys() == expected.keys()
        for step, value in expected.items():
            assert float(found[step]) == pytest.approx(float(value), rel=1e-4), (column, step)
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["step"] == one.report["step"] == 4
    assert report["test"]["num_targets"] == one.report["test"]["num_targets"]
    assert report["test"]["loss"] == pytest.approx(one.report["test"]["loss"], rel=1e-4)


def test_the_loss_is_computed_where_something_is_asked():
    task = TASKS["parity"](**SMALL["parity"])
    model = TaskJob(replace(recipe("parity"), data=task), task).new_model().double()
    batch = task.train_batch(6, torch.Generator().manual_seed(0))
    losses, _ = TaskLoss(model)(batch.inputs, batch.targets)
    outputs, _ = model(batch.inputs)
    expected = -outputs.log_softmax(-1).gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    assert torch.allclose(losses, torch.where(batch.scored, expected, 0.0).float(), atol=1e-6)
    predicted, _ = TaskLoss(model)(batch.inputs, batch.targets, predict=True)
    assert torch.equal(predicted, outputs[batch.scored].float())


class Oracle(torch.nn.Module):
    """Answers parity by counting, rightly up to a length and `a` beyond it."""

    def __init__(self, until):
        super().__init__()
        self.until, self.weight = until, torch.nn.Parameter(torch.zeros(()))

    def hidden(self, x, state=None, *, reset=None):
        answer = 1 + (x == 2).cumsum(1) % 2
        answer[:, self.until :] = 1
        return 9.0 * torch.nn.functional.one_hot(answer, 3) + self.weight, state

    def head(self, h):
        return h


def test_scores_by_length():
    task = TASKS["parity"](**SMALL["parity"], test_samples=4000)
    found = evaluate_task(Oracle(until=12), task, "test")
    assert found.by_length[0].lengths == "6-7"
    assert sum(part.num_targets for part in found.by_length) == found.num_targets == 4000
    for part in found.by_length:
        lengths = length_range(part.lengths)
        if lengths[-1] <= 12:
            assert part.score == 1.0
        elif lengths[0] > 12:
            assert abs(part.score) < 0.2, "500 answers: four standard deviations of a scaled accuracy"
        assert 0 <= part.guess < 0.15, "the better of a and b is a little above one half"
    shares = [part.score * part.num_targets for part in found.by_length]
    assert found.score == pytest.approx(sum(shares) / 4000)
    assert found.objective == -found.score
    right = [part for part in found.by_length if part.score == 1.0]
    assert right[0].loss == pytest.approx(math.log(1 + 2 * math.exp(-9)), rel=1e-3)


def test_chance_is_the_tasks_own_where_it_is_better():
    class Zero(Oracle):
        def hidden(self, x, state=None, *, reset=None):
            return x.new_zeros(*x.shape[:2], 10, dtype=torch.float32) + self.weight, state

    copy = TASKS["copy"](**SMALL["copy"], test_samples=200)
    found = evaluate_task(Zero(0), copy, "test")
    assert found.score == pytest.approx(math.log(10))
    assert found.guess == pytest.approx(copy.chance(24)), "who knows when to answer beats who always says the same"


def test_settings_that_do_nothing_are_refused():
    for name, value in (("tbptt", True), ("context", 64), ("report_contexts", (8,))):
        with pytest.raises(UserError, match=rf"trainer\.{name} is about text; .* task 'parity'"):
            RunConfig(data=TASKS["parity"](), trainer=TrainerConfig(**{name: value}))
    for name, value in (("tie_embeddings", True), ("logit_soft_cap", 30.0)):
        with pytest.raises(UserError, match=rf"model\.{name} is for language models"):
            build_sequence_config(replace(recipe("parity").model, **{name: value}), TASKS["parity"]())


@pytest.mark.parametrize("name", TASKS)
def test_a_configuration_of_a_task_survives_json(name):
    config = recipe(name)
    assert config.name == name
    assert with_values(RunConfig(), json.loads(json.dumps(config.to_dict())), "file") == config
    assert replace(config, seed=1).digest() != config.digest()


def test_wrong_json_names_the_key():
    with pytest.raises(UserError, match="unknown task 'paritty'; did you mean 'parity'"):
        with_values(RunConfig(), {"data": {"task": "paritty"}}, "file")
    with pytest.raises(UserError, match="file: unknown option 'source'"):
        with_values(recipe("parity"), {"data": {"source": "x"}}, "file")
    assert with_values(recipe("parity"), {"data": {"train_length": "5"}}, "file").data.train_length == "5"
    assert with_values(recipe("parity"), {"data": {"task": "parity", "train_length": "5"}}, "file").data.train_length == "5"


def test_a_checkpoint_of_another_task_is_refused(tiny, tmp_path):
    result = train(tiny(steps=3, validate_every=0), tmp_path / "run")
    (result.folder / "report.json").unlink()
    settings = json.loads((result.folder / "config.json").read_text())
    settings["data"]["task"] = "even_pairs"
    (result.folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="trained on other samples than task 'even_pairs'"):
        train(resume=result.folder)


def test_parity_is_learnt(tmp_path):
    """The recipe, smaller: from strings of up to 12 letters to strings of up to 40."""
    base = recipe("parity")
    task = TASKS["parity"](train_length="2-12", eval_length="13-40", report_lengths=(), validation_samples=64, test_samples=256)
    config = replace(
        base,
        data=task,
        model=replace(base.model, dim=16),
        optimizer=replace(base.optimizer, lr=1e-2),
        trainer=replace(base.trainer, steps=300, batch_size=64, validate_every=0, checkpoint_every=300, threads=1),
    )
    report = train(config, tmp_path / "run").report
    assert report["test"]["score"] > 0.99
    assert report["test"]["guess"] < 0.2
