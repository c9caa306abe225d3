"""Chunk lengths and tiles of the Triton kernels, by head sizes, dtype and GPU: a fixed table, so that nothing is timed unasked.

Every entry compiles without spills and within shared memory for the head sizes of the published models, with matrix
instructions and asynchronous copies: tests/ops/test_mlstm_tiles.py. None was timed on a GPU yet.
"""

from dataclasses import dataclass

import torch

from openxlstm.ops.gpu import INTERPRETER, ceil_div, power_of_two

LARGE_SHARED = ((8, 0), (9, 0), (10, 0), (10, 3))  # GPUs with 163 KB and more of shared memory a program; others have 99 KB


@dataclass(frozen=True)
class Tile:
    """Sizes of one program's tile and how it is compiled. chunk_state: a and b of K and V, or of V and K. chunk_mix: a is the
    step of the loop over x's width, b the part of z's width."""

    a: int
    b: int
    num_warps: int
    num_stages: int


def chunk_length(dtype: torch.dtype, capability: tuple[int, int], wanted: int | None) -> int:
    """Steps a chunk: a power of two from 16, at most as many as `wanted`."""
    if wanted is not None:
        return min(max(16, 1 << (wanted.bit_length() - 1)), longest(dtype, capability))
    return 16 if capability == INTERPRETER else longest(dtype, capability)


def longest(dtype: torch.dtype, capability: tuple[int, int]) -> int:
    """The longest chunk whose tiles fit."""
    if capability == INTERPRETER:
        return 128
    if dtype == torch.float32:
        return 64
    return 128 if capability in LARGE_SHARED and dtype == torch.bfloat16 else 64


def state_tiles(
    DY: int, DZ: int, L: int, memories: int, dtype: torch.dtype, capability: tuple[int, int]
) -> tuple[Tile, ...]:
    """Candidates for chunk_state [DY, DZ], the table's entry first. With few memories tiles are small, so that all
    multiprocessors have one."""
    if capability == INTERPRETER:
        return (Tile(power_of_two(min(DY, 32), 16), power_of_two(min(DZ, 32), 16), 4, 1),)
    if dtype == torch.float32:
        return (Tile(32, 32, 4, 2), Tile(32, 64, 4, 2))
    small, large = Tile(64, 64, 4, 3), Tile(64 if DY <= 64 else 128, 64, 4 if DY <= 64 else 8, 3)
    if capability not in LARGE_SHARED:
        return (small, Tile(64, 64, 4, 2))
    few = memories * ceil_div(DY, large.a) * ceil_div(DZ, large.b) < 128
    return (small, large) if few else (large, small, Tile(64, 128, 8, 3), Tile(large.a, 64, large.num_warps, 2))


def mix_tiles(DX: int, DZ: int, L: int, dtype: torch.dtype, capability: tuple[int, int]) -> tuple[Tile, ...]:
    """Candidates for chunk_mix with x of width DX and z of width DZ, the table's entry first."""
    if capability == INTERPRETER:
        return (Tile(power_of_two(min(DX, 32), 16), power_of_two(min(DZ, 32), 16), 4, 1),)
    if dtype == torch.float32:
        return (Tile(32, 32, 4, 2), Tile(32, 64, 4, 2))
    z = 64 if DZ <= 64 else 128
    if L < 128 or capability not in LARGE_SHARED:
        return (Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, z, 4, 3))
    return (Tile(64, z, 8, 3), Tile(64, 64, 8, 3), Tile(64, z, 8, 2), Tile(32, z, 8, 4))
