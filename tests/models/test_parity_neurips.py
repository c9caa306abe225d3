"""Logits of the `xlstm` package's xLSTMLMModel, with its weights read from a folder. fp32, at most 1e-5 relative: both sides
round each of a few thousand additions to 6e-8, in different orders."""

from pathlib import Path

import pytest
import torch
from others import neurips_model, relative_error, save_neurips, tokens

from openxlstm import LanguageModel
from openxlstm.models.weights import detect

pytestmark = pytest.mark.parity
BOUND = 1e-5

MODELS = {
    "[1:0]": (2, []),
    "[0:1]": (2, "all"),
    "mixed": (3, [1]),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, tmp_path: Path) -> None:
    theirs = neurips_model(*MODELS[name])
    ours = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path))
    assert detect(tmp_path) == "neurips"
    ids = tokens(2, 48)
    with torch.no_grad():
        assert relative_error(ours(ids)[0], theirs(ids)) <= BOUND


@pytest.mark.parametrize("name", MODELS)
def test_states_handed_over(name: str, tmp_path: Path) -> None:
    """A prompt, then one token at a time, is their whole sequence, and is their own steps."""
    theirs = neurips_model(*MODELS[name])
    ours = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path))
    ids = tokens(2, 40)
    with torch.no_grad():
        whole = theirs(ids)
        pieces, state = [], None
        for piece in ids.split([17, *[1] * 23], 1):
            logits, state = ours(piece, state)
            pieces.append(logits)
        steps, their_state = [], None
        for t in range(ids.shape[1]):
            logits, their_state = theirs.step(ids[:, t : t + 1], state=their_state)
            steps.append(logits)
    assert relative_error(torch.cat(pieces, 1), whole) <= BOUND
    assert relative_error(torch.cat(pieces, 1), torch.cat(steps, 1)) <= BOUND


@pytest.mark.parametrize("changes", [{"tie_weights": True}, {"add_post_blocks_norm": False}, {"embedding_dim": 48}])
def test_options(changes: dict, tmp_path: Path) -> None:
    """At dim 48 their widths are rounded up to multiples of 64 (inner 128 for 96)."""
    theirs = neurips_model(3, [1], **changes)
    ours = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path))
    ids = tokens(2, 33)
    with torch.no_grad():
        assert relative_error(ours(ids)[0], theirs(ids)) <= BOUND
    assert ours.num_parameters() == sum(p.numel() for p in theirs.parameters())


def test_slstm_options(tmp_path: Path) -> None:
    """No convolution, two heads, no weight in the group norm; and no mlstm_block, which makes all blocks sLSTM."""
    layer = dict(backend="vanilla", num_heads=2, conv1d_kernel_size=0, group_norm_weight=False)
    theirs = neurips_model(3, [], mlstm_block=None, slstm_block={"slstm": layer, "feedforward": {"proj_factor": 2.5}})
    ours = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path))
    ids = tokens(2, 33)
    with torch.no_grad():
        assert relative_error(ours(ids)[0], theirs(ids)) <= BOUND


def test_cuda_layout(tmp_path: Path) -> None:
    """The CUDA cell keeps R as (heads, from, gate x to) and the bias as (head, gate, unit): the same model."""
    theirs = neurips_model(3, [0, 2])
    tensors = dict(theirs.state_dict())
    H, D = 4, 8
    for name in list(tensors):
        if name.endswith("_recurrent_kernel_"):
            tensors[name] = tensors[name].view(H, 4, D, D).permute(0, 3, 1, 2).reshape(H, D, 4 * D)
        if name.endswith("slstm_cell._bias_"):
            tensors[name] = tensors[name].view(4, H, D).permute(1, 0, 2).reshape(-1)
    ours = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path, tensors=tensors))
    ids = tokens(2, 33)
    with torch.no_grad():
        assert relative_error(ours(ids)[0], theirs(ids)) <= BOUND


def test_model_pt_is_the_same_model(tmp_path: Path) -> None:
    theirs = neurips_model(2, [1])
    a = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path / "a"))
    b = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path / "b", pickled=True))
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("name", MODELS)
def test_float64(name: str, tmp_path: Path) -> None:
    """Without float32's rounding next to nothing is left: it is the same function."""
    theirs = neurips_model(*MODELS[name]).double()
    ours = LanguageModel.from_pretrained(save_neurips(theirs, tmp_path))
    ids = tokens(2, 48)
    with torch.no_grad():
        assert relative_error(ours(ids)[0], theirs(ids)) <= 1e-12
