"""What the benchmarks share. Timing that can be believed: both sides in one process, in turn, medians, and a record of what ran
where; scores of several seeds; twins."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from openxlstm.cli.arguments import did_you_mean
from openxlstm.errors import UserError
from openxlstm.files import write_atomic


def alternate(
    sides: dict[str, Callable[[], object]],
    *,
    rounds: int = 15,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each side, taken in turn: whatever slows the machine down slows all of them. clock: time.thread_time
    counts only what this thread computed, for one thread on a machine that others use.

    Before each timed call comes an untimed one of the same side, as in a loop that does nothing else. Otherwise a side that
    follows single-threaded work pays for waking its threads: up to a millisecond each on a virtual machine.
    """
    for _ in range(warmup - 1):
        for run in sides.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            run()
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
    return times


def compare(sides: dict[str, Callable[[], object]], anchor: str, **options: Any) -> dict[str, Any]:
    """Medians of all sides, and how many times faster than `anchor` each other one is (median of the ratios of each round)."""
    busy = BusyElsewhere()
    times = alternate(sides, **options)
    ratios = {
        name: statistics.median(theirs / own for theirs, own in zip(times[anchor], series, strict=True))
        for name, series in times.items()
        if name != anchor
    }
    medians = {name: statistics.median(series) for name, series in times.items()}
    return {"anchor": anchor, "milliseconds": medians, "times_faster": ratios, "foreign_cpus": busy.read()}


class BusyElsewhere:
    """CPUs that other processes kept busy since this was made (Linux; elsewhere None)."""

    def __init__(self) -> None:
        self.start = self._now()

    def read(self) -> float | None:
        if self.start is None:
            return None
        (busy0, own0, wall0), (busy, own, wall) = self.start, self._now()  # type: ignore[misc]
        return round(max(0.0, (busy - busy0) - (own - own0)) / (wall - wall0), 2)

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        try:
            fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return None
        busy = (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.perf_counter()


def environment(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a reader needs to judge or repeat a number."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "system": platform.platform(terse=True),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", *packages)},
    }


def kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before, or what is measured now and kept, with where."""
    if not path.exists():
        found = measure() | {"environment": environment()}
        write_atomic(path, json.dumps(found, indent=2, default=str) + "\n")
    return dict(json.loads(path.read_text()))


def spell(scores: Sequence[float], digits: int = 4) -> str:
    """The mean, and the standard deviation between seeds where there are several."""
    deviation = f" ± {statistics.stdev(scores):.{digits}f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.{digits}f}{deviation}"


def twin(settings: Any, pattern: str, size: int) -> Any:
    """The settings with another kind of blocks and so many parameters; as they are where it is the same kind."""
    return settings if pattern == settings.pattern else replace(settings, pattern=pattern, num_parameters=size)


def some_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """An argparse `type`: names with commas between, all of them known."""
    have = tuple(known)

    def convert(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in have:
                raise argparse.ArgumentTypeError(f"have {', '.join(have)}, not {name!r}{did_you_mean(name, have)}")
        return names

    return convert


def run(main: Callable[[], None]) -> None:
    """A benchmark from the command line: what is wrong with its input is one line, and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _git(*args: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{fields.get('model name', '?')} (family {fields.get('cpu family')}, model {fields.get('model')})"
