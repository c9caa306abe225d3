"""What happens around the steps, as Lightning callbacks: metrics and progress, validation, checkpoints, signals.

They run in the order in which `run.train` lists them. Checkpoints come last, so that one always holds what the callbacks
before it decided at the same step, and a resumed run repeats nothing and skips nothing.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from openxlstm.ops.state import leaves
from openxlstm.training import checkpoint
from openxlstm.training.jobs.job import Measured
from openxlstm.training.module import StepResult, TrainingModule
from openxlstm.training.progress import Progress
from openxlstm.training.record import Metrics


class Meter(pl.Callback):
    """Rows of metrics.csv and the progress line, on process 0."""

    def __init__(
        self,
        metrics: Metrics | None,
        progress: Progress | None,
        every: int,
        seconds: float = 0.0,
        step_seconds: float = 0.0,
    ) -> None:
        """seconds, step_seconds: what earlier parts of a resumed run took, altogether and in steps alone."""
        self.metrics, self.progress, self.every = metrics, progress, every
        self.step_seconds = step_seconds
        self._before, self._began, self._step_began = seconds, time.monotonic(), time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier parts of a resumed run included."""
        return self._before + time.monotonic() - self._began

    def rate(self, tokens: int) -> float:
        """Tokens per second of optimiser steps, without validation and checkpoints."""
        return round(tokens / max(self.step_seconds, 1e-9), 1)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        result: StepResult = outputs["result"]
        self.step_seconds += time.monotonic() - self._step_began
        if self.metrics is not None and (result.step % self.every == 0 or result.skipped):
            values = {
                "loss": result.loss,
                "lr": result.lr,
                "grad_norm": result.grad_norm,
                "tokens": pl_module.tokens,
                "seconds": round(self.seconds, 3),
                "tokens_per_second": self.rate(pl_module.tokens),
                "skipped": pl_module.skipped,
            }
            self.metrics.add(result.step, values)
        if self.progress is not None:
            note = f"  {pl_module.skipped} skipped" if pl_module.skipped else ""
            self.progress.update(result.step, result.loss, result.tokens, note)


class Validate(pl.Callback):
    """Validation every so many steps, the best weights, and early stopping.

    run: evaluates the module's model; called on every process at the same step.
    save_best: called on every process when no validation before was better and this one is finite.
    """

    def __init__(
        self,
        run: Callable[[TrainingModule], Measured],
        save_best: Callable[[TrainingModule], None],
        *,
        every: int,
        patience: int,
        meter: Meter,
    ) -> None:
        self.run, self.save_best, self.every, self.patience, self.meter = run, save_best, every, patience, meter
        self.best, self.best_step, self.bad = math.inf, 0, 0  # step 0: there is no best yet

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = pl_module.step
        if not self.every or step % self.every or step == pl_module.config.trainer.steps:  # the last comes after the loop
            return
        began = time.monotonic()
        found = self.run(pl_module)
        self.record(pl_module, found)
        if self.meter.progress is not None:
            self.meter.progress.say(f"step {step}: validation {found.line()}")
            self.meter.progress.pause(time.monotonic() - began)
        if self.patience and self.bad >= self.patience:
            trainer.should_stop = True

    def record(self, module: TrainingModule, found: Measured) -> None:
        """Keep a validation: row, best weights, patience."""
        if self.meter.metrics is not None:
            self.meter.metrics.add(module.step, found.columns())
        self.bad = 0 if found.objective < self.best else self.bad + 1
        # the last of equals: a score that has reached its limit still gets surer
        if math.isfinite(found.objective) and found.objective <= self.best:
            self.best, self.best_step = found.objective, module.step
            self.save_best(module)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "bad": self.bad}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step, self.bad = state_dict["best"], state_dict["best_step"], state_dict["bad"]


class Interrupt(pl.Callback):
    """Ctrl-C and SIGTERM finish the step, write a checkpoint and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None  # the signal that this or another process got
        self.stopped = False  # the run ended because of it
        self.finishing = False  # the last checkpoint is written: nothing is lost by stopping at once
        self._module: TrainingModule | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._module = pl_module
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: signals are somebody else's business
                return

    def _handle(self, number: int, frame: Any) -> None:
        if self.finishing or (self.received is not None and number == signal.SIGINT):
            raise SystemExit(128 + number)
        self.received = number
        if self._module is not None:
            self._module.stop_requested = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # alone, the signal of this very step counts; among several processes what all of them agreed on before the step
        stop = outputs["result"].stop if trainer.world_size > 1 else pl_module.stop_requested
        if stop and pl_module.step < pl_module.config.trainer.steps and not trainer.should_stop:
            self.received = self.received or signal.SIGTERM
            self.stopped = True
            trainer.should_stop = True

    def restore(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class AtEnd(pl.Callback):
    """Calls `run` after the last step, while the model is still on its device."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.run()


