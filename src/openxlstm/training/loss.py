"""Losses in fp32. That of the next token is computed over chunks of tokens, so that [B, T, vocabulary] logits never exist at
once; that of a task only where the task asks for an answer; that of a text without alignment by CTC."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.data.alphabet import BLANK
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


class ClassifierLoss(nn.Module):
    """A classifier of whole sequences together with its loss, the cross-entropy.

    The label of a sequence is the one target of its row and stands at its last step; what comes after is padding. `forward`
    as in TaskLoss; there is no state.
    """

    def __init__(self, model: Any, *, label_smoothing: float = 0.0) -> None:
        """label_smoothing: in training, so much of each target is spread evenly over all classes."""
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        *,
        predict: bool = False,
    ) -> tuple[Tensor, Any]:
        where = scored(targets)  # [B, T]
        mask = where.flip(1).cumsum(1).flip(1) > 0  # up to the label
        logits, _ = self.model(inputs, mask=mask)
        outputs = logits.float()
        if predict:
            return outputs, None
        smoothing = self.label_smoothing if self.training else 0.0
        with torch.autocast(outputs.device.type, enabled=False):
            found = F.cross_entropy(outputs, targets[where], reduction="none", label_smoothing=smoothing)
        return outputs.new_zeros(where.shape).masked_scatter(where, found), None


class TranscriptLoss(nn.Module):
    """A sequence model together with the loss of CTC (Graves et al. 2006): -log of the probability of a text, over all its
    alignments with the steps.

    `forward(inputs, targets, state, reset)`, with targets as in `tasks.speech.TranscriptBatch`, returns (loss [B] fp32, in
    nats; state). A row with fewer steps than its text needs has the loss 0. With predict=True it returns the log probabilities
    of the labels instead, fp32 [B, T, C].
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

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
        with torch.autocast(hidden.device.type, enabled=False):
            log_probs = self.model.head(hidden.float()).float().log_softmax(-1)  # [B, T, C]
            return log_probs if predict else transcript_loss(log_probs, targets), state


def transcript_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """The nats of each text, fp32 [B], from log probabilities [B, T, C] and targets [B, 1 + U]."""
    labels = targets[:, 1:]
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        labels.clamp(min=0),  # what is IGNORE lies behind the number of labels
        targets[:, 0],
        (labels != IGNORE).sum(1),
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )


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
