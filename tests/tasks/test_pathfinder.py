"""Pictures of dashed paths: the answer read off the pixels, no shortcuts, one split for every first path."""

import itertools
import math

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from openxlstm.tasks import pathfinder as module

SPLITS = ("train", "validation", "test")
LIT = 60  # of a pixel within three quarters of one from a line
ACROSS = 2.3  # pixels from one dash to the next, at most


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def task(**settings):
    return TASKS["pathfinder"](**{"validation_samples": 40, "test_samples": 60, **settings})


def find_dots(picture):
    """The middles of the two squares of 3 x 3 that are brightest together, found without a look at the generator."""
    box = torch.nn.functional.conv2d(picture[None, None].double(), torch.ones(1, 1, 3, 3).double(), padding=1)[0, 0]
    first = divmod(int(box.argmax()), len(picture))
    near = torch.tensor([[math.dist(first, (y, x)) <= 3 for x in range(len(picture))] for y in range(len(picture))])
    return first, divmod(int(box.masked_fill(near, 0).argmax()), len(picture))


def joined(picture):
    """Can one walk from dot to dot over lit pixels, with steps that cross a gap between dashes but not from path to path?"""
    start, goal = find_dots(picture)
    lit = {tuple(place) for place in (picture >= LIT).nonzero().tolist()}
    seen, edge = {start}, [start]
    steps = [s for s in itertools.product(range(-2, 3), repeat=2) if 0 < math.hypot(*s) <= ACROSS]
    while edge:
        y, x = edge.pop()
        new = {(y + dy, x + dx) for dy, dx in steps} & lit - seen
        seen |= new
        edge += new
    return int(goal in seen)


@pytest.mark.parametrize(("size", "dashes"), [(16, 0), (24, 5), (32, 0), (32, 9), (48, 0)])
def test_the_answer_can_be_read_off_the_picture(size, dashes):
    images = task(size=size, dashes=dashes).draw("train", 80, rng(1))
    assert [joined(picture) for picture in images.pixels.view(-1, size, size)] == images.labels.tolist()


def test_half_of_the_answers_are_yes():
    some = task(size=16)
    for wanted in (1, 2, 7, 32):
        yes = {int(some.draw("train", wanted, rng(seed)).labels.sum()) for seed in range(6)}
        assert yes <= {wanted // 2, (wanted + 1) // 2}
    assert {int(some.draw("train", 1, rng(seed)).labels) for seed in range(12)} == {0, 1}
    for split in ("validation", "test"):
        assert some.images(split).labels.float().mean() == 0.5


def separated(scores, labels):
    """The probability that a picture with answer 1 has the higher score: 0.5 says nothing."""
    ones, zeros = scores[labels == 1], scores[labels == 0]
    return float((ones[:, None] > zeros).double().mean() + (ones[:, None] == zeros).double().mean() / 2)


def test_what_is_easily_seen_does_not_tell():
    """Brightness, and how far apart the dots are. 0.06 is three standard deviations for 400 pictures of each answer."""
    images = task(size=32).draw("train", 800, rng(2))
    assert abs(separated(images.pixels.double().sum(1), images.labels) - 0.5) < 0.06
    apart = torch.tensor([math.dist(*find_dots(picture)) for picture in images.pixels.view(-1, 32, 32)])
    assert abs(separated(apart, images.labels) - 0.5) < 0.06


def test_both_answers_have_the_same_paths_and_distances():
    """The dots are put on afterwards."""
    paths = task().paths(200, "train", rng(3))
    labels = torch.arange(len(paths[0].starts)) % 2
    apart = [(first - second).norm(dim=-1) for first, second in (module.dots(paths, w).unbind(1) for w in (labels, 1 - labels))]
    torch.testing.assert_close(*apart)
    a, b = (module.paint(32, paths, module.dots(paths, which)).view(-1, 32, 32) for which in (labels, 1 - labels))
    for one, other, picture in zip(module.dots(paths, labels), module.dots(paths, 1 - labels), a != b, strict=True):
        where = picture.nonzero().flip(1).double()  # x, y
        ends = torch.cat([one, other])
        assert (where[:, None] - ends).norm(dim=-1).min(1).values.max() < module.DOT + 0.5


def test_the_splits_share_no_first_path():
    some = task(size=16)
    for split in SPLITS:
        keys = module.split_key(some.paths(300, split, rng(4))[0])
        assert len(keys) > 2
        assert set(keys.tolist()) <= set(module.QUARTERS[split])
    pictures = {split: {tuple(p) for p in some.draw(split, 60, rng(5)).pixels.tolist()} for split in SPLITS}
    assert all(len(found) == 60 for found in pictures.values()), "the same generator makes others in every split"
    for a, b in itertools.combinations(SPLITS, 2):
        assert not pictures[a] & pictures[b]


def test_a_batch_follows_from_its_generator():
    some = task(size=16)
    a, b, c = (some.train_batch(6, rng(seed)) for seed in (7, 7, 8))
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert not torch.equal(a.inputs, c.inputs)
    before = some.images("test")
    module._drawn.cache_clear()
    assert all(torch.equal(x, y) for x, y in zip(before, some.images("test")))


def test_batches_have_a_number_a_pixel_and_one_answer():
    some = task(size=20, test_samples=30)
    batch = some.train_batch(5, rng())
    assert batch.inputs.shape == (5, 400, 1)
    assert batch.inputs.dtype == torch.float32
    assert 0 == batch.inputs.min() < batch.inputs.max() == 1
    assert batch.scored.sum(1).eq(1).all()
    assert batch.scored[:, -1].all()
    assert batch.lengths.tolist() == [400] * 5
    assert (some.trained, some.reports) == ("400", ("400",))
    assert sum(len(b.lengths) for _, b in some.evaluation("test", "400")) == 30


def test_long_pictures_come_in_small_batches():
    some = task(size=128, validation_samples=6)
    sizes = [len(batch.lengths) for _, batch in some.evaluation("validation", "16384")]
    assert sizes == [4, 2]


def test_distractors():
    none, many = (task(distractors=n).draw("train", 20, rng(6)).pixels for n in (0, 8))
    assert (many >= LIT).sum() > 1.2 * (none >= LIT).sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 15}, "data.size=15 must be at least 16"),
        ({"dashes": 2}, "data.dashes=2 must be at least 3, or 0"),
        ({"distractors": -1}, "data.distractors=-1 must not be negative"),
        ({"test_samples": 0}, "data.test_samples=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        task(**settings)


def test_where_there_is_no_room_it_says_so(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 100_000)
    with pytest.raises(UserError, match=r"two paths of 20 dashes hardly ever find room in 16 x 16 pixels; choose fewer with"):
        task(size=16, dashes=20).draw("train", 4, rng())
