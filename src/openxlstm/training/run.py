"""`train`: from a RunConfig to a run folder.

config.json       the resolved configuration       environment.json  versions, commit, hardware
metrics.csv       one row a step                   tensorboard/      the same curves
checkpoints/      last.pt (to resume), best.pt     loss.png          the figure
report.json       what came out                    model/            the model's save_pretrained, and the tokenizer of text
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

from openxlstm.errors import UserError, missing_extra
from openxlstm.files import held
from openxlstm.training import checkpoint
from openxlstm.training.config import RunConfig, with_values
from openxlstm.training.jobs.job import Job, open_job
from openxlstm.training.jobs.text import batches, cache_dir, new_model
from openxlstm.training.progress import note
from openxlstm.training.record import COLUMNS, Metrics, environment, read_metrics, write_json
from openxlstm.training.tuning import threads, tune_cpu

__all__ = ["RunResult", "batches", "cache_dir", "load_config", "new_model", "train"]


@dataclass(frozen=True)
class RunResult:
    """What `train` leaves. `interrupted` is the signal number if the run was stopped and can be resumed, else None; then there
    is no report yet."""

    folder: Path
    config: RunConfig
    job: Job
    model: Any
    step: int
    report: dict[str, Any]
    interrupted: int | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a text, None for a task."""
        return self.job.tokenizer

    def lines(self) -> Iterator[str]:
        """The report for people."""
        r = self.report
        yield from self.job.lines(r)
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
    with _process_group() as (rank, world), contextlib.ExitStack() as holds:
        stored = None
        if resume is not None:
            folder = Path(resume)
            config = load_config(folder)
            if (folder / "report.json").exists():
                raise UserError(f"{folder} is finished; its result is in {folder / 'report.json'}")
            _hold(folder, rank, holds)
            stored = checkpoint.read(folder / "checkpoints" / "last.pt")
        assert config is not None
        device_kind(config.trainer.device)  # refused before the text is read and a folder is made
        holds.enter_context(threads(config.trainer.threads))  # what is done after this run has its own number
        tuned = tune_cpu() if config.trainer.cpu_tuning else None
        job = open_job(config, _say(rank))
        if stored is not None:
            job.check(stored)
        model = job.new_model()
        source = job.source()  # checks that there is enough text before a folder is made
        if resume is None:
            folder = _new_folder(config, run_dir, rank, world)
            _hold(folder, rank, holds)
        return _Run(config, folder, job, model, source, stored, rank, world, tuned).go()


def _hold(folder: Path, rank: int, holds: contextlib.ExitStack) -> None:
    """Two processes in one run folder would write into each other's files."""
    if rank == 0:
        holds.enter_context(held(folder))


