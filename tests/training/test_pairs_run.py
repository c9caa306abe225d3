"""Translations and summaries through the same trainer as everything else."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openxlstm import EncoderDecoder
from openxlstm.errors import UserError
from openxlstm.recipes import recipe
from openxlstm.training import train
from openxlstm.training.config import build_pairs_config, build_sequence_config
from openxlstm.training.evaluation.pairs import evaluate_pairs
from openxlstm.training.jobs.pairs import PairBatches, PairsJob
from openxlstm.training.loss import PairLoss
from wordpairs import write_summaries, write_translations

for package in ("tokenizers", "sacrebleu", "rouge_score"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return str(write_translations(tmp_path_factory.mktemp("pairs")))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return str(write_summaries(tmp_path_factory.mktemp("texts"), train=24, validation=4, test=4))


def tiny(name, source, *, data=None, model=None, **trainer):
    """A run of the recipe that takes about a second."""
    base = recipe(name)
    data = {"source": source, "vocab_size": 300, "batch_tokens": 160, "beam": 2} | (data or {})
    model = {"dim": 16, "num_blocks": 1, "pattern": "slstm", "dropout": 0.0, "embedding_dropout": 0.0} | (model or {})
    trainer = {
        "steps": 8,
        "batch_size": 8,
        "validate_every": 4,
        "checkpoint_every": 3,
        "threads": 1,
        "precision": "fp32",
    } | trainer
    return replace(
        base,
        data=replace(base.data, **data),
        model=replace(base.model, **model),
        schedule=replace(base.schedule, warmup=2),
        trainer=replace(base.trainer, **trainer),
    )


RUNS = [("multi30k", "cross_attention"), ("translation", "state"), ("summaries", "prefix")]


@pytest.mark.parametrize(("name", "bridge"), RUNS)
def test_a_run_leaves_everything_in_its_folder(name, bridge, numbers, texts, tmp_path, losses):
    config = tiny(name, texts if name == "summaries" else numbers, model={"bridge": bridge}, data={"validation_pairs": 4})
    result = train(config, tmp_path / "run")
    report = result.report
    for file in ("config.json", "metrics.csv", "report.json", "loss.png", "checkpoints/last.pt", "model/tokenizer.json"):
        assert (result.folder / file).stat().st_size > 0, file
    assert json.loads((result.folder / "report.json").read_text()) == json.loads(json.dumps(report))
    assert sorted(losses(result.folder)) == list(range(1, 9))
    assert sorted(losses(result.folder, "val_score")) == [4, 8]
    assert list(report["test"]["scores"]) == list(config.data.score_names)
    assert report["test"]["score"] == report["test"]["scores"][report["test"]["metric"]]
    assert (report["test"]["beam"], report["greedy"]["beam"], report["validation"]["beam"]) == (2, 1, 1)
    assert report["test"]["num_written"] == len(config.data.pairs.test)
    assert report["baselines"] == {config.data.baseline: {"score": report["test"]["guess"]}}
    # the saved model is the reported one
    model = EncoderDecoder.from_pretrained(result.folder / "model")
    again = evaluate_pairs(model, config.data, "test")
    assert json.loads(json.dumps(again.to_dict())) == json.loads((result.folder / "report.json").read_text())["test"]
    lines = "\n".join(result.lines())
    assert f"test: {report['test']['metric']}" in lines
    assert config.data.baseline in lines


def test_a_run_that_was_stopped_resumes_bit_for_bit(numbers, tmp_path, losses, monkeypatch):
    config = tiny("multi30k", numbers, model={"dropout": 0.2, "embedding_dropout": 0.2})
    whole = train(config, tmp_path / "whole")
    original, calls = PairLoss.forward, []

    def until(self, *args, **options):
        calls.append(self.training)
        if sum(calls) > 5:
            raise RuntimeError("stopped")
        return original(self, *args, **options)

    monkeypatch.setattr(PairLoss, "forward", until)
    with pytest.raises(RuntimeError, match="stopped"):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(PairLoss, "forward", original)
    resumed = train(resume=tmp_path / "parts")
    assert losses(resumed.folder) == losses(whole.folder)
    assert losses(resumed.folder, "val_loss") == losses(whole.folder, "val_loss")
    for key in ("test", "greedy", "step"):
        assert resumed.report[key] == whole.report[key], key


def test_numbers_are_translated(tmp_path):
    """Digits of numbers that were not in the training part, in a few seconds; and four hypotheses are no worse than one."""
    source = str(write_translations(tmp_path / "numbers", train=600))
    settings = {"beam": 4, "batch_tokens": 400}
    config = tiny("translation", source, data=settings, model={"dim": 32}, steps=160, validate_every=0, checkpoint_every=160)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e-2), schedule=replace(config.schedule, warmup=20))
    report = train(config, tmp_path / "run").report
    assert report["test"]["score"] > 80
    assert report["test"]["score"] >= report["greedy"]["score"]
    assert report["test"]["guess"] < 30


def test_labels_are_smoothed_without_logits(numbers):
    """The loss and its gradient are those of F.cross_entropy(label_smoothing=...)."""
    config = tiny("multi30k", numbers)
    job = PairsJob(config, config.data)
    model = job.new_model().double()
    batch = job.source().batch(0)
    assert batch.inputs.mask is not None
    smooth = PairLoss(model, smoothing=0.1).train()
    found, state = smooth(batch.inputs, batch.targets)
    assert state is None
    found.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits, _ = model(batch.inputs.target, model.encode(batch.inputs.source, batch.inputs.mask))
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(found.flatten().double(), wanted, rtol=0, atol=1e-5)  # losses are float32
    wanted.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
    plain, _ = smooth.eval()(batch.inputs, batch.targets)
    assert (plain[~batch.scored] == 0).all()
    right = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").detach()
    torch.testing.assert_close(plain.flatten().double(), right, rtol=0, atol=1e-5)


def sources(batch):
    found = batch.inputs
    mask = torch.ones_like(found.source).bool() if found.mask is None else found.mask
    return [tuple(row[valid].tolist()) for row, valid in zip(found.source, mask)]


@pytest.mark.parametrize("budget", [0, 100, 400])
def test_an_epoch_has_every_pair_once(numbers, budget):
    config = tiny("multi30k", numbers, data={"batch_tokens": budget})
    batches = PairBatches(config.data, 8, seed=3)
    steps = len(batches._cut(1)) - 1
    epochs = [[sources(batches.batch(step)) for step in range(first, first + steps)] for first in (0, steps)]
    everything = sorted(tuple(pair.source) for pair in config.data.token_pairs("train"))
    for epoch in epochs:
        assert sorted(source for batch in epoch for source in batch) == everything
    assert epochs[0] != epochs[1]
    for step in range(steps):
        batch = batches.batch(step)
        rows, padded = batch.targets.shape[0], batch.inputs.source.shape[1] + batch.targets.shape[1]
        if budget:
            assert rows * max(batch.lengths) <= budget or rows == 1
        else:
            assert rows <= 8
        assert padded <= max(batch.lengths) + 4, "texts of about equal length stand together"
    assert sources(PairBatches(config.data, 8, seed=3).batch(steps + 2)) == epochs[1][2]
    assert sources(PairBatches(config.data, 8, seed=4).batch(0)) != epochs[0][0]


def test_processes_share_a_batch(numbers):
    config = tiny("multi30k", numbers)
    batches = PairBatches(config.data, 8, seed=0, multiple=2)
    for step in range(len(batches._cut(4)) - 1):
        parts = [batches.batch(step, rank, 2) for rank in range(2)]
        assert len({part.targets.shape[0] for part in parts}) == 1
        assert parts[0].targets.shape[0] % 2 == 0


def test_settings_that_do_nothing_are_refused(numbers):
    config = tiny("multi30k", numbers)
    with pytest.raises(UserError, match=r"trainer\.strategy=fsdp2 cannot train it"):
        PairsJob(tiny("multi30k", numbers, strategy="fsdp2"), config.data)
    with pytest.raises(UserError, match=r"model\.logit_soft_cap is for language models"):
        build_pairs_config(replace(config.model, logit_soft_cap=30.0), 300)
    with pytest.raises(UserError, match=r"model: bridge=state hands states on block by block"):
        build_pairs_config(replace(config.model, bridge="state", encoder_blocks=2), 300)
    parity = recipe("parity")
    for name, value in (("bridge", "prefix"), ("encoder_blocks", 3)):
        with pytest.raises(UserError, match=rf"model\.{name} is for translations and summaries; task 'parity'"):
            build_sequence_config(replace(parity.model, **{name: value}), parity.data)


def test_a_prefix_is_as_deep_as_encoder_and_decoder_together(numbers):
    config = tiny("multi30k", numbers, model={"pattern": "mlstm,slstm", "num_blocks": 2, "bridge": "prefix"})
    found = build_pairs_config(config.model, 300)
    assert (found.blocks, found.encoder_blocks) == (("mlstm", "slstm") * 2, ())
