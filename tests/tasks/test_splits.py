"""No split ever sees a sample of another, whatever the seeds and lengths."""

import itertools

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS, GeneratedTask
from openxlstm.tasks.generated import QUARTERS, join, length_range, parts, quarter
from openxlstm.tasks.task import Batch, nothing_scored

GENERATED = [name for name, task in TASKS.items() if issubclass(task, GeneratedTask)]
SPLITS = ("train", "validation", "test")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(batch):
    """What the model reads, padding aside."""
    return {tuple(map(tuple, row)) if batch.inputs.dim() == 3 else tuple(row) for row in batch.inputs.tolist()}


@pytest.mark.parametrize("name", GENERATED)
def test_a_sample_is_in_one_split(name):
    """By construction: its hash says in which. Shown for every task, for lengths that training and evaluation share."""
    task = TASKS[name]()
    length = length_range(task.train_length)[-1]
    drawn = {split: task.draw(split, torch.full((40,), length), rng(1)) for split in SPLITS}
    for split, batch in drawn.items():
        assert len(batch.lengths) == 40
        assert torch.isin(quarter(batch.inputs), torch.tensor(QUARTERS[split])).all()
    for a, b in itertools.combinations(SPLITS, 2):
        assert not rows(drawn[a]) & rows(drawn[b])


def test_every_string_of_a_small_space_has_one_split():
    """All strings of parity up to length 6: the splits that sampling finds are a partition, also with other seeds."""
    task = TASKS["parity"]()
    for length in range(3, 7):
        found = {}
        for split in SPLITS:
            for seed in (0, 1):
                found.setdefault(split, set()).update(rows(task.draw(split, torch.full((400,), length), rng(seed))))
        assert sorted(itertools.chain(*found.values())) == sorted(itertools.product((1, 2), repeat=length))
    assert len(found["train"]) > 16


def test_the_shortest_training_sequences_exist():
    for name in GENERATED:
        task = TASKS[name]()
        assert len(task.draw("train", torch.full((8,), length_range(task.train_length)[0]), rng()).lengths) == 8


def test_where_a_split_has_nothing_it_says_so():
    task = TASKS["parity"](train_length="1-40", eval_length="1")
    empty = [split for split in SPLITS if not any(q in QUARTERS[split] for q in quarter(torch.tensor([[1], [2]])).tolist())]
    assert empty, "two strings and three splits"
    with pytest.raises(UserError, match=r"parity has no \w+ samples of length 1: .*--data\.\w+_length"):
        task.draw(empty[0], torch.tensor([1]), rng())


def test_hashes_are_even_and_ignore_padding():
    numbers = torch.randint(10, (8000, 12), generator=rng())
    found = quarter(numbers)
    assert torch.equal(found, quarter(torch.cat([numbers, torch.zeros(8000, 9, dtype=torch.int64)], 1)))
    counts = found.bincount(minlength=4)
    assert counts.min() > 1800, counts  # 2000 +- 39
    vectors = torch.rand(8000, 5, 3, generator=rng())
    assert quarter(vectors).bincount(minlength=4).min() > 1800
    assert torch.equal(quarter(vectors), quarter(vectors.clone()))
    # fixed for ever: another hash would move samples between the splits of models that are trained already
    assert quarter(torch.tensor([[1, 2, 1], [2, 2, 1], [1, 1, 2], [3, 1, 4], [2, 7, 1]])).tolist() == [3, 0, 3, 1, 1]


def test_training_batches_have_all_lengths_in_the_order_they_were_drawn():
    task = TASKS["parity"](train_length="3-6")
    batch = task.train_batch(400, rng())
    assert batch.inputs.shape == (400, 6)
    assert set(batch.lengths.tolist()) == {3, 4, 5, 6}
    assert not torch.equal(batch.lengths, batch.lengths.sort().values)
    assert torch.equal(batch.inputs.ne(0).sum(1), batch.lengths), "padding is at the end"
    assert torch.equal(batch.scored.nonzero()[:, 1], batch.lengths - 1)
    assert batch.num_tokens == int(batch.lengths.sum())


def test_evaluation_is_always_the_same_and_covers_the_range():
    task = TASKS["parity"](eval_length="40-256", validation_samples=100)
    found = list(task.evaluation("validation", "40-256"))
    labels = [label for label, _ in found]
    assert len(labels) == 8
    assert labels[0].startswith("40-")
    assert labels[-1].endswith("-256")
    assert sum(len(batch.lengths) for _, batch in found) == 100
    for label, batch in found:
        low, high = map(int, label.split("-"))
        assert low <= batch.lengths.min() <= batch.lengths.max() <= high
    again = TASKS["parity"](eval_length="40-256", validation_samples=100).evaluation("validation", "40-256")
    assert all(torch.equal(a.inputs, b.inputs) for (_, a), (_, b) in zip(found, again))


def test_long_sequences_are_evaluated_in_smaller_batches():
    task = TASKS["parity"](test_samples=70)
    sizes = [len(batch.lengths) for _, batch in task.evaluation("test", "1000")]
    assert sizes == [32, 32, 6]


def test_ranges():
    assert [list(part) for part in parts(range(1, 4))] == [[1], [2], [3]]
    assert sum(map(len, parts(range(40, 257)))) == 217
    for wrong in ("", "0", "5-3", "a", "3-", "-3"):
        with pytest.raises(UserError, match="is not a length N or a range N-M"):
            length_range(wrong)
    with pytest.raises(UserError, match="too short: solve_equation needs at least 4"):
        TASKS["solve_equation"](train_length="3-40")
    with pytest.raises(UserError, match="test_samples=0"):
        TASKS["parity"](test_samples=0)


def test_joining_pads_values_with_nothing():
    short = Batch(torch.ones(1, 2, 3), torch.ones(1, 2, 1), torch.tensor([2]))
    long = Batch(torch.ones(2, 4, 3), nothing_scored(2, 4, 1), torch.tensor([4, 4]))
    both = join([short, long])
    assert both.inputs.shape == (3, 4, 3)
    assert both.scored.tolist() == [[True, True, False, False], [False] * 4, [False] * 4]
    assert both.inputs[0, 2:].eq(0).all()
