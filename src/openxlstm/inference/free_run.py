"""A model that goes on with its own answers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""(inputs [B, T, F] float32, state) -> (answers [B, T, F], state): a SequenceModel, or what wraps one."""


@torch.no_grad()
def free_run(step: Step, prefix: Tensor, num_steps: int, scale: Tensor) -> Tensor:
    """Read a prefix, then predict without ever seeing the truth again.

    step: the model. prefix: [B, W, F], at least one sample, of which the model reads all. scale: [F]; an answer times this is
    the difference to the next sample. Sums are float64: a step is small against what it is added to.

    Returns the next samples [B, num_steps, F], float64.
    """
    if prefix.dim() != 3 or not prefix.shape[1]:
        raise ValueError(f"prefix must be [B, W, F] with W of at least 1, got {list(prefix.shape)}")
    at = prefix[:, -1:].double()
    answer, state = step(prefix.float(), None)
    found = prefix.new_empty(len(prefix), num_steps, prefix.shape[2], dtype=torch.float64)
    for number in range(num_steps):
        at = at + scale * answer[:, -1:].double()
        found[:, number] = at[:, 0]
        if number + 1 < num_steps:
            answer, state = step(at.float(), state)
    return found
