"""What a new row costs a Forecaster after histories of 1,000 to 1,000,000 rows, and whether it still forecasts as if read anew:

    python benchmarks/forecast_updates.py --out FOLDER [--pattern slstm] [--rows 1000,10000,100000,1000000]

FOLDER gets updates-PATTERN.json and table.md. What is there is not measured again.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import BusyElsewhere, kept, run
from numpy.typing import NDArray

from openxlstm.cli.arguments import numbers
from openxlstm.data.series import Panel, Series, Step
from openxlstm.files import write_atomic
from openxlstm.forecasting import FitConfig, Forecaster
from openxlstm.ops.state import leaves

NEW_ROWS = 100
"""That are timed after each history."""


def panel(values: NDArray[np.float64], start: int = 0) -> Panel:
    """One series of whole-numbered times from `start`."""
    T = len(values)
    return Panel((Series("x", np.arange(start, start + T), values, np.zeros((T, 0)), np.zeros(0)),), Step(1))


def measure(pattern: str, lengths: list[int]) -> dict[str, Any]:
    """Of each length: median milliseconds of one more row, numbers in the state, largest difference of a forecast."""
    busy = BusyElsewhere()
    rng, steps = np.random.default_rng(0), np.arange(max(lengths))
    wander = 0.001 * np.cumsum(rng.normal(size=len(steps)))
    values = np.sin(steps * 2 * np.pi / 24) + wander + 0.1 * rng.normal(size=len(steps))
    forecaster = Forecaster(horizon=24, context=168, pattern=pattern, fit=FitConfig(steps=5, validate_every=5))
    forecaster.fit(panel(values[:900]))
    torch.manual_seed(0)
    with torch.no_grad():  # far from where weights start, so that what the stack remembers shows
        for parameter in forecaster.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return {"pattern": pattern, "rows": [after(forecaster, values[:n]) for n in lengths], "foreign_cpus": busy.read()}


def after(forecaster: Forecaster, values: NDArray[np.float64]) -> dict[str, float]:
    """The same of one history, whose last rows are the new ones."""
    forecaster.streams = {}
    forecaster.update(panel(values[:-NEW_ROWS]))
    times = []
    for row in range(len(values) - NEW_ROWS, len(values)):
        new, start = panel(values[row : row + 1], row), time.perf_counter()
        forecaster.update(new)
        times.append(time.perf_counter() - start)
    here, anew = forecaster.predict(), forecaster.predict(data=panel(values))
    return {
        "rows": len(values),
        "milliseconds": 1e3 * statistics.median(times),
        "state": sum(leaf.numel() for leaf in leaves([one.state for one in forecaster.streams.values()])),
        "difference": float(np.abs(here.iloc[:, 2:].to_numpy() - anew.iloc[:, 2:].to_numpy()).max()),
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| rows read | one more row, ms | numbers in the state | largest difference to reading anew |",
        "|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        lines.append(f"| {row['rows']:,} | {row['milliseconds']:.2f} | {row['state']:,} | {row['difference']:.1e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--pattern", default="slstm")
    parser.add_argument("--rows", type=numbers(int, least=NEW_ROWS + 64), default="1000,10000,100000,1000000")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = kept(args.out / f"updates-{args.pattern}.json", lambda: measure(args.pattern, list(args.rows)))
    write_atomic(args.out / "table.md", table(found))
    print(table(found))


if __name__ == "__main__":
    run(main)
