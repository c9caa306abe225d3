"""Are two dots joined by a dashed path? Pictures that are made here, read pixel by pixel."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks.generated import QUARTERS, quarter
from openxlstm.tasks.images import Images, ImageTask
from openxlstm.tasks.task import Batch, Split

# All in pixels. A path is a chain of dashes; a dash is what is near a line from its start to its end.
DASH, GAP = 2.0, 1.5  # lengths of that line and of the gap to the next
WIDTH, DOT = 0.5, 1.5  # radius of dashes and dots; an edge is soft, half a pixel to each side
CLEAR = 4.2  # between the lines of two paths, and of parts of one path that are not neighbours: more than across a gap
END = DOT - WIDTH  # more of it around the ends of paths, where there may be a dot
MARGIN = 1.0  # to the edge of the picture
CHOICES = 12  # of a place or a turn, the first that is free is taken
BEND = torch.linspace(0.25, 1.0, CHOICES, dtype=torch.float64)  # radians; standard deviation of each choice of a turn
FINE = 2  # points of a map of what is taken, in a pixel
REACH, FAR = 3, math.ceil(FINE * (CLEAR + 2 * END))  # pixels, and points of the map, that a dash or a dot can matter to
BARREN = 8  # rounds of drawing without a picture before giving up
AT_ONCE = 2**24  # points of maps


class Paths(NamedTuple):
    """One path in each of B pictures."""

    starts: Tensor  # [B, N, 2]  of its dashes
    headings: Tensor  # [B, N]
    free: Tensor  # [B] bool  there was room for it

    @property
    def stops(self) -> Tensor:
        """[B, N, 2]: the ends of its dashes."""
        return self.starts + DASH * towards(self.headings)

    def rows(self, which: Tensor) -> "Paths":
        """Those of some pictures."""
        return Paths(*(part[which] for part in self))


@dataclass(frozen=True, kw_only=True)
class Pathfinder(ImageTask):
    """Are two dots joined by a dashed path, or each on a path of its own? Known at the last pixel.

    After Linsley et al. 2018 (arXiv 1805.08315) and Long Range Arena (Tay et al. 2020, arXiv 2011.04006), not their pictures:
    here paths never meet, so that the answer can be read off every picture. Two long paths and some short ones; the dots are at
    both ends of one long path, or at an end of each. Both answers have the same paths, and dots equally far apart. A hash of
    the first long path says whether a picture is for training, validation or test.

    size: of the square pictures; 16 for quick runs, 32 as in Long Range Arena, 128 as in its Path-X.
    dashes: in each of the two long paths; the short ones have a third; 0 = 3 for every 16 pixels of size.
    distractors: short paths, as far as there is room; none = 3 for every 16 pixels of size.
    validation_samples: pictures in a validation.
    test_samples: pictures in a test.
    """

    name: ClassVar[str] = "pathfinder"
    classes: ClassVar[int] = 2

    size: int = 32
    dashes: int = 0
    distractors: int | None = None
    validation_samples: int = 512
    test_samples: int = 2048

    def __post_init__(self) -> None:
        for name, least in (("size", 16), ("validation_samples", 1), ("test_samples", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)} must be at least {least}")
        if self.dashes and self.dashes < 3:
            raise UserError(f"data.dashes={self.dashes} must be at least 3, or 0 for a number that fits the size")
        if (self.distractors or 0) < 0:
            raise UserError(f"data.distractors={self.distractors} must not be negative")

    @property
    def steps(self) -> int:
        return self.size**2

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        return self.batch(self.draw("train", batch, rng), torch.arange(batch))

    def train_batches(self, batch: int, count: int, rng: torch.Generator) -> list[Batch]:
        """Paths of many pictures grow side by side in little more time than those of few."""
        drawn = self.draw("train", batch * count, rng)
        return [self.batch(drawn, rows) for rows in torch.arange(batch * count).split(batch)]

    def images(self, split: Split) -> Images:
        """What the task is evaluated on: always the same. Of training there is no end; this is a sample of it."""
        return _drawn(self, split)

    def draw(self, split: Split, wanted: int, rng: torch.Generator) -> Images:
        """Pictures of a split, half of each answer, in random order. Raises UserError where paths find no room."""
        ones = (wanted + int(torch.randint(2, (), generator=rng))) // 2  # of an odd number, either answer may be the last
        missing = [wanted - ones, ones]
        found: list[Images] = []
        tries, barren = 10 * wanted + 20, 0
        while any(missing):
            some = self.sample(min(tries, AT_ONCE // side_of_map(self.size) ** 2), split, rng)
            tries, barren = 2 * tries, 0 if len(some.labels) else barren + 1
            if barren == BARREN:
                raise UserError(
                    f"pathfinder: two paths of {self.num_dashes} dashes hardly ever find room in {self.size} x {self.size} "
                    "pixels; choose fewer with --data.dashes or a larger --data.size"
                )
            for label in (0, 1):
                chosen = (some.labels == label).nonzero()[: missing[label], 0]
                found.append(Images(some.pixels[chosen], some.labels[chosen]))
                missing[label] -= len(chosen)
        order = torch.randperm(wanted, generator=rng)
        return Images(*(torch.cat(part)[order] for part in zip(*found)))

    @property
    def num_dashes(self) -> int:
        """In a long path."""
        return self.dashes or 3 * self.size // 16

    def sample(self, tries: int, split: Split, rng: torch.Generator) -> Images:
        """At most `tries` pictures of a split: those where the long paths found room. Answers are fair coins."""
        paths = self.paths(tries, split, rng)
        labels = torch.randint(2, (len(paths[0].starts),), generator=rng)
        return Images(paint(self.size, paths, dots(paths, labels)), labels)

    def paths(self, tries: int, split: Split, rng: torch.Generator) -> list[Paths]:
        """The two long paths, then the short ones.

        The second starts as far from the start of the first as the first ends: both answers have dots equally far apart.
        """
        room = empty(self.size, tries)
        first = grow(room, self.size, self.num_dashes, anywhere(self.size, tries, rng), rng)
        of_split = first.free & torch.isin(split_key(first), torch.tensor(QUARTERS[split]))
        room, first = room[of_split], first.rows(of_split)
        apart = (first.stops[:, -1] - first.starts[:, 0]).norm(dim=-1)  # [B]
        starts = first.starts[:, :1] + apart[:, None, None] * towards(any_direction(len(apart), rng))
        second = grow(room, self.size, self.num_dashes, starts, rng)
        room, found = room[second.free], [path.rows(second.free) for path in (first, second)]
        for _ in range(3 * self.size // 16 if self.distractors is None else self.distractors):
            starts = anywhere(self.size, len(room), rng)
            found.append(grow(room, self.size, max(self.num_dashes // 3, 1), starts, rng))
        return found


@lru_cache(maxsize=6)
def _drawn(task: Pathfinder, split: Split) -> Images:
    wanted = task.validation_samples if split == "validation" else task.test_samples
    return task.draw(split, wanted, torch.Generator().manual_seed(mix(task.name, split, task.size)))


def split_key(first: Paths) -> Tensor:
    """[B] in 0..3: a hash of the first path, to the pixel. So no two splits share one, whatever else is in the picture."""
    return quarter(first.starts.round().long())


def towards(angles: Tensor) -> Tensor:
    """[..., 2]: steps of one pixel in these directions."""
    return torch.stack([angles.cos(), angles.sin()], -1)


def anywhere(size: int, pictures: int, rng: torch.Generator) -> Tensor:
    """[B, CHOICES, 2]: places where a path may start. Pixels have whole coordinates, from 0 on."""
    places = torch.rand(pictures, CHOICES, 2, generator=rng, dtype=torch.float64)
    return MARGIN + (size - 1 - 2 * MARGIN) * places


def any_direction(pictures: int, rng: torch.Generator) -> Tensor:
    """[B, CHOICES]: angles."""
    return 2 * math.pi * torch.rand(pictures, CHOICES, generator=rng, dtype=torch.float64)


def empty(size: int, pictures: int) -> Tensor:
    """[B, M, M]: the map of what is taken. How far its points are from the nearest path, as far as that can matter."""
    return torch.full((pictures, side_of_map(size), side_of_map(size)), math.inf)


def side_of_map(size: int) -> int:
    """Points along an edge, with so many around the picture that no line reaches over the edge."""
    return FINE * (size - 1) + 1 + 2 * FAR


def grow(room: Tensor, size: int, dashes: int, starts: Tensor, rng: torch.Generator) -> Paths:
    """A path of so many dashes in each picture, from one of the `starts` [B, CHOICES, 2], clear of others and of itself.

    Dash by dash: of CHOICES directions the first that is free. Where none is, the path is not `free`. It is put into the map
    `room`; what there was of it before it had to stop remains there.
    """
    pictures = torch.arange(len(starts))
    free = torch.ones(len(starts), dtype=torch.bool)
    taken: list[tuple[Tensor, Tensor]] = []  # start [B, 2] and heading [B] of the dashes
    for number in range(dashes):
        if number:
            headings = taken[-1][1][:, None] + BEND * torch.randn(len(starts), CHOICES, generator=rng, dtype=torch.float64)
            starts = (taken[-1][0] + DASH * towards(taken[-1][1]))[:, None] + GAP * towards(headings)
        else:
            headings = any_direction(len(starts), rng)
        points = starts[:, :, None] + DASH * torch.tensor([0, 0.5, 1])[:, None] * towards(headings)[:, :, None]  # [B, C, 3, 2]
        wanted = CLEAR + torch.tensor([END * (number == 0), 0, END * (number == dashes - 1)])
        inside = ((points >= MARGIN) & (points <= size - 1 - MARGIN)).flatten(2).all(-1)
        x, y = (FINE * points.clamp(0, size - 1)).round().long().add(FAR).unbind(-1)
        fits = inside & (room[pictures[:, None, None], y, x] >= wanted).all(-1)
        free = free & fits.any(1)
        pick = (fits * torch.arange(CHOICES, 0, -1)).argmax(1)
        if number:  # the dash before the last one is no neighbour any more
            take(room, free, *taken[-1], DASH / 2, 0.0)
        taken.append((starts[pictures, pick], headings[pictures, pick]))
    take(room, free, *taken[-1], DASH / 2, 0.0)
    path = Paths(torch.stack([start for start, _ in taken], 1), torch.stack([heading for _, heading in taken], 1), free)
    for end in (path.starts[:, 0], path.stops[:, -1]):
        take(room, free, end, path.headings[:, 0], 0.0, END)
    return path


def take(room: Tensor, free: Tensor, starts: Tensor, headings: Tensor, half: float, more: float) -> None:
    """Put a line of length 2 `half` from `starts` [B, 2] into the maps of pictures that are `free`, with `more` around it."""
    centres = torch.where(free[:, None], FINE * (starts + half * towards(headings)), 0.0)[:, None]
    distance = distances(centres, headings[:, None], FINE * half, FAR)[:, 0] / FINE - more
    flat, where = room.flatten(1), squares(centres, FAR, room.shape[-1])
    before = flat.gather(1, where)
    flat.scatter_(1, where, torch.where(free[:, None], torch.minimum(before, distance), before))


def dots(paths: list[Paths], labels: Tensor) -> Tensor:
    """[B, 2, 2]: the start of the first path, and its end (1) or the start of the second (0)."""
    first, second = paths[:2]
    return torch.stack([first.starts[:, 0], torch.where(labels[:, None] == 1, first.stops[:, -1], second.starts[:, 0])], 1)


def paint(size: int, paths: list[Paths], places: Tensor) -> Tensor:
    """[B, size * size] uint8: the paths that are free, and dots at `places` [B, 2, 2]."""
    dashes = [((p.starts + p.stops) / 2, p.headings, p.free[:, None].expand_as(p.headings)) for p in paths]
    centres, headings, free = (torch.cat(part, 1) for part in zip(*dashes))  # [B, M, 2], [B, M], [B, M]
    centres = torch.where(free[..., None], centres, 0.0)
    wide = size + 2 * REACH  # no dash reaches over the edge, but the squares around their centres do
    canvas = torch.zeros(len(places), wide * wide)
    dash = (WIDTH + 0.5 - distances(centres, headings, DASH / 2, REACH)).clamp(0, 1) * free[..., None]
    dot = (DOT + 0.5 - distances(places, torch.zeros(places.shape[:2]), 0.0, REACH)).clamp(0, 1)
    for at, light in ((centres, dash), (places, dot)):
        canvas.scatter_reduce_(1, squares(at, REACH, wide), light.flatten(1), "amax")
    picture = canvas.view(-1, wide, wide)[:, REACH:-REACH, REACH:-REACH]
    return (255 * picture).round().to(torch.uint8).flatten(1)


def squares(centres: Tensor, reach: int, wide: int) -> Tensor:
    """[B, M * (2 reach + 1)^2]: where the points around centres [B, M, 2] are in a picture with `reach` more at every edge."""
    corner = (centres.round().long() * torch.tensor([1, wide])).sum(-1, keepdim=True)  # x is along a row
    side = torch.arange(2 * reach + 1)
    return (corner + (wide * side[:, None] + side).flatten()).flatten(1)


def distances(centres: Tensor, headings: Tensor, half: float, reach: int) -> Tensor:
    """[B, M, (2 reach + 1)^2]: of the points of `squares` from lines of length 2 `half` around `centres` [B, M, 2]."""
    side = torch.arange(-reach, reach + 1)
    x, y = ((centres.round() - centres).float()[..., None] + side).unbind(-2)  # [B, M, 2 reach + 1]
    cos, sin = headings.cos().float()[..., None], headings.sin().float()[..., None]
    along = (y * sin)[..., :, None] + (x * cos)[..., None, :]  # [B, M, y, x]
    aside = (y * cos)[..., :, None] - (x * sin)[..., None, :]
    beyond = along.abs_().sub_(half).clamp_(min=0)
    return aside.square_().add_(beyond.square_()).sqrt_().flatten(2)
