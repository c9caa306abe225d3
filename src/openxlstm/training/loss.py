"""Losses in fp32. That of the next token is computed over chunks of tokens, so that [B, T, vocabulary] logits never exist at
once; that of a task only where the task asks for an answer."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.data.windows import IGNORE
from openxlstm.ops.cross_entropy import linear_cross_entropy
from openxlstm.tasks.task import scored

LOGITS_AT_ONCE = 2**21  # numbers: more logits never exist at once


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
        return token_nats(self.model, hidden, targets), state


class TaskLoss(nn.Module):
    """A sequence model together with the loss of its task: cross-entropy for classes, the squared error for real values,
    the sum of binary cross-entropies for bits.

    `forward(inputs, targets, state, reset)` returns (loss [B, T] fp32, 0 where nothing is asked; state). With predict=True it
    returns the outputs instead, fp32 [N, C] for the N scored targets in the order of `targets[scored]`.
    """

    def __init__(self, model: Any, *, bits: bool = False) -> None:
        """bits: targets that are floating-point numbers are zeros and ones, and the outputs their logits."""
        super().__init__()
        self.model, self.bits = model, bits

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        *,
        predict: bool = False,
    ) -> tuple[Tensor, Any]:
        hidden, state = self.model.hidden(inputs, state, reset=reset)
        where = scored(targets)  # [B, T]
        outputs = self.model.head(hidden[where]).float()
        if predict:
            return outputs, state
        losses = hidden.new_zeros(where.shape, dtype=torch.float32)
        return losses.masked_scatter(where, target_loss(outputs, targets[where], bits=self.bits)), state


class PairLoss(nn.Module):
    """An EncoderDecoder together with its loss: the nats of every token of the target, in training with smoothed labels.

    `forward(inputs, targets, state, reset)` with inputs as of `tasks.pairs.PairInputs` and targets [B, T] returns
    (loss [B, T] fp32, 0 where the target is IGNORE; None: nothing is carried from one pair to the next).
    smoothing: the share e of a label that is spread over the whole vocabulary.
    """

    def __init__(self, model: Any, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, inputs: Any, targets: Tensor, state: Any = None, reset: Tensor | None = None) -> tuple[Tensor, None]:
        hidden, _ = self.model.hidden(inputs.target, self.model.encode(inputs.source, inputs.mask))
        nats = token_nats(self.model, hidden, targets)
        if not (self.training and self.smoothing):
            return nats, None
        # (1 - e) (lse(z) - z_t) + e (lse(z) - mean z) = nats + e (z_t - mean z), and z = W h: no logits are needed
        with torch.autocast(hidden.device.type, enabled=False):
            weight = self.model.head_weight.float()
            wanted = targets != IGNORE
            away = weight[torch.where(wanted, targets, 0)] - weight.mean(0)  # [B, T, D]
            margin = (hidden.float() * away).sum(-1)
        return nats + self.smoothing * torch.where(wanted, margin, 0.0), None


def target_loss(outputs: Tensor, targets: Tensor, *, bits: bool = False) -> Tensor:
    """Loss of each answer, fp32 [N]: of outputs [N, C] for classes [N], in nats; for values [N, C], their mean square; for bits
    [N, C], the nats of all of them together."""
    with torch.autocast(outputs.device.type, enabled=False):
        if bits:
            return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(-1)
        if targets.is_floating_point():
            return (outputs - targets).square().mean(-1)
        return F.cross_entropy(outputs, targets, reduction="none")


def token_nats(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats, fp32 [B, T], 0 where the target is IGNORE. hidden [B, T, D], targets int64 [B, T]."""
    flat, wanted = hidden.flatten(0, 1), targets.flatten()  # [N, D], [N]
    if wanted.numel() * model.config.vocab_size <= LOGITS_AT_ONCE:
        logits = model.head(hidden).flatten(0, 1).float()  # [N, V]
        with torch.autocast(logits.device.type, enabled=False):
            return F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="none").view(targets.shape)
    nats = linear_cross_entropy(
        flat,
        model.head_weight,
        wanted,
        soft_cap=model.config.logit_soft_cap,
        ignore_index=IGNORE,
        logits_at_once=LOGITS_AT_ONCE,
    )
    return nats.float().view(targets.shape)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context of a `trainer.precision`: "fp32" changes nothing, "bf16" is autocast."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
