"""One label per sequence: embedding or projection, stack, pooling, linear layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openxlstm.layers.init import small_init
from openxlstm.models.config import ClassifierConfig
from openxlstm.models.encoder import Encoder
from openxlstm.models.stack import BlockStack, StackState
from openxlstm.ops.numerics import accumulation_dtype


class ClassifierState(NamedTuple):
    """What a classifier remembers between calls."""

    stack: StackState
    pooled: Tensor  # [B, D]  "mean": sum of the steps seen; "last": the last step seen
    steps: Tensor  # [B]      how many were seen, padding aside


class SequenceClassifier(Encoder):
    """`logits, state = model(x, state=None, *, reset=None, mask=None)`: class scores [B, C] of the sequence read so far.

    Padding (mask False) has no influence. Handing the state on continues the sequence: the scores after the last piece are
    those of the whole. A `reset` starts a new sequence, and the scores are those of the last one in the row.
    With `bidirectional` a second stack reads backwards; there is then no state to take or give (it is None).
    """

    config_type = ClassifierConfig
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.backward_stack = BlockStack(config) if config.bidirectional else None
        features = config.dim * (2 if config.bidirectional else 1)
        self.classifier = nn.Linear(features, config.num_classes)
        small_init(self.classifier.weight, features)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self, x: Tensor, state: ClassifierState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ClassifierState | None]:
        """Score the classes.

        x: token ids [B, T], or vectors [B, T, input_dim]. reset, mask: [B, T] bool.
        Returns logits [B, C] (float32, or float64 in a float64 model) and the state. A row without a step has features 0.
        Raises ValueError for shapes, and for a state given to a bidirectional model.
        """
        if state is not None and self.backward_stack is not None:
            raise ValueError("a bidirectional classifier reads whole sequences: it takes no state")
        e = self.embed(x)
        h, stack_state = self.stack(e, None if state is None else state.stack, reset=reset, mask=mask)
        valid = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask
        pooled, count = self._pool(h, valid, reset, state)
        features = [pooled / count.clamp(min=1)[:, None] if self.config.pooling == "mean" else pooled]
        if self.backward_stack is not None:
            back = self._backward(e, reset, mask)
            pooled_back, _ = self._pool(back, valid, reset, None, first=True)
            features.append(pooled_back / count.clamp(min=1)[:, None] if self.config.pooling == "mean" else pooled_back)
        logits = self.classifier(torch.cat(features, -1).to(self.classifier.weight.dtype))
        logits = logits.to(accumulation_dtype(logits))
        return logits, None if self.backward_stack is not None else ClassifierState(stack_state, pooled, count)

    def _backward(self, e: Tensor, reset: Tensor | None, mask: Tensor | None) -> Tensor:
        """The second stack over the reversed sequence; its outputs in the order of time. Padding passes on either side."""
        assert self.backward_stack is not None
        # a border before step t is, read backwards, a border before step t - 1
        borders = None if reset is None else reset.roll(-1, 1).flip(1)
        h, _ = self.backward_stack(e.flip(1), reset=borders, mask=None if mask is None else mask.flip(1))
        return h.flip(1)

    def _pool(
        self, h: Tensor, valid: Tensor, reset: Tensor | None, state: ClassifierState | None, first: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The pooled steps [B, D] of each row's last sequence and their number [B]; `first` takes the earliest for "last"."""
        h = h.to(accumulation_dtype(h))
        continued = torch.ones(h.shape[0], dtype=torch.bool, device=h.device)
        if reset is not None:
            started = reset.cumsum(1)
            valid = valid & (started == reset.sum(1, keepdim=True))
            continued = ~reset.any(1)
        count = valid.sum(1)
        if self.config.pooling == "mean":
            pooled = (h * valid[..., None]).sum(1) if h.shape[1] else h.new_zeros(h.shape[0], h.shape[2])
        else:
            rank = valid.cumsum(1)
            chosen = valid & (rank == (1 if first else count[:, None]))
            pooled = torch.where(chosen[..., None], h, 0.0).sum(1)
        if state is not None:
            keep = continued if self.config.pooling == "mean" else continued & (count == 0)
            pooled = pooled + torch.where(keep[:, None], state.pooled, 0.0)
            count = count + torch.where(continued, state.steps, 0)
        return pooled, count
