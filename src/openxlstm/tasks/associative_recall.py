"""Recalling what was paired with what."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from openxlstm.errors import UserError
from openxlstm.tasks.generated import GeneratedTask, length_range
from openxlstm.tasks.published import ZOOLOGY
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature, nothing_scored


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall(GeneratedTask):
    """Pairs of key and value, then each key once more: which value was it?

    Multi-query associative recall with the distribution of Arora et al. 2023 ("Zoology", arXiv 2312.04927), as in the xLSTM
    paper (arXiv 2405.04517, fig. 5): different keys from 1..V/2 - 1 and different values from V/2..V - 1, all pairs first; then
    the keys come again, in places of every second step, drawn without replacement with p(gap) ~ gap^(a - 1). The answer is due
    at the key. Between them stands 0.

    vocab_size: V.
    num_pairs: pairs of key and value.
    power_a: a of the gaps' power law; 1 makes all gaps equally likely.
    random_non_queries: random tokens in place of the zeros.
    """

    name: ClassVar[str] = "mqar"

    train_length: str = "64"
    eval_length: str = "64"
    report_lengths: tuple[str, ...] = ("128", "256")
    test_samples: int = 3000
    vocab_size: int = 8192
    num_pairs: int = 4
    power_a: float = 0.01
    random_non_queries: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_pairs < 1:
            raise UserError(f"data.num_pairs={self.num_pairs} must be at least 1")
        if self.vocab_size // 2 - 1 < self.num_pairs:
            raise UserError(f"data.vocab_size={self.vocab_size} has too few keys for data.num_pairs={self.num_pairs}")
        if self.power_a <= 0:
            raise UserError(f"data.power_a={self.power_a} must be positive")
        for text in (self.train_length, *self.reports):
            if any(length % 2 or length < 4 * self.num_pairs for length in length_range(text)):
                raise UserError(
                    f"a length of {text!r}: {self.num_pairs} pairs need even lengths of {4 * self.num_pairs} or more"
                )

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=self.vocab_size, num_classes=self.vocab_size)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        known = not self.random_non_queries and self.vocab_size == 8192 and self.power_a == 0.01
        return ZOOLOGY.get((self.eval_length, self.num_pairs), ()) if known else ()

    def chance(self, length: int) -> float:
        """Any value that was shown."""
        return 1 / self.num_pairs

    def sample(self, batch: int, length: int, rng: torch.Generator) -> Batch:
        pairs, half = self.num_pairs, self.vocab_size // 2
        keys = 1 + torch.rand(batch, half - 1, generator=rng).topk(pairs).indices  # different, in any order
        values = half + torch.rand(batch, self.vocab_size - half, generator=rng).topk(pairs).indices
        shown = 2 * pairs
        gap = torch.arange(1, (length - shown) // 2 + 1, dtype=torch.float64)
        # the smallest of exponential waiting times with rates p: drawing one after another without replacement
        waiting = -torch.rand(batch, len(gap), generator=rng, dtype=torch.float64).log() / gap ** (self.power_a - 1)
        places = shown + 2 * waiting.topk(pairs, largest=False).indices
        inputs = torch.zeros(batch, length, dtype=torch.int64)
        inputs[:, 0:shown:2], inputs[:, 1:shown:2] = keys, values
        inputs.scatter_(1, places, keys)
        targets = nothing_scored(batch, length).scatter_(1, places, values)
        if self.random_non_queries:
            noise = torch.randint(self.vocab_size, inputs.shape, generator=rng)
            inputs = torch.where(inputs == 0, noise, inputs)
        return Batch(inputs, targets, torch.full((batch,), length))
