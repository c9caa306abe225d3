"""Image files, made here."""

import io
import re
import sys
import tarfile

import numpy as np
import pytest

from openxlstm.data.folders import files_in
from openxlstm.data.image import decode, read_cifar_batch
from openxlstm.errors import UserError

TEXT = re.compile(r"(?:^|/)part/(\w+)\.txt$")


@pytest.fixture
def folder(tmp_path):
    for name in ("top/part/b.txt", "top/part/a.txt", "top/part/c.csv", "top/other/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "top"


def test_files_of_a_folder_and_of_a_tar_file(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(folder, "./top")
    found = {}
    for source in (folder, folder.parent, folder / "part", tmp_path / "x.tar.gz"):
        found[source] = [(match[1], content) for match, content in files_in(source, TEXT)]
        assert sorted(found[source]) == [("a", b"top/part/a.txt"), ("b", b"top/part/b.txt")], source
    assert [name for name, _ in found[folder]] == ["a", "b"], "a folder in the order of the names"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.write_bytes(b"not a tar file"), "cannot be read as a tar file"),
        (lambda path: path.write_bytes(packed()[:-300]), "cannot be read as a tar file.*is it cut short"),
        (lambda path: path.write_bytes(packed()[:700] + b"\xff" * 9), "cannot be read as a tar file.*damaged"),
    ],
)
def test_what_is_no_tar_file(tmp_path, make, message):
    make(tmp_path / "x.tar.gz")
    with pytest.raises(UserError, match=rf"x\.tar\.gz: {message}"):
        list(files_in(tmp_path / "x.tar.gz", TEXT))


def packed():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        info = tarfile.TarInfo("part/a.txt")
        info.size = 1000
        tar.addfile(info, io.BytesIO(np.random.RandomState(0).bytes(1000)))
    return file.getvalue()


def png(array):
    Image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_png():
    array = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    assert (decode(png(array), "x", "RGB") == array).all()
    grey = decode(png(array[..., 0]), "x", "L")
    assert (grey == array[..., 0]).all()
    assert decode(png(array), "x", "L").shape == (5, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is no PNG"), (b"hello", "is no PNG"), (b"GIF89a" + b"\0" * 40, "is no PNG"), (None, "cannot")],
)
def test_images_that_cannot_be_read(content, message):
    whole = png(np.random.RandomState(0).randint(0, 256, (30, 30, 3)).astype(np.uint8))
    with pytest.raises(UserError, match=f"x.png: {message}"):
        decode(whole[:900] if content is None else content, "x.png", "L")


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"reading PNG and JPEG images needs the package 'pillow'.*openxlstm\[images\]"):
        decode(b"", "x.png", "L")


def test_cifar_batches():
    images = np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    content = b"".join(bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in zip((4, 0, 9), images))
    found, labels = read_cifar_batch(content, "x.bin")
    assert (found == images).all()
    assert labels.tolist() == [4, 0, 9]
    for bad, message in (
        (content[:-1], "x.bin: 9,218 bytes are not a number of images of 3,073 bytes; is it cut short"),
        (b"", "0 bytes"),
        (b"\x0a" + content[1:], "image 0 has label 10"),
    ):
        with pytest.raises(UserError, match=message):
            read_cifar_batch(bad, "x.bin")
