"""AdamW with two parameter groups, checked to hold every parameter exactly once."""

from typing import Any

import torch
from torch import nn

from openxlstm.training.config import OptimizerConfig


def _decays(owner: nn.Module, name: str, parameter: nn.Parameter, decay_embeddings: bool) -> bool:
    if parameter.ndim < 2:
        return False  # biases, norm weights, skips
    if isinstance(owner, nn.Embedding):
        return decay_embeddings
    if "norm" in type(owner).__name__.lower() or "norm" in name:
        return False  # head-wise norms may keep their weight as [H, D]
    # gate biases are [4, H, D] in sLSTM and LSTM: not matrices whatever their rank
    return not (name == "b" or "bias" in name or "skip" in name)


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_embeddings: bool = False) -> list[dict[str, Any]]:
    """Two groups, "decay" and "no_decay", that together hold each trainable parameter of `model` exactly once.

    Decayed: every matrix, that is linear and head-wise projections, convolution taps, and the recurrent kernels R of sLSTM
    and LSTM. R is decayed because it is the one matrix that is applied to its own output: keeping it small keeps the
    recurrence contractive, and its gradients pass through it T times.
    Not decayed: biases (gate biases too, whatever their rank), norm weights, skips, and embeddings unless
    `decay_embeddings`. A head tied to the embedding is the same tensor and follows the embedding.

    Each group also has "names", for reports and tests. Raises AssertionError if the groups are not a partition.
    """
    chosen: dict[int, tuple[str, nn.Parameter, bool]] = {}
    for prefix, owner in model.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decay = _decays(owner, name, parameter, decay_embeddings)
            full = f"{prefix}.{name}" if prefix else name
            if id(parameter) in chosen:  # tied: decayed only if each owner agrees
                first, _, before = chosen[id(parameter)]
                chosen[id(parameter)] = (first, parameter, before and decay)
            else:
                chosen[id(parameter)] = (full, parameter, decay)
    groups = []
    for label, wanted in (("decay", True), ("no_decay", False)):
        members = [(name, p) for name, p, decay in chosen.values() if decay is wanted]
        groups.append(
            {
                "label": label,
                "names": [name for name, _ in members],
                "params": [p for _, p in members],
                "weight_decay": weight_decay if wanted else 0.0,
            }
        )
    check_partition(model, groups)
    return [group for group in groups if group["params"]]


def check_partition(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    """Raise AssertionError unless every trainable parameter is in exactly one group and nothing else is in any."""
    expected = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    seen: dict[int, str] = {}
    for group in groups:
        for parameter in group["params"]:
            name = expected.get(id(parameter), "a foreign tensor")
            assert id(parameter) in expected, f"{name} in group {group['label']!r} is no trainable parameter of the model"
            assert id(parameter) not in seen, f"{name} is in two groups, {seen[id(parameter)]!r} and {group['label']!r}"
            seen[id(parameter)] = group["label"]
    missing = [name for key, name in expected.items() if key not in seen]
    assert not missing, f"parameters in no group: {', '.join(missing)}"


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; the fused implementation where the parameters are plain tensors."""
    groups = parameter_groups(model, config.weight_decay, decay_embeddings=config.decay_embeddings)
    plain = all(type(p.data) is torch.Tensor and p.is_floating_point() for g in groups for p in g["params"])
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=plain or None)
