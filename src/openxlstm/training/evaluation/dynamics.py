"""Scores of a task about a chaotic system: free runs against trajectories that nobody was trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from openxlstm.inference.free_run import free_run
from openxlstm.tasks import Split
from openxlstm.tasks.dynamics import DynamicsTask
from openxlstm.tasks.free_run import spectrum_distance, valid_steps
from openxlstm.training.evaluation.autoregression import LinearAutoregression
from openxlstm.training.evaluation.task import LengthScore, TaskEvaluation, evaluate_task
from openxlstm.training.loss import TaskLoss, autocast

ORDERS = (1, 2, 4, 8, 16)
"""Of the linear model; validation chooses."""

METRIC = "median valid time in Lyapunov times"


@dataclass(frozen=True)
class DynamicsEvaluation(TaskEvaluation):
    """Result of the free runs of a split. `score` is the median valid time in Lyapunov times, `guess` that of a system that
    stays where it was read last, `loss` the mean squared error of one step.

    mean_valid_time: in Lyapunov times. valid_times: of each trajectory. spectrum_distance: see tasks.free_run. lyapunov_steps:
    samples in a Lyapunov time. horizon: length of the runs, in Lyapunov times: no valid time is longer.
    """

    mean_valid_time: float = 0.0
    valid_times: tuple[float, ...] = ()
    spectrum_distance: float = 1.0
    lyapunov_steps: float = 1.0
    horizon: float = 0.0

    def line(self) -> str:
        return (
            f"{self.metric} {self.score:.2f} (mean {self.mean_valid_time:.2f}, standing still {self.guess:.2f}), "
            f"one-step loss {self.loss:.2e}, spectrum distance {self.spectrum_distance:.3f}"
        )


def evaluate_dynamics(
    model: nn.Module,
    task: DynamicsTask,
    split: Split,
    lengths: str | None = None,
    *,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    runs: NDArray[Any] | None = None,
) -> DynamicsEvaluation:
    """Arguments as for `evaluate_task`. runs: the free runs of `model_runs`, where they were made before.

    Every process makes all free runs; one step is scored by all of them together.
    """
    lengths = lengths or task.reports[0]
    horizon = task.horizon_of(lengths)
    one_step = evaluate_task(model, task, split, lengths, precision=precision, rank=rank, world_size=world_size)
    truth = task.truth(split, task.warmup + horizon)[:, task.warmup :]
    found = scores(task, model_runs(model, task, split, horizon, precision) if runs is None else runs, truth)
    still = scores(task, still_runs(task, split, horizon), truth)
    part = LengthScore(lengths, found["score"], still["score"], one_step.loss, len(truth))
    return DynamicsEvaluation(
        split, lengths, METRIC, True, found["score"], still["score"], one_step.loss, len(truth), (part,), **found["more"]
    )


def model_runs(
    model: nn.Module, task: DynamicsTask, split: Split, horizon: int, precision: str = "fp32", rows: slice = slice(None)
) -> NDArray[Any]:
    """Free runs [N, horizon, F] of a SequenceModel, or of a TaskLoss around one, after the warm-up of each trajectory."""
    loss = model if isinstance(model, TaskLoss) else TaskLoss(model)
    device = next(loss.parameters()).device
    prefix = torch.tensor(task.measured(split)[rows, : task.warmup]).to(device)

    def step(inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        # through the loss, whose forward gathers the weights of a sharded model
        with autocast(precision, device):
            outputs, state = loss(inputs, torch.zeros_like(inputs), state, predict=True)
        return outputs.view(inputs.shape), state

    was_training = loss.training
    loss.eval()
    try:
        return free_run(step, prefix, horizon, torch.from_numpy(task.scale.step).to(device)).cpu().numpy()
    finally:
        loss.train(was_training)


def still_runs(task: DynamicsTask, split: Split, horizon: int) -> NDArray[Any]:
    """Runs [N, horizon, F] of a system that stays at the last sample of the warm-up, which is the last that anybody reads."""
    return np.repeat(task.measured(split)[:, task.warmup - 1 : task.warmup], horizon, 1)


def linear_runs(task: DynamicsTask) -> tuple[int, NDArray[Any]]:
    """The order that is best in validation, and the free runs of that linear model on the test trajectories."""
    past = task.measured("train")
    truth = task.truth("validation")[:, task.warmup :]
    best: tuple[float, LinearAutoregression] | None = None
    for order in ORDERS:
        if order > min(task.warmup, past.shape[1] - 1):
            break
        model = LinearAutoregression.fit(past, order)
        runs = model.free_run(task.measured("validation")[:, : task.warmup], truth.shape[1])
        score = scores(task, runs, truth)["more"]["mean_valid_time"]  # the mean: medians of short times are often equal
        if best is None or score > best[0]:
            best = score, model
    assert best is not None
    return best[1].order, best[1].free_run(task.measured("test")[:, : task.warmup], truth.shape[1])


def scores(task: DynamicsTask, runs: NDArray[Any], truth: NDArray[Any]) -> dict[str, Any]:
    """What free runs [N, horizon, F] score: the median valid time, and whatever else DynamicsEvaluation has."""
    steps = task.lyapunov_time / task.dt
    times = valid_steps(runs, truth, task.threshold) / steps
    more = {
        "mean_valid_time": float(times.mean()),
        "valid_times": tuple(float(time) for time in times),
        "spectrum_distance": spectrum_distance(runs, truth),
        "lyapunov_steps": steps,
        "horizon": truth.shape[1] / steps,
    }
    return {"score": float(np.median(times)), "more": more}
