"""lm-eval on our models: its numbers must be those computed by hand."""

import json
import math
import os

import pytest
import torch

from openxlstm.cli.main import main
from openxlstm.errors import UserError
from openxlstm.inference.load import load_run
from openxlstm.integrations.lm_eval import check_file, evaluate_tasks, harness_model, text_nats, until

QUESTIONS = [
    {"query": f"Question: {a} and {b}?\n", "choices": [chr(97 + a), chr(97 + b) * 3, "no"], "gold": (a + b) % 3}
    for a in range(4)
    for b in range(3)
]
STORIES = [{"context": f"The {a} went to the {b}; there was the", "continuation": a} for a in ("cat", "dog") for b in "xyz"]


@pytest.fixture
def files(tmp_path):
    for name, samples in (("choices", QUESTIONS), ("stories", STORIES)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, samples)) + "\n")
    return tmp_path


@pytest.fixture
def loaded(tmp_path, write_run):
    return load_run(write_run(tmp_path / "run"))


@torch.inference_mode()
def nats(loaded, context, continuation):
    ids = torch.tensor([[256, *(context + continuation).encode()]])
    scores = loaded.model(ids[:, :-1])[0][0].double().log_softmax(-1).gather(-1, ids[0, 1:, None])
    return float(scores[len(context.encode()) :].sum())


def test_choices_and_last_words_are_scored_as_by_hand(files, loaded):
    found = evaluate_tasks(loaded, ["choices", "stories"], folder=files)
    right = by_length = 0
    for sample in QUESTIONS:
        scores = [nats(loaded, sample["query"] + "Answer:", " " + choice) for choice in sample["choices"]]
        per_length = [score / len(choice) for score, choice in zip(scores, sample["choices"], strict=True)]
        right += scores.index(max(scores)) == sample["gold"]
        by_length += per_length.index(max(per_length)) == sample["gold"]
    assert found["choices"]["acc"] == pytest.approx(right / len(QUESTIONS))
    assert found["choices"]["acc_norm"] == pytest.approx(by_length / len(QUESTIONS))
    mean = sum(nats(loaded, story["context"], " " + story["continuation"]) for story in STORIES) / len(STORIES)
    assert found["stories"]["perplexity"] == pytest.approx(math.exp(-mean), rel=1e-4)
    assert "acc_stderr" in found["choices"]


def test_no_process_is_forked(files, loaded, monkeypatch):
    """In a process with threads, such as those of torch, a forked one may wait for a lock for ever."""
    monkeypatch.setattr("multiprocessing.Pool", None)
    before = dict(os.environ)
    assert evaluate_tasks(loaded, ["stories"], folder=files)["stories"]["perplexity_stderr"] > 0
    assert dict(os.environ) == before


def test_a_text_in_chunks_is_the_text_in_one_go(loaded, monkeypatch):
    text = "It was a bright cold day. " * 4
    whole = nats(loaded, "", text)
    monkeypatch.setattr("openxlstm.integrations.lm_eval.ROLLING_CHUNK", 7)
    assert text_nats(loaded, text) == pytest.approx(whole, rel=1e-5)


def test_text_is_written_up_to_the_first_stop(loaded):
    options = {"max_gen_toks": 40}
    free = until(loaded, "Once", options)
    stop = free[10:12]
    assert until(loaded, "Once", options | {"until": [stop]}) == free[: free.index(stop)]
    assert until(loaded, "Once", options | {"until": [], "max_gen_toks": 3}) == free[:3]


def test_it_is_a_model_to_the_harness(loaded):
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

    model = harness_model(loaded)
    assert isinstance(model, LM)

    def requests(kind, *args):
        return [Instance(request_type=kind, doc={}, arguments=args, idx=0)]

    [(score, greedy)] = model.loglikelihood(requests("loglikelihood", "a b", " c"))
    assert score == pytest.approx(nats(loaded, "a b", " c"), abs=1e-4)
    assert greedy is False
    assert model.loglikelihood_rolling(requests("loglikelihood_rolling", "a b"))[0] == pytest.approx(
        nats(loaded, "", "a b"), abs=1e-4
    )
    assert len(model.generate_until(requests("generate_until", "a", {"until": ["\n\n"], "max_gen_toks": 2}))) == 1


def test_the_command_prints_a_table(files, loaded, capsys):
    words = ["eval", str(loaded.folder.parent), "--tasks", "choices", "--data", str(files)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.split()[:6] == ["task", "metric", "value", "±", "standard", "error"]
    assert "acc_norm" in out
    assert main([*words, "--limit", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limit"] == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"context": "a"}', "line 1: expected the keys"),
        ('{"context": "a", "continuation": "b"}\nnot json', "line 2: not JSON"),
        ('{"query": "a", "choices": ["b"], "gold": 1}', "line 1: gold is 1, and there are 1"),
        ('{"query": "a", "choices": ["b"], "gold": "0"}', 'line 1: gold is "0", and there are 1'),
        ('{"query": "a", "choices": ["b"], "gold": 0.0}', "line 1: gold is 0.0, and there are 1"),
        ('{"query": "a", "choices": 3, "gold": 0}', "line 1: choices must be a list of texts, got 3"),
        ("", "no samples"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        check_file(tmp_path / "t.jsonl")


def test_lines_end_where_json_lets_them(tmp_path):
    sample = {"context": "one\u2028two\x85", "continuation": "three"}
    (tmp_path / "t.jsonl").write_text(json.dumps(sample, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert check_file(tmp_path / "t.jsonl") == "lambada_openai"
    (tmp_path / "t.jsonl").write_bytes(b'{"context": "caf\xe9"}')
    with pytest.raises(UserError, match="line 1: not JSON in UTF-8"):
        check_file(tmp_path / "t.jsonl")


def test_mistakes_end_in_one_line(files, loaded, capsys):
    run = str(loaded.folder.parent)
    for words, message in (
        (["--tasks", "choises", "--data", str(files)], "that folder has the tasks choices, stories"),
        (["--tasks", "no_such_task_at_all"], "lm-eval has no task 'no_such_task_at_all'"),
        (["--tasks", "choices", "--context", "8"], "--context is about text"),
        (["--limit", "3"], "--limit is about --tasks"),
    ):
        assert main(["eval", run, *words]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
