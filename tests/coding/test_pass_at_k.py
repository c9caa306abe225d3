"""pass@k by hand and by brute force; problems, samples and what is wrong with their files."""

import gzip
import importlib
import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from openxlstm.cli import pass_at_k as pass_at_k_verb
from openxlstm.cli.main import main
from openxlstm.coding import Limits, Sample, pass_at_k, read_problems, read_samples, sandbox_locks, score_samples, write_samples
from openxlstm.data import ByteTokenizer
from openxlstm.errors import UserError

HUMAN_EVAL = [
    {
        "task_id": "Mine/0",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    },
    {
        "task_id": "Mine/1",
        "prompt": "def longest(words):\n",
        "entry_point": "longest",
        "canonical_solution": "    return max(words, key=len)\n",
        "test": "def check(candidate):\n    assert candidate(['a', 'bcd', 'ef']) == 'bcd'\n",
    },
]
MBPP = [
    {
        "task_id": 7,
        "text": "Write a function to add one.",
        "code": "def add_one(x):\r\n  return x + one",
        "test_list": ["assert add_one(1) == 2", "assert add_one(5) == 6"],
        "test_setup_code": "one = 1",
        "challenge_test_list": [],
    }
]
needs_locks = pytest.mark.skipif("not works()", reason="this machine has no locks for generated code")


def works():
    try:
        return bool(sandbox_locks())
    except UserError:
        return False


@pytest.fixture
def problems_file(tmp_path):
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, HUMAN_EVAL)).encode()))
    return path


@pytest.fixture
def mbpp_file(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("\n".join(map(json.dumps, MBPP)) + "\n\n")
    return path


def test_by_hand():
    assert pass_at_k(10, 0, 1) == 0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # of six pairs one has no right sample
    assert pass_at_k(5, 1, 5) == 1
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5)


def test_by_brute_force():
    """All ways to draw k of n samples."""
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                drawn = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, drawn)) / len(drawn)), (n, c, k)


@pytest.mark.parametrize(("n", "c", "k"), [(2, 1, 3), (2, 3, 1), (2, 1, 0), (2, -1, 1)])
def test_numbers_that_make_no_sense(n, c, k):
    with pytest.raises(UserError, match="cannot be had"):
        pass_at_k(n, c, k)


@needs_locks
def test_scores(problems_file):
    problems = read_problems(problems_file)
    right, wrong = "    return 2 * x\n", "    return x\n"
    samples = [Sample("Mine/0", text) for text in (right, wrong, "    while True: pass\n", right)]
    samples += [Sample("Mine/1", text) for text in ("    return words[0]", "    import os; os._exit(0)", "", "  return")]
    done = []
    scores = score_samples(
        problems, samples, (1, 2), limits=Limits(seconds=1), jobs=2, report=lambda n, outcome: done.append((n, outcome.result))
    )
    assert [outcome.result for outcome in scores.outcomes] == [
        *("passed", "failed", "timeout", "passed"),
        *("failed", "ended", "failed", "failed"),
    ]
    assert done == list(enumerate((outcome.result for outcome in scores.outcomes), 1))
    assert scores.counts == {"Mine/0": (4, 2), "Mine/1": (4, 0)}
    assert scores.pass_at == {1: pytest.approx(0.25), 2: pytest.approx((1 - 1 / 6) / 2)}
    assert scores.results == {"failed": 4, "passed": 2, "timeout": 1, "ended": 1}
    with pytest.raises(UserError, match="pass@5 needs 5 samples of each problem, and 'Mine/0' has 4"):
        score_samples(problems, samples, (1, 5))


def test_samples_are_written_as_they_are_read(problems_file, tmp_path):
    problems = read_problems(problems_file)
    samples = [Sample("Mine/0", "    return 'ü\\n'\n"), Sample("Mine/1", "")]
    write_samples(tmp_path / "samples.jsonl", samples)
    assert read_samples(tmp_path / "samples.jsonl", problems) == samples


