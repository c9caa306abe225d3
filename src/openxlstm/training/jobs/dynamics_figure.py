"""A run on a chaotic system: losses, one free run, the attractor, the spectrum."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openxlstm.tasks.dynamics import DynamicsTask
from openxlstm.tasks.free_run import spectrum
from openxlstm.training.record import canvas, curve, smooth

TRUTH, MODEL = "0.35", "#c0392b"
DELAY = 0.15  # of a Lyapunov time: second coordinate of an attractor of which one number is seen


def dynamics_figure(
    path: Path,
    rows: Sequence[Mapping[str, str]],
    title: str,
    test: Mapping[str, Any],
    task: DynamicsTask,
    runs: NDArray[Any],
) -> None:
    """As a PNG. test: a DynamicsEvaluation as a dict. runs: its free runs [N, T, F], normalised."""
    truth = task.truth("test")[:, task.warmup :]
    # the trajectory whose valid time is the median one
    number = int(np.argsort(test["valid_times"])[(len(runs) - 1) // 2])
    with canvas(path, title, (11.0, 7.0)) as figure:
        (losses, attractor), (series, power) = figure.subplots(2, 2)
        draw_log_losses(losses, rows)
        draw_series(series, runs[number], truth[number], test["lyapunov_steps"], task.channels[0], test["valid_times"][number])
        draw_attractor(attractor, runs, truth, task)
        draw_spectrum(power, runs, truth, task)


def draw_log_losses(axes: Any, rows: Sequence[Mapping[str, str]]) -> None:
    """Training and validation error of one step: they fall by powers of ten."""
    steps, values = curve(rows, "loss")
    axes.plot(steps, smooth(values, max(len(values) // 100, 1)), color="#1f4e79", linewidth=1.2, label="training")
    axes.plot(*curve(rows, "val_loss"), color=MODEL, marker="o", markersize=4, label="validation, without noise")
    axes.set_yscale("log")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("squared error of one step")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def draw_series(
    axes: Any, run: NDArray[Any], truth: NDArray[Any] | None, steps: float, channel: str, valid: float | None = None
) -> None:
    """The first channel of one free run [T, F] over Lyapunov times of `steps` samples, and how long it was valid."""
    time = np.arange(1, len(run) + 1) / steps
    if truth is not None:
        axes.plot(time, truth[:, 0], color=TRUTH, linewidth=1.6, label="system")
    axes.plot(time, run[:, 0], color=MODEL, linewidth=1.0, label="model, alone")
    if valid is not None:
        axes.axvline(valid, color="0.6", linestyle="--", linewidth=1.0, label=f"valid for {valid:.1f}")
    axes.set_xlabel("Lyapunov times")
    axes.set_ylabel(channel)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def draw_attractor(axes: Any, runs: NDArray[Any], truth: NDArray[Any] | None, task: DynamicsTask) -> None:
    """Two channels against each other, or one against itself some time before. runs, truth: [N, T, F], of which the first few
    trajectories are drawn."""
    first, second = task.shown
    lag = 0
    if second >= len(task.channels) or first == second:
        first = second = min(first, len(task.channels) - 1)
        lag = max(round(DELAY * task.lyapunov_time / task.dt), 1)
    for paths, colour, label in ((truth, TRUTH, "system"), (runs, MODEL, "model, alone")):
        for number, path in enumerate(() if paths is None else paths[:5]):
            x, y = path[lag:, first], path[: len(path) - lag, second]
            axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.7, label=None if number else label)
    axes.set_xlabel(task.channels[first])
    axes.set_ylabel(f"{task.channels[second]}, {lag * task.dt:g} before" if lag else task.channels[second])
    if truth is not None:  # a run that left the attractor must not hide it
        for limit, channel in ((axes.set_xlim, first), (axes.set_ylim, second)):
            low, high = float(truth[..., channel].min()), float(truth[..., channel].max())
            limit(low - 0.2 * (high - low), high + 0.2 * (high - low))
    axes.legend(frameon=False)


def draw_spectrum(axes: Any, runs: NDArray[Any], truth: NDArray[Any], task: DynamicsTask) -> None:
    """The share of each frequency in the variance, on average over channels."""
    frequencies = np.fft.rfftfreq(truth.shape[1], task.dt)[1:]
    finite = np.isfinite(runs).all((1, 2))
    axes.plot(frequencies, spectrum(truth).mean(1), color=TRUTH, linewidth=1.6, label="system")
    if finite.any():
        axes.plot(frequencies, spectrum(runs[finite]).mean(1), color=MODEL, linewidth=1.0, label="model, alone")
    axes.set_yscale("log")
    axes.set_xlabel("frequency")
    axes.set_ylabel("share of variance")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
