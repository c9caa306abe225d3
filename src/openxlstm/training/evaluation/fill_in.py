"""How well a model fills in: the bits of a middle, with the text behind it in view and without."""

import math
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from torch import nn

from openxlstm.data.fill_in import ask
from openxlstm.data.tokenizer import Tokenizer
from openxlstm.data.windows import IGNORE, Tokens, mix
from openxlstm.training.loss import autocast

WINDOWS_AT_ONCE = 32
MARKS = 4  # tokens of a window that training does not give to the text


@dataclass(frozen=True)
class FillInEvaluation:
    """Bits per byte of middles: bits_per_byte when prefix and suffix were read before, prefix_only when the prefix alone was,
    as in plain text; both by the same model on the same num_bytes of num_windows windows. The end mark does not count."""

    bits_per_byte: float
    prefix_only: float
    num_windows: int
    num_bytes: int

    def line(self) -> str:
        """One line for people."""
        return (
            f"filling in: {self.bits_per_byte:.4f} bits per byte of the middle, {self.prefix_only:.4f} without its suffix "
            f"({self.num_windows} windows)"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate_fill_in(
    loss: nn.Module, tokens: Tokens, tokenizer: Tokenizer, context: int, *, windows: int = 256, precision: str = "fp32"
) -> FillInEvaluation | None:
    """loss: a TokenLoss. Windows of a quarter to all of `context` tokens at random places, the same each time, cut at two
    places, as in training (`data.fill_in`); those with parts of two documents are left out. None where all of them are."""
    device = next(loss.parameters()).device
    filled, plain, num_bytes = [], [], 0
    for number in range(windows):
        draw = Random(mix("fill_in", "validation", number))
        start = draw.randrange(max(tokens.num_tokens - context, 1))
        stop = min(start + draw.randint(context // 4, max(context - MARKS, 3)), tokens.num_tokens)
        text = tokenizer.decode(tokens.read(start, stop).tolist())
        if len(tokens.starts_in(start, stop)) or "\ufffd" in text or len(text) < 3:
            continue
        first, last = sorted(draw.sample(range(1, len(text)), 2))
        middle = tokenizer.encode(text[first:last])
        filled.append((ask(tokenizer, text[:first], text[last:]), middle))
        plain.append((tokenizer.encode(text[:first]), middle))
        num_bytes += len(text[first:last].encode())
    if not filled:
        return None
    was_training = loss.training
    loss.eval()
    try:
        nats = [_nats(loss, rows, device, precision) for rows in (filled, plain)]
    finally:
        loss.train(was_training)
    bits = [total / math.log(2) / num_bytes for total in nats]
    return FillInEvaluation(bits[0], bits[1], len(filled), num_bytes)


def _nats(loss: nn.Module, rows: list[tuple[list[int], list[int]]], device: torch.device, precision: str) -> float:
    """Nats of the second part of each row, behind its first, summed over all rows."""
    total = 0.0
    for start in range(0, len(rows), WINDOWS_AT_ONCE):
        some = rows[start : start + WINDOWS_AT_ONCE]
        longest = max(len(before) + len(middle) for before, middle in some)
        inputs = torch.zeros(len(some), longest - 1, dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORE)
        for row, (before, middle) in enumerate(some):
            ids = torch.tensor([*before, *middle])
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, len(before) - 1 : len(ids) - 1] = ids[len(before) :]
        with autocast(precision, device):
            nats, _ = loss(inputs.to(device), targets.to(device))
        total += float(nats.sum(dtype=torch.float64))
    return total
