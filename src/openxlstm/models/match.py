"""Comparison twins: another kind of model with as many parameters."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
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

TRIES = ((8, 0.75, 4 / 3), (1, 0.75, 4 / 3), (1, 0.5, 2.0), (1, 0.3, 3.0))
"""What widths are multiples of, and how far the inner ones may move from where they were before the model's width moves
instead. The later tries are for small models, whose count jumps by more than 1 % from one multiple of 8 to the next."""

FFN_DEFAULTS = {
    kind: signature(block).parameters["ffn_factor"].default
    for kind, block in BLOCKS.items()
    if "ffn_factor" in signature(block).parameters
}
"""Blocks with a feed-forward part -> the factor they have when the config names none."""


PROJECTED = {"mlstm", "ssd"}
"""Blocks whose inner width is `projection_factor` times the model's."""


def match_parameters(config: Config, target: int) -> Config:
    """The nearest config that has `target` parameters, to 1 %.

    Depth, kinds of blocks, heads and vocabulary stay. The rule:
    1. `dim` stays if it can. The inner widths move, to between 3/4 and 4/3 of what they were: `ffn_factor` for blocks with a
       feed-forward part, rounded to a multiple of 8 and not of 64; `projection_factor` for mlstm and ssd blocks, in steps that
       heads and q/k/v blocks divide (dense q, k, v, which are one block as wide as all, stay dense); both by the same ratio in
       a mixed stack.
    2. Otherwise `dim` becomes the nearest multiple of 8 and of the heads at which step 1 works.
    3. If there is none, 1 and 2 are tried without the multiples of 8, then with inner widths from half to twice what they
       were, then from 0.3 to three times.

    That is enough from about 20,000 parameters on. Where every block is of SINGLE_WIDTH, `dim` alone moves, and below a width
    of about 100 its steps are larger than 1 %. Raises UserError, which says how near a model comes, when nothing does:
    say, because the embedding alone is larger than the target.
    """
    if target < 1:
        raise UserError(f"the number of parameters must be positive, got {target}")
    if abs(count_parameters(config) - target) <= TOLERANCE * target:
        return config
    nearest = config
    for multiple, low, high in TRIES:
        for dim in _dims(config, target, multiple, low, high):
            found = _at_dim(config, dim, target, multiple, low, high)
            if _distance(found, target) <= TOLERANCE:
                return found
            nearest = min(nearest, found, key=lambda c: _distance(c, target))
    raise UserError(
        f"no {','.join(sorted(set(config.blocks)))} model of {config.num_blocks} blocks and {config.num_heads} heads has "
        f"{target:,} parameters (+-{TOLERANCE:.0%}), the nearest has {count_parameters(nearest):,}; "
        "change the number of blocks or the vocabulary"
    )


def _distance(config: StackConfig, target: int) -> float:
    """How far a model is from the target, as a share of it."""
    return abs(count_parameters(config) - target) / target


def _dims(config: StackConfig, target: int, multiple: int, low: float, high: float) -> list[int]:
    """The model's widths, from an eighth of the present one to eight times, at which the target lies between the counts for
    the two ratios, and one more on either side; nearest to the present one first."""
    unit = math.lcm(multiple, *config.head_counts.values(), 2 * config.num_heads if "attention" in config.blocks else 1)
    smallest, largest = max(config.dim // 8 // unit, 1), max(config.dim * 8 // unit, 1)
    candidates = sorted({n * unit for n in range(smallest, largest + 1)} | {config.dim})
    if PROJECTED & set(config.blocks):  # not so narrow that the smallest inner width is out of range
        candidates = [dim for dim in candidates if _inner_step(config) <= high * config.projection_factor * dim]
    if "mlstm_large" in config.blocks:
        factors = config.qk_factor, config.v_factor
        candidates = [dim for dim in candidates if not any(int(factor * dim) % config.num_heads for factor in factors)]

    def count(ratio: float) -> Callable[[int], int]:
        return lambda dim: count_parameters(_scaled(config, dim, ratio, multiple))

    first = bisect_left(candidates, target, key=count(high))  # counts grow with the width
    last = bisect_right(candidates, target, key=count(low))
    near = candidates[max(first - 1, 0) : last + 1]
    return sorted(near, key=lambda dim: (abs(math.log(dim / config.dim)), dim))


def _at_dim(config: Config, dim: int, target: int, multiple: int, low: float, high: float) -> Config:
    """The config of this width whose count comes nearest to the target by moving the inner widths."""
    for _ in range(40):  # the count grows with the ratio: bisection
        middle = (low + high) / 2
        low, high = (middle, high) if count_parameters(_scaled(config, dim, middle, multiple)) < target else (low, middle)
    return min((_scaled(config, dim, ratio, multiple) for ratio in (low, high)), key=lambda c: _distance(c, target))


def _scaled(config: Config, dim: int, ratio: float, multiple: int) -> Config:
    """The config at another width, with its inner widths multiplied by `ratio`."""
    kinds = set(config.blocks)
    changes: dict[str, object] = dict(dim=dim)
    if kinds & set(FFN_DEFAULTS):
        # one factor serves all blocks of a stack; where it is the blocks' default, take that of the first that has one
        first = next(kind for kind in config.blocks if kind in FFN_DEFAULTS)
        factor = config.ffn_factor if config.ffn_factor is not None else FFN_DEFAULTS[first]
        multiple = math.gcd(config.ffn_multiple, multiple)
        width = max(round(factor * ratio * dim / multiple), 1) * multiple
        changes |= dict(ffn_factor=factor_of(width, dim, multiple), ffn_multiple=multiple)
    if PROJECTED & kinds:
        step = _inner_step(config)
        inner = max(round(config.projection_factor * ratio * dim / step), 1) * step
        changes |= dict(projection_factor=inner / dim, qkv_block_size=inner if _is_dense(config) else config.qkv_block_size)
    return replace(config, **changes)  # type: ignore[arg-type]


def _is_dense(config: StackConfig) -> bool:
    """Whether q, k and v of the mlstm blocks are one block each."""
    return config.qkv_block_size == round(config.projection_factor * config.dim)


def _inner_step(config: StackConfig) -> int:
    """What the inner width of the mlstm and ssd blocks is a multiple of."""
    heads = math.lcm(config.num_heads, config.ssd_num_heads or 1)
    return heads if "mlstm" not in config.blocks or _is_dense(config) else math.lcm(heads, config.qkv_block_size)
