"""Text classification as tasks, from files written here."""

import collections

import pytest
import torch

from openxlstm.data.text_format import plain
from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from reviews import sentences, write_imdb, write_rotten_tomatoes, write_sst2, write_table

WRITERS = {
    "sst2": write_sst2,
    "rotten_tomatoes": write_rotten_tomatoes,
    "imdb": write_imdb,
    "text_classification": lambda folder: write_table(folder.with_suffix(".csv")),
}


@pytest.fixture(params=WRITERS)
def task(request, tmp_path):
    """Each of the tasks with files of its own."""
    return TASKS[request.param](source=str(WRITERS[request.param](tmp_path / "texts")))


def read_back(task, batch):
    """The words of a batch and its labels."""
    words = task.format.tokenizer.words
    texts = [" ".join(words[i] for i in row[:length]) for row, length in zip(batch.inputs.tolist(), batch.lengths.tolist())]
    return list(zip(texts, batch.targets[batch.scored].tolist()))


def test_the_parts_are_disjoint_and_whole(task):
    found = {split: set() for split in ("train", "validation", "test")}
    for split, members in found.items():
        count = 0
        for label, batch in task.evaluation(split, task.reports[0]):
            assert label == task.reports[0]
            assert torch.equal(batch.scored.sum(1), torch.ones(len(batch.lengths), dtype=torch.int64))
            assert batch.scored[torch.arange(len(batch.lengths)), batch.lengths - 1].all(), "the answer is due at the end"
            members.update(text for text, _ in read_back(task, batch))
            count += len(batch.lengths)
        assert count == len(task.texts.parts[split].ids)
    assert all(found.values())
    assert not found["train"] & (found["validation"] | found["test"])


def test_a_batch_is_a_function_of_its_generator_and_little_padded(task):
    batch = task.train_batch(8, torch.Generator().manual_seed(3))
    again = task.train_batch(8, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(batch, again))
    other = task.train_batch(8, torch.Generator().manual_seed(4))
    assert batch.inputs.shape != other.inputs.shape or not torch.equal(batch.inputs, other.inputs)
    assert batch.lengths.max() - batch.lengths.min() <= 4


def test_every_training_text_is_drawn_as_often(tmp_path):
    """Batches of like lengths must not make short or long texts rarer."""
    task = TASKS["sst2"](source=str(write_sst2(tmp_path / "sst2", 90)), phrases=False)
    rng = torch.Generator().manual_seed(0)
    counts = collections.Counter(text for _ in range(400) for text, _ in read_back(task, task.train_batch(16, rng)))
    assert len(counts) == len(task.texts.parts["train"].ids) == 45
    expected = 400 * 16 / 45
    assert all(0.6 * expected < count < 1.4 * expected for count in counts.values())


def test_sst2_leaves_out_test_sentences_among_the_phrases(tmp_path):
    folder = write_sst2(tmp_path / "sst2")
    task = TASKS["sst2"](source=str(folder))
    assert task.texts.left_out == 1
    assert len(task.texts.parts["train"].ids) == 60 + 40
    assert TASKS["sst2"](source=str(folder), phrases=False).texts.left_out == 0
    (_, batch) = next(task.evaluation("test", task.reports[0]))
    assert set(read_back(task, batch)) == {(plain(text), mark) for text, mark in sentences(120)[-30:]}
    (folder / "glue" / "train.tsv").unlink()
    with pytest.raises(UserError, match=r"there is no train.tsv, and no glue/train.tsv; without phrases: --data.phrases=false"):
        TASKS["sst2"](source=str(folder), max_tokens=9).texts  # noqa: B018


def test_rotten_tomatoes_is_cut_in_the_order_of_its_files(tmp_path):
    task = TASKS["rotten_tomatoes"](source=str(write_rotten_tomatoes(tmp_path / "rt")))
    (_, batch) = next(task.evaluation("test", task.reports[0]))
    known = [[text for text, mark in sentences(40) if mark == label] for label in (0, 1)]
    wanted = {(f"{text} \N{EN DASH} clich\xe9", label) for label in (0, 1) for text in known[label][18:]}
    assert {(text.replace("<unk>", "clich\xe9"), label) for text, label in read_back(task, batch)} == wanted


def test_a_folder_of_tables_and_what_is_missing_in_it(tmp_path):
    write_table(tmp_path / "train.csv")
    write_table(tmp_path / "test.csv", 12)
    task = TASKS["text_classification"](source=str(tmp_path))
    assert task.format.classes == ("thumbs down", "thumbs up")
    sizes = {split: len(part.ids) for split, part in task.texts.parts.items()}
    assert sizes["test"] == 12
    assert task.texts.left_out > 0, "the test texts stand in train.csv too"
    assert sizes["validation"] > 0
    (tmp_path / "test.csv").write_text("id,label,text\n1,sideways,So so\n")
    with pytest.raises(UserError, match=r"test.csv, line 2: unknown label 'sideways'; have thumbs down, thumbs up"):
        TASKS["text_classification"](source=str(tmp_path), max_tokens=9).texts  # noqa: B018
    (tmp_path / "train.tsv").touch()
    with pytest.raises(UserError, match=r"train.csv and train.tsv are both for train; keep one"):
        TASKS["text_classification"](source=str(tmp_path), max_tokens=8).texts  # noqa: B018


