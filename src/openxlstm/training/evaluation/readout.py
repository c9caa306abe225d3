"""The linear head of a finished model of a chaotic system, by least squares."""

from typing import Any

import numpy as np
import torch
from torch import nn

from openxlstm.tasks.dynamics import DynamicsTask

ROWS_AT_ONCE = 8  # trajectories
RIDGE = 1e-10  # of the mean square of a hidden unit: keeps units that say the same from cancelling each other


@torch.no_grad()
def refit_head(model: Any, task: DynamicsTask) -> None:
    """Give `model`, a SequenceModel, the head that is best for its hidden vectors on all training trajectories.

    Where the steps of an optimiser end, the head is near its optimum for the last few batches. The optimum for all of them is
    one linear system, solved here in float64, of which free runs get longer. Trajectories are read without the noise of
    training, and the first `task.train_length` / 2 samples of each are not asked for: nothing was remembered yet.
    """
    device = next(model.parameters()).device
    skip = task.train_length // 2
    measured = task.measured("train")
    width = model.config.dim + 1
    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    wanted = torch.zeros(width, measured.shape[2], dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    for start in range(0, len(measured), ROWS_AT_ONCE):
        paths = torch.tensor(np.array(measured[start : start + ROWS_AT_ONCE]))
        batch = task.steps(paths, torch.zeros(paths[:, 1:].shape)).to(device)
        hidden, _ = model.hidden(batch.inputs)
        h = nn.functional.pad(hidden[:, skip:].double(), (0, 1), value=1.0).flatten(0, 1)  # [N, D + 1]
        gram += h.T @ h
        wanted += h.T @ batch.targets[:, skip:].double().flatten(0, 1)
    model.train(was_training)
    weights = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(width, device=device), wanted)
    if bool(weights.isfinite().all()):
        model.output.weight.copy_(weights[:-1].T)
        model.output.bias.copy_(weights[-1])
