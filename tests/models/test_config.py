"""Configs check themselves: one line that names the setting."""

import dataclasses
from typing import Any

import pytest

from openxlstm import ClassifierConfig, LanguageModelConfig
from openxlstm.errors import UserError

GOOD: dict[str, Any] = dict(vocab_size=10, dim=16, blocks=("mlstm", "slstm"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dim=18), "dim=18 is not divisible by num_heads=4"),
        (dict(dim=0), "dim must be at least 1"),
        (dict(num_heads=0), "not divisible by num_heads=0"),
        (dict(slstm_num_heads=3), "not divisible by slstm_num_heads=3"),
        (dict(ssd_num_heads=3), "not divisible by ssd_num_heads=3"),
        (dict(blocks=("ssd",), projection_factor=1.9), "projection_factor . dim = 30 is not divisible by num_heads=4"),
        (dict(blocks=("ssd",), projection_factor=1.5, ssd_num_heads=16), "dim = 24 is not divisible by ssd_num_heads=16"),
        (dict(ssd_state_dim=0), "ssd_state_dim must be at least 1"),
        (dict(blocks=()), "at least one block"),
        (dict(blocks=("gru",)), "unknown block 'gru' in blocks; have mlstm"),
        (dict(blocks=("attention",), dim=12), "must be even"),
        (dict(vocab_size=0), "vocab_size must be at least 1"),
        (dict(qkv_block_size=5), "projection_factor . dim = 32 is not divisible by qkv_block_size=5"),
        (dict(projection_factor=1.9), "projection_factor . dim = 30 is not divisible by num_heads=4"),
        (dict(blocks=("mlstm_large",), qk_factor=0.4), "qk_factor . dim = 6 is not divisible by num_heads=4"),
        (dict(projection_factor=0.0), "projection_factor must be positive"),
        (dict(ffn_factor=-1.0), "ffn_factor must be positive"),
        (dict(conv_width=-1), "conv_width must be 0"),
        (dict(slstm_conv_width=-1), "slstm_conv_width must be 0"),
        (dict(gate_soft_cap=-1.0), "gate_soft_cap must be 0"),
        (dict(logit_soft_cap=0.0), "logit_soft_cap must be positive"),
        (dict(input_gate="relu"), "input_gate must be one of exp, sigmoid"),
        (dict(forget_gate="relu"), "forget_gate must be one of exp, sigmoid"),
        (dict(input_gate_mode="one"), "input_gate_mode must be one of learned, bias, fixed, got 'one'"),
        (dict(forget_gate_mode="off"), "forget_gate_mode must be one of learned, bias, fixed, one, got 'off'"),
        (dict(blocks=("lstm_plain",), lstm_num_heads=3), "not divisible by lstm_num_heads=3"),
        (dict(blocks=("lstm_plain", "lstm"), dim=18), "dim=18 is not divisible by num_heads=4"),
        (dict(recurrent_init="ones"), "recurrent_init must be one of zeros, normal"),
        (dict(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(embedding_dropout=-0.1), "embedding_dropout must be in"),
        (dict(norm="batch"), "norm must be one of layer, rms, none"),
        (dict(chunk_size=0), "chunk_size must be at least 1"),
        (dict(ffn_multiple=0), "ffn_multiple must be at least 1"),
    ],
    ids=str,
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        LanguageModelConfig(**GOOD | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_classes=0), "num_classes must be at least 1"),
        (dict(input_dim=3), "either vocab_size"),
        (dict(vocab_size=None), "either vocab_size"),
        (dict(pooling="sum"), "pooling must be one of mean, max, mean_max, last"),
    ],
    ids=str,
)
def test_classifier_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassifierConfig(**GOOD | dict(num_classes=2) | changes)


def test_dictionary_round_trip() -> None:
    config = LanguageModelConfig(**GOOD, ffn_factor=2.0, logit_soft_cap=30.0, tie_embeddings=True)
    assert LanguageModelConfig.from_dict(config.to_dict()) == config
    assert isinstance(config.to_dict()["blocks"], list)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 3}, "FILE: unknown setting 'width'"),
        ({"dim": "16"}, "FILE: dim must be int, got '16'"),
        ({"dim": True}, "FILE: dim must be int, got True"),
        ({"blocks": [1]}, "FILE: blocks must be a list of block names"),
        ({"tie_embeddings": 1}, "FILE: tie_embeddings must be bool"),
        ({"dim": 18}, "FILE: dim=18 is not divisible"),
    ],
    ids=str,
)
def test_from_dict_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LanguageModelConfig.from_dict(GOOD | changes, source="FILE")
    with pytest.raises(UserError, match="missing setting 'dim'"):
        LanguageModelConfig.from_dict({"vocab_size": 3, "blocks": ["mlstm"]})


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LanguageModelConfig(**GOOD).dim = 3  # type: ignore[misc]
    assert LanguageModelConfig(**GOOD | {"blocks": "mlstm"}).blocks == ("mlstm",)
