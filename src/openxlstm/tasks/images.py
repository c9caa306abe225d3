"""Images read pixel by pixel."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data.idx import read_idx
from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.published import tcn_anchors
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, Split, Task, nothing_scored

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SIDE = 28  # pixels of MNIST's images
STEPS_AT_ONCE = 65_536  # in a batch for evaluation
PERMUTATION_SEED = 92916  # of the one fixed order; any number would do


class Images(NamedTuple):
    """Images and their labels."""

    pixels: Tensor  # [N, T] or, in colour, [N, T, 3] uint8, in the order of reading
    labels: Tensor  # [N] int64


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Which class is the image? Known at its last pixel."""

    classes: ClassVar[int]

    @property
    @abstractmethod
    def steps(self) -> int:
        """Pixels of an image."""

    @abstractmethod
    def images(self, split: Split) -> Images:
        """One of the three parts."""

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=1, num_classes=self.classes)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    def chance(self, length: int) -> float:
        """One of the classes."""
        return 1 / self.classes

    @property
    def trained(self) -> str:
        return str(self.steps)

    @property
    def reports(self) -> tuple[str, ...]:
        return (str(self.steps),)

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        images = self.images("train")
        return self.batch(images, torch.randint(len(images.labels), (batch,), generator=rng))

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        """lengths: that of `reports`. Raises UserError for another."""
        if lengths not in self.reports:
            raise UserError(f"task {self.name} has images of {self.steps} steps, and none of {lengths!r}")
        images = self.images(split)
        for rows in torch.arange(len(images.labels)).split(max(STEPS_AT_ONCE // self.steps, 1)):
            yield lengths, self.batch(images, rows)

    def batch(self, images: Images, rows: Tensor) -> Batch:
        """Some of the images, as numbers from 0 to 1."""
        pixels = images.pixels[rows].float().div(255).view(len(rows), self.steps, -1)  # [B, T, F]
        targets = nothing_scored(len(rows), self.steps)
        targets[:, -1] = images.labels[rows]
        return Batch(pixels, targets, torch.full((len(rows),), self.steps))


@dataclass(frozen=True, kw_only=True)
class ImageFiles(ImageTask, FileTask):
    """The same for images in files.

    source: where the files are.
    test_samples: images of the test part, from its beginning; 0 = all of them.
    """

    test_samples: int = 0

    def __post_init__(self) -> None:
        if self.test_samples < 0:
            raise UserError(f"data.test_samples={self.test_samples} must be at least 0")

    @property
    def description(self) -> str:
        return f"task {self.name}: {len(self.images('train').labels):,} images of {self.source} to train on"

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        yield from (part.numpy() for part in self.images(split))

    def images(self, split: Split) -> Images:
        """One of the three parts. Raises UserError where the files are not there or not the task's."""
        self.check_source()
        found = self.read(split)
        few = slice(self.test_samples or None if split == "test" else None)
        return Images(*(part[few] for part in found))

    @abstractmethod
    def read(self, split: Split) -> Images:
        """A part of the files."""


@dataclass(frozen=True, kw_only=True)
class SplitFiles(ImageFiles):
    """The same where files are for training or test, and validation is the end of those for training.

    source: where the files are.
    validation_samples: images at the end of the training files that are kept for validation.
    test_samples: images of the test files, from their beginning; 0 = all of them.
    """

    validation_samples: int = 1000

    def __post_init__(self) -> None:
        if self.validation_samples < 1:
            raise UserError(f"data.validation_samples={self.validation_samples} must be at least 1")
        super().__post_init__()

    def read(self, split: Split) -> Images:
        found = self.read_part("test" if split == "test" else "train")
        if split == "test":
            return found
        kept = len(found.labels) - self.validation_samples
        if kept < 1:
            raise UserError(
                f"data.validation_samples={self.validation_samples} leaves none of {len(found.labels)} images to train on"
            )
        return Images(*(part[:kept] if split == "train" else part[kept:] for part in found))

    @abstractmethod
    def read_part(self, part: str) -> Images:
        """All "train" or "test" images."""


@dataclass(frozen=True, kw_only=True)
class SequentialMNIST(SplitFiles):
    """Which digit is it? Known at the last of 784 pixels, in the order of reading.

    Le et al. 2015 ("A simple way to initialize recurrent networks"). The split is that of the files; validation is the end of
    the training file.

    source: the folder with MNIST's four IDX files, as they are or with `.gz`.
    validation_samples: images at the end of the training file that are kept for validation.
    test_samples: images of the test file, from its beginning; 0 = all of them.
    """

    name: ClassVar[str] = "sequential_mnist"
    needs: ClassVar[str] = "a folder with MNIST's four IDX files"
    classes: ClassVar[int] = 10
    permuted: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        return SIDE**2

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(LSTM=0.872, GRU=0.962, TCN=0.990)

    def read_part(self, part: str) -> Images:
        return read_images(self.source, part, self.permuted)


@dataclass(frozen=True, kw_only=True)
class PermutedMNIST(SequentialMNIST):
    """Which digit is it? As sequential_mnist, with the pixels of all images in one fixed random order.

    Le et al. 2015.

    source: the folder with MNIST's four IDX files, as they are or with `.gz`.
    """

    name: ClassVar[str] = "permuted_mnist"
    permuted: ClassVar[bool] = True

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(LSTM=0.857, GRU=0.873, TCN=0.972)


@lru_cache(maxsize=4)
def read_images(folder: str, part: str, permuted: bool) -> Images:
    """The images of the "train" or "test" files in a folder, a row each. Raises UserError for other files than MNIST's, or such
    as have the same layout, 28 x 28 pixels of ten classes."""
    files = []
    for name in FILES[part]:
        found = [path for path in (Path(folder, name), Path(folder, f"{name}.gz")) if path.is_file()]
        if not found:
            raise UserError(f"{folder}: there is no {name} or {name}.gz")
        files.append(read_idx(found[0]))
    pixels, labels = files
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        raise UserError(f"{folder}: {FILES[part][0]} {pixels.shape} and {FILES[part][1]} {labels.shape} do not belong together")
    if pixels.shape[1:] != (SIDE, SIDE):
        height, width = pixels.shape[1:]
        raise UserError(f"{folder}: {FILES[part][0]}: images of {height} x {width} pixels; those of MNIST have {SIDE} x {SIDE}")
    if len(labels) and (worst := int(labels.max())) > 9:
        number = int(labels.argmax())
        raise UserError(f"{folder}: {FILES[part][1]}: image {number} has label {worst}, and there are ten; is it MNIST?")
    rows = torch.from_numpy(pixels.reshape(len(pixels), -1).copy())
    if permuted:
        # RandomState, unlike other generators, promises the same numbers in every version
        rows = rows[:, np.random.RandomState(PERMUTATION_SEED).permutation(rows.shape[1])]
    return Images(rows, torch.from_numpy(labels.astype("int64")))
