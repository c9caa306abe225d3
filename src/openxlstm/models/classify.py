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
    pooled: Tensor  # [B, P]  "mean": sum of the steps seen; "max": their maximum, -inf for none; "last": the last step seen
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
        self.classifier = nn.Linear(config.num_features, config.num_classes)
        small_init(self.classifier.weight, config.num_features)
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
        features = [self._features(pooled, count)]
        if self.backward_stack is not None:
            pooled_back, _ = self._pool(self._backward(e, reset, mask), valid, reset, None, first=True)
            features.append(self._features(pooled_back, count))
        logits = self._head(torch.cat(features, -1))
        return logits, None if self.backward_stack is not None else ClassifierState(stack_state, pooled, count)

    def running(
        self, x: Tensor, state: ClassifierState | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, ClassifierState]:
        """Score the classes after every step: logits [B, T, C] of what was read until then, and the last state.

        Costs no more than `forward`, since the state knows all that was read. At padding the scores are those of before.
        Arguments as in `forward`. Raises ValueError for a bidirectional model, whose scores need the end of the sequence.
        """
        if self.backward_stack is not None:
            raise ValueError("a bidirectional classifier has no running score: it reads from the end too")
        h, stack_state = self.stack(self.embed(x), None if state is None else state.stack, mask=mask)
        h = h.to(accumulation_dtype(h))
        valid = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask
        if state is None:
            state = ClassifierState((), self._nothing(h), valid.new_zeros(len(valid), dtype=torch.int64))
        count = state.steps[:, None] + valid.cumsum(1)  # [B, T]
        before = torch.cat([state.pooled[:, None], self._parts(h, valid)], 1)  # [B, 1 + T, P]
        match self.config.pooling:
            case "mean":
                pooled = before.cumsum(1)[:, 1:]
            case "max":
                pooled = before.cummax(1).values[:, 1:]
            case "mean_max":
                sums, maxima = before.chunk(2, -1)
                pooled = torch.cat([sums.cumsum(1), maxima.cummax(1).values], -1)[:, 1:]
            case _:
                places = torch.where(valid, torch.arange(1, valid.shape[1] + 1, device=h.device), 0).cummax(1).values
                pooled = before.gather(1, places[..., None].expand(-1, -1, before.shape[-1]))
        last = pooled[:, -1] if h.shape[1] else state.pooled
        end = ClassifierState(stack_state, last, state.steps + valid.sum(1))
        return self._head(self._features(pooled, count)), end

    def _head(self, features: Tensor) -> Tensor:
        logits = self.classifier(features.to(self.classifier.weight.dtype))
        return logits.to(accumulation_dtype(logits))

    def _features(self, pooled: Tensor, count: Tensor) -> Tensor:
        """What the head reads of pooled steps [..., P] and their number [...]."""
        if self.config.pooling == "mean":
            return pooled / count.clamp(min=1)[..., None]
        if self.config.pooling == "last":
            return pooled
        sums, maxima = pooled.chunk(2, -1) if self.config.pooling == "mean_max" else (pooled[..., :0], pooled)
        return torch.cat([sums / count.clamp(min=1)[..., None], torch.where(count[..., None] > 0, maxima, 0.0)], -1)

    def _backward(self, e: Tensor, reset: Tensor | None, mask: Tensor | None) -> Tensor:
        """The second stack over the reversed sequence; its outputs in the order of time. Padding passes on either side."""
        assert self.backward_stack is not None
        # a border before step t is, read backwards, a border before step t - 1
        borders = None if reset is None else reset.roll(-1, 1).flip(1)
        h, _ = self.backward_stack(e.flip(1), reset=borders, mask=None if mask is None else mask.flip(1))
        return h.flip(1)

    def _parts(self, h: Tensor, valid: Tensor) -> Tensor:
        """What each step [B, T, D] adds to the pooled ones, [B, T, P]: itself, or what changes nothing where it is padding."""
        kept = torch.where(valid[..., None], h, 0.0)
        if self.config.pooling in ("mean", "last"):
            return kept
        maxima = torch.where(valid[..., None], h, -torch.inf)
        return maxima if self.config.pooling == "max" else torch.cat([kept, maxima], -1)

    def _nothing(self, h: Tensor) -> Tensor:
        """What no step is pooled to, [B, P]."""
        return self._parts(h.new_zeros(len(h), 1, h.shape[-1]), torch.zeros(len(h), 1, dtype=torch.bool, device=h.device))[:, 0]

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        """Pooled steps of a sequence and of what follows; both [B, P]."""
        if self.config.pooling == "max":
            return torch.maximum(a, b)
        if self.config.pooling == "mean_max":
            (sums, maxima), (more, others) = a.chunk(2, -1), b.chunk(2, -1)
            return torch.cat([sums + more, torch.maximum(maxima, others)], -1)
        return a + b

    def _pool(
        self, h: Tensor, valid: Tensor, reset: Tensor | None, state: ClassifierState | None, first: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The pooled steps [B, P] of each row's last sequence and their number [B]; `first` takes the earliest for "last"."""
        h = h.to(accumulation_dtype(h))
        continued = torch.ones(h.shape[0], dtype=torch.bool, device=h.device)
        if reset is not None:
            started = reset.cumsum(1)
            valid = valid & (started == reset.sum(1, keepdim=True))
            continued = ~reset.any(1)
        count = valid.sum(1)
        if self.config.pooling == "last":
            rank = valid.cumsum(1)
            valid = valid & (rank == (1 if first else count[:, None]))
            continued = continued & (count == 0)
        parts = self._parts(h, valid)
        if not h.shape[1]:
            pooled = self._nothing(h)
        elif self.config.pooling == "max":
            pooled = parts.amax(1)
        elif self.config.pooling == "mean_max":
            sums, maxima = parts.chunk(2, -1)
            pooled = torch.cat([sums.sum(1), maxima.amax(1)], -1)
        else:
            pooled = parts.sum(1)
        if state is not None:
            pooled = self._join(torch.where(continued[:, None], state.pooled, self._nothing(h)), pooled)
            going_on = torch.ones_like(continued) if reset is None else ~reset.any(1)
            count = count + torch.where(going_on, state.steps, 0)
        return pooled, count
