"""Argument checks shared by the ops: one clear line each."""

import torch
from torch import Tensor

from openxlstm.ops.numerics import GATE_KINDS


def check_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {x.dtype}")


def check_gate(name: str, kind: str) -> None:
    if kind not in GATE_KINDS:
        raise ValueError(f"{name} must be one of {', '.join(GATE_KINDS)}, got {kind!r}")


def check_time_mask(name: str, x: Tensor | None, B: int, T: int) -> None:
    if x is None:
        return
    if tuple(x.shape) != (B, T):
        raise ValueError(f"{name} must have shape {[B, T]} (batch, time), got {list(x.shape)}")
    if x.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {x.dtype}")


def check_same_device(**tensors: Tensor | None) -> None:
    devices = {name: x.device for name, x in tensors.items() if x is not None}
    if len(set(devices.values())) > 1:
        raise ValueError("all inputs must be on one device, got " + ", ".join(f"{n} on {d}" for n, d in devices.items()))
