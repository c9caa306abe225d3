"""`openxlstm translate` and `summarize`, from the files to the texts; and `eval` and `compare` of such runs."""

import io
import json
import sys

import pytest

from openxlstm.cli.main import main
from wordpairs import write_summaries, write_translations

for package in ("tokenizers", "sacrebleu", "rouge_score"):
    pytest.importorskip(package)

SMALL = ["--model.dim=16", "--model.num_blocks=1", "--model.pattern=slstm", "--data.vocab_size=300", "--trainer.steps=4"]
SMALL += [
    "--trainer.validate_every=2",
    "--trainer.threads=1",
    "--data.beam=2",
    "--trainer.precision=fp32",
    "--data.batch_tokens=300",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two recipes, four steps long, and their data."""
    folder = tmp_path_factory.mktemp("pairs")
    write_translations(folder / "numbers", train=60)
    write_summaries(folder / "texts", train=24, validation=4, test=4)
    recipes = (("multi30k", "numbers", "words", []), ("scitldr", "texts", "short", ["--model.bridge=prefix"]))
    for task, data, run, more in recipes:
        words = ["train", task, "--data", str(folder / data), "--run-dir", str(folder / run), *SMALL, *more]
        assert main(words) == 0
    return folder


def typed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_line_a_file_and_a_pipe_say_the_same(runs, here, capsys, monkeypatch):
    run, lines = str(runs / "words"), ["eins zwei .", "", "drei vier fünf ."]
    found = []
    for line in lines:
        if line:
            assert main(["translate", run, line]) == 0
            found.append(capsys.readouterr().out.rstrip("\n"))
        else:
            found.append("")
    (here / "a.de").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["translate", run, "--file", "a.de", "--out", "out/a.en"]) == 0
    assert (here / "out" / "a.en").read_text(encoding="utf-8").split("\n")[:3] == found
    assert capsys.readouterr().out == ""
    for size in ("1", "2", "32"):
        typed(monkeypatch, (here / "a.de").read_bytes())
        assert main(["translate", run, "--batch-size", size]) == 0
        assert capsys.readouterr().out.split("\n")[:3] == found
    typed(monkeypatch, b"eins zwei .\n")
    assert main(["translate", run, "--json", "--beam", "1", "--max-tokens", "5", "--precision", "fp32"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["source"] == "eins zwei ."
    assert result["num_tokens"] <= 5
    assert "beam 1" in shown.err


def test_a_reference_is_scored_and_eval_agrees(runs, capsys):
    run, data = runs / "words", runs / "numbers"
    report = json.loads((run / "report.json").read_text())
    words = ["translate", str(run), "--file", str(data / "test_numbers.de"), "--reference", str(data / "test_numbers.en")]
    assert main(words) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"BLEU {report['test']['score']:.2f}, chrF {report['test']['scores']['chrF']:.2f} on 16 lines"
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == [report["test"]]
    assert main(["eval", str(run), "--split", "validation"]) == 0
    assert capsys.readouterr().out.startswith("BLEU ")


def test_summaries_of_a_text_a_file_and_a_pipe(runs, here, capsys, monkeypatch):
    run, text = str(runs / "short"), "Anna went to the market and bought six apples.\nThen she went home."
    (here / "a.txt").write_text(text + "\n")
    (here / "a.jsonl").write_text(json.dumps({"source": text}) + "\n" + json.dumps({"source": [text, "She slept."]}) + "\n")
    found = []
    for words in ([text], ["--file", "a.txt"], []):
        typed(monkeypatch, text.encode())
        assert main(["summarize", run, *words]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 1
    assert main(["summarize", run, "--file", "a.jsonl", "--json"]) == 0
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert one["text"].replace("\n", " ") == found[0].removesuffix("\n")
    assert two["source"].endswith("She slept.")


def test_models_are_compared(runs, here, capsys):
    words = ["compare", "multi30k", "--data", str(runs / "numbers"), *SMALL, "--models=slstm,slstm{bridge=state},transformer"]
    assert main([word for word in words if not word.startswith("--model.pattern")]) == 0  # compare sets the pattern
    out = capsys.readouterr().out
    assert "| chrF | greedy BLEU |" in out
    assert "| the source as it is |" in out
    assert "slstm{bridge=state}" in out


def test_a_byte_order_mark_is_no_text(runs, here, capsys, monkeypatch):
    texts = "\ufeffeins zwei .", "\ufeffAnna slept.", '\ufeff{"source": "Anna slept."}'
    for name, text in zip(("a.de", "a.txt", "a.jsonl"), texts):
        (here / name).write_text(text, encoding="utf-8")
    for verb, run, name, words in (
        ("translate", "words", "a.de", "eins zwei ."),
        ("summarize", "short", "a.txt", "Anna slept."),
        ("summarize", "short", "a.jsonl", "Anna slept."),
    ):
        assert main([verb, str(runs / run), "--file", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["source"] == words


def test_an_empty_input_leaves_an_earlier_output_alone(runs, here, capsys, monkeypatch):
    (here / "empty.de").touch()
    (here / "empty.jsonl").touch()
    (here / "out.txt").write_text("precious")
    for line in (
        ["translate", str(runs / "words")],
        ["translate", str(runs / "words"), "--file", "empty.de"],
        ["summarize", str(runs / "short"), "--file", "empty.jsonl"],
    ):
        typed(monkeypatch, b"")
        assert main([*line, "--out", "out.txt"]) == 2
        assert "there is nothing to read: the input is empty" in capsys.readouterr().err
        assert (here / "out.txt").read_text() == "precious"


def test_mistakes_are_one_line(runs, here, capsys, monkeypatch):
    words, short, data = str(runs / "words"), str(runs / "short"), runs / "numbers"
    (here / "bad.de").write_bytes(b"eins\nzwei\xff\n")
    (here / "gap.de").write_text("eins\n\ndrei\n")
    (here / "two.en").write_text("one\ntwo\n")
    (here / "three.en").write_text("one\ntwo\nthree\n")
    (here / "bad.jsonl").write_text('{"source": "a"}\n{"text": "b"}\n')
    (here / "empty.jsonl").write_text('{"source": " "}\n')
    (here / "empty.txt").write_text(" \n")
    (here / "half.jsonl").write_text('{"source": "a"}\n{"source": ["b", "caf\\udce9"]}\n')
    (here / "deep.jsonl").write_text("[" * 100_000)
    for line, message in (
        (["translate"], "the following arguments are required: RUN"),
        (["translate", words, ""], "there is nothing to translate: TEXT is empty"),
        (["translate", words, "a", "--file", "two.en"], "give TEXT or --file, not both"),
        (["translate", words, "a", "--reference", "two.en"], "--reference needs --file"),
        (["translate", words, "--file", "no.de"], "no.de: no such file"),
        (["translate", words, "--file", "bad.de", "--out", "x.en"], "bad.de:2: is not UTF-8: invalid start byte at byte 4"),
        (["translate", words, "--file", "gap.de", "--reference", "two.en"], "two.en: has 2 lines and gap.de has 3"),
        (["translate", words, "--file", "gap.de", "--reference", "three.en"], "gap.de:2: the line is empty"),
        (["translate", words], "there is nothing to read: the input is empty"),
        (["translate", words, "a", "--beam", "0"], "--beam: expects a whole number at least 1"),
        (["translate", words, "a", "--backend", "quick"], "quick"),
        (["translate", short, "a"], "short: this run is about scitldr; it takes one of multi30k or translation"),
        (["translate", str(runs / "words" / "model"), "a"], "model: this is no run folder"),
        (["translate", "nowhere", "a"], "nowhere: no such folder"),
        (["summarize", words, "a"], "words: this run is about multi30k; it takes one of scitldr, dialogsum or summaries"),
        (["summarize", short, "--file", "empty.txt"], "empty.txt: there is nothing to summarise"),
        (["summarize", short, "--file", "bad.de"], "bad.de:2: is not UTF-8"),
        (["summarize", short, "--file", "bad.jsonl"], "bad.jsonl:2: expects an object with 'source'"),
        (["summarize", short, "--file", "half.jsonl"], "half.jsonl:2: 'source' cannot be written as UTF-8"),
        (["summarize", short, "--file", "deep.jsonl"], "deep.jsonl:1: is no JSON: maximum recursion depth"),
        (["translate", words, "caf\udce9"], "the text cannot be written as UTF-8: surrogates not allowed at place 3"),
        (["summarize", short, "caf\udce9"], "the text cannot be written as UTF-8: surrogates not allowed at place 3"),
        (["summarize", short, "--file", "empty.jsonl"], "empty.jsonl:1: 'source' must be a text that is not empty"),
        (["summarize", short, "--file", "empty.txt", "--key", "x"], "--key is for a .jsonl file"),
        (["train", "multi30k"], "recipe 'multi30k' needs --data: a folder with train"),
        (["train", "scitldr", "--data", str(data)], "expects one file train*.jsonl for train, has none"),
        (["train", "translation", "--data", f"{data / 'val.de'},{data / 'train.en'}"], "train.en: has 60 lines and "),
    ):
        typed(monkeypatch, b"")
        assert main(line) == 2, line
        shown = capsys.readouterr()
        assert message in shown.err.splitlines()[-1], line
        assert "Traceback" not in shown.err
        assert shown.out == "" or line[:3] == ["summarize", short, "--file"], line
    assert not (here / "x.en").exists(), "an output file is whole or not there"
