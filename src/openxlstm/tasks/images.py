"""Images read pixel by pixel."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from openxlstm.data.idx import read_idx
from openxlstm.errors import UserError
from openxlstm.tasks.published import tcn_anchors
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, Split, Task, nothing_scored

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
STEPS_AT_ONCE = 65_536  # in a batch for evaluation
PERMUTATION_SEED = 92916  # of the one fixed order; any number would do


class Images(NamedTuple):
    """Images and their labels."""

    pixels: Tensor  # [N, T] uint8
    labels: Tensor  # [N] int64


@dataclass(frozen=True, kw_only=True)
class SequentialMNIST(Task):
    """Which digit is it? Known at the last of 784 pixels, in the order of reading.

    Le et al. 2015 ("A simple way to initialize recurrent networks"). The split is that of the files; validation is the end of
    the training file.

    source: the folder with MNIST's four IDX files, as they are or with `.gz`.
    validation_samples: images at the end of the training file that are kept for validation.
    """

    name: ClassVar[str] = "sequential_mnist"
    permuted: ClassVar[bool] = False

    source: str = ""
    validation_samples: int = 5000

    def __post_init__(self) -> None:
        if self.validation_samples < 1:
            raise UserError(f"data.validation_samples={self.validation_samples} must be at least 1")

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=1, num_classes=10)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tcn_anchors(LSTM=0.872, GRU=0.962, TCN=0.990)

    def chance(self, length: int) -> float:
        """One of ten digits."""
        return 0.1

    @property
    def trained(self) -> str:
        return "784"

    @property
    def reports(self) -> tuple[str, ...]:
        return ("784",)

    @property
    def description(self) -> str:
        return f"task {self.name}: {len(self.images('train').labels):,} images of {self.source} to train on"

    @property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for part in self.images("train"):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        images = self.images("train")
        return self._batch(images, torch.randint(len(images.labels), (batch,), generator=rng))

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        images = self.images(split)
        for rows in torch.arange(len(images.labels)).split(STEPS_AT_ONCE // images.pixels.shape[1]):
            yield lengths, self._batch(images, rows)

    def images(self, split: Split) -> Images:
        """One of the three parts. Raises UserError where the files are not there or not MNIST."""
        if not self.source:
            raise UserError(f"task {self.name} needs --data: the folder with MNIST's four IDX files")
        pixels, labels = read_images(self.source, "test" if split == "test" else "train", self.permuted)
        if split == "test":
            return Images(pixels, labels)
        kept = len(labels) - self.validation_samples
        if kept < 1:
            raise UserError(
                f"data.validation_samples={self.validation_samples} leaves none of {len(labels)} images to train on"
            )
        part = slice(kept) if split == "train" else slice(kept, None)
        return Images(pixels[part], labels[part])

    def _batch(self, images: Images, rows: Tensor) -> Batch:
        pixels = images.pixels[rows].float() / 255  # [B, T]
        targets = nothing_scored(*pixels.shape)
        targets[:, -1] = images.labels[rows]
        return Batch(pixels[..., None], targets, torch.full((len(rows),), pixels.shape[1]))


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
    """The images of the "train" or "test" files in a folder, a row each."""
    files = []
    for name in FILES[part]:
        found = [path for path in (Path(folder, name), Path(folder, f"{name}.gz")) if path.is_file()]
        if not found:
            raise UserError(f"{folder}: there is no {name} or {name}.gz")
        files.append(read_idx(found[0]))
    pixels, labels = files
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        raise UserError(f"{folder}: {FILES[part][0]} {pixels.shape} and {FILES[part][1]} {labels.shape} do not belong together")
    rows = torch.from_numpy(pixels.reshape(len(pixels), -1).copy())
    if permuted:
        # RandomState, unlike other generators, promises the same numbers in every version
        rows = rows[:, np.random.RandomState(PERMUTATION_SEED).permutation(rows.shape[1])]
    return Images(rows, torch.from_numpy(labels.astype("int64")))
