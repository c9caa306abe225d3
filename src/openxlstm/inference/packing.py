"""Weights in the order in which csrc/product.h reads them: panels of rows, one 32-bit word a row and step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STORAGES = {"fp32": 0, "bf16": 1, "int8": 2}
"""How weights may be kept, and the numbers that csrc/product.h has for them."""

IN_WORD = {"fp32": 1, "bf16": 2, "int8": 4}
"""Weights of a row in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The order of one matrix.

    groups: matrices on a block diagonal, each [outer, inner]. parts: so many of them, whose strips take turns (the gates of a
    cell). lanes: rows of a strip. strips: of a panel, a multiple of `parts`. storage: of STORAGES.
    """

    groups: int
    outer: int
    inner: int
    parts: int
    lanes: int
    strips: int
    storage: str

    @property
    def count(self) -> int:
        return -(-self.outer // (self.strips // self.parts * self.lanes))

    @property
    def depth(self) -> int:
        return -(-self.inner // IN_WORD[self.storage])

    @property
    def rows(self) -> int:
        """Rows of all panels, with those that fill up."""
        return self.groups * self.count * self.strips * self.lanes

    @property
    def bytes(self) -> int:
        """What the panels take, without scales and biases."""
        return self.rows * self.depth * 4


def strips_for(blocks: int, parts: int, groups: int, threads: int) -> int:
    """How many strips a panel has, out of 4, 2, 1 and at least `parts`; `blocks` is the number of strips of one part.

    Wide panels are quicker, but each is one thread's: the share of the busiest thread decides. With one strip the processor
    waits for its own additions.
    """
    price = {4: 1.0, 2: 1.05, 1: 1.4}

    def busiest(strips: int) -> float:
        panels = groups * -(-blocks * parts // strips)
        return -(-panels // threads) * strips * price[strips]

    return min((strips for strips in price if strips >= parts), key=busiest)


def pack(shape: Shape, parts: Sequence[Tensor], panels: Tensor) -> Tensor | None:
    """Write the parts [groups, outer, inner] into `panels` (uint8, `shape.bytes` long). Returns the scales of int8 rows
    [rows] (float32), else None."""
    rows = interleave(shape, parts)  # [panels, strips * lanes, inner]
    in_word = IN_WORD[shape.storage]
    rows = F.pad(rows, (0, shape.depth * in_word - shape.inner))
    if shape.storage == "fp32":
        panels.view(torch.float32).view(len(rows), shape.depth, -1).copy_(rows.transpose(1, 2))
        return None
    scale = None
    if shape.storage == "bf16":
        numbers = rows.to(torch.bfloat16)
        target = panels.view(torch.bfloat16)
    else:
        scale = rows.abs().amax(-1, keepdim=True) / 127
        numbers = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().add(128).to(torch.uint8)
        scale = scale.flatten()
        target = panels
    words = numbers.unflatten(-1, (shape.depth, in_word)).transpose(1, 2)  # [panels, depth, strips * lanes, in a word]
    target.view(words.shape).copy_(words)
    return scale


def interleave(shape: Shape, parts: Sequence[Tensor]) -> Tensor:
    """The rows of all panels [panels, strips * lanes, ...]; parts [groups, outer, ...], filled up with zeros."""
    tail = parts[0].shape[2:]
    blocks = shape.count * (shape.strips // shape.parts)
    filled = [F.pad(x.float(), (0, 0) * len(tail) + (0, blocks * shape.lanes - shape.outer)) for x in parts]
    by_block = [x.reshape(shape.groups, blocks, 1, shape.lanes, *tail) for x in filled]
    together = by_block[0] if len(parts) == 1 else torch.cat(by_block, 2)
    return together.reshape(shape.groups * shape.count, shape.strips * shape.lanes, *tail)
