"""A model of piano rolls writes music, step by step."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from openxlstm.models.sequence import SequenceModel

BISECTIONS = 40  # halvings of an interval of logits: far below their rounding


@torch.no_grad()
def compose(model: SequenceModel, begun: Tensor, *, temperature: float = 1.0, seed: int = 0) -> Iterator[Tensor]:
    """Yield the steps that follow a piece begun, without end.

    model: reads and answers K keys at every step. begun: [T, K] zeros and ones, T >= 0; before it the model reads a silent
        step, as in training. temperature: below 1 likely keys become likelier, not more of them; 0 takes as many of the
        likeliest keys as are expected to sound. seed: another seed, another piece.
    Yields [K] uint8 on the CPU. Each step costs the same, whatever came before (but with attention blocks).
    Raises ValueError for a model of other numbers and a temperature below 0.
    """
    keys = model.config.num_outputs
    if model.config.input_dim != keys or begun.dim() != 2 or begun.shape[1] != keys:
        reads = model.config.input_dim
        raise ValueError(f"the model reads {reads} keys, answers {keys}, and the piece begun has the shape {list(begun.shape)}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature={temperature} must not be negative")
    weight = next(model.parameters())
    rng = torch.Generator().manual_seed(seed)
    silence = begun.new_zeros(1, keys)
    read = torch.cat([silence, begun])[None].to(weight.device, weight.dtype)  # [1, T + 1, K]
    state = None
    while True:
        logits, state = model(read, state)
        step = draw(logits[0, -1].double().cpu(), temperature, rng)
        yield step.to(torch.uint8)
        read = step.to(weight.device, weight.dtype)[None, None]


def draw(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """Which keys sound, bool [K]: each is drawn for itself, since the model says nothing of pairs."""
    probabilities = torch.sigmoid(logits)
    if temperature == 0:
        chosen = torch.zeros(logits.shape, dtype=torch.bool)
        chosen[probabilities.topk(round(float(probabilities.sum()))).indices] = True
        return chosen
    return torch.rand(logits.shape, generator=rng, dtype=logits.dtype) < tempered(logits, temperature)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities [K] with as many keys expected as before: sigmoid(logits / temperature + b) for the b that makes it so.

    Without b, a low temperature would leave out all notes of a chord for which there are several good choices.
    """
    if temperature == 1:
        return torch.sigmoid(logits)
    expected = torch.sigmoid(logits).sum()
    reach = float(logits.abs().max()) * (1 + 1 / temperature)
    low, high = -reach, reach
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if torch.sigmoid(logits / temperature + middle).sum() > expected:
            high = middle
        else:
            low = middle
    return torch.sigmoid(logits / temperature + (low + high) / 2)