def test_a_completion_ends_where_it_leaves_the_function(problems_file, mbpp_file):
    problem = read_problems(problems_file)["Mine/0"]
    assert problem.cut("    y = x\n    return y\n\ndef next():\n    pass\n") == "    y = x\n    return y\n"
    assert problem.cut("    return 1\n# then\nprint(1)") == "    return 1"
    assert problem.cut("    return 1") == "    return 1"
    assert (
        read_problems(mbpp_file)["7"].cut("def f(x):\n  return 1\ndef g(): pass\nassert f(1)")
        == "def f(x):\n  return 1\ndef g(): pass"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"entry_point": None, "test_list": None}, "has neither 'entry_point'"),
        ({"test": None}, "'test' is missing"),
        ({"test": 3}, "'test' is not a text"),
        ({"entry_point": "a b"}, "no name of a function"),
        ({"task_id": None}, "'task_id' is missing"),
        ({"task_id": True}, "'task_id' is missing, or neither"),
        ({"task_id": "Mine/0"}, "task_id 'Mine/0' comes twice"),
        ({"entry_point": None, "test_list": []}, "'test_list' must be a list of texts"),
    ],
)
def test_malformed_problems(tmp_path, change, reason):
    record = {key: value for key, value in (HUMAN_EVAL[1] | change).items() if value is not None}
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, [HUMAN_EVAL[0], record])))
    with pytest.raises(UserError) as error:
        read_problems(path)
    assert f"{path}:2: " in str(error.value)
    assert reason in str(error.value)


