"""Language modelling as a job: the next tokens of a prepared text."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openxlstm.data import PreparedText, RandomWindows, SequentialStreams, TextConfig
from openxlstm.data.fill_in import FillInWindows
from openxlstm.data.tokenizer import fingerprint
from openxlstm.errors import UserError
from openxlstm.training.config import ModelSettings, RunConfig, build_model_config
from openxlstm.training.evaluation.baselines import Squeezed, split_text, word_count, xz
from openxlstm.training.evaluation.fill_in import FillInEvaluation, evaluate_fill_in
from openxlstm.training.evaluation.text import Evaluation, count_tokens, evaluate
from openxlstm.training.jobs.job import Job
from openxlstm.training.loss import TokenLoss
from openxlstm.training.progress import note
from openxlstm.training.record import loss_figure


class TextJob(Job):
    """Training on a text, measured on its validation part."""

    columns = ("val_loss", "val_bits_per_byte", "val_perplexity")

    def __init__(self, config: RunConfig, text: PreparedText) -> None:
        """Raises UserError where the text has no validation part."""
        self.config, self.text, self.tokenizer = config, text, text.tokenizer
        self.validation = text.split("validation")
        self.description, self.fingerprint = text.description, text.fingerprint
        self.facts = {
            "vocab_size": text.tokenizer.vocab_size,
            "tokenizer": fingerprint(text.tokenizer),
            "text": text.fingerprint,
        }
        self.ending = f"evaluating on all {self.validation.num_tokens - 1:,} tokens of validation text"
        self.subset: dict[str, Any] = {}
        limit = config.trainer.validate_tokens
        if limit and limit + 1 < self.validation.num_tokens:
            read = text.tokenizer.decode(self.validation.read(1, limit + 1).tolist())
            self.subset = {"max_tokens": limit, "num_bytes": len(read.encode()) or None}

    def check(self, stored: Mapping[str, Any]) -> None:
        """Raise UserError unless a checkpoint's tokens mean what the text's do; warn where the text is not the same."""
        source = self._data.source
        if stored["tokenizer"] != self.facts["tokenizer"]:
            raise UserError(
                f"vocabulary mismatch: the checkpoint was trained with {stored['vocab_size']} tokens, the tokenizer of "
                f"{source!r} has {self.facts['vocab_size']} and is another one; has the data changed since?"
            )
        if stored["text"] != self.fingerprint:
            note(
                f"{source!r} is not the text, or not the files, that the run began with: it will not repeat the "
                "losses of a run that was never interrupted"
            )

    def model_config(self, settings: ModelSettings) -> Any:
        return build_model_config(settings, self.text.tokenizer.vocab_size)

    def new_model(self) -> Any:
        return new_model(self.config, self.text)

    def loss(self, model: nn.Module) -> nn.Module:
        return TokenLoss(model)

    def source(self) -> RandomWindows | SequentialStreams | FillInWindows:
        return batches(self.config, self.text)

    def validate(self, loss: nn.Module, rank: int, world: int) -> Evaluation:
        return self._evaluate(loss, rank, world, **self.subset)

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        from openxlstm.training.callbacks import agree_on

        documents = split_text(self._data, self.text, "validation") if rank == 0 else None
        num_words = agree_on(None if documents is None else word_count(documents), world)
        num_words = num_words if self.text.tokenizer.kind in ("words", "bpe", "huggingface") else None
        frequencies = count_tokens(self.text.train, self.text.tokenizer.vocab_size)
        found = self._evaluate(loss, rank, world, num_words=num_words, frequencies=frequencies)
        trainer = self.config.trainer
        contexts = [c for c in trainer.report_contexts if c != trainer.validation_window]
        others = [self._evaluate(loss, rank, world, context=c) for c in contexts]
        filled = self._fill_in(loss) if self._data.fill_in else None
        squeezed: Squeezed | None = xz(documents, "validation") if documents is not None else None
        return {
            "validation_line": found.line(),
            "validation": found.to_dict(),
            "other_contexts": [other.to_dict() for other in others],
            "fill_in": filled.to_dict() if filled else None,
            "xz": squeezed.to_dict() if squeezed else None,
        }

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        found = report["validation"]
        where = f"step {report['step']}, context {found['context']}, {found['num_tokens']:,} tokens"
        yield f"validation: {report['validation_line']} ({where})"
        for other in report["other_contexts"]:
            yield f"  context {other['context']}: {other['nats_per_token']:.4f} nats/token"
        if report.get("fill_in") is not None:
            yield FillInEvaluation(**report["fill_in"]).line()
        if report["xz"] is not None:
            yield f"{report['xz']['what']}: {report['xz']['bits_per_byte']:.4f} bits per byte"

    def figure(self, path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
        loss_figure(path, rows, title)

    def _fill_in(self, loss: nn.Module) -> FillInEvaluation | None:
        trainer = self.config.trainer
        return evaluate_fill_in(loss, self.validation, self.tokenizer, trainer.context, precision=trainer.precision)

    @property
    def _data(self) -> TextConfig:
        assert isinstance(self.config.data, TextConfig)
        return self.config.data

    def _evaluate(self, loss: nn.Module, rank: int, world: int, **options: Any) -> Evaluation:
        return evaluate(
            loss,
            self.validation,
            options.pop("context", self.config.trainer.validation_window),
            precision=self.config.trainer.precision,
            rank=rank,
            world_size=world,
            **options,
        )


def new_model(config: RunConfig, text: PreparedText) -> Any:
    """The untrained model; its weights depend on the configuration alone."""
    from openxlstm.models.language import LanguageModel

    model_config = build_model_config(config.model, text.tokenizer.vocab_size)
    torch.manual_seed(config.seed)
    return LanguageModel(model_config)


def batches(config: RunConfig, text: PreparedText) -> RandomWindows | SequentialStreams | FillInWindows:
    """Training batches as a function of the step. Raises UserError where the text's tokenizer has no marks for filling in."""
    sizes = config.trainer.context, config.trainer.batch_size, config.seed
    if config.trainer.tbptt:
        return SequentialStreams(text.train, *sizes)
    windows, rate = RandomWindows(text.train, *sizes), config.data.fill_in  # type: ignore[union-attr]
    return FillInWindows(windows, text.tokenizer, rate, config.seed) if rate else windows


def cache_dir() -> Path:
    """Where prepared text is kept: $OPENXLSTM_CACHE, or `openxlstm` in the user's cache folder."""
    if "OPENXLSTM_CACHE" in os.environ:
        return Path(os.environ["OPENXLSTM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openxlstm" / "text"
