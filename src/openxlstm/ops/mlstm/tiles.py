"""Chunk lengths and tiles of the Triton kernels, by head sizes, dtype and GPU: a fixed table, so that nothing is timed unasked.

The first entries compile within shared memory for the head sizes of the published models, and without spills but for the
state in reverse (tests/ops/test_mlstm_tiles.py). Those for bfloat16 and chunks of 128 were timed on an H100 (docs/log.md).
"""

from dataclasses import dataclass

import torch

from openxlstm.ops.gpu import INTERPRETER, power_of_two

HOPPER = 90


@dataclass(frozen=True)
class Tile:
    """What one program does and how it is compiled. chunk_state: a and b of the sides of the state. chunk_mix: a is the step of
    the loop over x's width, b the part of z's width."""

    a: int
    b: int
    num_warps: int
    num_stages: int


def chunk_length(K: int, V: int, dtype: torch.dtype, capability: int, wanted: int | None) -> int:
    """Steps a chunk, a power of two from 16; with `wanted` at most as many, and as many as registers allow."""
    if capability == INTERPRETER:
        longest, usual = 128, 16
    elif dtype == torch.float32:
        longest = usual = 32
    else:  # float16 keeps float32 states; where 128 steps fit, states are half the traffic of 64
        longest = usual = 128 if capability == HOPPER and dtype == torch.bfloat16 and min(K, V) > 64 else 64
    return usual if wanted is None else min(max(16, 1 << (wanted.bit_length() - 1)), longest)


def state_tiles(DY: int, DZ: int, L: int, dtype: torch.dtype, capability: int) -> tuple[Tile, ...]:
    """Candidates for chunk_state [DY, DZ], the table's entry first."""
    if capability == INTERPRETER:
        return (Tile(power_of_two(min(DY, 32), 16), power_of_two(min(DZ, 32), 16), 4, 1),)
    if dtype == torch.float32:
        return (Tile(16, 32, 4, 2), Tile(32, 32, 8, 2))
    usual = Tile(64, 64, 8, 3), Tile(64, 64, 8, 2)
    # Two programs of four warps on a multiprocessor: 1.2 ms instead of 2.1 for 8 heads of 256 x 512; slower for 96 x 192
    return (Tile(64, 64, 4, 3), *usual) if L == 128 and DY % 64 == 0 and DZ % 64 == 0 else usual


def mix_tiles(DX: int, DZ: int, L: int, dtype: torch.dtype, capability: int) -> tuple[Tile, ...]:
    """Candidates for chunk_mix with x of width DX and z of width DZ, the table's entry first."""
    if capability == INTERPRETER:
        return (Tile(power_of_two(min(DX, 32), 16), power_of_two(min(DZ, 32), 16), 4, 1),)
    if dtype == torch.float32:
        return (Tile(32, 32, 4, 2), Tile(32, 64, 4, 2))
    z = 128 if DZ > 64 and dtype == torch.bfloat16 else 64
    return (Tile(64, z, 8, 3), Tile(64, z, 8, 2), Tile(64, 64, 4, 3) if L < 128 else Tile(64, 64, 8, 3))
