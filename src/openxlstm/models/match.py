"""Comparison twins: another kind of model with as many parameters."""

import math
from collections.abc import Iterator
from dataclasses import replace
from inspect import signature
from typing import TypeVar

from openxlstm.errors import UserError
from openxlstm.layers import BLOCKS
from openxlstm.models.config import StackConfig
from openxlstm.models.count import count_parameters, factor_of

Config = TypeVar("Config", bound=StackConfig)

TOLERANCE = 0.01
"""How far from the target a twin may be."""

FACTOR_RANGES = ((0.75, 4 / 3), (0.5, 2.0))
"""How far the inner widths may move from where they were before the model's width moves instead. The wide range is for small
models, whose count jumps by more from one width to the next than the narrow one spans."""

STEPS = (8, 1)
"""Of the widths: multiples of 8, and where those are too coarse, as for models of some ten thousand parameters, of 1."""

FFN_DEFAULTS = {
    kind: signature(block).parameters["ffn_factor"].default
    for kind, block in BLOCKS.items()
    if "ffn_factor" in signature(block).parameters
}
"""Blocks with a feed-forward part -> the factor they have when the config names none."""


def match_parameters(config: Config, target: int) -> Config:
    """The nearest config that has `target` parameters, to 1 %.

    Depth, kinds of blocks, heads and vocabulary stay. The rule:
    1. `dim` stays if it can. The inner widths move, to between 3/4 and 4/3 of what they were: `ffn_factor` for blocks with a
       feed-forward part, rounded to a multiple of 8 and not of 64; `projection_factor` for mlstm blocks, in steps that heads
       and q/k/v blocks divide; both by the same ratio in a mixed stack.
    2. Otherwise `dim` becomes the nearest multiple of 8 and of the heads at which step 1 works.
    3. If there is none, the inner widths may move to between half and twice what they were.
    4. If there is none, all of this in multiples of 1 instead of 8: small models jump by several percent from one to the next.

    Raises UserError when nothing does: say, because the embedding alone is larger than the target.
    """
    if target < 1:
        raise UserError(f"the number of parameters must be positive, got {target}")
    if abs(count_parameters(config) - target) <= TOLERANCE * target:
        return config
    for step in STEPS:
        for low, high in FACTOR_RANGES:
            for dim in _dims(config, step):
                found = _at_dim(config, dim, target, low, high, step)
                if found is not None:
                    return found
    raise UserError(
        f"no {','.join(sorted(set(config.blocks)))} model of {config.num_blocks} blocks and {config.num_heads} heads has "
        f"{target} parameters (+-{TOLERANCE:.0%}); change the number of blocks or the vocabulary"
    )


def _dims(config: StackConfig, step: int) -> Iterator[int]:
    """Candidates for the model's width, nearest to the present one first, from an eighth of it to eight times."""
    heads = [config.num_heads, config.lstm_num_heads, config.slstm_num_heads or 1]
    unit = math.lcm(step, *heads, 2 * config.num_heads if "attention" in config.blocks else 1)
    low, high = max(config.dim // 8 // unit, 1), max(config.dim * 8 // unit, 1)
    candidates = {n * unit for n in range(low, high + 1)}
    yield from sorted(candidates | {config.dim}, key=lambda dim: (abs(math.log(dim / config.dim)), dim))


def _at_dim(config: Config, dim: int, target: int, low: float, high: float, step: int) -> Config | None:
    """The config of this width whose count comes nearest to the target by moving the inner widths; None if not to 1 %."""
    try:
        fewest, most = (count_parameters(_scaled(config, dim, ratio, step)) for ratio in (low, high))
    except ValueError:  # a width of the blocks that their heads do not divide
        return None
    if most < target * (1 - TOLERANCE) or fewest > target * (1 + TOLERANCE):
        return None
    for _ in range(40):  # the count grows with the ratio: bisection
        middle = (low + high) / 2
        low, high = (middle, high) if count_parameters(_scaled(config, dim, middle, step)) < target else (low, middle)
    found = min((_scaled(config, dim, ratio, step) for ratio in (low, high)), key=lambda c: abs(count_parameters(c) - target))
    return found if abs(count_parameters(found) - target) <= TOLERANCE * target else None


def _scaled(config: Config, dim: int, ratio: float, step: int) -> Config:
    """The config at another width, with its inner widths multiplied by `ratio`."""
    kinds = set(config.blocks)
    changes: dict[str, object] = dict(dim=dim)
    if kinds & set(FFN_DEFAULTS):
        # one factor serves all blocks of a stack; where it is the blocks' default, take that of the first that has one
        first = next(kind for kind in config.blocks if kind in FFN_DEFAULTS)
        factor = config.ffn_factor if config.ffn_factor is not None else FFN_DEFAULTS[first]
        multiple = math.gcd(config.ffn_multiple, step)
        width = max(round(factor * ratio * dim / multiple), 1) * multiple
        changes |= dict(ffn_factor=factor_of(width, dim, multiple), ffn_multiple=multiple)
    if "mlstm" in kinds:
        unit = math.lcm(config.num_heads, config.qkv_block_size)
        inner = max(round(config.projection_factor * ratio * dim / unit), 1) * unit
        changes |= dict(projection_factor=inner / dim)
    return replace(config, **changes)  # type: ignore[arg-type]