def test_imdb_names_the_file(tmp_path):
    folder = write_imdb(tmp_path / "aclImdb")
    (folder / "train" / "pos" / "99_9.txt").write_bytes(b"good\nb\xe4d")
    with pytest.raises(UserError, match=r"99_9.txt, line 2: byte 0xe4 is not UTF-8"):
        TASKS["imdb"](source=str(folder)).texts  # noqa: B018
    (folder / "train" / "pos" / "99_9.txt").write_text(" ")
    with pytest.raises(UserError, match=r"99_9.txt: the text is empty"):
        TASKS["imdb"](source=str(folder), window=3).texts  # noqa: B018
    for path in (folder / "test" / "neg").glob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match=r"there is no \.txt file in test/neg"):
        TASKS["imdb"](source=str(folder), window=4).texts  # noqa: B018


def test_imdb_reads_all_files_of_the_larger_class(tmp_path):
    folder = write_imdb(tmp_path / "aclImdb")
    (folder / "test" / "pos" / "99_9.txt").write_text("good")
    task = TASKS["imdb"](source=str(folder))
    assert task.texts.parts["test"].labels.bincount().tolist() == [20, 21]


@pytest.mark.parametrize(("tokenizer", "size"), [("words", 40), ("bpe", 280), ("bytes", 0)])
def test_tokens_are_hidden_and_windows_cut(tokenizer, size, tmp_path):
    write_table(tmp_path / "a.csv")
    settings = dict(source=str(tmp_path / "a.csv"), tokenizer=tokenizer, vocab_size=size)
    plain_task, changed = TASKS["text_classification"](**settings), TASKS["text_classification"](**settings, token_dropout=0.5)
    whole = int(plain_task.texts.parts["train"].lengths.sum())
    rng = torch.Generator().manual_seed(0)
    ids = [changed.changed(one, rng) for one in changed.texts.parts["train"].ids]
    if tokenizer == "words":
        unknown = changed.format.tokenizer.unk_id
        assert sum(map(len, ids)) == whole
        assert 0.35 < sum(int((one == unknown).sum()) for one in ids) / whole < 0.65
    else:
        assert 0.4 < sum(map(len, ids)) / whole < 0.6
    assert all(len(one) for one in ids)
    window = TASKS["text_classification"](**settings, window=3)
    assert window.train_batch(8, rng).lengths.max() == 3
    assert int(window.texts.parts["test"].lengths.max()) > 3, "tests are read whole"


def test_settings_and_files_that_cannot_be(tmp_path):
    kind = TASKS["text_classification"]
    for settings, message in (
        (dict(window=-1), "data.window=-1 must not be negative"),
        (dict(token_dropout=1.0), r"data.token_dropout=1.0 must be in \[0, 1\)"),
        (dict(tokenizer="bpe", vocab_size=100), "data.vocab_size=100 must be at least 257"),
    ):
        with pytest.raises(UserError, match=message):
            kind(**settings)
    with pytest.raises(UserError, match=r"text_classification needs --data: a .csv"):
        kind().texts  # noqa: B018
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"good film {n},up\n" for n in range(40)))
    with pytest.raises(UserError, match="all training texts have the label 'up'"):
        kind(source=str(tmp_path / "a.csv")).texts  # noqa: B018
    (tmp_path / "b.csv").write_text("text,label\ngood film,up\n")
    with pytest.raises(UserError, match="there is no text for"):
        kind(source=str(tmp_path / "b.csv")).texts  # noqa: B018


@pytest.mark.parametrize("folder", [False, True])
def test_a_label_without_a_training_text_is_named(folder, tmp_path):
    """A hash of the words puts rare labels into any part."""
    path = tmp_path / "train.csv"
    common = "".join(f"film {n} of many,{'ab'[n % 2]}\n" for n in range(60))
    path.write_text("text,label\n" + common + "".join(f"a rare film {n},rare {n}\n" for n in range(8)))
    with pytest.raises(UserError) as caught:
        TASKS["text_classification"](source=str(tmp_path if folder else path)).texts  # noqa: B018
    assert "the label 'rare 5' has 1 text, in the test part, and none to train on (nor have " in str(caught.value)
    assert "give it more texts, leave it out" in str(caught.value)
