"""`train`: from a RunConfig to a run folder.

config.json       the resolved configuration       environment.json  versions, commit, hardware
metrics.csv       one row a step                   tensorboard/      the same curves
checkpoints/      last.pt (to resume), best.pt     loss.png          the figure
report.json       what came out                    model/            LanguageModel.save_pretrained and the tokenizer
"""

import contextlib
import datetime
import itertools
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openxlstm.data import PreparedText, RandomWindows, SequentialStreams, prepare
from openxlstm.data.tokenizer import fingerprint
from openxlstm.errors import UserError, missing_extra
from openxlstm.training import checkpoint
from openxlstm.training.baselines import Squeezed, split_text, word_count, xz
from openxlstm.training.config import RunConfig, build_model_config
from openxlstm.training.evaluate import Evaluation, evaluate
from openxlstm.training.record import Metrics, environment, loss_figure, read_metrics, write_json


@dataclass(frozen=True)
class RunResult:
    """What `train` leaves. `interrupted` is the signal number if the run was stopped and can be resumed, else None; then there
    is no report yet."""

    folder: Path
    config: RunConfig
    model: Any
    tokenizer: Any
    step: int
    report: dict[str, Any]
    interrupted: int | None = None

    def lines(self) -> Iterator[str]:
        """The report for people."""
        r = self.report
        found = r["validation"]
        where = f"step {r['step']}, context {found['context']}, {found['num_tokens']:,} tokens"
        yield f"validation: {r['validation_line']} ({where})"
        for other in r["other_contexts"]:
            yield f"  context {other['context']}: {other['nats_per_token']:.4f} nats/token"
        if r["xz"] is not None:
            yield f"{r['xz']['what']}: {r['xz']['bits_per_byte']:.4f} bits per byte"
        yield (
            f"{r['num_parameters']:,} parameters, {r['tokens_seen']:,} tokens seen in {r['seconds']:.0f} s "
            f"({r['tokens_per_second']:,.0f} tokens/s)" + (f", {r['skipped']} steps skipped" if r["skipped"] else "")
        )
        yield f"figure: {self.folder / 'loss.png'}"
        yield f"model: {self.folder / 'model'}"


