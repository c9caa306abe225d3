"""Twins for comparisons: other kinds of model with as many parameters."""

from dataclasses import replace

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.count import count_parameters
from openxlstm.models.language import LanguageModel
from openxlstm.models.match import TOLERANCE, match_parameters
from openxlstm.models.patterns import expand

PATTERNS = ("mlstm", "slstm", "xlstm[1:1]", "lstm", "attention", "mlstm_large", "ssd", "mlstm,slstm,attention,mlstm,ssd,lstm")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("dim", "vocab_size", "reference"), [(128, 256, "xlstm[1:1]"), (64, 65, "mlstm"), (256, 8192, "attention")]
)
def test_twins_have_equal_parameters(pattern: str, dim: int, vocab_size: int, reference: str) -> None:
    make = lambda p: LanguageModelConfig(vocab_size=vocab_size, dim=dim, blocks=expand(p, 6))  # noqa: E731
    target = count_parameters(make(reference))
    twin = match_parameters(make(pattern), target)
    with torch.device("meta"):
        assert abs(LanguageModel(twin).num_parameters() - target) <= TOLERANCE * target
    assert (twin.blocks, twin.num_heads, twin.vocab_size) == (expand(pattern, 6), 4, vocab_size)
    assert 0.5 <= twin.dim / dim <= 2


def test_match_keeps_what_fits_and_says_what_cannot() -> None:
    config = LanguageModelConfig(vocab_size=256, dim=128, blocks=expand("mlstm", 2))
    assert match_parameters(config, count_parameters(config)) is config
    with pytest.raises(
        UserError,
        match=r"no mlstm model of 2 blocks and 4 heads has 1,000 .*, the nearest has [0-9,]+; change",
    ):
        match_parameters(config, 1000)
    with pytest.raises(UserError, match="positive"):
        match_parameters(config, 0)


def test_match_moves_inner_widths_before_the_model_width() -> None:
    config = LanguageModelConfig(vocab_size=256, dim=128, blocks=expand("slstm", 4))
    twin = match_parameters(config, round(1.08 * count_parameters(config)))
    assert twin.dim == 128
    assert twin == replace(config, ffn_factor=twin.ffn_factor, ffn_multiple=8)


SMALL = ("mlstm", "slstm", "xlstm[1:1]", "mlstm_large", "lstm", "transformer", "ssd")


@pytest.mark.parametrize("pattern", SMALL)
@pytest.mark.parametrize(("dim", "num_blocks"), [(32, 2), (64, 4)])
def test_small_twins(pattern: str, dim: int, num_blocks: int) -> None:
    """With the parameters of any other pattern, from 18 thousand: one FFN unit or one step of the width is much there."""
    config = {
        p: LanguageModelConfig(vocab_size=65, dim=dim, num_heads=4, blocks=expand(p, num_blocks), ffn_multiple=8) for p in SMALL
    }
    for reference in SMALL:
        target = count_parameters(config[reference])
        twin = match_parameters(config[pattern], target)
        assert abs(count_parameters(twin) - target) <= TOLERANCE * target, reference
        assert 0.4 <= twin.dim / dim <= 2.5, reference


def test_dense_projections_stay_dense() -> None:
    """One q/k/v block as wide as all: kept at its size it would set the inner width, and with it how wide the model is."""
    config = LanguageModelConfig(vocab_size=65, dim=128, blocks=expand("mlstm", 3), qkv_block_size=256)
    twin = match_parameters(config, 500_000)
    assert twin.qkv_block_size == round(twin.projection_factor * twin.dim)
    assert 112 <= twin.dim <= 128


@pytest.mark.parametrize("pattern", ["lstm_plain", "lstm_residual", "lstm_residual,lstm,lstm_plain"])
@pytest.mark.parametrize("num_parameters", [500_000, 1_000_000, 1_500_000])
def test_rungs_without_an_inner_width(pattern: str, num_parameters: int) -> None:
    """Only the width can move, and heads of other blocks do not hold it to their multiples."""
    config = LanguageModelConfig(vocab_size=65, dim=128, blocks=expand(pattern, 3), gate_soft_cap=15.0)
    twin = match_parameters(config, num_parameters)
    with torch.device("meta"):
        assert abs(LanguageModel(twin).num_parameters() - num_parameters) <= TOLERANCE * num_parameters


@pytest.mark.parametrize(
    "options",
    [dict(conv_width=0), dict(input_gate_mode="bias", forget_gate_mode="one"), dict(forget_gate_mode="fixed")],
    ids=str,
)
def test_variants_of_mlstm_are_counted_and_matched(options: dict) -> None:
    config = LanguageModelConfig(vocab_size=65, dim=64, blocks=expand("mlstm", 3))
    twin = match_parameters(replace(config, **options), round(1.05 * count_parameters(config)))
    with torch.device("meta"):
        assert LanguageModel(twin).num_parameters() == count_parameters(twin)
    assert abs(count_parameters(twin) - 1.05 * count_parameters(config)) <= TOLERANCE * 1.05 * count_parameters(config)
    assert {name: getattr(twin, name) for name in options} == options