class Checkpoints(pl.Callback):
    """checkpoints/last.pt every so many steps and whenever the run is asked to stop; also loads it on resume."""

    def __init__(
        self,
        path: Path,
        every: int,
        *,
        validate: Validate,
        interrupt: Interrupt,
        meter: Meter,
        resume: dict[str, Any] | None,
        template: Callable[[TrainingModule, int], Any],
        facts: Mapping[str, Any],
    ) -> None:
        """template: builds a state of so many rows in the structure of the model's, for the stored numbers to fill.
        facts: stored as they are."""
        self.path, self.every = path, every
        self.validate, self.interrupt, self.meter = validate, interrupt, meter
        self._resume, self._template, self._facts = resume, template, facts
        self._saved_step: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._resume is None:
            torch.manual_seed(pl_module.config.seed + 1 + trainer.global_rank)  # dropout differs between processes
            return
        stored, self._resume = self._resume, None
        (optimizer,) = trainer.optimizers
        checkpoint.load_weights_and_optimizer(pl_module.loss, optimizer, stored["model"], stored["optimizer"])
        for name in ("step", "tokens", "bad_in_row", "skipped"):
            setattr(pl_module, name, stored[name])
        self._saved_step = stored["step"]
        processes = stored["processes"]
        rank, world = trainer.global_rank, trainer.world_size
        if processes[0]["state"] is not None:
            whole = [torch.cat(parts) for parts in zip(*(p["state"] for p in processes))]
            share = whole[0].shape[0] // world
            mine = [leaf[rank * share : (rank + 1) * share] for leaf in whole]
            template = self._template(pl_module, share)
            pl_module.state = checkpoint.fill_state(template, mine, pl_module.device)
        if world == len(processes):
            checkpoint.RandomState(processes[rank]["rng_cpu"], processes[rank]["rng_cuda"]).restore(pl_module.device)
        else:
            torch.manual_seed(pl_module.config.seed + 1 + rank + 1000 * stored["step"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = pl_module.step == pl_module.config.trainer.steps
        if pl_module.step % self.every == 0 or last or trainer.should_stop:
            self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Collective: every process calls it at the same step; process 0 writes."""
        if self._saved_step == module.step:
            return
        began = time.monotonic()
        (optimizer,) = trainer.optimizers
        weights, optimizer_state = checkpoint.weights_and_optimizer(module.loss, optimizer)
        processes = gather(self._process_state(module), trainer)
        failure = None
        if trainer.is_global_zero:
            content = {
                **self._facts,
                "step": module.step,
                "tokens": module.tokens,
                "bad_in_row": module.bad_in_row,
                "skipped": module.skipped,
                "seconds": self.meter.seconds,
                "step_seconds": self.meter.step_seconds,
                "validate": self.validate.state_dict(),
                "model": weights,
                "optimizer": optimizer_state,
                "processes": processes,
            }
            try:
                checkpoint.write(self.path, content)
            except checkpoint.DiskFull as error:
                failure = str(error)
        failure = agree_on(failure, trainer.world_size)
        if failure is not None:
            raise checkpoint.DiskFull(failure)
        self._saved_step = module.step
        if self.meter.progress is not None:
            self.meter.progress.pause(time.monotonic() - began)

    @staticmethod
    def _process_state(module: TrainingModule) -> dict[str, Any]:
        random = checkpoint.RandomState.current(module.device)
        state: list[Tensor] | None = None
        if module.state is not None:
            state = [leaf.cpu() for leaf in leaves(module.state)]
        return {"rng_cpu": random.cpu, "rng_cuda": random.cuda, "state": state}


def gather(value: Any, trainer: pl.Trainer) -> list[Any]:
    """The values of all processes, on process 0; an empty list elsewhere."""
    if trainer.world_size == 1:
        return [value]
    found: list[Any] = [None] * trainer.world_size if trainer.is_global_zero else []
    torch.distributed.gather_object(value, found if trainer.is_global_zero else None)
    return found


def agree_on(value: Any, world: int) -> Any:
    """Process 0's value, on every process."""
    if world == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
