"""Files in the layout of Long Range Arena's release, made here: what is read, split, cut and refused."""

import gzip

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from openxlstm.tasks.list_operations import TOKENS


def every(task, split):
    """All (token ids, class) of a split."""
    found = []
    for _, batch in task.evaluation(split, task.reports[0]):
        for ids, targets, length in zip(batch.inputs, batch.targets, batch.lengths.tolist(), strict=True):
            assert (targets >= 0).sum() == 1
            assert targets[length - 1] >= 0
            assert not ids[length:].any()
            found.append((ids[:length].tolist(), int(targets[length - 1])))
    return found


@pytest.fixture
def listops(tmp_path):
    header = "Source\tTarget\n"
    (tmp_path / "basic_train.tsv").write_text(header + "( ( [MAX 1 ) ( ( [MIN 7 ) 8 ) ] ) ] )\t7\n( ( [SM 9 ) 3 ) ] )\t2\n")
    (tmp_path / "basic_val.tsv").write_text(header + "( ( [MED 1 ) 4 ) 9 ) ] )\t4\n")
    with gzip.open(tmp_path / "basic_test.tsv.gz", "wt") as file:
        file.write(header + "".join(f"( [MAX {d} ) 0 ) ] )\t{d}\n" for d in range(10)))
    return tmp_path


def test_listops(listops):
    task = TASKS["lra_listops"](source=str(listops))
    (first, label), (_, second) = every(task, "train")
    assert [TOKENS[i] for i in first] == ["[MAX", "1", "[MIN", "7", "8", "]", "]"]
    assert (label, second) == (7, 2)
    assert [label for _, label in every(task, "validation")] == [4]
    assert [label for _, label in every(task, "test")] == list(range(10))
    assert len(every(TASKS["lra_listops"](source=str(listops), test_samples=3), "test")) == 3
    batch = task.train_batch(5, torch.Generator().manual_seed(0))
    assert batch.scored.sum() == 5
    assert "2 sequences" in task.description
    assert task.fingerprint != TASKS["lra_listops"](source=str(listops), max_length=3).fingerprint


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("( [MAX 1 ) ] )\t11", "line 4: expected an expression, a tab and a digit"),
        ("( [MAX 1 ) ] )", "line 4: expected an expression, a tab and a digit"),
        ("( [MEAN 1 ) ] )\t1", "line 4: '[MEAN' is no symbol"),
    ],
)
def test_listops_refuses(listops, line, reason):
    with (listops / "basic_train.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError) as caught:
        TASKS["lra_listops"](source=str(listops)).sequences("train")
    assert "basic_train.tsv" in str(caught.value)
    assert reason in str(caught.value)


def test_blank_lines_at_the_end_say_nothing(listops):
    before = every(TASKS["lra_listops"](source=str(listops)), "validation")
    with (listops / "basic_val.tsv").open("a") as file:
        file.write("\n \n")
    assert every(TASKS["lra_listops"](source=str(listops), test_samples=1), "validation") == before


def test_lengths_that_are_not_scored_are_refused(listops):
    for lengths in ("7", "banana"):
        with pytest.raises(UserError, match=f"is scored on all lengths together, 500-2000, and not on '{lengths}'"):
            next(TASKS["lra_listops"](source=str(listops)).evaluation("test", lengths))


def test_a_file_cut_short(listops):
    path = listops / "basic_test.tsv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read after line"):
        TASKS["lra_listops"](source=str(listops)).sequences("test")


def test_a_file_that_is_damaged_inside(listops):
    path = listops / "basic_test.tsv.gz"
    content = path.read_bytes()
    path.write_bytes(content[:30] + b"\xff" * 9 + content[39:])
    with pytest.raises(UserError, match=r"basic_test\.tsv\.gz: cannot be read after line 0: Error -3 while decompressing"):
        TASKS["lra_listops"](source=str(listops)).sequences("test")


def test_text(tmp_path):
    for part, count in (("train", 60), ("test", 4)):
        for name in ("pos", "neg"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}_{'9' if name == 'pos' else '2'}.txt").write_bytes(f"{part} {name} {number} é".encode())
    task = TASKS["lra_text"](source=str(tmp_path), max_length=6)
    parts = {split: every(task, split) for split in ("train", "validation", "test")}
    assert len(parts["train"]) + len(parts["validation"]) == 120
    assert 0 < len(parts["validation"]) < 40
    assert [label for _, label in parts["test"]] == [0, 1] * 4
    assert parts["test"][0] == ([byte + 1 for byte in b"test n"], 0)
    whole = {split: {tuple(i) for i, _ in every(TASKS["lra_text"](source=str(tmp_path)), split)} for split in parts}
    assert not whole["train"] & whole["validation"]
    with pytest.raises(UserError, match="no such folder"):
        TASKS["lra_text"](source=str(tmp_path / "nothing")).sequences("train")
    with pytest.raises(UserError, match=r"there is no \.txt file in train/neg"):
        TASKS["lra_text"](source=str(tmp_path / "test")).sequences("train")


def test_retrieval(tmp_path):
    for part in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_text("1\tA1\tB1\tabc\tdefg\n0.0\tA1\tB2\tabc\tx\n")
    with (tmp_path / "new_aan_pairs.eval.tsv").open("a") as file:
        file.write("\n")
    task = TASKS["lra_retrieval"](source=str(tmp_path), max_length=2)
    assert every(task, "validation") == [([98, 99, 1, 101, 102], 1), ([98, 99, 1, 121], 0)]
    (tmp_path / "new_aan_pairs.test.tsv").write_text("1\tA1\tB1\tabc\n")
    with pytest.raises(UserError, match="line 1: expected 0 or 1, two names and two texts between tabs, got 4 fields"):
        task.sequences("test")


def test_without_files_it_says_what_it_needs():
    for name in ("lra_listops", "lra_text", "lra_retrieval"):
        with pytest.raises(UserError, match=f"task {name} needs --data: the folder"):
            TASKS[name]().sequences("train")
