import errno
import resource
from collections import namedtuple

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.ops.state import empty_mlstm_state, leaves
from openxlstm.training import checkpoint


@pytest.fixture
def file_size_limit():
    """Writes beyond so many bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(value):
    return {"step": value, "weights": {"w": torch.full((50_000,), float(value))}}


def test_no_room_leaves_the_checkpoint_before_it(tmp_path, file_size_limit):
    path = tmp_path / "last.pt"
    checkpoint.write(path, content(1))
    file_size_limit(100_000)
    with pytest.raises(checkpoint.DiskFull, match=r"no room to write the checkpoint .*is intact") as caught:
        checkpoint.write(path, content(2))
    assert "\n" not in str(caught.value)
    assert checkpoint.read(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"], "nothing half-written stays"


def test_a_full_disk_is_told_from_a_bug(tmp_path, monkeypatch):
    def full(self, data):
        self.error = OSError(errno.ENOSPC, "No space left on device")
        raise self.error

    monkeypatch.setattr(checkpoint._Recorder, "write", full)
    with pytest.raises(checkpoint.DiskFull, match="No space left"):
        checkpoint.write(tmp_path / "last.pt", content(1))
    assert not list(tmp_path.iterdir())


def test_loading_runs_no_code(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "step": print}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.read(tmp_path / "bad.pt")
    torch.save({"format": 99}, tmp_path / "new.pt")
    with pytest.raises(UserError, match="not an openxlstm checkpoint of format"):
        checkpoint.read(tmp_path / "new.pt")
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "none.pt")


def test_a_state_is_filled_in_order():
    Pair = namedtuple("Pair", "a b")
    template = (Pair(None, empty_mlstm_state(2, 1, 3, 4)), None)
    stored = [torch.rand_like(leaf) for leaf in leaves(template)]
    filled = checkpoint.fill_state(template, stored, torch.device("cpu"))
    assert type(filled[0]) is Pair
    assert all(a is b or torch.equal(a, b) for a, b in zip(leaves(filled), stored))
    with pytest.raises(UserError, match="holds a state of 2 tensors"):
        checkpoint.fill_state(template, stored[:2], torch.device("cpu"))
