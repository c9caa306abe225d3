"""A text becomes another: what translations and summaries have in common."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data import load_tokenizer
from openxlstm.data.pairs import Pair, PairParts
from openxlstm.data.tokenizer import BPETokenizer, Tokenizer
from openxlstm.errors import UserError
from openxlstm.tasks.files import FileTask
from openxlstm.tasks.task import CROSS_ENTROPY, Batch, Metric, Signature, Split, nothing_scored

LONGEST_SUMMARY = 128  # tokens that are written where `max_target` says nothing
TOKENS_AT_ONCE = 8192  # in a batch for evaluation, sources and targets together


class TokenPair(NamedTuple):
    """A pair as token ids. The end token closes both."""

    source: list[int]
    target: list[int]

    @property
    def cost(self) -> int:
        """Tokens that are read."""
        return len(self.source) + len(self.target)


@dataclass(frozen=True)
class PairInputs:
    """What models of pairs read, row by row."""

    source: Tensor  # [B, S] int64, 0 is padding
    mask: Tensor | None  # [B, S] bool, False = padding; None where there is none
    target: Tensor  # [B, T] int64: the end token, then the target without its last token

    @property
    def shape(self) -> torch.Size:
        """[B, T]: that of the targets."""
        return self.target.shape

    @property
    def device(self) -> torch.device:
        return self.target.device

    def __getitem__(self, rows: Any) -> "PairInputs":
        return PairInputs(self.source[rows], None if self.mask is None else self.mask[rows], self.target[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PairInputs":
        """The same on a device."""
        parts = (self.source, self.mask, self.target)
        return PairInputs(*(part if part is None else part.to(device, non_blocking=non_blocking) for part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class SequencePairs(FileTask):
    """Trained on every next token of the target, with the right ones before it; scored by what a model writes alone.

    source: the files, as each task says.
    tokenizer: "bpe", trained on sources and targets of the training part together, or the path of a tokenizer.json.
    vocab_size: tokens of that BPE.
    max_source: training sources are cut to so many tokens; 0 = never.
    max_target: training pairs with a longer target are left out; 0 = none.
    batch_tokens: a training batch has as many pairs as fit into so many tokens, padding included, all of about equal length;
        0 = trainer.batch_size pairs.
    label_smoothing: this share of what a training target says is spread over the whole vocabulary (arXiv 1512.00567, sec. 7).
    beam: hypotheses of the beam search with which the finished model writes the test part; 1 is greedy.
    length_penalty: power of the length penalty in it (arXiv 1609.08144, eq. 14); 0 = none.
    validation_pairs: pairs that are written, greedily, in a validation; 0 = all.
    """

    tokenizer: str = "bpe"
    vocab_size: int = 8192
    max_source: int = 0
    max_target: int = 0
    batch_tokens: int = 0
    label_smoothing: float = 0.1
    beam: int = 4
    length_penalty: float = 1.5
    validation_pairs: int = 0

    score_names: ClassVar[tuple[str, ...]]
    """Of `scores`; the first is what the task is about."""
    baseline: ClassVar[str]
    """What needs no model."""
    shorter: ClassVar[bool] = False
    """Targets are much shorter than sources, whose length says little of theirs."""

    def __post_init__(self) -> None:
        for name in ("max_source", "max_target", "batch_tokens", "validation_pairs"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name}={getattr(self, name)} must not be negative")
        if self.beam < 1:
            raise UserError(f"data.beam={self.beam} must be at least 1")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"data.label_smoothing={self.label_smoothing} must be in [0, 1)")
        if not self.length_penalty >= 0:
            raise UserError(f"data.length_penalty={self.length_penalty} must not be negative")
        if self.vocab_size < 257:
            raise UserError(f"data.vocab_size={self.vocab_size} is too small: 256 bytes and the end token make 257")

    @abstractmethod
    def read(self) -> PairParts:
        """The pairs of `source`. Raises UserError, with file, line and reason, for files that are not the task's."""

    @abstractmethod
    def scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """The scores of texts, by `score_names`, 0 to 100."""

    @abstractmethod
    def scored_by(self) -> str:
        """The version and settings behind `scores`."""

    @abstractmethod
    def without_model(self, pair: Pair) -> str:
        """The text of the baseline."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What `source` names, to see when it changes."""
        path = Path(self.source)
        return tuple(sorted(path.iterdir())) if path.is_dir() else tuple(Path(name) for name in self.source.split(","))

    @property
    def pairs(self) -> PairParts:
        """The three parts."""
        return self._prepared.parts

    @property
    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer, with an end token."""
        return self._prepared.tokenizer

    @property
    def _prepared(self) -> "Prepared":
        self.check_source()
        changed = tuple(file.stat().st_mtime_ns for file in self.files if file.exists())
        # decoding, batches and loss change nothing that is prepared
        same = replace(self, beam=1, length_penalty=0.0, batch_tokens=0, validation_pairs=0, label_smoothing=0.0)
        return _prepare(same, changed)

    def token_pairs(self, split: Split) -> tuple[TokenPair, ...]:
        """The pairs of a part as tokens; training pairs are cut and left out as the settings say."""
        return self._prepared.tokens[split]

    @property
    def signature(self) -> Signature:
        """With the vocabulary that is asked for; that of a small text, or of a file, may be another."""
        return Signature(vocab_size=self.vocab_size, num_classes=self.vocab_size)

    @property
    def metric(self) -> Metric:
        """Of one token. What is reported are `scores`."""
        return CROSS_ENTROPY

    def chance(self, length: int) -> float:
        """Every token is as likely."""
        return float(torch.log(torch.tensor(float(self.vocab_size))))

    @property
    def trained(self) -> str:
        return self.lengths_of("train")

    @property
    def reports(self) -> tuple[str, ...]:
        return (self.lengths_of("test"),)

    @property
    def longest(self) -> int:
        """Tokens that are written at most; 0 = it depends on the source."""
        if not self.shorter:
            return 0
        return self.max_target or LONGEST_SUMMARY

    def lengths_of(self, split: Split) -> str:
        """Of the sources of a part, in tokens: "N-M"."""
        if not self.source:
            return "1-100"
        sizes = [len(pair.source) for pair in self.token_pairs(split)]
        return f"{min(sizes)}-{max(sizes)}"

    @property
    def description(self) -> str:
        return f"task {self.name}: {len(self.token_pairs('train')):,} pairs of {self.source} to train on"

    def content(self, split: Split) -> Iterator[NDArray[Any]]:
        """Tokens, which a tokenizer's file may change, and texts: a target that is not the first has no tokens."""
        found = (self.token_pairs(split), getattr(self.pairs, split))
        yield np.frombuffer(repr(found).encode("utf-8", "backslashreplace"), np.uint8)

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        pairs = self.token_pairs("train")
        return self.batch([pairs[n] for n in torch.randint(len(pairs), (batch,), generator=rng).tolist()])

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        """lengths: those of `reports`; the parts are scored whole."""
        if lengths != self.lengths_of(split):
            raise UserError(f"task {self.name} is scored on all lengths of the {split} part, {self.lengths_of(split)}")
        rows: list[TokenPair] = []
        for pair in sorted(self.token_pairs(split), key=lambda pair: pair.cost):
            if rows and (len(rows) + 1) * pair.cost > TOKENS_AT_ONCE:
                yield lengths, self.batch(rows)
                rows = []
            rows.append(pair)
        yield lengths, self.batch(rows)

    def batch(self, pairs: Sequence[TokenPair]) -> Batch:
        """Pairs side by side, padded at the end. `lengths` counts the tokens of both texts."""
        end = self.text_tokenizer.eos_id
        assert end is not None
        source, mask = pad([pair.source for pair in pairs])
        target, _ = pad([[end, *pair.target[:-1]] for pair in pairs])
        targets = nothing_scored(*target.shape)
        for row, pair in enumerate(pairs):
            targets[row, : len(pair.target)] = torch.tensor(pair.target)
        inputs = cast(Tensor, PairInputs(source, mask, target))  # has what Batch asks of a tensor
        return Batch(inputs, targets, torch.tensor([pair.cost for pair in pairs]))


