"""Windows are functions of (seed, step, rank): same batches after a resume and for any number of processes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from openxlstm.data.tokenizer import ByteTokenizer
from openxlstm.data.tokens import TokenDataset, write_shards
from openxlstm.data.windows import IGNORE, EvalWindows, RandomWindows, SequentialStreams, TokenBatch
from openxlstm.errors import UserError


class Numbered:
    """Token i is i, so that a window shows where it is from; a document starts at every multiple of 10."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.num_tokens
        return np.arange(start, stop)

    def starts_in(self, start: int, stop: int) -> np.ndarray:
        return np.array([i for i in range(start, stop) if i % 10 == 0], dtype=np.int64)


def joined(parts: list[TokenBatch]) -> TokenBatch:
    return TokenBatch(*(torch.cat(fields) for fields in zip(*parts)))


def assert_same(one: TokenBatch, other: TokenBatch) -> None:
    for a, b in zip(one, other):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def make(kind: str, num_tokens: int = 501) -> RandomWindows | SequentialStreams | EvalWindows:
    tokens = Numbered(num_tokens)
    if kind == "random":
        return RandomWindows(tokens, context=16, batch=12, seed=3)
    if kind == "streams":
        return SequentialStreams(tokens, context=16, batch=12, seed=3)
    return EvalWindows(tokens, context=16, batch=12, carry=kind == "eval carry")


