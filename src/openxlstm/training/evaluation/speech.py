"""Scores of a recogniser: word and character error rates of whole texts, by the package jiwer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from openxlstm.errors import missing_extra
from openxlstm.inference.ctc import decode
from openxlstm.tasks import Split
from openxlstm.tasks.speech import DIGITS, WORD_ERRORS, DigitSequences, TranscriptBatch
from openxlstm.training.evaluation.task import LengthScore, TaskEvaluation
from openxlstm.training.loss import TranscriptLoss, autocast, transcript_loss
from openxlstm.training.progress import shown


class Edits(NamedTuple):
    """What it takes to make texts into their references, in words or characters, and how many there are in the references."""

    substitutions: int
    deletions: int
    insertions: int
    total: int

    @property
    def rate(self) -> float:
        """The error rate: more than 1 where much was inserted."""
        return (self.substitutions + self.deletions + self.insertions) / max(self.total, 1)


def jiwer_package() -> Any:
    """The package jiwer; raises UserError where it is not installed."""
    try:
        import jiwer
    except ImportError:
        raise missing_extra("jiwer", "speech", "word error rates") from None
    return jiwer


def word_edits(references: Sequence[str], texts: Sequence[str]) -> Edits:
    """Of the words of all texts together. No reference may be empty."""
    return _edits(jiwer_package().process_words(list(references), list(texts)))


def character_edits(references: Sequence[str], texts: Sequence[str]) -> Edits:
    """Of their characters, spaces among them."""
    return _edits(jiwer_package().process_characters(list(references), list(texts)))


def _edits(found: Any) -> Edits:
    total = found.hits + found.substitutions + found.deletions
    return Edits(found.substitutions, found.deletions, found.insertions, total)


@dataclass(frozen=True)
class SpeechEvaluation(TaskEvaluation):
    """Result on the sequences of a split. `score` is the word error rate, `guess` that of the best answer that is always the
    same digit so many times, `loss` the nats of CTC a label, `num_targets` the words.

    character_error_rate: of the texts, with their spaces. substitutions, deletions, insertions: of words. beam: width of the
    search, 0 for the likeliest label of each step.
    """

    character_error_rate: float = 0.0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    beam: int = 0

    @property
    def objective(self) -> float:
        """Of two with the same errors the one with the lower loss."""
        return self.score + 1e-6 * self.loss

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.metric} {self.score:.4f} (guessing {self.guess:.4f}), character error rate "
            f"{self.character_error_rate:.4f}, loss {shown(self.loss)}"
        )


@torch.no_grad()
def evaluate_speech(
    model: nn.Module,
    task: DigitSequences,
    split: Split,
    lengths: str | None = None,
    *,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    beam: int = 0,
) -> SpeechEvaluation:
    """Arguments as for `evaluate_task`; model: a SequenceModel, or a TranscriptLoss around one. beam: as in `inference.ctc`."""
    loss = model if isinstance(model, TranscriptLoss) else TranscriptLoss(model)
    lengths = lengths or task.reports[0]
    jiwer_package()  # before the work, not after it
    found: dict[str, list[tuple[str, str, float, int]]] = {}  # length -> (reference, text, loss, labels) of each sequence
    was_training = loss.training
    loss.eval()
    try:
        for label, batch in task.evaluation(split, lengths):
            assert isinstance(batch, TranscriptBatch)
            found.setdefault(label, []).extend(transcribed(loss, task, batch, precision, rank, world_size, beam))
    finally:
        loss.train(was_training)
    if world_size > 1:
        everywhere: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(everywhere, found)
        found = {label: [row for part in everywhere for row in part[label]] for label in found}
    by_length = tuple(LengthScore(label, **scores(rows)) for label, rows in found.items() if rows)
    rows = [row for part in found.values() for row in part]
    words = word_edits(*texts(rows))
    return SpeechEvaluation(
        split,
        lengths,
        WORD_ERRORS.name,
        WORD_ERRORS.higher_is_better,
        **scores(rows),
        by_length=by_length,
        character_error_rate=character_edits(*texts(rows)).rate,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        beam=beam,
    )


def transcribed(
    loss: TranscriptLoss, task: DigitSequences, batch: TranscriptBatch, precision: str, rank: int, world: int, beam: int
) -> list[tuple[str, str, float, int]]:
    """(reference, text, nats, labels) of this process's rows of a batch."""
    device = next(loss.parameters()).device
    idle = rank >= len(batch.lengths)  # has no row, but takes part: sharded weights are gathered by all together
    mine = batch.rows(slice(0 if idle else rank, None, world)).to(device)
    with autocast(precision, device):
        log_probs, _ = loss(mine.inputs, mine.targets, predict=True)
    if idle:
        return []
    nats = transcript_loss(log_probs, mine.targets).tolist()
    rows = []
    for labels, probs, steps, cost in zip(mine.labels(), log_probs.cpu(), mine.lengths.tolist(), nats):
        rows.append((task.alphabet.text(labels), task.alphabet.text(decode(probs[:steps], beam)), cost, len(labels)))
    return rows


def texts(rows: Sequence[tuple[str, str, float, int]]) -> tuple[list[str], list[str]]:
    """The references and what was made of them."""
    return [row[0] for row in rows], [row[1] for row in rows]


def scores(rows: Sequence[tuple[str, str, float, int]]) -> dict[str, Any]:
    """score, guess, loss and num_targets."""
    references, found = texts(rows)
    edits = word_edits(references, found)
    nats, labels = sum(row[2] for row in rows), sum(row[3] for row in rows)
    return {"score": edits.rate, "guess": guess(references), "loss": nats / max(labels, 1), "num_targets": edits.total}


def guess(references: Sequence[str]) -> float:
    """The lowest word error rate of a text that is always the same digit, some times or never.

    n times a word against a text of m words, c of them this one: max(m, n) - min(c, n) edits.
    """
    said = [text.split() for text in references]
    sizes = torch.tensor([len(words) for words in said])
    counts = torch.tensor([[words.count(digit) for digit in DIGITS] for words in said])  # [texts, digits]
    edits = [(sizes.clamp(min=times)[:, None] - counts.clamp(max=times)).sum(0).min() for times in range(int(sizes.max()) + 1)]
    return float(torch.stack(edits).min()) / float(sizes.sum())
