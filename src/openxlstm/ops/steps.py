"""What recurrences that go step by step share: inside, time is first and heads come before batch."""

import torch
from torch import Tensor


def rows(x: Tensor) -> Tensor:
    """[B, H, D] <-> [H, B, D]"""
    return x.transpose(0, 1)


def own_rows(x: Tensor) -> Tensor:
    """The same as a copy: what an operator returns may share memory with nothing, and a view of one step would keep those of
    all steps alive."""
    return rows(x).clone(memory_format=torch.contiguous_format)


def by_step(flags: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """[B, T] -> [T, 1, B, 1], to broadcast against a state."""
    return None if flags is None else flags.t().to(dtype)[:, None, :, None]
