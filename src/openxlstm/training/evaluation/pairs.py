"""Scores of translations and summaries: what a model writes alone, and how well it predicts what is right."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openxlstm.inference.translate import Translator
from openxlstm.tasks import SequencePairs, Split
from openxlstm.training.evaluation.task import LengthScore, TaskEvaluation
from openxlstm.training.loss import PairLoss, autocast


@dataclass(frozen=True, kw_only=True)
class PairsEvaluation(TaskEvaluation):
    """Result of writing a part. `score` is the first of `scores`, `guess` that of the task's baseline; `loss` and `num_targets`
    are nats a token of the right targets and their tokens.

    scores: all of the task, by name. beam: hypotheses of the search. num_written: texts. ended: the share of them that the
    model ended by itself. examples: source, what was written, and what is right, for some texts.
    """

    scores: dict[str, float]
    beam: int
    num_written: int
    ended: float
    examples: tuple[tuple[str, str, str], ...] = ()

    def line(self) -> str:
        found = ", ".join(f"{name} {score:.2f}" for name, score in self.scores.items())
        return f"{found} (beam {self.beam}), {self.loss:.4f} nats/token"


@torch.no_grad()
def evaluate_pairs(
    model: nn.Module,
    task: SequencePairs,
    split: Split,
    lengths: str | None = None,
    *,
    beam: int | None = None,
    pairs: int = 0,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
) -> PairsEvaluation:
    """Score `model` (an EncoderDecoder, or a PairLoss around one) on a part of `task`.

    lengths: None or those that the part has; it is scored whole. beam: hypotheses; None = those of the task, in float64, so
    that the texts do not depend on how they are batched; else in the model's own precision. pairs: write the first so many
    alone; 0 = all. rank, world_size: this process's share of the loss, which is summed over the default process group; every
    process writes all texts.
    """
    loss = model if isinstance(model, PairLoss) else PairLoss(model)
    device = next(loss.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # nats, tokens
    was_training = loss.training
    loss.eval()
    try:
        lengths = lengths or task.lengths_of(split)
        for _, batch in task.evaluation(split, lengths):
            idle = rank >= len(batch.lengths)
            mine = batch.rows(slice(0 if idle else rank, None, world_size)).to(device)
            with autocast(precision, device):
                nats, _ = loss(mine.inputs, mine.targets)
            if not idle:
                sums += torch.stack([nats.sum(dtype=torch.float64), mine.scored.sum().double()])
        if world_size > 1:
            torch.distributed.all_reduce(sums)
        written, chosen = write(loss.model, task, split, beam, pairs)
    finally:
        loss.train(was_training)
    references = [pair.targets for pair in chosen]
    scores = task.scores([one.text for one in written], references)
    guess = task.scores([task.without_model(pair) for pair in chosen], references)
    name = task.score_names[0]
    nats_per_token, count = float(sums[0] / sums[1]), int(sums[1])
    return PairsEvaluation(
        split,
        lengths,
        name,
        True,
        scores[name],
        guess[name],
        nats_per_token,
        count,
        (LengthScore(lengths, scores[name], guess[name], nats_per_token, count),),
        scores=scores,
        beam=task.beam if beam is None else beam,
        num_written=len(written),
        ended=sum(one.ended for one in written) / len(written),
        examples=tuple((pair.source, one.text, pair.targets[0]) for one, pair in list(zip(written, chosen))[:5]),
    )


def write(model: Any, task: SequencePairs, split: Split, beam: int | None, pairs: int) -> tuple[list[Any], list[Any]]:
    """What the model writes for the pairs of a part, and the pairs."""
    chosen = list(getattr(task.pairs, split)[: pairs or None])
    if beam is None:
        model = copy.deepcopy(model).double()
    how = Translator(
        model=model,
        tokenizer=task.text_tokenizer,
        beam=beam or task.beam,
        length_penalty=task.length_penalty,
        max_tokens=task.longest,
    )
    return how.translate([pair.source for pair in chosen]), chosen
