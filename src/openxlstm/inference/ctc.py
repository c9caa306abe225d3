"""Decoding of CTC (Graves et al. 2006): from the label probabilities of every step to labels, step by step.

Both decoders take log probabilities in pieces of any size, give out labels as soon as these are certain, and hold no more
memory after an hour than after a second: pieces or whole, the labels are the same.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from openxlstm.data.alphabet import BLANK

NEVER = -math.inf
MOST_UNDECIDED = 200
"""Labels that a beam search may leave undecided. With this many the best prefix decides, so that memory has a bound."""


class Decoder(Protocol):
    def push(self, log_probs: Tensor) -> list[int]:
        """Read [T, C] log probabilities; returns the labels that are certain now and were not before."""
        ...

    def finish(self) -> list[int]:
        """The labels that were still undecided, at the end of the stream; then a new stream begins."""
        ...


class Greedy:
    """The likeliest label of every step; repetitions and blanks are dropped."""

    def __init__(self) -> None:
        self._last = BLANK

    def push(self, log_probs: Tensor) -> list[int]:
        found = []
        for label in log_probs.argmax(-1).tolist():
            if label not in (BLANK, self._last):
                found.append(label)
            self._last = label
        return found

    def finish(self) -> list[int]:
        self._last = BLANK
        return []


class PrefixBeam:
    """Prefix beam search (Graves & Jaitly 2014; Hannun et al. 2014): the likeliest labels, over all alignments of them.

    For each prefix two probabilities are kept, of the alignments that end in a blank and of those that end in its last label:
    only behind a blank does the same label once more mean a second one.

    width: prefixes that are kept. prune: labels that are less likely at a step than its likeliest, by so many nats, are not
    tried.
    Raises ValueError for a width below 1 and a prune that is not positive.
    """

    def __init__(self, width: int = 8, prune: float = 12.0) -> None:
        if width < 1 or not prune > 0:
            raise ValueError(f"width={width} must be at least 1 and prune={prune:g} above 0")
        self.width, self.prune = width, prune
        self._start()

    def _start(self) -> None:
        self._last = BLANK  # the last label that was given out
        self._beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}  # undecided labels -> (blank, label)

    def push(self, log_probs: Tensor) -> list[int]:
        for row in log_probs.tolist():
            self._step(row)
        return self._certain()

    def finish(self) -> list[int]:
        best = self._best()
        self._start()
        return list(best)

    def _best(self) -> tuple[int, ...]:
        return max(self._beams, key=lambda prefix: add(*self._beams[prefix]))

    def _step(self, row: Sequence[float]) -> None:
        least = max(row) - self.prune
        tried = [label for label, p in enumerate(row) if p >= least and label != BLANK]
        found: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, label) in self._beams.items():
            either = add(blank, label)
            last = prefix[-1] if prefix else self._last
            same = found.setdefault(prefix, [NEVER, NEVER])
            same[0] = add(same[0], either + row[BLANK])
            if last != BLANK:
                same[1] = add(same[1], label + row[last])
            for new in tried:
                longer = found.setdefault((*prefix, new), [NEVER, NEVER])
                longer[1] = add(longer[1], (blank if new == last else either) + row[new])
        kept = sorted(found.items(), key=lambda item: add(*item[1]), reverse=True)[: self.width]
        self._beams = {prefix: (blank, label) for prefix, (blank, label) in kept}

    def _certain(self) -> list[int]:
        """Give out what all prefixes begin with."""
        certain = list(common(list(self._beams)))
        if not certain and max(map(len, self._beams)) > MOST_UNDECIDED:
            certain = list(max(filter(None, self._beams), key=lambda prefix: add(*self._beams[prefix]))[:1])
            self._beams = {prefix: p for prefix, p in self._beams.items() if list(prefix[:1]) == certain}
        if certain:
            self._last = certain[-1]
            self._beams = {prefix[len(certain) :]: p for prefix, p in self._beams.items()}
        return certain


def add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


def common(prefixes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning that all have."""
    low, high = min(prefixes), max(prefixes)
    same = next((place for place, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))
    return low[:same]


def decoder(beam: int = 0) -> Decoder:
    """Greedy for a beam of 0, else a prefix beam search of this width."""
    return PrefixBeam(beam) if beam else Greedy()


def decode(log_probs: Tensor, beam: int = 0) -> list[int]:
    """The labels of one whole sequence [T, C]."""
    chosen = decoder(beam)
    return [*chosen.push(log_probs), *chosen.finish()]