class Prepared(NamedTuple):
    """What is made of the files of a task once."""

    parts: PairParts
    tokenizer: Tokenizer
    tokens: dict[str, tuple[TokenPair, ...]]


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Ids [B, T] padded with 0 at the end, and the mask [B, T] of what is not padding (None where all of it is text)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    if all(len(row) == longest for row in rows):
        return ids, None
    return ids, torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]


@lru_cache(maxsize=4)
def _prepare(task: SequencePairs, changed: tuple[int, ...]) -> Prepared:
    parts = task.read()
    if task.tokenizer == "bpe":
        texts = [text for pair in parts.train for text in (pair.source, pair.targets[0])]
        tokenizer: Tokenizer = BPETokenizer.train(texts, task.vocab_size)
    else:
        tokenizer = load_tokenizer(task.tokenizer)
    if tokenizer.eos_id is None:
        raise UserError(f"{task.tokenizer}: the tokenizer has no end token, and pairs need one")
    tokens = {name: _tokens(part, tokenizer) for name, part in zip(PairParts._fields, parts)}
    cut = task.max_source - 1 if task.max_source else None
    tokens["train"] = tuple(
        TokenPair([*pair.source[:-1][:cut], tokenizer.eos_id], pair.target)
        for pair in tokens["train"]
        if not task.max_target or len(pair.target) <= task.max_target
    )
    if not tokens["train"]:
        raise UserError(f"data.max_target={task.max_target} leaves no pair to train on")
    return Prepared(parts, tokenizer, tokens)


def _tokens(pairs: Sequence[Pair], tokenizer: Tokenizer) -> tuple[TokenPair, ...]:
    end = tokenizer.eos_id
    assert end is not None
    texts = [text for pair in pairs for text in (pair.source, pair.targets[0])]
    ids = tokenizer.encode_batch(texts) if isinstance(tokenizer, BPETokenizer) else list(map(tokenizer.encode, texts))
    return tuple(TokenPair([*source, end], [*target, end]) for source, target in zip(ids[::2], ids[1::2]))
