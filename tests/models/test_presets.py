"""Every preset is built on the meta device and counted: exactly by the formulas of the papers, rounded as published."""

import math

import pytest
import torch

from openxlstm import LanguageModel, LanguageModelConfig
from openxlstm.errors import UserError
from openxlstm.models.count import count_parameters
from openxlstm.models.patterns import expand
from openxlstm.models.presets import LARGE_SIZES, PAPER_SIZES, PRESETS, preset

V = 50304
PUBLISHED_MILLIONS = {  # arXiv 2405.04517, tables 1, 3 and 8
    "xlstm[1:0]-125M": 163.8, "xlstm[1:0]-350M": 409.3, "xlstm[1:0]-760M": 840.4, "xlstm[1:0]-1.3B": 1422.6,
    "xlstm[7:1]-125M": 163.7, "xlstm[7:1]-350M": 408.4, "xlstm[7:1]-760M": 839.7, "xlstm[7:1]-1.3B": 1420.1,
}  # fmt: skip
PUBLISHED_2_7B = 2788.3  # the sum is 2788.396: the paper cut where it rounds elsewhere
PUBLISHED_LARGE = {"large-164M": 164.11, "large-7B": 6865.42}  # arXiv 2510.02228 and its data files
GOLDEN_LARGE = {
    "84M": 83_680_848, "164M": 164_110_224, "407M": 406_856_896, "842M": 841_496_256,
    "1.4B": 1_420_839_104, "2.8B": 2_780_449_600, "7B": 6_865_424_896,
}  # fmt: skip


def paper_count(dim: int, kinds: tuple[str, ...], heads: int = 4) -> int:
    """xLSTM paper: mLSTM with inner width 2d, q/k/v blocks of 4; sLSTM with a gated FFN of 1.3d rounded up to 64."""
    u = 64 * math.ceil(1.3 * dim / 64)
    inner = 2 * dim
    mlstm = 2 * dim * inner + 3 * inner * 4 + inner * 5 + 2 * (3 * inner * heads + heads) + 2 * inner + inner * dim + dim
    slstm = 5 * dim + 8 * dim * dim // heads + 4 * dim + 3 * dim + 3 * dim * u
    return sum({"mlstm": mlstm, "slstm": slstm}[kind] for kind in kinds) + 2 * V * dim + dim


def large_count(dim: int, num_blocks: int, heads: int) -> int:
    """xLSTM Large: q, k of d/2, v, o, out of d; scalar gates with bias; three norms; SwiGLU of 2.667d rounded up to 64."""
    u = 64 * math.ceil(2.667 * dim / 64)
    block = 2 * dim * dim // 2 + 3 * dim * dim + 2 * (dim * heads + heads) + 3 * dim + 3 * dim * u
    return num_blocks * block + 2 * V * dim + dim


@pytest.mark.parametrize("name", PRESETS)
def test_parameters(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        model = LanguageModel(config)
    if name.startswith("large"):
        expected = large_count(*LARGE_SIZES[name.removeprefix("large-")])
        assert expected == GOLDEN_LARGE[name.removeprefix("large-")]
    else:
        expected = paper_count(config.dim, config.blocks)
    assert model.num_parameters() == expected == count_parameters(config)
    if name in PUBLISHED_MILLIONS:
        assert round(expected / 1e6, 1) == PUBLISHED_MILLIONS[name]
    if name in PUBLISHED_LARGE:
        assert round(expected / 1e6, 2) == PUBLISHED_LARGE[name]
    if name == "xlstm[1:0]-2.7B":
        assert math.floor(expected / 1e5) / 10 == PUBLISHED_2_7B


def test_there_is_one_of_each() -> None:
    assert set(PRESETS) == {
        *(f"xlstm[1:0]-{size}" for size in PAPER_SIZES),
        *(f"xlstm[7:1]-{size}" for size in PAPER_SIZES if size != "2.7B"),
        *(f"large-{size}" for size in LARGE_SIZES),
    }


def test_changes_and_unknown_names() -> None:
    assert preset("large-84M", vocab_size=256).vocab_size == 256
    with pytest.raises(UserError, match="unknown preset 'large-8B'; have "):
        preset("large-8B")


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": True}, {"norm": "none"}, {"norm": "rms", "norm_bias": True, "bias": True}, {"slstm_num_heads": 2}],
    ids=str,
)
def test_count_is_the_model(changes: dict) -> None:
    config = LanguageModelConfig(vocab_size=37, dim=32, blocks=expand("mlstm,slstm,mlstm_large,lstm,attention,ssd"), **changes)
    assert count_parameters(config) == LanguageModel(config).num_parameters()


def test_ssd_has_the_parameters_of_mamba_2() -> None:
    """The smallest published model (24 blocks of 768, heads of 64, state of 128, tied embedding of 50277 tokens rounded up to
    50288), from the shapes of its weights: in_proj, conv1d, dt_bias, A_log and D, norm, out_proj, the block's norm."""
    d, inner, N, H, V = 768, 1536, 128, 24, 50288
    block = d * (2 * inner + 2 * N + H) + 5 * (inner + 2 * N) + 3 * H + inner + inner * d + d
    config = LanguageModelConfig(
        vocab_size=V, dim=d, blocks=expand("ssd", 24), ssd_num_heads=H, norm="rms", tie_embeddings=True
    )
    assert count_parameters(config) == 24 * block + V * d + d == 128_989_632