def load_config(folder: Path) -> RunConfig:
    """The configuration of a run folder."""
    import json

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: {'not a run folder, it has no config.json' if folder.is_dir() else 'no such folder'}")
    try:
        return with_values(RunConfig(), json.loads(path.read_text()), str(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


class _Run:
    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        job: Job,
        model: Any,
        source: Any,
        stored: dict[str, Any] | None,
        rank: int,
        world: int,
        tuned: dict[str, str] | None,
    ) -> None:
        self.config, self.folder, self.job, self.model, self.source = config, folder, job, model, source
        self.stored, self.rank, self.world = stored, rank, world
        self.main = rank == 0
        self.environment = environment() | {"processes": world} | ({"cpu_tuning": tuned} if tuned else {})

    def go(self) -> RunResult:
        from openxlstm.training.callbacks import AtEnd, Checkpoints, Interrupt, Meter, Validate
        from openxlstm.training.datamodule import TrainingData
        from openxlstm.training.module import TrainingModule
        from openxlstm.training.progress import Progress

        settings = self.config.trainer
        step = self.stored["step"] if self.stored else 0
        metrics = None
        if self.main:
            if self.stored is None:
                write_json(self.folder / "config.json", self.config.to_dict())
            write_json(self.folder / "environment.json", self.environment | {"data": self.job.description})
            metrics = Metrics(self.folder, step, last=settings.steps, columns=(*COLUMNS, *self.job.columns))
        progress = Progress(settings.steps, step) if self.main else None
        before = (self.stored["seconds"], self.stored["step_seconds"]) if self.stored else (0.0, 0.0)
        meter = Meter(metrics, progress, settings.log_every, *before)
        validate = Validate(
            lambda module: self.job.validate(module.loss, self.rank, self.world),
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
            facts=self.job.facts,
        )
        if self.stored is not None:
            validate.load_state_dict(self.stored["validate"])
        module = TrainingModule(self.config, self.job.loss(self.model))
        data = TrainingData(self.source, settings.steps)
        ended = validate.patience and validate.bad >= validate.patience
        data.start = settings.steps if ended else step
        if self.main and progress is not None:
            count = self.model.num_parameters()
            progress.say(f"{self.job.description}\n{count:,} parameters, run folder {self.folder}")
        report: dict[str, Any] = {}

        def finish() -> None:
            if progress is not None:
                progress.close()
                progress.say(self.job.ending)
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
        return RunResult(self.folder, self.config, self.job, self.model, module.step, report, signal)

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

    def save_best(self, module: Any) -> None:
        weights = full_weights(module.loss)
        if self.main:
            checkpoint.write(self.folder / "checkpoints" / "best.pt", {"step": module.step, "model": weights})

    def state_template(self, module: Any, rows: int) -> Any:
        """A state of `rows` streams of text, whose numbers do not matter. (Tasks carry no state from step to step.)"""
        training = module.loss.training
        module.loss.eval()
        with torch.no_grad():
            ids = torch.zeros(rows, 1, dtype=torch.int64, device=module.device)
            _, state = module.loss(ids, ids)
        module.loss.train(training)
        return state

    def finish(self, module: Any, validate: Any, meter: Any) -> dict[str, Any]:
        """The last validation, the best weights, the report. Raises UserError where no validation was finite."""
        from openxlstm.training.callbacks import agree_on
        from openxlstm.training.module import STEADIER

        seconds = meter.seconds
        last = self.job.validate(module.loss, self.rank, self.world)
        validate.record(module, last)
        if not validate.best_step:
            raise UserError(f"the loss in validation was never finite, to the last step, {module.step}; {STEADIER}")
        step = module.step
        if validate.best_step != module.step:
            best = agree_on(checkpoint.read(self.folder / "checkpoints" / "best.pt") if self.main else None, self.world)
            load_full_weights(module.loss, best["model"])
            step = best["step"]
        found = self.job.report(module.loss, self.rank, self.world)
        weights = full_weights(module.loss)
        report: dict[str, Any] = {}
        if self.main:
            self.save_model(weights)
            report = {
                "name": self.config.name,
                "config_hash": self.config.digest(),
                "seed": self.config.seed,
                "step": step,
                "steps_done": module.step,
                "stopped_early": module.step < self.config.trainer.steps,
                **found,
                "num_parameters": self.model.num_parameters(),
                "tokens_seen": module.tokens,
                "seconds": round(seconds, 2),
                "tokens_per_second": meter.rate(module.tokens),
                "skipped": module.skipped,
                "data": self.job.description,
                "environment": self.environment,
            }
            self.figure(report)
            write_json(self.folder / "report.json", report)
        return report

    def figure(self, report: dict[str, Any]) -> None:
        rows = read_metrics(self.folder / "metrics.csv")
        title = f"{self.config.name}: {self.config.model.pattern}, {report['num_parameters']:,} parameters"
        try:
            self.job.figure(self.folder / "loss.png", rows, title, report)
        except ImportError:
            note(str(missing_extra("matplotlib", "plot", "the loss figure")))

    def save_model(self, weights: dict[str, Any]) -> None:
        """model/ holds whole weights, whatever the strategy was."""
        model = type(self.model)(self.model.config)
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
        model.save_pretrained(self.folder / "model")
        self.job.save(self.folder / "model")
        self.model = model.eval()


def full_weights(module: torch.nn.Module) -> dict[str, Any]:
    """The whole state dict on the CPU; collective when sharded, with content on process 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_full_weights(module: torch.nn.Module, weights: dict[str, Any]) -> None:
    """The reverse of `full_weights`; every process passes the whole content."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    if torch.distributed.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for part in module.modules():  # parameters that an evaluation left gathered would be taken for unsharded ones
            if isinstance(part, FSDPModule):
                part.reshard()
    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True))


def device_kind(wanted: str) -> str:
    """ "cpu" or "cuda" for a `trainer.device`; UserError if there is no GPU to use."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda, but torch sees no GPU here; --trainer.device=cpu trains on the CPU")
    return wanted


def _need_lightning() -> None:
    try:
        import lightning.pytorch  # noqa: F401
    except ImportError:
        raise missing_extra("lightning", "train", "training") from None


def _say(rank: int) -> Any:
    return (lambda line: print(line, file=sys.stderr, flush=True)) if rank == 0 else None


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
