"""What all tasks promise, and the metrics."""

import math

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS, GeneratedTask, summary, task_class
from openxlstm.tasks.task import ACCURACY, CROSS_ENTROPY, SQUARED_ERROR


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_it_is(name):
    task = TASKS[name]()
    reads = task.signature
    assert (reads.vocab_size is None) != (reads.input_dim is None)
    assert sum(kind is not None for kind in (reads.num_classes, reads.num_values, reads.num_bits)) == 1
    assert reads.num_outputs >= 1
    assert task.reports
    assert 20 < len(summary(name)) < 105
    assert task.name == name
    assert isinstance(task.metric.better(0.0, 1.0), float)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if issubclass(task, GeneratedTask)])
def test_batches_are_what_the_signature_says(name):
    task = TASKS[name]()
    reads = task.signature
    batch = task.train_batch(6, torch.Generator().manual_seed(0))
    if reads.vocab_size is not None:
        assert batch.inputs.dtype == torch.int64
        assert 0 <= batch.inputs.min() <= batch.inputs.max() < reads.vocab_size
    else:
        assert batch.inputs.dtype == torch.float32
        assert batch.inputs.shape[2] == reads.input_dim
    wanted = batch.targets[batch.scored]
    if reads.num_classes is not None:
        assert 0 <= wanted.min() <= wanted.max() < reads.num_classes
    else:
        assert wanted.shape[1] == reads.num_values
    assert batch.scored.any(1).all(), "every sample asks something"
    assert (batch.scored.long() * torch.arange(batch.inputs.shape[1])).max(1).values.lt(batch.lengths).all()


def test_no_answer_is_right_that_is_none():
    """argmax takes NaN for the largest number."""
    outputs = torch.tensor([[0.1, 0.9], [0.9, 0.1], [torch.nan, 0.1], [torch.nan, torch.nan], [torch.inf, 0.0]])
    assert ACCURACY.points(outputs, torch.tensor([1, 1, 0, 0, 0])).tolist() == [1, 0, 0, 0, 1]


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="unknown task 'partiy'; did you mean 'parity'"):
        task_class("partiy")


def test_the_best_constant_answer():
    """Found by trying all of them."""
    targets = torch.tensor([3, 1, 3, 3, 0])
    best = max(float(ACCURACY.points(torch.eye(4)[torch.full((5,), c)], targets).mean()) for c in range(4))
    assert ACCURACY.constant(targets) == pytest.approx(best)
    logits = torch.tensor([1 / 5, 1 / 5, 1e-12, 3 / 5]).log().expand(5, -1)
    assert CROSS_ENTROPY.constant(targets) == pytest.approx(float(CROSS_ENTROPY.points(logits, targets).mean()))
    values = torch.tensor([[1.0, 0.0], [2.0, 4.0], [6.0, 2.0]])
    tried = min(float(SQUARED_ERROR.points(torch.tensor([[c, 2.0]]).expand(3, -1), values).mean()) for c in (2.9, 3.0, 3.1))
    assert SQUARED_ERROR.constant(values) == pytest.approx(tried)


def test_directions():
    assert ACCURACY.better(0.2, 0.3) == 0.3
    assert SQUARED_ERROR.better(0.2, 0.3) == 0.2
    assert ACCURACY.score(0.25) == 0.25
    assert CROSS_ENTROPY.score(math.log(8)) == math.log(8)