def train(
    config: RunConfig | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> RunResult:
    """Train as `config` says, in a new folder `run_dir` (default: runs/NAME-TIME-HASH), or continue the run in `resume`.

    Under torchrun every process calls this; process 0 writes. Raises UserError for whatever the user can mend.
    """
    _need_lightning()
    if (config is None) == (resume is None):
        raise UserError("train takes a configuration, or a run folder to resume, and not both")
    with _process_group() as (rank, world):
        stored = None
        if resume is not None:
            folder = Path(resume)
            config = load_config(folder)
            if (folder / "report.json").exists():
                raise UserError(f"{folder} is finished; its result is in {folder / 'report.json'}")
            stored = checkpoint.read(folder / "checkpoints" / "last.pt")
        assert config is not None
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        text = prepare(config.data, cache_dir(), report=_say(rank))
        text.split("validation")
        if stored is not None:
            check_text(stored, config, text)
        model = new_model(config, text)
        source = batches(config, text)  # checks that the text is long enough before a folder is made
        if resume is None:
            folder = _new_folder(config, run_dir, rank, world)
        return _Run(config, folder, text, model, source, stored, rank, world).go()


def check_text(stored: dict[str, Any], config: RunConfig, text: PreparedText) -> None:
    """Raise UserError unless a checkpoint's tokens mean what the text's do; warn where the text is not the same."""
    if stored["tokenizer"] != fingerprint(text.tokenizer):
        raise UserError(
            f"vocabulary mismatch: the checkpoint was trained with {stored['vocab_size']} tokens, the tokenizer of "
            f"{config.data.source!r} has {text.tokenizer.vocab_size} and is another one; has the data changed since?"
        )
    if stored["text"] != text.fingerprint:
        _note(
            f"{config.data.source!r} is not the text, or not the files, that the run began with: it will not repeat the "
            "losses of a run that was never interrupted"
        )


def load_config(folder: Path) -> RunConfig:
    """The configuration of a run folder."""
    import json

    from openxlstm.training.options import from_dict

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.json")
    try:
        return from_dict(RunConfig(), json.loads(path.read_text()), str(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def new_model(config: RunConfig, text: PreparedText) -> Any:
    """The untrained model; its weights depend on the configuration alone."""
    from openxlstm.models.language import LanguageModel

    model_config = build_model_config(config.model, text.tokenizer.vocab_size)
    torch.manual_seed(config.seed)
    return LanguageModel(model_config)


def batches(config: RunConfig, text: PreparedText) -> RandomWindows | SequentialStreams:
    """Training batches as a function of the step."""
    kind = SequentialStreams if config.trainer.tbptt else RandomWindows
    return kind(text.train, config.trainer.context, config.trainer.batch_size, config.seed)


def cache_dir() -> Path:
    """Where prepared text is kept: $OPENXLSTM_CACHE, or `openxlstm` in the user's cache folder."""
    if "OPENXLSTM_CACHE" in os.environ:
        return Path(os.environ["OPENXLSTM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openxlstm" / "text"


class _Run:
    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        text: PreparedText,
        model: Any,
        source: Any,
        stored: dict[str, Any] | None,
        rank: int,
        world: int,
    ) -> None:
        self.config, self.folder, self.text, self.model, self.source = config, folder, text, model, source
        self.stored, self.rank, self.world = stored, rank, world
        self.main = rank == 0
        assert text.validation is not None
        self.validation = text.validation
        self.subset: dict[str, Any] = {}
        limit = config.trainer.validate_tokens
        if limit and limit + 1 < self.validation.num_tokens:
            read = text.tokenizer.decode(self.validation.read(1, limit + 1).tolist())
            self.subset = {"max_tokens": limit, "num_bytes": len(read.encode()) or None}

    def go(self) -> RunResult:
        from openxlstm.training.callbacks import AtEnd, Checkpoints, Interrupt, Meter, Validate
        from openxlstm.training.datamodule import LanguageData
        from openxlstm.training.module import LanguageModule
        from openxlstm.training.progress import Progress

        settings = self.config.trainer
        step = self.stored["step"] if self.stored else 0
        metrics = None
        if self.main:
            if self.stored is None:
                write_json(self.folder / "config.json", self.config.to_dict())
            write_json(
                self.folder / "environment.json", environment() | {"processes": self.world, "data": self.text.description}
            )
            metrics = Metrics(self.folder, step, last=settings.steps)
        progress = Progress(settings.steps, step) if self.main else None
        before = (self.stored["seconds"], self.stored["step_seconds"]) if self.stored else (0.0, 0.0)
        meter = Meter(metrics, progress, settings.log_every, *before)
        validate = Validate(
            lambda module: self.evaluate(module, **self.subset),
            self.save_best,
            every=settings.validate_every,
            patience=settings.patience,
            meter=meter,
        )
        interrupt = Interrupt()
        saver = Checkpoints(
            self.folder / "checkpoints" / "last.pt",
            settings.checkpoint_every,
            validate=validate,
            interrupt=interrupt,
            meter=meter,
            resume=self.stored,
            template=self.state_template,
            facts={
                "vocab_size": self.text.tokenizer.vocab_size,
                "tokenizer": fingerprint(self.text.tokenizer),
                "text": self.text.fingerprint,
            },
        )
        if self.stored is not None:
            validate.load_state_dict(self.stored["validate"])
        module = LanguageModule(self.config, self.model)
        data = LanguageData(self.source, settings.steps)
        ended = validate.patience and validate.bad >= validate.patience
        data.start = settings.steps if ended else step
        if self.main and progress is not None:
            count = self.model.num_parameters()
            progress.say(f"{self.text.description}\n{count:,} parameters, run folder {self.folder}")
        report: dict[str, Any] = {}

        def finish() -> None:
            if progress is not None:
                progress.close()
                progress.say(f"evaluating on all {self.validation.num_tokens - 1:,} tokens of validation text")
            interrupt.finishing = True
            report.update(self.finish(module, validate, meter))

        stopped = AtEnd(lambda: None if interrupt.stopped else finish())
        try:
            with _quiet():
                if data.start < settings.steps:
                    self.fit(module, data, [meter, validate, interrupt, saver, stopped])
                else:  # the run was interrupted after its last step: only the end is missing
                    self.put_back(module)
                    finish()
        finally:
            interrupt.restore()
            if progress is not None:
                progress.close()
            if metrics is not None:
                metrics.close()
        signal = interrupt.received if interrupt.stopped else None
        return RunResult(self.folder, self.config, self.model, self.text.tokenizer, module.step, report, signal)

    def put_back(self, module: Any) -> None:
        """A module as the checkpoint left it, without an optimiser."""
        assert self.stored is not None
        module.loss.load_state_dict(self.stored["model"])
        for name in ("step", "tokens", "skipped"):
            setattr(module, name, self.stored[name])

    def fit(self, module: Any, data: Any, callbacks: list[Any]) -> None:
        import lightning.pytorch as pl
        from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

        device = device_kind(self.config.trainer.device)
        strategy: Any = "auto"
        if self.world > 1:
            if self.config.trainer.strategy == "fsdp2":
                strategy = ModelParallelStrategy(data_parallel_size=self.world, tensor_parallel_size=1)
            else:
                strategy = DDPStrategy()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=local if self.world > 1 else 1,
            num_nodes=self.world // local if self.world > 1 else 1,
            strategy=strategy,
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        trainer.fit(module, datamodule=data)

    def evaluate(self, module: Any, **options: Any) -> Evaluation:
        return evaluate(
            module.loss,
            self.validation,
            options.pop("context", self.config.trainer.validation_window),
            precision=self.config.trainer.precision,
            rank=self.rank,
            world_size=self.world,
            **options,
        )

    def save_best(self, module: Any) -> None:
        weights = full_weights(module.loss)
        if self.main:
            checkpoint.write(self.folder / "checkpoints" / "best.pt", {"step": module.step, "model": weights})

    def state_template(self, module: Any, rows: int) -> Any:
        """A state of `rows` streams, whose numbers do not matter."""
        training = module.loss.training
        module.loss.eval()
        with torch.no_grad():
            ids = torch.zeros(rows, 1, dtype=torch.int64, device=module.device)
            _, state = module.loss(ids, ids)
        module.loss.train(training)
        return state

    def finish(self, module: Any, validate: Any, meter: Any) -> dict[str, Any]:
        """The last validation, the best weights, the report."""
        from openxlstm.training.callbacks import agree_on

        seconds = meter.seconds
        last = self.evaluate(module, **self.subset)
        validate.record(module, last)
        step = module.step
        if validate.best_step != module.step:
            best = agree_on(checkpoint.read(self.folder / "checkpoints" / "best.pt") if self.main else None, self.world)
            load_full_weights(module.loss, best["model"])
            step = best["step"]
        documents = split_text(self.config.data, self.text, "validation") if self.main else None
        num_words = agree_on(None if documents is None else word_count(documents), self.world)
        num_words = num_words if self.text.tokenizer.kind in ("words", "bpe", "huggingface") else None
        found = self.evaluate(module, num_words=num_words)
        contexts = [c for c in self.config.trainer.report_contexts if c != self.config.trainer.validation_window]
        others = [self.evaluate(module, context=c) for c in contexts]
        weights = full_weights(module.loss)
        report: dict[str, Any] = {}
        if self.main:
            self.save_model(module.loss, weights)
            squeezed: Squeezed | None = xz(documents, "validation") if documents is not None else None
            report = {
                "name": self.config.name,
                "config_hash": self.config.digest(),
                "seed": self.config.seed,
                "step": step,
                "steps_done": module.step,
                "stopped_early": module.step < self.config.trainer.steps,
                "validation_line": found.line(),
                "validation": found.to_dict(),
                "other_contexts": [other.to_dict() for other in others],
                "xz": squeezed.to_dict() if squeezed else None,
                "num_parameters": self.model.num_parameters(),
                "tokens_seen": module.tokens,
                "seconds": round(seconds, 2),
                "tokens_per_second": meter.rate(module.tokens),
                "skipped": module.skipped,
                "data": self.text.description,
                "environment": environment() | {"processes": self.world},
            }
            rows = read_metrics(self.folder / "metrics.csv")
            title = f"{self.config.name}: {self.config.model.pattern}, {report['num_parameters']:,} parameters"
            self.figure(rows, title)
            write_json(self.folder / "report.json", report)
        return report

    def figure(self, rows: Any, title: str) -> None:
        try:
            loss_figure(self.folder / "loss.png", rows, title)
        except ImportError:
            _note(str(missing_extra("matplotlib", "plot", "the loss figure")))

    def save_model(self, loss: Any, weights: dict[str, Any]) -> None:
        """model/ holds whole weights, whatever the strategy was."""
        from openxlstm.models.language import LanguageModel

        model = LanguageModel(self.model.config)
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
        model.save_pretrained(self.folder / "model")
        self.text.tokenizer.save(self.folder / "model")
        self.model = model.eval()


def full_weights(module: torch.nn.Module) -> dict[str, Any]:
    """The whole state dict on the CPU; collective when sharded, with content on process 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_full_weights(module: torch.nn.Module, weights: dict[str, Any]) -> None:
    """The reverse of `full_weights`; every process passes the whole content."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True))


def device_kind(wanted: str) -> str:
    """ "cpu" or "cuda" for a `trainer.device`; UserError if there is no GPU to use."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda, but torch sees no GPU here")
    return wanted


def _need_lightning() -> None:
    try:
        import lightning.pytorch  # noqa: F401
    except ImportError:
        raise missing_extra("lightning", "train", "training") from None


def _say(rank: int) -> Any:
    return (lambda line: print(line, file=sys.stderr, flush=True)) if rank == 0 else None


def _note(line: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"note: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _process_group() -> Iterator[tuple[int, int]]:
    """Rank and number of processes; joins the others that torchrun started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    ours = not torch.distributed.is_initialized()
    if ours:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend)
    try:
        yield torch.distributed.get_rank(), world
    finally:
        if ours and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _new_folder(config: RunConfig, run_dir: str | os.PathLike[str] | None, rank: int, world: int) -> Path:
    from openxlstm.training.callbacks import agree_on

    problem = None
    folder = None
    if rank == 0:
        try:
            folder = _make_folder(config, run_dir)
        except (UserError, OSError) as error:
            problem = str(error)
    folder, problem = agree_on((folder, problem), world)
    if folder is None:
        raise UserError(problem or "the run folder could not be made")
    return Path(folder)


def _make_folder(config: RunConfig, run_dir: str | os.PathLike[str] | None) -> Path:
    if run_dir is not None:
        folder = Path(run_dir)
        if (folder / "config.json").exists():
            raise UserError(f"{folder} already holds a run; continue it with --resume {folder}, or name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in itertools.count():
        folder = Path("runs", f"{config.name}-{now}-{config.digest()}" + (f"-{number}" if number else ""))
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints about loaders and accelerators are about choices that were made here on purpose."""
    import logging

    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # about in-place edits; there are none
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
