"""The image tasks of Long Range Arena (Tay et al. 2020, arXiv 2011.04006), from files: CIFAR-10 and Pathfinder."""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from openxlstm.data.folders import files_in
from openxlstm.data.image import CIFAR_SIDE, decode, read_cifar_batch
from openxlstm.errors import UserError
from openxlstm.tasks.images import ImageFiles, Images, SplitFiles
from openxlstm.tasks.published import LONG_RANGE_ARENA
from openxlstm.tasks.task import Anchor, Batch, Signature, Split

BATCHES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
CIFAR = re.compile(
    r"(?:^|/)(?:(?P<batch>(?:data_batch_[1-5]|test_batch)(?:\.bin)?)"
    r"|(?P<part>train|test)/(?P<kind>[^/]+)/(?P<name>[^/]+\.(?i:png|jpe?g)))$"
)
Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images [N, 32, 32, 3] and labels [N]
GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class ArenaImage(SplitFiles):
    """What is in the picture? CIFAR-10, pixel by pixel and grey, as in Long Range Arena.

    The images of CIFAR-10 (Krizhevsky 2009). Of a folder of images the classes are taken in turn. Validation is the end of the
    training images; in Long Range Arena it has 5,000 of them.

    source: CIFAR-10 in its binary version, the folder cifar-10-batches-bin or cifar-10-binary.tar.gz; or a folder or .tar.gz of
        images `{train,test}/<class>/<name>.png` or `.jpg`.
    color: three numbers a pixel, red, green and blue, instead of one.
    pool: averages of so many times so many pixels are read instead of pixels: 2 makes 256 steps of 1,024.
    mirror: every other training image, by chance, is read from right to left. Usual for CIFAR-10, but not in Long Range Arena.
    validation_samples: images at the end of the training part that are kept for validation.
    test_samples: images of the test part, from its beginning; 0 = all of them.
    """

    name: ClassVar[str] = "lra_image"
    needs: ClassVar[str] = (
        "CIFAR-10: the folder cifar-10-batches-bin, or a folder or .tar.gz of {train,test}/<class>/<name>.png"
    )
    classes: ClassVar[int] = 10

    color: bool = False
    pool: int = 1
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.pool < 1 or CIFAR_SIDE % self.pool:
            raise UserError(
                f"data.pool={self.pool} does not divide the {CIFAR_SIDE} pixels of a row; choose 1, 2, 4, 8, 16 or 32"
            )
        super().__post_init__()

    @property
    def steps(self) -> int:
        return (CIFAR_SIDE // self.pool) ** 2

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=3 if self.color else 1, num_classes=self.classes)

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return LONG_RANGE_ARENA[f"lra_image{'_color' * self.color}"] if self.pool == 1 else ()

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        found = super().train_batch(batch, rng)
        if not self.mirror:
            return found
        side = CIFAR_SIDE // self.pool
        mirrored = found.inputs.unflatten(1, (side, side)).flip(2).flatten(1, 2)
        chosen = torch.rand(batch, 1, 1, generator=rng) < 0.5
        return found._replace(inputs=torch.where(chosen, mirrored, found.inputs))

    def read_part(self, part: str) -> Images:
        return _as_steps(self.source, part, self.color, self.pool)