def test_malformed_files(tmp_path, problems_file):
    problems = read_problems(problems_file)
    path = tmp_path / "bad.jsonl"
    for content, reason in (
        (b"", f"{path}: no problem"),
        (b"\n[1]\n", f"{path}:2: not a JSON object"),
        (b"{", f"{path}:1: not JSON"),
        (b'{"task_id": "\xff"}', f"{path}:1: not UTF-8"),
        (b"[" * 100_000, f"{path}:1: not JSON: maximum recursion depth"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason.replace("[", r"\[")):
            read_problems(path)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(problems_file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cut.jsonl.gz: damaged behind line \d"):
        read_problems(cut)
    cut.write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"cut.jsonl.gz: damaged behind line 0"):
        read_problems(cut)
    for content, reason in (
        ('{"task_id": "Mine/9", "completion": ""}', "1: task_id 'Mine/9' is none of the 2 problems"),
        ('{"task_id": "Mine/0"}', "1: 'completion' is missing"),
        ("", "no sample"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=reason):
            read_samples(path, problems)


def test_nothing_runs_without_being_asked(problems_file, capsys, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert main(["pass-at-k", "samples.jsonl", "--problems", str(problems_file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--run-generated-code" in error


@needs_locks
def test_the_verb(problems_file, mbpp_file, tmp_path, capsys):
    verb = lambda *words: main(["pass-at-k", *map(str, words), "--run-generated-code"])  # noqa: E731
    assert verb("--solutions", "--problems", problems_file) == 0
    assert capsys.readouterr().out == "pass@1: 1.0000\n2 of 2 problems, 2 samples: 2 passed\n"
    assert verb("--solutions", "--problems", mbpp_file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["pass@1"] == 1.0
    samples, out = tmp_path / "samples.jsonl", tmp_path / "out.jsonl"
    write_samples(samples, [Sample("Mine/0", "    return 2 * x"), Sample("Mine/0", "    return 0")])
    assert verb(samples, "--problems", problems_file) == 2
    assert "1 of 2 problems have no sample; --subset" in capsys.readouterr().err
    assert verb(samples, "--problems", problems_file, "--subset", "--k", "1,2", "--out", out) == 0
    shown = capsys.readouterr()
    assert shown.out == "pass@1: 0.5000\npass@2: 1.0000\n1 of 2 problems, 2 samples: 1 passed, 1 failed\n"
    assert "locked in by seccomp" in shown.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["passed"], row["reason"]) for row in rows] == [(True, ""), (False, "AssertionError")]
    for words, reason in (
        ([], "name the file of SAMPLES"),
        ([samples, "--solutions"], "name the file of SAMPLES"),
        ([samples, "--generate", "run"], "exists; without --generate"),
        ([tmp_path / "none.jsonl"], "no such file"),
        ([samples, "--k", "0"], "--k: expects a whole number"),
    ):
        assert verb(*words, "--problems", problems_file) == 2
        assert reason in capsys.readouterr().err


@needs_locks
def test_a_model_writes_samples_first(problems_file, tmp_path, capsys):
    from openxlstm import LanguageModel, LanguageModelConfig
    from openxlstm.data import ByteTokenizer

    LanguageModel(LanguageModelConfig(vocab_size=257, dim=16, num_heads=2, blocks=("mlstm",))).save_pretrained(tmp_path / "run")
    ByteTokenizer().save(tmp_path / "run")
    samples = tmp_path / "new.jsonl"
    words = ["pass-at-k", str(samples), "--problems", str(problems_file), "--generate", str(tmp_path / "run")]
    assert main([*words, "--num-samples", "2", "--max-tokens", "8", "--run-generated-code"]) == 0
    assert "2 of 2 problems, 4 samples" in capsys.readouterr().out
    written = read_samples(samples, read_problems(problems_file))
    assert [sample.task_id for sample in written] == ["Mine/0"] * 2 + ["Mine/1"] * 2


def test_other_seeds_and_problems_share_no_draws(problems_file, monkeypatch):
    """Neighbouring seeds must not give the same samples one place further, and a sample is the same beside any other."""
    drawn = []

    def complete(model, rows, *_, seed, **__):
        drawn.append(seed)
        return [[] for _ in rows]

    model = SimpleNamespace(config=SimpleNamespace(vocab_size=257))
    monkeypatch.setattr("openxlstm.cli.generate.load", lambda args: SimpleNamespace(model=model, tokenizer=ByteTokenizer()))
    monkeypatch.setattr(importlib.import_module("openxlstm.inference.generate"), "complete", complete)
    problems = read_problems(problems_file)
    for seed, number in ((0, 4), (1, 4), (2, 4), (0, 2)):
        words = ["s.jsonl", "--problems", "p", "--seed", str(seed), "--num-samples", str(number)]
        assert len(pass_at_k_verb.make_samples(pass_at_k_verb.parser().parse_args(words), problems)) == 2 * number
    flat = [seed for seeds in drawn[:6] for seed in seeds]
    assert len(set(flat)) == 3 * 2 * 4
    assert drawn[6:] == [drawn[0][:2], drawn[1][:2]]


def test_what_cannot_be_scored_or_written_is_not_generated(problems_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pass_at_k_verb, "make_samples", lambda *_: pytest.fail("samples were made"))
    for words, reason in (
        (["new.jsonl", "--num-samples", "2", "--k", "1,10"], "pass@10 needs --num-samples 10 at least, and 2 are to be made"),
        (["new.jsonl.gz"], "new.jsonl.gz: samples are written as plain text"),
        (["new.jsonl.xz"], "new.jsonl.xz: samples are written as plain text"),
    ):
        line = ["pass-at-k", *words, "--problems", str(problems_file), "--generate", "run", "--run-generated-code"]
        assert main(line) == 2
        assert reason in capsys.readouterr().err


@needs_locks
@pytest.mark.slow
@pytest.mark.parametrize("file", ["humaneval/HumanEval.jsonl.gz", "mbpp/mbpp.jsonl"])
def test_published_solutions_pass(file):
    """Of MBPP one solution counts amicable numbers for seconds."""
    folder = os.environ.get("OPENXLSTM_DATA")
    if not folder:
        pytest.skip("OPENXLSTM_DATA names no data folder")
    problems = read_problems(Path(folder) / file)
    samples = [Sample(task_id, problem.solution) for task_id, problem in problems.items()]
    scores = score_samples(problems, samples, limits=Limits(seconds=60), jobs=2)
    assert [sample.task_id for sample, outcome in zip(samples, scores.outcomes, strict=True) if not outcome.passed] == []
