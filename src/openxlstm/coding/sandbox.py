"""Run a program that nobody has read, in a process of its own that cannot reach anything (`lock.py`)."""

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from openxlstm.errors import UserError

LOCK = Path(__file__).with_name("lock.py")
MOST_SAID = 65_536  # bytes that are read from the process
STARTUP = 10.0  # seconds for Python to start and lock itself in


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use.

    seconds: of CPU time, and of the clock with as many again. memory: MiB of address space, the interpreter's included.
    files: open at a time.
    """

    seconds: int = 10
    memory: int = 1024
    files: int = 32

    def __post_init__(self) -> None:
        for name, least in (("seconds", 1), ("memory", 64), ("files", 8)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class Outcome:
    """How a program ended: "passed", "failed" by an exception, "timeout", or "ended" before its last line, by itself or a
    signal; and the reason in a line, empty where it passed."""

    result: Literal["passed", "failed", "timeout", "ended"]
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.result == "passed"


def run_program(program: str, limits: Limits | None = None, *, without: Sequence[str] = ()) -> Outcome:
    """Run Python source to its last line under the locks of `lock.py`. It has the standard library alone, no files, network,
    processes or environment; what it prints is thrown away.

    without: locks of which this machine's are left out, to see whether the others hold: "network namespace", "landlock",
    "mount namespace".

    Raises UserError where the machine does not have the locks. What locks the machine does not keep a program from finding
    the number by which it would be counted as passed: it runs in the interpreter that judges it.
    """
    _, outcome = _run(program, limits or Limits(), tuple(without))
    return outcome


@lru_cache(maxsize=8)
def sandbox_locks(without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The locks that hold on this machine, found by running an empty program. Raises UserError where they do not suffice."""
    locks, outcome = _run("", Limits(), without)
    if not outcome.passed:
        raise UserError(f"the sandbox does not work here: {outcome.reason}")
    return locks


def _run(program: str, limits: Limits, without: tuple[str, ...]) -> tuple[tuple[str, ...], Outcome]:
    settings = {
        "seconds": limits.seconds,
        "memory": limits.memory * 2**20,
        "files": limits.files,
        "parent": os.getpid(),
        "without": without,
    }
    number = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="openxlstm-") as folder, tempfile.TemporaryFile() as told:
        told.write(json.dumps({"program": program, "number": number}).encode())
        told.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LOCK), json.dumps(settings)],
            stdin=told,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            said, late = _read(process, STARTUP + 2 * limits.seconds, 2.0 * limits.seconds)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            os.kill(process.pid, signal.SIGKILL)  # not process.kill(), which may reap it
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = code = os.waitstatus_to_exitcode(status)
            assert process.stdout is not None
            process.stdout.close()
    late = late or used.ru_utime + used.ru_stime >= limits.seconds  # the kernel kills who catches the first signal
    return _judge(said, number, late, code, limits)


def _read(process: Any, start: float, run: float) -> tuple[list[dict[str, Any]], bool]:
    """The lines of JSON that the process says until it ends, says too much or is late; whether it is late. Its time counts
    from when the locks hold."""
    said, deadline, locked = b"", time.monotonic() + start, False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(said) < MOST_SAID:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                return _lines(said), True
            piece = os.read(process.stdout.fileno(), MOST_SAID)
            if not piece:
                break
            said += piece
            if not locked and b"\n" in said:
                locked, deadline = True, time.monotonic() + run
    return _lines(said), False


def _lines(said: bytes) -> list[dict[str, Any]]:
    found = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _judge(said: list[dict[str, Any]], number: str, late: bool, code: int, limits: Limits) -> tuple[tuple[str, ...], Outcome]:
    """Locks and outcome. The first line is of before the program, the last counts if it has the number."""
    first = said[0] if said else {}
    if "refused" in first:
        raise UserError(f"generated code is not run here: this machine has no {first['refused']}")
    if "locks" not in first:
        raise UserError("generated code is not run here: the sandbox could not be set up (is this Python able to run alone?)")
    locks = tuple(str(name) for name in first["locks"])
    for line in said[1:]:
        if line.get("number") == number:
            failure = line.get("failure")
            return locks, Outcome("passed") if failure is None else Outcome("failed", str(failure))
    if late or code == -signal.SIGXCPU:
        return locks, Outcome("timeout", f"more than {limits.seconds} s")
    if code < 0 and code != -signal.SIGKILL:
        return locks, Outcome("ended", f"by signal {signal.Signals(-code).name}")
    return locks, Outcome("ended", "before its last line")
