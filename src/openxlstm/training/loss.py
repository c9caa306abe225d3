"""Next-token loss in fp32, computed over chunks of tokens so that [B, T, vocabulary] logits never exist at once."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openxlstm.data.windows import IGNORE

LOGITS_AT_ONCE = 2**24  # numbers, 64 MiB in fp32: above it the loss is computed in chunks that are recomputed in backward


class TokenLoss(nn.Module):
    """A language model together with its loss.

    One module, because data-parallel wrappers gather parameters when a forward is entered: head and blocks must be used
    inside one forward. `forward(ids, targets, state, reset)` with ids, targets, reset [B, T] returns
    (nats [B, T] fp32, state); a target that is IGNORE gives 0 nats.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Tensor,
        targets: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        hidden, state = self.model.hidden(ids, state, reset=reset)
        return token_nats(self.model.head, hidden, targets, self.model.config.vocab_size), state


def token_nats(head: Any, hidden: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """-log p(target) in nats, fp32 [B, T], 0 where the target is IGNORE. hidden [B, T, D], targets int64 [B, T]."""
    flat, wanted = hidden.flatten(0, 1), targets.flatten()  # [N, D], [N]
    if wanted.numel() == 0:
        return hidden.new_zeros(targets.shape, dtype=torch.float32)
    chunk = max(LOGITS_AT_ONCE // vocab_size, 1)
    if wanted.numel() <= chunk:
        return _nats(head, flat, wanted).view(targets.shape)
    parts = [
        checkpoint(_nats, head, h, t, use_reentrant=False) if torch.is_grad_enabled() else _nats(head, h, t)
        for h, t in zip(flat.split(chunk), wanted.split(chunk))
    ]
    return torch.cat(parts).view(targets.shape)


def _nats(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = head(hidden[None])[0].float()  # [N, V]
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of a `trainer.precision`: "fp32" changes nothing, "bf16" is autocast."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
