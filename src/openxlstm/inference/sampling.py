"""From logits to a token: temperature, then top-k, then top-p, then one draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openxlstm.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a token is drawn.

    temperature: logits are divided by it; 0 takes the most probable token (greedy) and needs no random number.
    top_k: only the k most probable tokens stay; None = all.
    top_p: of what top_k left, renormalised, only the smallest set of most probable tokens whose probabilities sum to at
        least p stays (nucleus sampling, arXiv 1904.09751); None = all.
    Among equally probable tokens at either border the smaller ids stay.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature must be 0 (greedy) or above, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")


ROUNDING = 1e-12
"""Slack in "the sum reaches p": 0.5 + 0.3 must count as having reached 0.8."""

GREEDY = Sampling(temperature=0.0)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is drawn from. logits [..., V] -> float64 [..., V] that sums to 1.

    A logit of -inf bans its token. Raises UserError where logits are NaN or leave nothing to draw.
    """
    check_finite(logits)
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    x = logits.double()
    x = (x - x.amax(-1, keepdim=True)) / sampling.temperature  # <= 0 first, so that a tiny temperature cannot overflow
    if sampling.top_k is None and sampling.top_p in (None, 1):
        return x.softmax(-1)
    x, order = x.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        x[..., sampling.top_k :] = -math.inf
    p = x.softmax(-1)
    if sampling.top_p not in (None, 1):
        ahead = torch.nn.functional.pad(p.cumsum(-1)[..., :-1], (1, 0))  # probability of all more probable tokens
        p = torch.where(ahead < sampling.top_p - ROUNDING, p, 0.0)
        p = p / p.sum(-1, keepdim=True)
    return torch.zeros_like(p).scatter(-1, order, p)


def sample(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator] = ()) -> Tensor:
    """Draw one token a row. logits [B, V] -> ids [B] int64.

    generators: one a row, on the CPU, so that a row's draws do not depend on its neighbours; unused when greedy. None
    given = torch's global generator.
    """
    if sampling.temperature == 0:
        check_finite(logits)
        return logits.argmax(-1)
    if generators and len(generators) != logits.shape[0]:
        raise UserError(f"{logits.shape[0]} rows need as many generators, got {len(generators)}")
    total = probabilities(logits, sampling).cumsum(-1)  # [B, V]
    if generators:
        u = torch.cat([torch.rand(1, dtype=torch.float64, generator=g) for g in generators])
    else:
        u = torch.rand(logits.shape[0], dtype=torch.float64)
    end = total[:, -1:]
    threshold = torch.minimum(u.to(total.device)[:, None] * end, torch.nextafter(end, torch.zeros_like(end)))
    return torch.searchsorted(total, threshold, right=True)[:, 0]  # first id whose running sum exceeds the threshold


def check_finite(logits: Tensor) -> None:
    """Raise where the largest logit of a row is NaN or infinite: nothing sensible can be drawn there."""
    if not bool(logits.amax(-1).isfinite().all()):
        raise UserError("the model's logits are NaN or infinite; was its training stable, and is its checkpoint whole?")
