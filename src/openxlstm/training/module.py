"""The Lightning module: one call of `training_step` is one optimiser step. Import it only where training starts."""

from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from openxlstm.errors import UserError
from openxlstm.layers.attention import keep_recent
from openxlstm.ops.state import detach, leaves, map_state
from openxlstm.training.config import RunConfig
from openxlstm.training.evaluation.text import some
from openxlstm.training.loss import autocast
from openxlstm.training.optimizer import build_optimizer
from openxlstm.training.schedule import lr_factor

STEADIER = "try a lower --optimizer.lr, a longer --schedule.warmup, or --model.gate_soft_cap=15"
"""Advice where numbers are not finite."""


class StepResult(NamedTuple):
    """What one optimiser step did; equal on every process."""

    step: int  # steps done, this one included
    loss: float  # mean over the targets of the global batch
    lr: float
    grad_norm: float  # before clipping
    tokens: int  # that were read, over all processes
    skipped: bool  # the gradient was not finite and the weights were left alone
    stop: bool  # some process was asked to stop


class TrainingModule(pl.LightningModule):
    """The optimiser steps of a model with its loss (`loss.TokenLoss`, `loss.TaskLoss`).

    Optimisation is manual, because three things are decided per step: whether the gradient is finite, the learning rate (a
    function of the step), and how a batch is split for accumulation. `step` is the truth about progress; Lightning's own
    counters are not used, so a resumed run is the same as one that never stopped.
    """

    def __init__(self, config: RunConfig, loss: Any) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.loss = loss
        self.step = 0
        self.tokens = 0
        self.bad_in_row = 0
        self.skipped = 0
        self.stop_requested = False
        self.state: Any = None  # of the streams of this process, for truncated backpropagation
        self._run: Any = self.loss
        self._sharded = False

    @property
    def model(self) -> Any:
        return self.loss.model

    def configure_model(self) -> None:
        if self.config.trainer.strategy == "fsdp2" and not self._sharded and self.trainer.world_size > 1:
            from torch.distributed.fsdp import fully_shard

            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
            for block in residual_blocks(self.model):
                fully_shard(block, mesh=mesh)
            fully_shard(self.loss, mesh=mesh)
            self._sharded = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.config.trainer.compile:
            self._run = torch.compile(self.loss)
        return build_optimizer(self.loss, self.config.optimizer)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        settings = self.config.trainer
        optimizer = self.optimizers()
        world = self.trainer.world_size
        lr = self.config.optimizer.lr * lr_factor(self.config.schedule, self.step, settings.steps)
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = lr

        scored = float(batch.scored.sum())
        agreed = self._sum(torch.tensor([scored, float(self.stop_requested), batch.num_tokens], dtype=torch.float64))
        count, tokens = max(float(agreed[0]), 1.0), int(agreed[2])

        total = torch.zeros((), dtype=torch.float64, device=self.device)
        states = []
        rows = batch.inputs.shape[0]
        if rows % settings.accumulate:
            raise UserError(f"{rows} sequences a process cannot be split into trainer.accumulate={settings.accumulate} parts")
        size = rows // settings.accumulate
        for start in range(0, rows, size):
            part = slice(start, start + size)
            before = map_state(lambda leaf, part=part: leaf[part], self.state)  # type: ignore[misc]
            with autocast(settings.precision, self.device):
                losses, after = self._run(batch.inputs[part], batch.targets[part], before, some(batch.reset[part]))
            # data-parallel wrappers average gradients over processes, and what is wanted is the mean over all targets
            self.manual_backward(losses.sum() * (world / count))
            total += losses.detach().sum().double()
            states.append(keep_recent(detach(after), settings.context) if settings.tbptt else None)

        norm = self._clip()
        loss = float(self._sum(total)) / count
        finite = bool(torch.isfinite(norm)) and loss == loss and abs(loss) != float("inf")
        if finite:
            optimizer.step()  # type: ignore[union-attr]
            self.bad_in_row = 0
        else:
            self.bad_in_row += 1
            self.skipped += 1
        optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        if settings.tbptt:
            self.state = _join(states)
            if not finite and not all(bool(torch.isfinite(leaf).all()) for leaf in leaves(self.state)):
                self.state = None  # would spoil every later step
        self.step += 1
        self.tokens += tokens
        if self.bad_in_row >= settings.max_bad_steps:
            raise UserError(
                f"the loss or its gradient was not finite for {self.bad_in_row} steps in a row (step {self.step}, "
                f"loss {loss}, learning rate {lr:.3g}); {STEADIER}; the last checkpoint holds the weights from before"
            )
        result = StepResult(self.step, loss, lr, float(norm), tokens, not finite, bool(agreed[1] > 0))
        return {"result": result}

    def _clip(self) -> Tensor:
        limit = self.config.optimizer.clip
        # not `parameters()` twice: with FSDP2 the norm of sharded gradients is a DTensor that must be made whole
        norm = nn.utils.get_total_norm([p.grad for p in self.loss.parameters() if p.grad is not None])
        if limit > 0 and bool(torch.isfinite(_whole(norm))):
            nn.utils.clip_grads_with_norm_(self.loss.parameters(), limit, norm)
        return _whole(norm)

    def _sum(self, value: Tensor) -> Tensor:
        """Sum over processes."""
        if self.trainer.world_size > 1:
            value = value.to(self.device)
            torch.distributed.all_reduce(value)
        return value


def residual_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of the stack, found by their classes: the units that FSDP2 gathers one at a time."""
    from openxlstm.layers import BLOCKS

    return [module for module in model.modules() if isinstance(module, tuple(BLOCKS.values()))]


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _join(states: list[Any]) -> Any:
    """The states of the parts of a batch, put back into one batch."""
    if len(states) == 1:
        return states[0]
    columns = iter(zip(*(leaves(state) for state in states)))
    return map_state(lambda _: torch.cat(next(columns)), states[0])
