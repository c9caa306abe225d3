"""Programs against Python itself, and what is drawn, split and taught when."""

import ast
import collections
import contextlib
import io
from random import Random

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import ProgramEvaluation
from openxlstm.tasks.program_evaluation import ANSWERS, SYMBOLS, write_program


def printed(source):
    """What Python prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, {})
    return out.getvalue()


def texts(batch):
    """Program and answer of each row, read off a batch."""
    for inputs, targets, length in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.lengths.tolist(), strict=True):
        assert not any(inputs[length:])
        asked = [place for place, target in enumerate(targets) if target >= 0]
        assert asked == list(range(asked[0], length))
        read = "".join(SYMBOLS[token] for token in inputs[:length])
        yield read[: asked[0] + 1], "".join(ANSWERS[targets[place]] for place in asked), read[asked[0] + 1 :]


@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize("nesting", [1, 2, 3, 5])
def test_answers(length, nesting):
    draw = Random(length * 10 + nesting)
    for _ in range(40):
        program, value = write_program(length, nesting, draw)
        assert printed(program) == f"{value}\n"


def test_a_program_has_so_many_operations_on_numbers_of_such_a_size():
    draw, kinds, largest = Random(0), collections.Counter(), 0
    for _ in range(400):
        program, _ = write_program(2, 3, draw)
        nodes = list(ast.walk(ast.parse(program)))
        operations = [node for node in nodes if isinstance(node, (ast.BinOp, ast.IfExp, ast.For))]
        assert len(operations) == 3
        kinds.update(type(node.op if isinstance(node, ast.BinOp) else node).__name__ for node in operations)
        kinds.update("Assign" for node in nodes if isinstance(node, ast.Assign))
        numbers = [node.value for node in nodes if isinstance(node, ast.Constant)]
        largest = max(largest, *numbers)
        assert min(numbers) >= 1
        turns = [node.iter.args[0].value for node in nodes if isinstance(node, ast.For)]
        assert all(number <= 4 * 2 for number in turns)
        products = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)]
        sides = [[s.value for s in (p.left, p.right) if isinstance(s, ast.Constant)] for p in products]
        assert all(min(side) <= 4 * 2 for side in sides)
    assert set(kinds) == {"Add", "Sub", "Mult", "IfExp", "For", "Assign"}
    assert min(kinds.values()) > 100
    assert 90 <= largest <= 100


def test_the_answer_is_read_as_it_is_due():
    task = ProgramEvaluation(max_length=3, max_nesting=2)
    batch = task.draw("train", torch.tensor([1, 2, 3, 4, 5, 6] * 4), torch.Generator().manual_seed(0))
    for program, answer, read in texts(batch):
        assert program.endswith(")\n")
        assert answer == printed(program).strip() + "."
        assert read == answer[:-1]
    assert batch.num_tokens == batch.lengths.sum()


def test_levels_are_in_the_order_of_the_curriculum():
    task = ProgramEvaluation(max_length=3, max_nesting=2)
    assert [task.length_and_nesting(level) for level in range(1, 7)] == [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]
    assert task.reports == ("1-6",)
    assert ProgramEvaluation(max_length=1, max_nesting=1).reports == ("1",)


def test_splits_share_no_program():
    task = ProgramEvaluation(max_length=1, max_nesting=2, validation_samples=300, test_samples=300)
    seen = {
        split: {program for _, batch in task.evaluation(split, "1-2") for program, _, _ in texts(batch)}
        for split in ("validation", "test")
    }
    seen["train"] = {
        program
        for seed in range(5)
        for program, _, _ in texts(task.train_batch_at(200, torch.Generator().manual_seed(seed), seed / 5))
    }
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_an_evaluation_is_always_the_same_and_has_every_level():
    task = ProgramEvaluation(max_length=2, max_nesting=2, test_samples=30)
    once, again = (list(task.evaluation("test", "1-4")) for _ in range(2))
    assert [(label, len(batch.lengths)) for label, batch in once] == [(str(level), 30) for level in range(1, 5)]
    for (_, a), (_, b) in zip(once, again, strict=True):
        assert torch.equal(a.inputs, b.inputs)
    larger = ProgramEvaluation(max_length=3, max_nesting=2, test_samples=30)  # level 4 there has length 1, nesting 2
    assert torch.equal(next(iter(larger.evaluation("test", "4")))[1].inputs, once[2][1].inputs)


def levels_of(task, progress, monkeypatch, rows=2000):
    """Which levels a training batch is drawn from."""
    found = []
    monkeypatch.setattr(ProgramEvaluation, "draw", lambda self, split, levels, rng: found.append(levels))
    task.train_batch_at(rows, torch.Generator().manual_seed(7), progress)
    return collections.Counter(found[0].tolist())


def test_curricula(monkeypatch):
    make = lambda curriculum: ProgramEvaluation(max_length=2, max_nesting=2, curriculum=curriculum, climb=0.8)  # noqa: E731
    for progress, level in ((0.0, 1), (0.19, 1), (0.2, 2), (0.5, 3), (0.79, 4), (0.99, 4)):
        assert levels_of(make("naive"), progress, monkeypatch) == {level: 2000}
        assert levels_of(make("none"), progress, monkeypatch) == {4: 2000}
        mixed = levels_of(make("mixed"), progress, monkeypatch)
        assert all(abs(mixed[k] - 500) < 80 for k in range(1, 5))
        combined = levels_of(make("combined"), progress, monkeypatch)
        assert all(abs(combined[k] - (1700 if k == level else 100)) < 60 for k in range(1, 5))  # one in five mixed


def test_a_batch_is_a_function_of_its_generator():
    task = ProgramEvaluation(curriculum="combined", max_nesting=2)
    a, b = (task.train_batch_at(16, torch.Generator().manual_seed(3), 0.4) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 0}, "data.max_length=0 must be at least 1"),
        ({"max_length": 16}, "at most 15 digits"),
        ({"max_nesting": 26}, "names for 25 variables"),
        ({"climb": 0}, "data.climb=0 must be above 0"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(UserError, match=words):
        ProgramEvaluation(**settings)


def test_a_level_that_is_not_there():
    with pytest.raises(UserError, match="levels 1 to 4, and 3-9"):
        list(ProgramEvaluation(max_nesting=2).evaluation("test", "3-9"))
