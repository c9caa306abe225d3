"""One line that says where a run stands: redrawn on a terminal, printed now and then elsewhere. Talk goes to stderr."""

import math
import os
import sys
import time
from typing import TextIO


class Progress:
    """Loss, tokens per second and time left.

    total: steps of the run. start: steps already done when this process began. every: seconds between lines where stderr is
    no terminal (a line also comes with the first and the last step).
    """

    def __init__(self, total: int, start: int = 0, *, every: float = 10.0, stream: TextIO | None = None) -> None:
        self.total, self.start = total, start
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._every = 0.2 if self.live else every
        self._began = time.monotonic()
        self._shown = -math.inf
        self._mean: float | None = None
        self._tokens = 0
        self._paused = 0.0
        self._drawn = False

    def update(self, step: int, loss: float, tokens: int, note: str = "") -> None:
        """One more step is done. tokens: read in this step."""
        if math.isfinite(loss):
            self._mean = loss if self._mean is None else 0.95 * self._mean + 0.05 * loss
        self._tokens += tokens
        now = time.monotonic()
        if now - self._shown < self._every and step < self.total:
            return
        self._shown = now
        took = max(now - self._began - self._paused, 1e-9)
        done = step - self.start
        left = took / max(done, 1) * (self.total - step)
        mean = "-" if self._mean is None else shown(self._mean)
        line = f"step {step}/{self.total}  loss {mean}  {rate(self._tokens / took)}  {clock(left)} left{note}"
        if self.live:
            self.stream.write(f"\r\x1b[2K{line}")
            self._drawn = True
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def say(self, line: str) -> None:
        """A lasting line, above the live one."""
        self.stream.write(("\r\x1b[2K" if self._drawn else "") + line + "\n")
        self._drawn = False
        self.stream.flush()

    def pause(self, seconds: float) -> None:
        """Time that went to validation and checkpoints does not count in the rate."""
        self._paused += seconds

    def close(self) -> None:
        if self._drawn:
            self.stream.write("\n")
            self.stream.flush()
            self._drawn = False


def note(line: str) -> None:
    """A remark, by process 0 alone."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"note: {line}", file=sys.stderr, flush=True)


def shown(loss: float) -> str:
    """Four decimals; in powers of ten where they would say little."""
    return f"{loss:.4f}" if loss == 0 or abs(loss) >= 0.001 else f"{loss:.2e}"


def rate(tokens_per_second: float) -> str:
    """12345.6 -> "12.3k tokens/s"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if tokens_per_second >= size:
            return f"{tokens_per_second / size:.1f}{unit} tokens/s"
    return f"{tokens_per_second:.0f} tokens/s"


def clock(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
