"""ListOps against a reader of its own, and what sizes and answers are drawn."""

import collections
import statistics
from random import Random

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from openxlstm.tasks.list_operations import TOKENS, divide

LISTOPS = TASKS["listops"]


def read(symbols):
    """The value of an expression, by a stack."""
    stack = [[]]
    for symbol in symbols:
        if symbol.startswith("["):
            stack.append([symbol])
        elif symbol == "]":
            name, *values = stack.pop()
            ordered = sorted(values)
            middle = len(ordered) // 2
            median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
            found = {"[MIN": ordered[0], "[MAX": ordered[-1], "[MED": median, "[SM": sum(values) % 10}[name]
            stack[-1].append(found)
        else:
            stack[-1].append(int(symbol))
    ((value,),) = stack
    return value


@pytest.mark.parametrize("length", [4, 5, 6, 7, 11, 50, 201])
def test_answers(length):
    batch = LISTOPS(train_length="4-20", eval_length="4-20").sample(64, length, torch.Generator().manual_seed(length))
    assert batch.inputs.shape == (64, length)
    assert batch.scored.sum() == 64
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        symbols = [TOKENS[token] for token in row]
        assert symbols[0].startswith("[")
        assert symbols[-1] == "]"
        assert target[-1] == read(symbols)


def test_the_example_in_the_docstring():
    assert read(["[MAX", "4", "3", "[MIN", "2", "3", "]", "1", "0", "]"]) == 4


@pytest.mark.parametrize("most", [4, 10])
def test_every_total_is_divided(most):
    draw = Random(0)
    for total in range(2, 80):
        counts = set()
        for _ in range(30):
            sizes = divide(total, most, draw)
            assert sum(sizes) == total
            assert 2 <= len(sizes) <= most
            assert all(size == 1 or size >= 4 for size in sizes)
            counts.add(len(sizes))
        assert len(counts) > 1 or total < 6


def test_all_operations_and_digits_are_drawn_alike():
    batch = LISTOPS().sample(400, 60, torch.Generator().manual_seed(0))
    count = collections.Counter(TOKENS[token] for token in batch.inputs.flatten().tolist())
    for group in ([f"{d}" for d in range(10)], ["[MIN", "[MAX", "[MED", "[SM"]):
        seen = [count[symbol] for symbol in group]
        assert min(seen) > 0.85 * statistics.mean(seen)
    assert count["[PAD]"] == 0
    answers = collections.Counter(batch.targets[:, -1].tolist())
    assert len(answers) == 10
    assert max(answers.values()) < 0.3 * 400


def test_wrong_settings():
    with pytest.raises(UserError, match="max_arguments=3 must be at least 4"):
        LISTOPS(max_arguments=3)
    with pytest.raises(UserError, match="too short"):
        LISTOPS(train_length="3-20")
