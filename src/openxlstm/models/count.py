"""How many parameters a model has, without building it."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from openxlstm.layers import BLOCKS
from openxlstm.layers.feedforward import hidden_size
from openxlstm.models.config import (
    ClassifierConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    ForecastConfig,
    LanguageModelConfig,
    SequenceConfig,
    StackConfig,
)
from openxlstm.models.stack import block_options


def num_parameters(module: nn.Module) -> int:
    """Parameters of a module, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def count_parameters(config: StackConfig) -> int:
    """Parameters of the model that `config` describes; blocks of one kind all have as many, so one of each is looked at."""
    total = sum(
        config.blocks.count(kind) * _block_parameters(kind, tuple(sorted(block_options(config, kind, 0).items())))
        for kind in sorted(set(config.blocks))
    )
    if config.norm != "none":
        total += config.dim * (1 + config.norm_bias)
    if isinstance(config, EncoderDecoderConfig) and config.encoder is not None:
        for kind in config.encoder_blocks:
            directions = 1 if kind == "attention" else 2
            total += directions * _block_parameters(kind, tuple(sorted(block_options(config.encoder, kind, 0).items())))
        total += config.dim * (1 + config.norm_bias) if config.norm != "none" else 0
        if config.bridge == "cross_attention":
            total += config.num_blocks * (4 * config.dim**2 + config.dim)
    if isinstance(config, LanguageModelConfig):
        total += config.vocab_size * config.dim * (1 if config.tie_embeddings else 2)
    if isinstance(config, ClassifierConfig):
        total = total * (1 + config.bidirectional) + (config.num_features + 1) * config.num_classes
    if isinstance(config, SequenceConfig):
        total += config.dim * config.num_outputs + config.num_outputs
    if isinstance(config, EncoderConfig):
        total += config.vocab_size * config.dim if config.vocab_size else ((config.input_dim or 0) + 1) * config.dim
    if isinstance(config, ForecastConfig):
        C, K, answers = config.num_channels, config.num_covariates, 1 + len(config.quantiles)
        total += (config.patch * C * (1 + config.missing) + K + 1 + config.num_static) * config.dim
        total += (config.dim + 1) * config.horizon * C * answers
        total += config.context * config.horizon if config.skip else 0
        total += (K + 1) * config.dim + config.dim * C * answers if K else 0
    return total


def factor_of(width: int, dim: int, multiple: int) -> float:
    """The factor that makes `width`, a multiple of `multiple`, at this dim: never rounded up past it."""
    factor = width / dim
    return factor if hidden_size(dim, factor, multiple) == width else math.nextafter(factor, 0)


@lru_cache(maxsize=4096)
def _block_parameters(kind: str, options: tuple[tuple[str, Any], ...]) -> int:
    with torch.device("meta"):
        return num_parameters(BLOCKS[kind](**dict(options)))