KINDS = ["random", "streams", "eval", "eval carry"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_slices_of_the_processes_make_the_global_batch(kind: str, world_size: int) -> None:
    windows = make(kind)
    for step in (0, 1, 2):
        whole = windows.batch(step)
        assert_same(joined([windows.batch(step, rank, world_size) for rank in range(world_size)]), whole)
        assert_same(make(kind).batch(step), whole)  # a new object, as after a resume


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_targets_and_resets(kind: str) -> None:
    batch = make(kind).batch(1)
    assert [x.shape for x in batch] == [(12, 16), (12, 16), (12, 16), (12,)]
    assert [x.dtype for x in batch] == [torch.int64, torch.int64, torch.bool, torch.bool]
    scored = batch.scored
    assert torch.equal(batch.targets[scored], batch.inputs[scored] + 1)
    assert torch.equal(batch.reset[scored], batch.inputs[scored] % 10 == 0)
    assert not batch.reset[~scored].any()


def test_the_window_is_only_as_random_as_its_seed_and_step() -> None:
    windows = RandomWindows(Numbered(10_000), 8, 4, seed=0)
    batches = [windows.batch(step).inputs for step in range(5)]
    assert len({tuple(batch.flatten().tolist()) for batch in batches}) == 5
    other = RandomWindows(Numbered(10_000), 8, 4, seed=1)
    assert not torch.equal(other.batch(0).inputs, batches[0])
    state = torch.get_rng_state()
    windows.batch(7)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_windows_reach_every_place_equally() -> None:
    windows = RandomWindows(Numbered(14), 4, 100)  # places 0 to 9
    counts = torch.zeros(10)
    for step in range(100):
        counts += torch.bincount(windows.batch(step).inputs[:, 0], minlength=10)
    # 1000 expected, standard deviation 30; five of them are chance once in a million.
    assert (counts - 1000).abs().max() < 150


def test_the_smallest_text_is_one_window() -> None:
    assert RandomWindows(Numbered(5), 4, 2).batch(0).targets.tolist() == [[1, 2, 3, 4]] * 2
    with pytest.raises(UserError, match=r"context=4 needs at least 5 tokens, the text has 4"):
        RandomWindows(Numbered(4), 4, 2)
    with pytest.raises(UserError, match=r"batch=2 streams of context=4 need at least 9 tokens, the text has 8"):
        SequentialStreams(Numbered(8), 4, 2)
    SequentialStreams(Numbered(9), 4, 2)


def test_streams_go_on_where_they_were() -> None:
    windows = SequentialStreams(Numbered(1000), context=7, batch=5, seed=1)
    assert windows.steps_per_epoch == 199 // 7
    last: Tensor | None = None
    for step in range(3 * windows.steps_per_epoch):
        batch = windows.batch(step)
        begins = step % windows.steps_per_epoch == 0
        assert bool(batch.first.all()) is begins
        assert bool(batch.first.any()) is begins
        if begins:
            assert batch.reset[:, 0].all()
        else:
            assert last is not None
            assert torch.equal(batch.inputs[:, 0], last)
        last = batch.targets[:, -1]
    # Streams do not overlap, and the first begin at equal distances.
    assert windows.batch(0).inputs[:, 0].tolist() == [0, 199, 398, 597, 796]


def test_the_remainder_of_a_stream_is_reached_in_later_epochs() -> None:
    windows = SequentialStreams(Numbered(20), context=5, batch=1, seed=0)  # 19 targets, 15 an epoch
    seen = {t for step in range(20 * windows.steps_per_epoch) for t in windows.batch(step).targets.flatten().tolist()}
    assert seen == set(range(1, 20))


@pytest.mark.parametrize("num_tokens", [2, 3, 16, 17, 18, 33, 100, 501])
@pytest.mark.parametrize("context", [1, 4, 16])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("mode", ["side by side", "overlap", "every token", "carry"])
def test_evaluation_scores_each_token_once(num_tokens: int, context: int, batch: int, mode: str) -> None:
    stride = {"overlap": max(1, context // 2), "every token": 1}.get(mode)
    windows = EvalWindows(Numbered(num_tokens), context, batch, stride, carry=mode == "carry")
    found: list[int] = []
    for out in windows:
        assert out.inputs.shape == (batch, context)
        scored = out.scored
        assert torch.equal(out.inputs[scored] + 1, out.targets[scored])
        found += out.targets[scored].tolist()
    assert sorted(found) == list(range(1, num_tokens))
    assert windows.num_targets == num_tokens - 1
    if batch == 1:
        assert found == sorted(found)


def test_overlapping_windows_have_context_before_what_they_score() -> None:
    windows = EvalWindows(Numbered(100), context=16, batch=1, stride=4)
    for number, out in enumerate(windows):
        places = out.scored[0].nonzero().flatten().tolist()
        assert places[0] == (0 if number == 0 else 12)
        assert out.first.all()


def test_carried_evaluation_goes_on_where_it_was() -> None:
    windows = EvalWindows(Numbered(101), context=8, batch=4, carry=True)  # streams of 25
    batches = list(windows)
    assert batches[0].first.all()
    assert batches[0].reset[:, 0].all()
    for before, after in itertools.pairwise(batches):
        assert not after.first.any()
        assert torch.equal(after.inputs[:, 0], before.targets[:, -1])
    assert [batch.scored.sum().item() for batch in batches] == [32, 32, 32, 4]


def test_the_ignored_value_is_that_of_cross_entropy() -> None:
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORE


def test_resets_can_be_left_out() -> None:
    for windows in (
        RandomWindows(Numbered(100), 30, 2, reset_documents=False),
        EvalWindows(Numbered(100), 30, 2, reset_documents=False),
    ):
        assert not windows.batch(0).reset.any()
    streams = SequentialStreams(Numbered(100), 30, 2, reset_documents=False)
    assert streams.batch(0).reset.nonzero().tolist() == [[0, 0], [1, 0]]  # the beginning of a stream stays one


def test_wrong_numbers() -> None:
    with pytest.raises(UserError, match="context=0"):
        RandomWindows(Numbered(100), 0, 2)
    with pytest.raises(UserError, match="batch=0"):
        EvalWindows(Numbered(100), 2, 0)
    with pytest.raises(UserError, match="stride=9"):
        EvalWindows(Numbered(100), 8, 2, stride=9)
    with pytest.raises(UserError, match="do not overlap"):
        EvalWindows(Numbered(100), 8, 2, stride=4, carry=True)
    with pytest.raises(UserError, match="batch=4 is not divisible by the number of processes, 3"):
        RandomWindows(Numbered(100), 8, 4).batch(0, 0, 3)
    with pytest.raises(UserError, match="rank=2 is not below"):
        RandomWindows(Numbered(100), 8, 4).batch(0, 2, 2)
    with pytest.raises(UserError, match="at least 2 tokens"):
        EvalWindows(Numbered(1), 8, 4)


@pytest.fixture
def shards(tmp_path: Path) -> TokenDataset:
    return write_shards(["alpha", "beta gamma", "delta"] * 5, ByteTokenizer(), tmp_path, 30)


def test_windows_over_shards(shards: TokenDataset) -> None:
    """The reset stands at the end token before a document, which the document's first token is predicted from."""
    out = next(iter(EvalWindows(shards, context=shards.num_tokens, batch=1)))
    starts = out.reset[0].nonzero().flatten()
    assert torch.equal(starts, torch.from_numpy(shards.document_starts))
    assert (out.inputs[0, starts] == 256).all()
    assert "".join(map(chr, out.targets[0, starts].tolist())) == "abd" * 5
    streams = SequentialStreams(shards, context=9, batch=2)
    row = torch.cat([streams.batch(step).inputs[1] for step in range(streams.steps_per_epoch)])
    assert row.tolist() == shards.read(streams.stream_length, streams.stream_length + len(row)).tolist()
