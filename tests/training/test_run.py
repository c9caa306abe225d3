import json
from dataclasses import replace

import pytest
import torch

from openxlstm import LanguageModel
from openxlstm.data import TextConfig, load_tokenizer, prepare
from openxlstm.errors import UserError
from openxlstm.training import evaluate, train
from openxlstm.training.loss import TokenLoss
from openxlstm.training.run import batches, cache_dir, new_model


def test_a_run_leaves_everything_in_its_folder(small, text_file, tmp_path, capsys, losses):
    config = replace(small, trainer=replace(small.trainer, report_contexts=(4, 64)))
    result = train(config, tmp_path / "run")
    folder = result.folder
    for name in ("config.json", "environment.json", "metrics.csv", "report.json", "loss.png", "checkpoints/last.pt"):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").iterdir())
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    assert report["num_parameters"] == result.model.num_parameters()
    assert report["tokens_seen"] == 8 * 4 * 16
    assert [other["context"] for other in report["other_contexts"]] == [4, 64]
    assert report["xz"]["num_bytes"] == len(text_file.read_text()) - int(len(text_file.read_text()) * 0.9 + 1e-6)
    assert json.loads((folder / "environment.json").read_text())["torch"] == torch.__version__
    assert sorted(losses(folder)) == list(range(1, 9))
    assert sorted(losses(folder, "val_loss")) == [4, 8]
    assert float(losses(folder)[8]) < float(losses(folder)[1])
    # the saved model is the reported one
    model, tokenizer = LanguageModel.from_pretrained(folder / "model"), load_tokenizer(folder / "model")
    text = prepare(config.data, cache_dir())
    assert tokenizer.vocab_size == model.config.vocab_size == text.tokenizer.vocab_size
    again = evaluate(model, text.validation, config.trainer.context)
    assert again.nats_per_token == pytest.approx(report["validation"]["nats_per_token"], rel=1e-6)  # fp32 sums
    lines = "\n".join(result.lines())
    assert "bits per byte" in lines
    assert "xz -9e of the same validation text" in lines
    assert "step 8/8" in capsys.readouterr().err


def test_two_runs_are_the_same_bit_for_bit_and_another_seed_is_not(changed, tmp_path, losses):
    config = changed(model={"dropout": 0.2})
    first, second = (train(config, tmp_path / name) for name in ("a", "b"))
    assert losses(first.folder) == losses(second.folder)
    other = train(replace(config, seed=1), tmp_path / "c")
    assert losses(other.folder)[1] != losses(first.folder)[1]


@pytest.mark.parametrize("tbptt", [False, True])
def test_accumulation_changes_rounding_alone(changed, tmp_path, tbptt, losses):
    whole = train(changed(tbptt=tbptt), tmp_path / "whole")
    parts = train(changed(tbptt=tbptt, accumulate=2), tmp_path / "parts")
    for step, loss in losses(whole.folder).items():
        # the gradient is summed in another order: 1e-7 relative in the first step, and AdamW's division by sqrt(v) makes
        # up to 100 times that of it in eight
        assert float(losses(parts.folder)[step]) == pytest.approx(float(loss), rel=1e-5)


def test_the_state_is_carried_through_the_whole_stream(changed, tmp_path, losses):
    """With a learning rate of nothing, windows of 4 have the losses that one pass over the whole streams has."""
    config = changed(optimizer={"lr": 1e-30}, tbptt=True, context=4, steps=10, validate_every=0, accumulate=2)
    result = train(config, tmp_path / "run")
    text = prepare(config.data, cache_dir())
    windows = [batches(config, text).batch(step) for step in range(10)]
    with torch.no_grad():
        ids, targets = (torch.cat([w[part] for w in windows], 1) for part in (0, 1))  # [B, 40]
        nats, _ = TokenLoss(new_model(config, text))(ids, targets)
        cut, _ = TokenLoss(new_model(config, text))(windows[9].inputs, windows[9].targets)
    expected = nats.unflatten(1, (10, 4)).mean((0, 2))
    for step, loss in losses(result.folder).items():
        assert float(loss) == pytest.approx(float(expected[step - 1]), rel=1e-5), step  # fp32, another chunking
    assert float(cut.mean()) != pytest.approx(float(expected[9]), rel=1e-4), "the empty state would show"