@lru_cache(maxsize=4)
def _as_steps(source: str, part: str, color: bool, pool: int) -> Images:
    pixels, labels = read_cifar(source)[part]
    side = CIFAR_SIDE // pool
    rows = []
    for some in np.array_split(pixels, max(len(pixels) // 1000, 1)):  # floats of all would be large
        values = some.astype(np.float32)
        values = values if color else (values @ GREY.astype(np.float32))[..., None]
        values = values.reshape(len(some), side, pool, side, pool, -1).mean((2, 4))
        rows.append(values.round().astype(np.uint8).reshape(len(some), side * side, -1))
    return Images(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(labels.astype(np.int64)))


@lru_cache(maxsize=1)
def read_cifar(source: str) -> dict[str, Part]:
    """ "train" and "test". Raises UserError for other files."""
    batches: dict[str, Part] = {}
    images: dict[tuple[str, str], list[tuple[str, NDArray[np.uint8]]]] = {}  # (part, class) -> (name, image)
    for found, content in files_in(source, CIFAR):
        where = f"{source}: {found[0].lstrip('/')}"
        if found["batch"]:
            if not found["batch"].endswith(".bin"):
                raise UserError(
                    f"{where} is of CIFAR-10's Python version, pickles, which can run any program and are not loaded; get the "
                    "binary version, cifar-10-binary.tar.gz"
                )
            batches[found["batch"]] = read_cifar_batch(content, where)
        else:
            image = decode(content, where, "RGB")
            if image.shape != (CIFAR_SIDE, CIFAR_SIDE, 3):
                raise UserError(f"{where} has {image.shape[1]} x {image.shape[0]} pixels; those of CIFAR-10 have 32 x 32")
            images.setdefault((found["part"], found["kind"]), []).append((found["name"], image))
    return _joined(source, batches) if batches else _by_class(source, images)


def _joined(source: str, batches: dict[str, Part]) -> dict[str, Part]:
    missing = [name for names in BATCHES.values() for name in names if name not in batches]
    if missing:
        raise UserError(f"{source}: there is no {', '.join(missing)}")
    return {
        part: (np.concatenate([batches[name][0] for name in names]), np.concatenate([batches[name][1] for name in names]))
        for part, names in BATCHES.items()
    }


def _by_class(source: str, images: dict[tuple[str, str], list[tuple[str, NDArray[np.uint8]]]]) -> dict[str, Part]:
    kinds = {part: sorted(kind for place, kind in images if place == part) for part in BATCHES}
    if kinds["train"] != kinds["test"] or len(kinds["train"]) != 10:
        raise UserError(
            f"{source}: found {len(kinds['train'])} classes in train and {len(kinds['test'])} in test, expected the same ten; "
            f"task lra_image needs {ArenaImage.needs}"
        )
    parts = {}
    for part in BATCHES:
        in_turn = sorted(
            (
                (place, label, image)
                for label, kind in enumerate(kinds[part])
                for place, (_, image) in enumerate(sorted(images[part, kind], key=lambda named: named[0]))
            ),
            key=lambda entry: entry[:2],
        )
        parts[part] = np.stack([image for *_, image in in_turn]), np.array([label for _, label, _ in in_turn], np.uint8)
    return parts


@dataclass(frozen=True, kw_only=True)
class ArenaPathfinder(ImageFiles):
    """Are two dots joined by a dashed path? Pixel by pixel, as in Long Range Arena.

    The pictures of Linsley et al. 2018 (arXiv 1805.08315). Of every difficulty the first 80 % are for training, then 10 % each
    for validation and test, in the order of the metadata.

    source: the folder pathfinder32, or a .tar.gz of it, with `<difficulty>/imgs/<n>/sample_<i>.png` and
        `<difficulty>/metadata/<n>.npy`; or pathfinder128, which is Path-X.
    difficulties: which of its folders; Long Range Arena scores the one that is given here, the hardest.
    size: of the square pictures.
    test_samples: pictures of the test part, from its beginning; 0 = all of them.
    """

    name: ClassVar[str] = "lra_pathfinder"
    needs: ClassVar[str] = "the folder pathfinder32, with <difficulty>/imgs and <difficulty>/metadata, or a .tar.gz of it"
    classes: ClassVar[int] = 2

    difficulties: tuple[str, ...] = ("curv_contour_length_14",)
    size: int = 32

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"data.size={self.size} must be at least 1")
        if not self.difficulties or len(set(self.difficulties)) < len(self.difficulties):
            raise UserError(f"data.difficulties={','.join(self.difficulties)!r} must name at least one folder, and none twice")
        super().__post_init__()

    @property
    def steps(self) -> int:
        return self.size**2

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        hardest = self.difficulties == ("curv_contour_length_14",) and self.size == 32
        return LONG_RANGE_ARENA[self.name] if hardest else ()

    def read(self, split: Split) -> Images:
        return read_pathfinder(self.source, self.difficulties, self.size)[split]


@lru_cache(maxsize=1)
def read_pathfinder(source: str, difficulties: tuple[str, ...], size: int) -> dict[Split, Images]:
    """The three parts, of every difficulty in turn. Raises UserError for other files."""
    wanted = re.compile(r"(?:^|/)(?P<kind>[^/]+)/(?:metadata/(?P<number>\d+)\.npy|(?P<picture>imgs/[^/]+/[^/]+\.png))$")
    pictures: dict[tuple[str, str], NDArray[np.uint8]] = {}
    lines: dict[str, dict[int, list[tuple[str, int]]]] = {}  # difficulty -> file -> (picture, label)
    others = set()
    for found, content in files_in(source, wanted):
        kind, where = found["kind"], f"{source}: {found[0].lstrip('/')}"
        if kind not in difficulties:
            others.add(kind)
        elif found["picture"]:
            picture = decode(content, where, "L")
            if picture.shape != (size, size):
                raise UserError(
                    f"{where} has {picture.shape[1]} x {picture.shape[0]} pixels, not {size} x {size} (--data.size)"
                )
            pictures[kind, found["picture"]] = picture.reshape(-1)
        else:
            lines.setdefault(kind, {})[int(found["number"])] = _metadata(content, where)
    parts: dict[Split, list[Images]] = {"train": [], "validation": [], "test": []}
    for kind in difficulties:
        if kind not in lines:
            have = f"; have {', '.join(sorted(others | set(lines)))}" if others or lines else ""
            raise UserError(
                f"{source}: there is no {kind}/metadata/<n>.npy{have}; task lra_pathfinder needs {ArenaPathfinder.needs}"
            )
        pairs = [pair for number in sorted(lines[kind]) for pair in lines[kind][number]]
        lost = [picture for picture, _ in pairs if (kind, picture) not in pictures]
        if lost:
            raise UserError(
                f"{source}: there is no {kind}/{lost[0]}, which the metadata names; {len(lost):,} pictures are missing"
            )
        cuts = [len(pairs) * tenths // 10 for tenths in (0, 8, 9, 10)]
        if len(set(cuts)) < 4:
            raise UserError(f"{source}: {kind} has {len(pairs)} pictures, too few for three parts")
        for split, (start, stop) in zip(parts, itertools.pairwise(cuts)):
            pixels = np.stack([pictures[kind, picture] for picture, _ in pairs[start:stop]])
            parts[split].append(Images(torch.from_numpy(pixels), torch.tensor([label for _, label in pairs[start:stop]])))
    return {split: Images(*(torch.cat(column) for column in zip(*found))) for split, found in parts.items()}


def _metadata(content: bytes, where: str) -> list[tuple[str, int]]:
    """Picture and label of every line: folder, file, number, label, settings, with spaces between."""
    pairs = []
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), 1):
        fields = line.split()
        if len(fields) < 4 or fields[3] not in ("0", "1"):
            raise UserError(f"{where}, line {number}: expected folder, file, number and label 0 or 1, got {line[:60]!r}")
        pairs.append((f"{fields[0]}/{fields[1]}", int(fields[3])))
    return pairs
