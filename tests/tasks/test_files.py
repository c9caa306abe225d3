"""The fingerprints of tasks with files: other samples or answers anywhere, in the test part too, are other data."""

import struct

import numpy as np
import pytest

from openxlstm.tasks import TASKS
from openxlstm.tasks.files import FileTask, digest
from pianorolls import scales, write_mat
from reviews import write_imdb, write_sst2, write_table
from sensorfiles import write_engines, write_recordings
from sounds import write_digits
from wordpairs import write_summaries, write_translations


def mnist(folder):
    for name, count in (("train", 20), ("t10k", 5)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(head + bytes(int(np.prod(shape))))


def cifar(folder):
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(bytes(3073) * 2)


def listops(folder):
    for part in ("train", "val", "test"):
        (folder / f"basic_{part}.tsv").write_text("Source\tTarget\n( [MAX 1 ) 7 ) ] )\t7\n[MIN 1 2 ]\t1\n")


def retrieval(folder):
    for part in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{part}.tsv").write_text("1\tA1\tB1\tabc\tdefg\n0.0\tA1\tB2\tabc\tx\n")


def rolls(folder, moved=False):
    parts = {name: scales(count, 6) for name, count in (("traindata", 5), ("validdata", 3), ("testdata", 2))}
    if moved:
        parts["validdata"].append(parts["testdata"].pop(0))
    write_mat(folder / "Nottingham.mat", parts)


def table(folder):
    for name, first in (("train", 80), ("test", 20)):
        write_table(folder / f"{name}.csv", first)


def with_bytes(file, place, value):
    """Change one byte."""

    def change(folder):
        content = bytearray((folder / file).read_bytes())
        content[place] = value
        (folder / file).write_bytes(content)

    return change


def with_text(file, old, new):
    """Change some words where they stand last."""

    def change(folder):
        before, found, after = (folder / file).read_text(encoding="utf-8").rpartition(old)
        assert found
        (folder / file).write_text(before + new + after, encoding="utf-8")

    return change


def swapped(one, other):
    """Change which file has which name."""

    def change(folder):
        (folder / one).rename(folder / "aside")
        (folder / other).rename(folder / one)
        (folder / "aside").rename(folder / other)

    return change


def moved(one, other):
    return lambda folder: (folder / one).rename(folder / other)


CASES = {
    "sequential_mnist": (mnist, with_bytes("t10k-images-idx3-ubyte", -1, 9), with_bytes("t10k-labels-idx1-ubyte", -1, 9)),
    "lra_image": (cifar, with_bytes("test_batch.bin", -1, 200), with_bytes("test_batch.bin", 0, 9)),
    "lra_listops": (listops, with_text("basic_test.tsv", "2 ]", "3 ]"), with_text("basic_test.tsv", "\t1", "\t2")),
    "lra_retrieval": (
        retrieval,
        with_text("new_aan_pairs.test.tsv", "\tx", "\ty"),
        with_text("new_aan_pairs.test.tsv", "0.0", "1.0"),
    ),
    "lra_text": (
        write_imdb,
        with_text("test/pos/1_10.txt", "all", "All"),
        moved("test/pos/1_10.txt", "test/neg/1_1.txt"),
    ),
    "nottingham": (rolls, lambda folder: rolls(folder, moved=True)),
    "spoken_digits": (
        lambda folder: write_digits(folder, digits=range(2)),
        with_bytes("1_anna_0.wav", -1, 9),
        swapped("1_anna_0.wav", "0_anna_0.wav"),
    ),
    "sst2": (
        write_sst2,
        with_text("sentences/stsa.binary.test", " ", " dull "),
        with_text("sentences/stsa.binary.test", "\n1", "\n0"),
    ),
    "text_classification": (table, with_text("test.csv", "Well", "film"), with_text("test.csv", "thumbs up", "thumbs down")),
    "translation": (
        write_translations,
        with_text("test_numbers.de", "eins", "zwei"),
        with_text("test_numbers.en", "one", "two"),
    ),
    "summaries": (
        write_summaries,
        with_text("test.jsonl", "home.", "away."),
        with_text("test.jsonl", "apples were bought", "apples are bought"),  # a second summary: scored, but no token of it
    ),
    "turbofan": (
        write_engines,
        with_text("test_FD001.txt", "100.0 ", "100.0 9"),
        with_text("RUL_FD001.txt", "20", "21"),
    ),
    "activity": (write_recordings, with_text("Toy_TEST.ts", ".", ".9"), with_text("Toy_TEST.ts", "Run", "Rest")),
}
SETTINGS = {
    "sequential_mnist": {"validation_samples": 5},
    "lra_image": {"validation_samples": 4},
    "spoken_digits": {"validation_recordings": 1},
    "translation": {"vocab_size": 300},
    "summaries": {"vocab_size": 300},
    "turbofan": {"validation_engines": 2},
}
NEEDED = {"spoken_digits": "soundfile", "translation": "tokenizers", "summaries": "tokenizers"}


def fingerprint(name, folder, *changes):
    (folder / "files").mkdir(parents=True)
    for change in changes:
        change(folder / "files")
    return TASKS[name](source=str(folder / "files"), **SETTINGS.get(name, {})).fingerprint


@pytest.mark.parametrize("name", CASES)
def test_any_test_sample_and_any_label_is_in_the_fingerprint(name, tmp_path):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    write, *changes = CASES[name]
    before = fingerprint(name, tmp_path / "before", write)
    assert fingerprint(name, tmp_path / "again", write) == before, "where files are does not matter"
    for number, change in enumerate(changes):
        assert fingerprint(name, tmp_path / str(number), write, change) != before


def test_no_task_with_files_is_left_out():
    def home(name):
        return next(kind for kind in TASKS[name].__mro__ if "content" in vars(kind))

    assert {home(name) for name, kind in TASKS.items() if issubclass(kind, FileTask)} == {home(name) for name in CASES}


def test_a_hash_of_arrays_knows_where_they_end():
    a, b, c = (np.array([number], np.uint16) for number in range(3))
    joined = np.concatenate([a, b])
    assert len({digest(arrays) for arrays in ([a, b, c], [joined, c], [a, np.concatenate([b, c])], [a, b])}) == 4
