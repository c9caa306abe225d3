"""Piano rolls as a task, from a file written here."""

import json
import math

import numpy as np
import pytest
import torch

from openxlstm import SequenceConfig, SequenceModel
from openxlstm.errors import UserError
from openxlstm.tasks import BITS, TASKS
from openxlstm.training.evaluation.task import evaluate_task, task_loss
from pianorolls import write_pieces


@pytest.fixture
def source(tmp_path):
    """A folder with a MAT-file, of 5, 3 and 2 pieces of 6 steps and more."""
    write_pieces(tmp_path / "JSB_Chorales.mat")
    return str(tmp_path)


def played(batch, row):
    """The piece that a row of a batch is about, out of its targets."""
    return batch.targets[row, : batch.lengths[row]]


def test_every_step_asks_for_the_next(source):
    task = TASKS["jsb_chorales"](source=source)
    for split, count in (("train", 5), ("validation", 3), ("test", 2)):
        found = [batch for _, batch in task.evaluation(split, task.reports[0])]
        assert sum(len(batch.lengths) for batch in found) == count
        pieces = sorted(getattr(task.pieces, split), key=len)
        (batch,) = found
        for row, piece in enumerate(pieces):
            size = len(piece)
            assert batch.lengths[row] == size
            assert not batch.inputs[row, 0].any(), "a silent step comes first"
            assert torch.equal(batch.inputs[row, 1:size], torch.from_numpy(piece[:-1]).float())
            assert torch.equal(batch.targets[row, 1:size], torch.from_numpy(piece[1:]).float())
            assert batch.scored[row].tolist() == [0 < step < size for step in range(batch.inputs.shape[1])]


def test_training_learns_beginnings_too(source):
    task = TASKS["jsb_chorales"](source=source)
    batch = task.train_batch(50, torch.Generator().manual_seed(0))
    pieces = {piece.tobytes() for piece in task.pieces.train}
    found = {played(batch, row).to(torch.uint8).numpy().tobytes() for row in range(50)}
    assert found == pieces


def test_windows(source):
    task = TASKS["jsb_chorales"](source=source, window=4)
    batch = task.train_batch(200, torch.Generator().manual_seed(0))
    assert set(batch.lengths.tolist()) == {4}
    whole = [piece.tobytes() for piece in task.pieces.train]
    begun = 0
    for row in range(200):
        first = bool(batch.scored[row, 0])  # asked for at the beginning of a piece alone
        content = torch.cat([batch.inputs[row, 1:], batch.targets[row, 3:4]]).to(torch.uint8).numpy().tobytes()
        assert any(content in piece for piece in whole)
        assert not first or any(piece.startswith(content) for piece in whole)
        begun += first
    assert 10 < begun < 150


def test_transposition_moves_all_notes_alike_and_keeps_them(source):
    task = TASKS["jsb_chorales"](source=source, transpose=12)
    plain = {len(piece): piece for piece in task.pieces.train}
    batch = task.train_batch(300, torch.Generator().manual_seed(0))
    moves = set()
    for row in range(300):
        piece = plain[int(batch.lengths[row])]
        found = played(batch, row).to(torch.uint8).numpy()
        move = int(np.flatnonzero(found.any(0))[0] - np.flatnonzero(piece.any(0))[0])
        assert np.array_equal(np.roll(piece, move, 1), found)
        assert found.sum() == piece.sum()
        moves.add(move)
    assert moves == set(range(-12, 13))
    high = np.zeros((2, 88), np.uint8)
    high[:, 85] = 1
    found = {int(np.flatnonzero(task.moved(high, torch.Generator().manual_seed(n))[0])[0]) for n in range(200)}
    assert found == set(range(73, 88)), "no note leaves the piano"


def test_lengths(source):
    task = TASKS["jsb_chorales"](source=source)
    assert task.reports == (task.trained,) == ("6-10",)
    assert TASKS["jsb_chorales"]().reports == ("25-160",)
    (batch,) = [batch for _, batch in task.evaluation("train", "8-9")]
    assert batch.lengths.tolist() == [8, 9]
    with pytest.raises(UserError, match="no piece of the test part is 9 steps long"):
        list(task.evaluation("test", "9"))


def test_loss_and_score_are_the_sum_over_keys(source):
    task = TASKS["jsb_chorales"](source=source)
    torch.manual_seed(0)
    model = SequenceModel(SequenceConfig(dim=16, num_heads=1, blocks=("slstm",), input_dim=88, num_outputs=88)).eval()
    (batch,) = [batch for _, batch in task.evaluation("test", task.reports[0])]
    with torch.no_grad():
        outputs, _ = model(batch.inputs)
    p = outputs.double().sigmoid()
    right = torch.where(batch.targets == 1, p, 1 - p).log().sum(-1)
    expected = -torch.where(batch.scored, right, 0.0)
    losses, _ = task_loss(model, task)(batch.inputs, batch.targets)
    assert torch.allclose(losses.double(), expected, atol=1e-4), "of some 60 nats, in float32"
    found = evaluate_task(model, task, "test")
    assert found.num_targets == 5 + 6
    assert found.score == pytest.approx(found.loss) == pytest.approx(float(expected.sum()) / 11, rel=1e-5)
    assert found.guess < task.chance(6) == pytest.approx(88 * math.log(2))


def test_the_best_constant_answer():
    targets = (torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.1, 0.5, 0.0])).float()
    p = targets.mean(0)
    by_key = torch.stack([p.logit(eps=1e-7)] * 50)
    assert BITS.constant(targets) == pytest.approx(float(BITS.points(by_key, targets).mean()), abs=1e-4)


def test_sixteenth_notes_from_json(tmp_path):
    piece = [[60, 55, 52, 48]] * 3
    (tmp_path / "a.json").write_text(json.dumps({"train": [piece], "valid": [piece], "test": [piece]}))
    task = TASKS["jsb_chorales"](source=str(tmp_path / "a.json"))
    assert (task.notation, task.in_c) == ((21, 4), False)
    assert TASKS["jsb_chorales"](source="a.mat").notation == (9, 1)
    assert task.reports == ("3-3",)
    assert len(list(task.evaluation("test", task.reports[0]))) == 1


def test_the_content_is_in_the_fingerprint(tmp_path):
    write_pieces(tmp_path / "a.mat")
    write_pieces(tmp_path / "b.mat", length=7)
    first, second = (TASKS["nottingham"](source=str(tmp_path / f"{name}.mat")).fingerprint for name in "ab")
    assert first != second


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 1}, r"data\.window=1 must be at least 2, or 0"),
        ({"transpose": 13}, r"data\.transpose=13 must be from 0 to 12"),
        ({}, r"task jsb_chorales needs --data: JSB_Chorales\.mat"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        TASKS["jsb_chorales"](**settings).train_batch(1, torch.Generator())
