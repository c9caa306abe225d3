"""Images as sequences, from IDX files made here."""

import gzip
import struct

import numpy as np
import pytest
import torch

from openxlstm.data.idx import read_idx
from openxlstm.errors import UserError
from openxlstm.tasks import TASKS


def write_idx(path, array):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path):
    """40 + 12 images of 28 x 28 whose first pixel is their number and whose label is that number's last digit."""
    for name, count, suffix in (("train", 40, ".gz"), ("t10k", 12, "")):
        pixels = np.random.RandomState(0).randint(0, 256, (count, 28, 28))
        pixels[:, 0, 0] = np.arange(count)
        write_idx(tmp_path / f"{name}-images-idx3-ubyte{suffix}", pixels)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)
    return tmp_path


def task(folder, name="sequential_mnist", **settings):
    return TASKS[name](source=str(folder), **{"validation_samples": 10, **settings})


def numbers(batch):
    return (batch.inputs[:, 0, 0] * 255).round().long().tolist()


def test_the_parts_are_those_of_the_files(folder):
    mnist = task(folder)
    parts = {split: [b for _, b in mnist.evaluation(split, "784")] for split in ("train", "validation", "test")}
    assert {split: [n for b in batches for n in numbers(b)] for split, batches in parts.items()} == {
        "train": list(range(30)),
        "validation": list(range(30, 40)),
        "test": list(range(12)),
    }
    for batch in parts["test"]:
        assert batch.inputs.shape == (12, 784, 1)
        assert batch.scored.sum(1).eq(1).all()
        assert batch.targets[:, -1].tolist() == [n % 10 for n in numbers(batch)]


def test_lengths_that_images_do_not_have_are_refused(folder):
    for lengths in ("7", "1-784", "banana"):
        with pytest.raises(UserError, match=f"sequential_mnist has images of 784 steps, and none of '{lengths}'"):
            next(task(folder).evaluation("test", lengths))


def test_training_draws_from_the_training_part(folder):
    batch = task(folder).train_batch(300, torch.Generator().manual_seed(0))
    assert set(numbers(batch)) == set(range(30))
    assert 0 <= batch.inputs.min() <= batch.inputs.max() <= 1


def test_one_permutation_for_all(folder):
    plain, permuted = task(folder), task(folder, "permuted_mnist")
    for split in ("train", "test"):
        a, b = plain.images(split).pixels, permuted.images(split).pixels
        assert not torch.equal(a, b)
        assert torch.equal(a.sort(1).values, b.sort(1).values)
    first, second = ([t.images(split).pixels for split in ("train", "test")] for t in (plain, permuted))
    moved = [int((second[0] == column[:, None]).all(0).nonzero()[0, 0]) for column in first[0].T]  # pixel -> its new place
    assert torch.equal(second[1][:, moved], first[1]), "test images are permuted like training images"
    assert plain.anchors != permuted.anchors


def test_the_fingerprint_is_of_the_files(folder):
    from openxlstm.tasks.images import read_images

    before = task(folder).fingerprint
    write_idx(folder / "train-images-idx3-ubyte.gz", np.zeros((40, 28, 28)))
    read_images.cache_clear()
    assert task(folder).fingerprint != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.unlink(), "there is no t10k-images-idx3-ubyte or"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "holds 9,407 numbers, its header says 9,408; is it cut short"),
        (lambda f: f.write_bytes(b"hello"), "not an IDX file of bytes"),
        (lambda f: write_idx(f, np.zeros((11, 28, 28))), "do not belong together"),
    ],
)
def test_bad_files_are_named(folder, damage, message):
    from openxlstm.tasks.images import read_images

    read_images.cache_clear()
    damage(folder / "t10k-images-idx3-ubyte")
    with pytest.raises(UserError, match=message):
        task(folder).images("test")


def test_a_gzip_file_that_is_damaged_inside(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[:10] + b"\xff" * 9 + content[19:])
    with pytest.raises(UserError, match=r"labels-idx1-ubyte\.gz: cannot be read: Error -3 while decompressing"):
        read_idx(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("t10k-images-idx3-ubyte", np.zeros((12, 28, 20)), r"images of 28 x 20 pixels; those of MNIST have 28 x 28"),
        ("t10k-labels-idx1-ubyte", np.array([*range(11), 26]), r"image 11 has label 26, and there are ten; is it MNIST\?"),
    ],
)
def test_other_images_are_refused(folder, name, array, message):
    """Such as the letters of EMNIST, whose files have the same names and layout."""
    write_idx(folder / name, array)
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        task(folder).images("test")


def test_a_gzip_file_that_is_none(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"x\.gz: cannot be read"):
        read_idx(path)


def test_a_part_of_the_test_file(folder):
    (batch,) = [batch for _, batch in task(folder, test_samples=5).evaluation("test", "784")]
    assert numbers(batch) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="validation_samples=0 must be at least 1"):
        task(folder, validation_samples=0)


def test_missing_settings():
    with pytest.raises(UserError, match="sequential_mnist needs --data"):
        TASKS["sequential_mnist"]().images("train")


def test_too_many_for_validation(folder):
    with pytest.raises(UserError, match="leaves none of 40 images"):
        task(folder, validation_samples=40).images("train")
