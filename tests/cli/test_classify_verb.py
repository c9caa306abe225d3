"""`openxlstm train` on texts with labels, then `eval`, `compare` and `classify`."""

import io
import json

import pytest
import torch

from openxlstm.cli.classify import explained_lines, explanation
from openxlstm.cli.main import main
from openxlstm.data import ByteTokenizer
from openxlstm.data.text_format import TextFormat
from openxlstm.inference.classify import Reading, TextClassifier
from openxlstm.training.evaluation.classifier import answers
from openxlstm.training.run import load_config
from reviews import write_sst2, write_table

FAST = [
    "--trainer.threads=1", "--trainer.batch_size=16", "--model.dim=16", "--model.num_heads=2", "--model.dropout=0",
    "--model.embedding_dropout=0.1", "--optimizer.lr=1e-2", "--optimizer.weight_decay=0.1", "--schedule.warmup=5",
    "--data.token_dropout=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run long enough to learn which words are good."""
    folder = tmp_path_factory.mktemp("sst2")
    write_sst2(folder / "data")
    options = [*FAST, "--trainer.steps=160", "--trainer.validate_every=40", "--seed=2"]
    assert main(["train", "sst2", "--data", str(folder / "data"), "--run-dir", str(folder / "run"), *options]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def backwards(run, tmp_path_factory):
    """A bidirectional one of a table with names for its classes."""
    folder = tmp_path_factory.mktemp("table")
    write_table(folder / "reviews.csv")
    options = [*FAST, "--trainer.steps=3", "--model.bidirectional=true", "--model.pooling=max", "--data.tokenizer=bytes"]
    words = ["train", "text_classification", "--data", str(folder / "reviews.csv"), "--run-dir", str(folder / "run")]
    assert main([*words, *options]) == 0
    return folder / "run"


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_report_and_what_lies_beside_the_model(run):
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["score"] > 0.9
    assert report["test"]["guess"] == 0.5
    assert sum(map(sum, report["test"]["confusion"])) == report["test"]["num_targets"] == 30
    assert sum(one["count"] for one in report["test"]["reliability"]) == 30
    assert report["temperature"] != 1.0
    assert (run / "loss.png").stat().st_size > 0
    assert json.loads((run / "model" / "text.json").read_text())["classes"] == ["negative", "positive"]


def test_the_saved_model_is_the_calibrated_one(run):
    """Its likelihood on validation cannot be raised by another temperature."""
    from openxlstm.training.evaluation.calibration import best_temperature

    model = TextClassifier.load(run).model
    temperature = best_temperature(*answers(model, load_config(run).data, "validation"))
    assert temperature == pytest.approx(1.0, abs=0.01)


def test_eval_repeats_the_report(run, capsys):
    assert main(["eval", str(run), "--json"]) == 0
    report = json.loads((run / "report.json").read_text())
    assert json.loads(capsys.readouterr().out)["results"][0] == report["test"]
    assert main(["eval", str(run), "--split", "validation"]) == 0
    shown = capsys.readouterr().out
    assert "expected calibration error" in shown
    assert "is, taken for" in shown


def test_eval_refuses_other_training_texts(run, capsys):
    path = run.parent / "data" / "glue" / "train.tsv"
    before = path.read_text()
    path.write_text(before + "an unheard of word\t1\n")
    try:
        from openxlstm.tasks import text_classification

        text_classification._read.cache_clear()
        assert main(["eval", str(run)]) == 2
        assert "has other training texts than" in capsys.readouterr().err
    finally:
        path.write_text(before)
        text_classification._read.cache_clear()


def test_models_are_compared(run, here, capsys):
    words = ["compare", "sst2", "--data", str(run.parent / "data"), "--models=slstm,lstm,transformer", "--trainer.steps=2"]
    assert main([*words, *FAST, "--data.vocab_size=20"]) == 0
    out = capsys.readouterr().out
    assert "accuracy at 3-" in out
    assert out.count("\n| ") >= 4


def test_a_text_and_where_it_turned(run, capsys):
    assert main(["classify", str(run), "a charming and wise film but it was dull hollow and tedious ."]) == 0
    first, *explained = lines(capsys)
    label, probability, text = first.split("\t")
    assert (label, text.split()[0]) == ("negative", "a")
    assert 0.5 < float(probability) <= 1
    assert any(line.startswith("  turned at ") and line.endswith(tuple("0123456789")) for line in explained)
    assert explained[-1].startswith("  strongest for or against it: '")
    assert main(["classify", str(run), "a dull film", "--no-explain"]) == 0
    assert len(lines(capsys)) == 1


def test_the_explanation_is_about_the_answer(run, capsys):
    """The running probabilities end at the answer, begin at that of no text, and turn where it is said."""
    text = "It was a charming film -- but DULL, dull and hollow!"
    assert main(["classify", str(run), text, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["read_anew"] == 0
    assert [token["text"] for token in found["tokens"]] == [text[token["start"] : token["stop"]] for token in found["tokens"]]
    assert found["tokens"][-1]["probabilities"] == pytest.approx(list(found["probabilities"].values()), abs=1e-5)
    likeliest = [max(zip(token["probabilities"], found["classes"]))[1] for token in found["tokens"]]
    for turn in found["turns"]:
        assert likeliest[turn["token"]] == turn["to"]
        assert turn["token"] == 0 or likeliest[turn["token"] - 1] == turn["from"]
    assert likeliest[-1] == found["label"]
    assert len(found["strongest"]) == 3


def test_tokens_that_share_a_character_are_told_apart():
    """Bytes: the euro sign is three tokens; the answer turns at the first of them and back at the second."""
    text, classes = "a\N{EURO SIGN}", ("down", "up")
    up = torch.tensor([0.1, 0.2, 0.9, 0.3, 0.4], dtype=torch.float64)
    spans = TextFormat(ByteTokenizer(), classes).spans(text)
    assert spans == [(0, 1), (1, 2), (1, 2), (1, 2)]
    reading = Reading(torch.stack([1 - up, up], -1), spans, 0)
    found = explanation(text, classes, reading, 2)
    assert [turn["token"] for turn in found["turns"]] == [1, 2]
    assert [one["token"] for one in found["strongest"]] == [1, 2]
    lines = list(explained_lines(text, classes, reading, 2))
    assert lines[0] == "turned at '\N{EURO SIGN}' (token 2 of 4, character 2): down 0.80 -> up 0.90"
    assert lines[1] == "turned at '\N{EURO SIGN}' (token 3 of 4, character 2): up 0.90 -> down 0.70"


def test_files_pipes_and_tables(run, here, capsys, monkeypatch):
    (here / "a.txt").write_text("a dull film\na splendid film\n")
    (here / "a.csv").write_text('n,review\n1,"a charming, wise plot"\n')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a hollow cast\nso clumsy\n")))
    assert main(["classify", str(run), "a.txt", "-", "a.csv", "--text-column", "review"]) == 0
    found = [line.split("\t") for line in lines(capsys)]
    assert [line[0] for line in found] == ["negative", "positive", "negative", "negative", "positive"]
    assert found[4][2] == "a charming, wise plot"
    assert main(["classify", str(run), "a.txt", "--whole", "--explain", "--json"]) == 0
    (line,) = lines(capsys)
    assert len(json.loads(line)["tokens"]) == 6


def test_one_text_or_many_the_probabilities_are_the_same(run):
    classifier = TextClassifier.load(run)
    texts = ["dull", "a splendid film of it was the cast", "the plot"]
    together = classifier.probabilities(texts)
    alone = torch.cat([classifier.probabilities([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.sum(1), torch.ones(3, dtype=torch.float64))


def test_a_bidirectional_model_says_that_it_reads_anew(backwards, capsys):
    assert main(["classify", str(backwards), "Well, dull \N{EN DASH} caf\xe9", "--json"]) == 0
    shown = capsys.readouterr()
    assert "reads in both directions and has no running score" in shown.err
    found = json.loads(shown.out)
    assert found["label"] in ("thumbs down", "thumbs up")
    assert found["read_anew"] == len(found["tokens"]) + 1 == 20 + 1, "bytes: the dash is three, the accent two"
    assert found["tokens"][-1]["probabilities"] == pytest.approx(list(found["probabilities"].values()), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["reviews.csv"], None, "reviews.csv: no such file"),
        (["a.csv"], b"text\ngood\nb\xe9d\n", "a.csv, line 3: byte 0xe9 is not UTF-8"),
        (["a.csv"], b"review\ngood\n", "a.csv, line 1: no column 'text' in the header; have review"),
        (["a.txt"], b"good\n\nbad\n", "a.txt, line 2: there is no word in it"),
        ([" "], None, "the text: there is no word in it"),
        (["-"], b"good\nb\xe9d\n", "stdin, line 2: byte 0xe9 is not UTF-8"),
        (["-"], b"\xef\xbb\xbf\n", "stdin, line 1: there is no word in it"),
        (["caf\udce9"], None, "the text: cannot be written as UTF-8: surrogates not allowed at place 3"),
    ],
)
def test_what_cannot_be_read(run, here, capsys, monkeypatch, words, content, message):
    if content is not None and words != ["-"]:
        (here / words[0]).write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content or b"")))
    assert main(["classify", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_other_runs_are_refused(write_run, here, capsys):
    write_run(here / "text")
    assert main(["classify", str(here / "text"), "good"]) == 2
    assert "no text.json beside the model, so it is none of a text classifier" in capsys.readouterr().err
    assert main(["classify", "nowhere", "good"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_settings_of_classifiers_are_refused_elsewhere(here, capsys):
    assert main(["train", "parity", "--model.bidirectional=true"]) == 2
    assert "model.bidirectional is for classifiers of whole texts; task 'parity'" in capsys.readouterr().err
    assert main(["train", "tiny", "--model.pooling=max"]) == 2
    assert "model.pooling is for classifiers of whole texts, and this is a language model" in capsys.readouterr().err
