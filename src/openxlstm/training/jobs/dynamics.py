"""A chaotic system as a job: trained on single steps, judged by free runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from openxlstm.tasks.dynamics import DynamicsTask
from openxlstm.training.config import RunConfig
from openxlstm.training.evaluation.dynamics import DynamicsEvaluation, evaluate_dynamics, linear_runs, model_runs, scores
from openxlstm.training.evaluation.readout import refit_head
from openxlstm.training.jobs.dynamics_figure import dynamics_figure
from openxlstm.training.jobs.task import TaskJob


class DynamicsJob(TaskJob):
    """Weights are chosen by the median valid time of free runs in validation, then the head is solved for; reported are free
    runs of that model on test trajectories, next to those of a linear autoregression."""

    task: DynamicsTask

    def __init__(self, config: RunConfig, task: DynamicsTask) -> None:
        """Raises UserError for a system whose trajectories leave all bounds."""
        super().__init__(config, task)
        task.measured("train")  # before a folder is made
        self.ending = f"free runs of {task.horizon_steps} steps after {task.warmup}"
        self.runs: np.ndarray[Any, Any] | None = None  # of the finished model, for the figure

    def validate(self, loss: nn.Module, rank: int, world: int) -> DynamicsEvaluation:
        precision = self.config.trainer.precision
        return evaluate_dynamics(loss, self.task, "validation", precision=precision, rank=rank, world_size=world)

    def report(self, loss: nn.Module, rank: int, world: int) -> dict[str, Any]:
        precision = self.config.trainer.precision
        if world == 1 or self.config.trainer.strategy != "fsdp2":  # else no process has the whole head
            refit_head(loss.model, self.task)
        found = self.validate(loss, rank, world)
        self.runs = model_runs(loss, self.task, "test", self.task.horizon_steps, precision)
        test = evaluate_dynamics(loss, self.task, "test", precision=precision, rank=rank, world_size=world, runs=self.runs)
        order, linear = linear_runs(self.task)
        line = scores(self.task, linear, self.task.truth("test")[:, self.task.warmup :])
        return {
            **self.told(found, test),
            "baselines": {
                "linear autoregression": {
                    "order": order,
                    "score": line["score"],
                    "mean_valid_time": line["more"]["mean_valid_time"],
                    "spectrum_distance": line["more"]["spectrum_distance"],
                }
            },
        }

    def lines(self, report: Mapping[str, Any]) -> Iterator[str]:
        yield f"validation: {report['validation_line']} (step {report['step']})"
        yield f"test: {report['test_line']} ({report['test']['num_targets']} trajectories)"
        for name, found in report["baselines"].items():
            yield f"  {name} of order {found['order']}: {found['score']:.2f} (mean {found['mean_valid_time']:.2f})"

    def figure(self, path: Path, rows: Sequence[Mapping[str, str]], title: str, report: Mapping[str, Any]) -> None:
        assert self.runs is not None
        dynamics_figure(path, rows, title, report["test"], self.task, self.runs)
