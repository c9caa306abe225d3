"""Translations and summaries as a job: trained on the next token, judged by what the model writes."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks import Batch, SequencePairs
from openxlstm.training.config import ModelSettings, RunConfig, build_pairs_config
from openxlstm.training.evaluation.pairs import PairsEvaluation, evaluate_pairs
from openxlstm.training.jobs.task import TaskJob, spell_anchors
from openxlstm.training.loss import PairLoss


class PairBatches:
    """Training pairs in batches of about equal length, as a function of (seed, step, rank, world size): epoch after epoch, each
    pair once in each.

    task: whose pairs. rows: of the global batch, unless the task has a budget of tokens. seed: chooses the order. multiple: the
    rows of a process are a multiple of it.
    """

    def __init__(self, task: SequencePairs, rows: int, seed: int, multiple: int = 1) -> None:
        self.task, self.rows, self.seed, self.multiple = task, rows, seed, multiple
        self.pairs = task.token_pairs("train")
        # pairs of equal cost change places from epoch to epoch, so that every epoch is cut at the same places
        self.costs = sorted(pair.cost for pair in self.pairs)
        self._order = lru_cache(maxsize=2)(self._epoch)
        self._cuts = lru_cache(maxsize=2)(self._cut)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows of `rank` in global batch number `step` (from 0)."""
        cuts = self._cuts(self.multiple * world_size)
        epoch, place = divmod(step, len(cuts) - 1)
        order, batches = self._order(epoch, len(cuts) - 1)
        number = batches[place]
        chosen = order[cuts[number] : cuts[number + 1]]
        missing = -len(chosen) % (self.multiple * world_size)  # of the last batch: some others, so that all have as many
        chosen = [*chosen, *order[:missing]]
        return self.task.batch([self.pairs[n] for n in chosen[rank::world_size]])

    def _epoch(self, epoch: int, batches: int) -> tuple[list[int], list[int]]:
        """The pairs by cost, those of equal cost in random order; and the order of the batches."""
        rng = torch.Generator().manual_seed(mix("pairs", self.seed, epoch))
        order = torch.randperm(len(self.pairs), generator=rng).tolist()
        order.sort(key=lambda n: self.pairs[n].cost)
        return order, torch.randperm(batches, generator=rng).tolist()

    def _cut(self, unit: int) -> list[int]:
        """Where batches begin and end among the pairs in the order of their cost."""
        budget, cuts = self.task.batch_tokens, [0]
        while cuts[-1] < len(self.pairs):
            stop = cuts[-1] + max(self.rows // unit, 1) * unit
            if budget:
                stop = cuts[-1] + unit
                while stop + unit <= len(self.pairs) and (stop + unit - cuts[-1]) * self.costs[stop + unit - 1] <= budget:
                    stop += unit
            cuts.append(min(stop, len(self.pairs)))
        return cuts


class PairsJob(TaskJob):
    """Weights are chosen by the score of what the model writes greedily in validation; reported is what it writes for the test
    part, greedily and by beam search."""

    task: SequencePairs

    def __init__(self, config: RunConfig, task: SequencePairs) -> None:
        if config.trainer.strategy == "fsdp2":
            raise UserError(f"task {task.name!r} writes with the whole model: trainer.strategy=fsdp2 cannot train it, ddp can")
        super().__init__(config, task)
        self.ending = f"writing the test part with beam {task.beam}"
        self.tokenizer = task.text_tokenizer

    def model_config(self, settings: ModelSettings) -> Any:
        return build_pairs_config(settings, self.task.text_tokenizer.vocab_size)

    def model_type(self) -> Any:
        from openxlstm.models.translate import EncoderDecoder

        return EncoderDecoder

    def loss(self, model: nn.Module) -> nn.Module:
        return PairLoss(model, smoothing=self.task.label_smoothing)

    def source(self) -> Any:
        trainer = self.config.trainer
        return PairBatches(self.task, trainer.batch_size, self.config.seed, trainer.accumulate)

    def validate(self, loss: nn.Module, rank: int, world: int) -> PairsEvaluation:
        return self._evaluate(loss, "validation", rank, world, beam=1, pairs=self.task.validation_pairs)

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        found = self._evaluate(loss, "validation", rank, world, beam=1)
        greedy = self._evaluate(loss, "test", rank, world, beam=1)
        test = self._evaluate(loss, "test", rank, world)
        return {
            **self.told(found, test),
            "greedy_line": greedy.line(),
            "greedy": greedy.to_dict(),
            "scored_by": self.task.scored_by(),
            "baselines": {self.task.baseline: {"score": test.guess}},
        }

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        yield f"validation: {report['validation_line']} (step {report['step']})"
        yield f"test: {report['test_line']} ({report['test']['num_written']:,} texts)"
        yield f"  greedily: {report['greedy_line']}"
        for name, found in report["baselines"].items():
            yield f"  {name}: {report['test']['metric']} {found['score']:.2f}"
        if report["anchors"]:
            yield "published: " + spell_anchors(report["anchors"])

    def _evaluate(self, loss: nn.Module, split: Any, rank: int, world: int, **options: Any) -> PairsEvaluation:
        precision = self.config.trainer.precision
        return evaluate_pairs(loss, self.task, split, precision=precision, rank=rank, world_size=world, **options)
