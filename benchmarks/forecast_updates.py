"""What a new row costs a Forecaster after histories of 1,000 to 1,000,000 rows, and whether it still forecasts as if read anew:

python benchmarks/forecast_updates.py [--pattern slstm] [--rows 1000,10000,100000,1000000]
"""

import argparse
import statistics
import time

import numpy as np
import torch

from openxlstm.data.series import Panel, Series, Step
from openxlstm.forecasting import FitConfig, Forecaster
from openxlstm.ops.state import leaves


def panel(values: np.ndarray, start: int = 0) -> Panel:
    """One series of whole-numbered times from `start`."""
    T = len(values)
    return Panel((Series("x", np.arange(start, start + T), values, np.zeros((T, 0)), np.zeros(0)),), Step(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", default="slstm")
    parser.add_argument("--rows", default="1000,10000,100000,1000000")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lengths = [int(n) for n in args.rows.split(",")]
    rng = np.random.default_rng(0)
    steps = np.arange(max(lengths))
    values = (
        np.sin(steps * 2 * np.pi / 24) + 0.1 * np.cumsum(rng.normal(size=len(steps))) * 0.01 + 0.1 * rng.normal(size=len(steps))
    )
    forecaster = Forecaster(horizon=24, context=168, pattern=args.pattern, fit=FitConfig(steps=5, validate_every=5))
    forecaster.fit(panel(values[:900]))
    torch.manual_seed(0)
    with torch.no_grad():  # far from where weights start, so that what the stack remembers shows
        for parameter in forecaster.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    print("| rows read | one more row, ms | numbers in the state | largest difference to reading anew |")
    print("|---:|---:|---:|---:|")
    for length in lengths:
        forecaster.streams = {}
        forecaster.update(panel(values[: length - 100]))
        times = []
        for row in range(length - 100, length):
            new, start = panel(values[row : row + 1], row), time.perf_counter()
            forecaster.update(new)
            times.append(time.perf_counter() - start)
        here, anew = forecaster.predict(), forecaster.predict(data=panel(values[:length]))
        difference = float(np.abs(here.iloc[:, 2:].to_numpy() - anew.iloc[:, 2:].to_numpy()).max())
        size = sum(leaf.numel() for leaf in leaves([one.state for one in forecaster.streams.values()]))
        print(f"| {length:,} | {1e3 * statistics.median(times):.2f} | {size:,} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
