"""Image files in the layouts of CIFAR-10's and Long Range Arena's releases, made here."""

import shutil
import tarfile

import numpy as np
import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from openxlstm.tasks.arena_images import _as_steps, read_cifar, read_pathfinder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def nothing_remembered():
    for cache in (_as_steps, read_cifar, read_pathfinder):
        cache.cache_clear()


def save(path, array):
    Image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def pack(folder):
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path


@pytest.fixture
def binary(tmp_path):
    """Image n of five files of six for training is all (n, 100, 200), of those for testing (n, 0, 0); labels are n % 10."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()

    def records(numbers, green, blue):
        return b"".join(bytes([n % 10]) + bytes([n]) * 1024 + bytes([green]) * 1024 + bytes([blue]) * 1024 for n in numbers)

    for file in range(5):
        (folder / f"data_batch_{file + 1}.bin").write_bytes(records(range(6 * file, 6 * file + 6), 100, 200))
    (folder / "test_batch.bin").write_bytes(records(range(12), 0, 0))
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES))
    return folder


def cifar(source, **settings):
    return TASKS["lra_image"](source=str(source), **{"validation_samples": 4, **settings})


def test_cifar_in_its_binary_version(binary):
    for source in (binary, binary.parent, pack(binary)):
        colour = cifar(source, color=True)
        parts = {split: [b for _, b in colour.evaluation(split, "1024")] for split in ("train", "validation", "test")}
        numbers = {split: [n for b in batches for n in red(b)] for split, batches in parts.items()}
        assert numbers == {"train": list(range(26)), "validation": list(range(26, 30)), "test": list(range(12))}
        (batch,) = parts["validation"]
        assert batch.inputs.shape == (4, 1024, 3)
        assert (batch.inputs[:, :, 1:] * 255).round().unique().tolist() == [100, 200]
        assert batch.scored.sum(1).eq(1).all()
        assert batch.targets[:, -1].tolist() == [6, 7, 8, 9]
        assert batch.lengths.tolist() == [1024] * 4


def red(batch):
    return (batch.inputs[:, 0, 0] * 255).round().long().tolist()


def test_grey_is_what_the_eye_sees(binary):
    grey = cifar(binary).images("train").pixels
    assert grey.shape == (26, 1024, 1)
    assert grey[10].unique().tolist() == [round(0.299 * 10 + 0.587 * 100 + 0.114 * 200)]
    assert cifar(binary).signature.input_dim == 1


def test_classes_of_a_folder_in_turn(tmp_path):
    draw = np.random.RandomState(0)
    images = {}
    for part, count in (("train", 3), ("test", 2)):
        for label, kind in enumerate(CLASSES):
            for number in range(count):
                images[part, number, label] = draw.randint(0, 256, (32, 32, 3))
                save(
                    tmp_path / "small" / part / kind / f"{number:04}.{'PNG' if number else 'png'}", images[part, number, label]
                )
    for source in (tmp_path / "small", pack(tmp_path / "small")):
        task = cifar(source, color=True, validation_samples=10, test_samples=15)
        assert task.images("train").labels.tolist() == list(range(10)) * 2
        assert task.images("validation").labels.tolist() == list(range(10))
        assert task.images("test").labels.tolist() == [*range(10), *range(5)]
        found = task.images("validation").pixels[4]  # row by row, red, green and blue together
        assert (found.reshape(32, 32, 3).numpy() == images["train", 2, 4]).all()
    assert "20 images" in task.description
    pooled = cifar(source, color=True, pool=2).images("train").pixels.reshape(-1, 16, 16, 3)
    assert pooled[0, 5, 2].tolist() == images["train", 0, 0][10:12, 4:6].reshape(4, 3).mean(0).round().tolist()
    assert cifar(source, pool=2).reports == ("256",)
    assert cifar(source, pool=2).train_batch(3, torch.Generator()).inputs.shape == (3, 256, 1)
    plain, either = (
        cifar(source, color=True, pool=2, mirror=mirror).train_batch(64, torch.Generator().manual_seed(0))
        for mirror in (False, True)
    )
    assert torch.equal(plain.targets, either.targets)
    before, after = (batch.inputs.reshape(64, 16, 16, 3) for batch in (plain, either))
    same = (after == before).flatten(1).all(1)
    assert 16 < same.sum() < 48
    assert torch.equal(after[~same], before[~same].flip(2))


def refusal(task):
    with pytest.raises(UserError) as caught:
        task.images("train")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cifar_refuses(binary, tmp_path):
    assert "needs --data: CIFAR-10: the folder cifar-10-batches-bin" in refusal(TASKS["lra_image"]())
    assert "nowhere: no such file or folder" in refusal(cifar("nowhere"))
    (tmp_path / "empty").mkdir()
    assert "found 0 classes in train and 0 in test, expected the same ten" in refusal(cifar(tmp_path / "empty"))
    assert "validation_samples=30 leaves none of 30 images" in refusal(cifar(binary, validation_samples=30))

    cut = binary / "data_batch_3.bin"
    cut.write_bytes(cut.read_bytes()[:-1])
    read_cifar.cache_clear()
    _as_steps.cache_clear()
    assert "data_batch_3.bin: 18,437 bytes are not a number of images" in refusal(cifar(binary))
    cut.unlink()
    assert "there is no data_batch_3.bin" in refusal(cifar(binary))
    for path in binary.glob("*.bin"):
        path.rename(path.with_suffix(""))
    assert "data_batch_1 is of CIFAR-10's Python version, pickles" in refusal(cifar(binary))
    with pytest.raises(UserError, match=r"data\.pool=3 does not divide the 32 pixels"):
        cifar(binary, pool=3)
    save(tmp_path / "other" / "train" / "cat" / "1.png", np.zeros((28, 30)))
    assert "train/cat/1.png has 30 x 28 pixels; those of CIFAR-10 have 32 x 32" in refusal(cifar(tmp_path / "other"))


@pytest.fixture
def pictures(tmp_path):
    """Two difficulties of 20 and 30 pictures in files of ten; number n of the second begins with pixels n, 1."""
    for mark, (kind, count) in enumerate((("curv_baseline", 20), ("curv_contour_length_14", 30))):
        for first in range(0, count, 10):
            lines = []
            for n in range(first, first + 10):
                picture = np.zeros((32, 32))
                picture[0, :2] = n, mark
                save(tmp_path / "pathfinder32" / kind / "imgs" / str(first // 10) / f"sample_{n}.png", picture)
                lines.append(f"imgs/{first // 10} sample_{n}.png {n} {n % 2} 1.0 6 2 2 0.5 1 1\n")
            (tmp_path / "pathfinder32" / kind / "metadata").mkdir(exist_ok=True)
            (tmp_path / "pathfinder32" / kind / "metadata" / f"{first // 10}.npy").write_text("".join(lines))
    return tmp_path / "pathfinder32"


def pathfinder(source, **settings):
    return TASKS["lra_pathfinder"](source=str(source), **settings)


def test_pathfinder(pictures):
    hard = pictures / "curv_contour_length_14"
    shutil.move(hard / "metadata" / "0.npy", hard / "metadata" / "10.npy")  # in the order of numbers: after 2
    order = [*range(10, 30), *range(10)]
    for source in (pictures, hard, pack(pictures)):
        task = pathfinder(source)
        parts = {split: task.images(split) for split in ("train", "validation", "test")}
        numbers = {split: found.pixels[:, 0].tolist() for split, found in parts.items()}
        assert numbers == {"train": order[:24], "validation": order[24:27], "test": order[27:]}
        assert all(found.labels.tolist() == [n % 2 for n in numbers[split]] for split, found in parts.items())
        ((_, batch),) = task.evaluation("test", task.reports[0])
        assert batch.inputs.shape == (3, 1024, 1)
        assert batch.targets[:, -1].tolist() == [1, 0, 1]
        assert batch.scored.sum() == 3
        assert task.anchors
    both = pathfinder(pictures, difficulties=("curv_baseline", "curv_contour_length_14"), test_samples=4)
    assert both.images("test").pixels[:, :2].tolist() == [[18, 0], [19, 0], [7, 1], [8, 1]]
    assert len(both.images("train").labels) == 16 + 24
    assert both.fingerprint != task.fingerprint
    assert not both.anchors


def test_pathfinder_refuses(pictures, tmp_path):
    assert "task lra_pathfinder needs --data: the folder pathfinder32" in refusal(TASKS["lra_pathfinder"]())
    assert "no curv_contour_length_9/metadata/<n>.npy; have curv_baseline, curv_contour_length_14;" in refusal(
        pathfinder(pictures, difficulties=("curv_contour_length_9",))
    )
    assert "sample_0.png has 32 x 32 pixels, not 128 x 128 (--data.size)" in refusal(pathfinder(pictures, size=128))
    hard = pictures / "curv_contour_length_14"
    (hard / "imgs" / "1" / "sample_12.png").rename(tmp_path / "kept.png")
    assert "there is no curv_contour_length_14/imgs/1/sample_12.png, which the metadata names; 1 picture" in refusal(
        pathfinder(pictures)
    )
    (hard / "imgs" / "1" / "sample_12.png").write_bytes((tmp_path / "kept.png").read_bytes()[:40])
    assert "imgs/1/sample_12.png: is no PNG or JPEG image" in refusal(pathfinder(pictures))
    with (hard / "metadata" / "2.npy").open("a") as file:
        file.write("imgs/2 sample_30.png 30\n")
    shutil.move(tmp_path / "kept.png", hard / "imgs" / "1" / "sample_12.png")
    assert "metadata/2.npy, line 11: expected folder, file, number and label 0 or 1, got 'imgs/2" in refusal(
        pathfinder(pictures)
    )
    np.save(hard / "metadata" / "2.npy", np.zeros(3))
    assert "metadata/2.npy, line 1: expected folder" in refusal(pathfinder(pictures))
    for wrong in ((), ("a", "a")):
        with pytest.raises(UserError, match="must name at least one folder"):
            pathfinder(pictures, difficulties=wrong)
    short = "imgs/0 sample_0.png 0 0\nimgs/0 sample_1.png 1 1\n"
    for number in range(2):
        (pictures / "curv_baseline" / "metadata" / f"{number}.npy").write_text(short * (number == 0))
    assert "curv_baseline has 2 pictures, too few for three parts" in refusal(
        pathfinder(pictures, difficulties=("curv_baseline",))
    )


def test_published_scores_are_of_the_same_images():
    scores = {color: {a.model: a.score for a in cifar("x", color=color).anchors} for color in (False, True)}
    assert scores[False]["xLSTM[0:1]"] == 0.695
    assert scores[True]["xLSTM[0:1]"] == 0.761
    assert not cifar("x", pool=2).anchors
    assert "LSTM (Block)" not in {a.model for a in pathfinder("x").anchors}, "it failed"
