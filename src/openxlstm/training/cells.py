"""The trainings of a comparison: one after the other in this process, or several side by side in processes of their own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openxlstm.errors import UserError, mendable
from openxlstm.files import held
from openxlstm.training.config import RunConfig
from openxlstm.training.record import curve, processor, read_metrics, write_json

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One model with one learning rate and one seed. report is None where the training failed, and then `failure` says why.

    curve: steps and values of its validations, where they were kept without the run's folder. machine: what it was trained on,
    None where that is not known.
    """

    model: str
    lr: float
    seed: int
    config: RunConfig
    folder: Path
    report: dict[str, Any] | None
    failure: str | None = None
    curve: tuple[list[int], list[float]] | None = None
    machine: str | None = None

    def validations(self, column: str) -> tuple[list[int], list[float]]:
        """Steps and values of a column of metrics.csv."""
        return curve(read_metrics(self.folder / "metrics.csv"), column) if self.curve is None else self.curve


@dataclass(frozen=True)
class Order:
    """A cell to be trained. title: what is said of it. kept: what an earlier comparison in the same folder wrote of it."""

    model: str
    lr: float
    seed: int
    config: RunConfig
    place: Path
    title: str
    kept: Mapping[str, Any] | None = None

    def beside(self, kind: str) -> Path:
        """A file next to the run's folder."""
        return self.place.parent / f"{self.place.name}.{kind}"

    def cell(self, report: dict[str, Any] | None, failure: str | None = None) -> Cell:
        """Its result."""
        return Cell(self.model, self.lr, self.seed, self.config, self.place, report, failure, machine=machine(self.place))

    def begun(self) -> bool:
        """Whether the folder has a run with these very settings; one of before a default changed is another."""
        from openxlstm.training.run import load_config

        try:
            return load_config(self.place) == self.config
        except UserError:
            return False

    def finished(self) -> Cell | None:
        """What was trained before."""
        path = self.place / "report.json"
        if path.exists() and self.begun():
            return self.cell(json.loads(path.read_text()))
        return self.remembered()

    def remembered(self) -> Cell | None:
        """What was trained before in a folder that is gone."""
        if self.kept is None or self.place.exists():
            return None
        kept = self.kept
        return replace(self.cell(kept["report"]), curve=tuple(kept["curve"]), machine=kept.get("machine"))

    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from; where a run was stopped before its first one, or has other settings, its
        folder is emptied. Raises UserError where a run is going on."""
        if (self.place / "checkpoints" / "last.pt").exists() and self.begun():
            return True
        if self.place.exists():
            with held(self.place):
                shutil.rmtree(self.place)
        return False


def machine(folder: Path) -> str | None:
    """The processor of a run; None where its folder does not say."""
    try:
        return processor(json.loads((folder / "environment.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train_all(orders: Mapping[Any, Order], jobs: int, say: Say) -> Iterator[tuple[Any, Cell, int | None]]:
    """Train, resume or take what is there. Yields key, cell, and the signal that stopped the cell's training if one did; after
    a signal no training is begun."""
    return one_by_one(orders, say) if jobs == 1 else side_by_side(orders, jobs, say)


def one_by_one(orders: Mapping[Any, Order], say: Say) -> Iterator[tuple[Any, Cell, int | None]]:
    """In this process."""
    from openxlstm.training.run import train

    for key, order in orders.items():
        say(f"{order.title}: {order.place}")
        cell = order.finished()
        if cell is not None:
            say("  finished before")
            yield key, cell, None
            continue
        try:
            result = train(resume=order.place) if order.resumable() else train(order.config, run_dir=order.place)
        except Exception as error:
            reason = mendable(error)
            if reason is None:
                raise
            say(f"  failed: {reason}")
            yield key, order.cell(None, reason), None
            continue
        yield key, order.cell(result.report), result.interrupted
        if result.interrupted is not None:
            return


def side_by_side(orders: Mapping[Any, Order], jobs: int, say: Say) -> Iterator[tuple[Any, Cell, int | None]]:
    """In `jobs` processes at a time; SIGINT and SIGTERM are handed on to them."""
    children = Children(max(1, available_cpus() // jobs))
    with children.listening(), ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(children.train, order, say): key for key, order in orders.items()}
        try:
            for future in as_completed(futures):
                cell, stopped = future.result()
                if cell is not None:
                    yield futures[future], cell, stopped
        except BaseException:  # nobody would wait for them
            children.stop(signal.SIGTERM)
            raise


class Children:
    """Trainings in processes of their own. threads: of each that sets no number."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped: int | None = None
        self.lock = threading.Lock()  # a signal finds every child that was started

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, signals go to the children; not outside the main thread, where Python lets nobody listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, lambda number, frame: self.stop(number)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int) -> None:
        """Hand a signal on to all and begin no more. Each writes its checkpoint and ends."""
        with self.lock:
            self.stopped = number
            for child in self.running:
                child.send_signal(number)

    def train(self, order: Order, say: Say) -> tuple[Cell | None, int | None]:
        """One cell and the signal that stopped it; None if a signal came before it began."""
        cell = order.finished()
        if cell is not None:
            say(f"{order.title}: finished before")
            return cell, None
        with self.lock:
            if self.stopped is not None:
                return None, self.stopped
            say(f"{order.title}: {order.place}")
            try:
                child = self.start(order)
            except UserError as error:
                return self.failed(order, str(error), say), None
            self.running.add(child)
        code = child.wait()
        with self.lock:
            self.running.discard(child)
        order.beside("json").unlink(missing_ok=True)
        stopped = next((n for n in (signal.SIGINT, signal.SIGTERM) if code in (128 + n, -n)), None)
        cell = order.finished() if stopped is None else None
        if cell is None and (stopped := stopped or self.stopped):  # while Python starts, it may end with any code
            return order.cell(None), stopped
        if cell is None:
            return self.failed(order, last_line(order.beside("log")) or f"exit code {code}", say), None
        order.beside("log").unlink()
        say(f"{order.title}: done")
        return cell, None

    def failed(self, order: Order, why: str, say: Say) -> Cell:
        """A cell without a report."""
        say(f"{order.title}: failed: {why}")
        return order.cell(None, why)

    def start(self, order: Order) -> subprocess.Popen[bytes]:
        """The process of one cell, in a session of its own, so that Ctrl-C reaches it through `stop` alone."""
        words = ["--resume", str(order.place)]
        if not order.resumable():
            write_json(order.beside("json"), order.config.to_dict())
            words = ["--config", str(order.beside("json")), "--run-dir", str(order.place)]
        environment = dict(os.environ)
        if not order.config.trainer.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        with open(order.beside("log"), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "openxlstm", "train", *words, "--sample", "0"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )


def available_cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_line(log: Path) -> str:
    """What a process said last, without our name before it."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip().removeprefix("openxlstm: error: ") for line in reversed(lines) if line.strip()), "")