def test_bf16_trains_near_fp32(changed, tmp_path, losses):
    full, half = train(changed(), tmp_path / "full"), train(changed(precision="bf16"), tmp_path / "half")
    assert losses(full.folder)[1] != losses(half.folder)[1]
    for step, loss in losses(full.folder).items():
        assert float(losses(half.folder)[step]) == pytest.approx(float(loss), rel=0.02)  # bf16 keeps 8 bits: 0.4 % a rounding


def test_a_run_leaves_the_number_of_threads_as_it_was(changed, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("openxlstm.training.run.environment", lambda: seen.append(torch.get_num_threads()) or {})
    before = torch.get_num_threads()
    train(changed(steps=1, threads=before + 1), tmp_path / "run")
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_early_stopping_reports_the_best_weights(changed, tmp_path, losses):
    config = changed(optimizer={"lr": 3.0}, steps=60, validate_every=2, patience=2)
    result = train(config, tmp_path / "run")
    assert result.report["stopped_early"]
    assert result.report["steps_done"] < 60
    values = {step: float(v) for step, v in losses(result.folder, "val_loss").items()}
    assert result.report["step"] == min(values, key=values.get) < result.report["steps_done"]


def test_non_finite_gradients_are_skipped_counted_and_survived(changed, tmp_path, monkeypatch, losses):
    original, calls = TokenLoss.forward, []

    def sometimes(self, *args):
        nats, state = original(self, *args)
        if self.training:
            calls.append(1)
            if len(calls) in (3, 4):
                nats = nats * float("nan")
        return nats, state

    monkeypatch.setattr(TokenLoss, "forward", sometimes)
    result = train(changed(tbptt=True), tmp_path / "run")
    assert result.report["skipped"] == 2
    found = losses(result.folder)
    assert found[3] == found[4] == "nan"
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    assert float(found[8]) < float(found[1])


def test_many_bad_steps_in_a_row_end_with_advice(changed, tmp_path):
    config = changed(optimizer={"lr": 1e30, "clip": 0.0}, max_bad_steps=3, steps=30)
    with pytest.raises(UserError, match=r"not finite for 3 steps in a row.*--optimizer\.lr") as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_changed_vocabulary_is_named(small, text_file, tmp_path):
    own = tmp_path / "text.txt"
    own.write_text(text_file.read_text())
    config = replace(small, data=TextConfig(source=str(own), tokenizer="chars", validation=0.1, test=0.0))
    result = train(config, tmp_path / "run")
    (result.folder / "report.json").unlink()  # as if it had not finished
    own.write_text(text_file.read_text() + "§" * 5000)
    with pytest.raises(UserError, match="vocabulary mismatch: the checkpoint was trained with"):
        train(resume=result.folder)


def test_what_cannot_be_resumed_says_why(small, tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        train(resume=tmp_path)
    result = train(replace(small, trainer=replace(small.trainer, steps=2)), tmp_path / "run")
    with pytest.raises(UserError, match="is finished"):
        train(resume=result.folder)
    with pytest.raises(UserError, match="already holds a run"):
        train(small, result.folder)
    (result.folder / "report.json").unlink()
    checkpoint = result.folder / "checkpoints" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        train(resume=result.folder)


def test_text_shorter_than_the_context_leaves_no_folder(changed, tmp_path):
    with pytest.raises(UserError, match="context=100000 needs"):
        train(changed(context=100_000), tmp_path / "run")
    assert not (tmp_path / "run").exists()
