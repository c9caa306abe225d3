"""Stories read by a reader of their own: tellings, turns of time, questions."""

from collections import Counter

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS

ASK, FLIP = 1, 2


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def read(task, inputs, targets):
    """Follow one story; returns for each question (place, answered rightly, told before asked in the order of telling)."""
    first_time = 3 + task.num_names
    first_word = first_time + task.num_times
    time, order, flipped, place, found = {}, [], False, 0, []
    told, words = 0, 0
    while place < len(inputs):
        token = inputs[place]
        if token == ASK:
            a, b = inputs[place + 1], inputs[place + 2]
            assert a != b
            before = (time[a] < time[b]) != flipped
            found.append((place, targets[place + 2] == (0 if before else 1), (order.index(a) < order.index(b)) == before))
            assert targets[place] == targets[place + 1] == -100
            place += 3
            continue
        assert targets[place] == -100
        if token == FLIP:
            flipped = not flipped
            place += 1
        elif token >= first_word:
            words += 1
            place += 1
        else:
            assert 3 <= token < first_time <= inputs[place + 1] < first_word
            time[token] = inputs[place + 1]
            order = [name for name in order if name != token] + [token]
            told += 1
            place += 2
    assert len(time) == task.num_events
    assert told == task.num_tellings
    return found


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("events", {}),
        (
            "events",
            {"num_events": 8, "revisions": 5, "flips": 3, "train_length": "80", "eval_length": "80", "report_lengths": ()},
        ),
        ("events", {"num_events": 2, "num_questions": 1, "train_length": "7", "eval_length": "7", "report_lengths": ()}),
        ("event_stream", {}),
    ],
)
def test_every_answer_is_right(name, settings):
    task = TASKS[name](**settings)
    length = int(task.train_length)
    batch = task.sample(300, length, rng())
    assert batch.inputs.shape == (300, length)
    answers, by_telling, places = Counter(), [], []
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        found = read(task, inputs, targets)
        assert len(found) == task.num_questions
        assert all(right for _, right, _ in found)
        answers.update(target for target in targets if target >= 0)
        by_telling += [same for _, _, same in found]
        places.append(found[0][0])
    total = 300 * task.num_questions
    assert abs(answers[0] - total / 2) < 6 * (total / 4) ** 0.5, "before and after are equally likely"
    assert abs(sum(by_telling) - total / 2) < 6 * (total / 4) ** 0.5, "the order of telling says nothing"
    if name == "event_stream":
        assert min(places) < length / 4, "questions come early too"


def test_a_long_story():
    """4096 steps: the same few events among thousands of words."""
    task = TASKS["event_stream"](report_lengths=("4096",))
    batch = task.sample(5, 4096, rng())
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        assert all(right for _, right, _ in read(task, inputs, targets))
    assert batch.scored.sum() == 5 * task.num_questions


def test_names_times_and_words_are_all_used():
    task = TASKS["events"]()
    batch = task.sample(500, 64, rng())
    used = set(batch.inputs.flatten().tolist())
    assert used == {ASK, *range(3, task.signature.vocab_size)}
    assert FLIP in TASKS["event_stream"]().sample(2, 64, rng()).inputs


def test_each_turn_comes_or_does_not():
    task = TASKS["event_stream"](flips=2, train_length="64", report_lengths=())
    turns = (task.sample(2000, 64, rng()).inputs == FLIP).sum(1)
    shares = torch.bincount(turns, minlength=3) / 2000
    assert shares.tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_events": 20}, "num_names=16 is less than data.num_events=20"),
        ({"revisions": 20}, "num_times=16 is less than the 24 tellings"),
        ({"train_length": "19"}, "tellings and questions alone are 20 tokens"),
        ({"num_events": 1}, "num_events=1 must be at least 2"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        TASKS["events"](**settings)
