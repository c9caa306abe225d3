"""Another sample rate, by a polyphase filter: for a whole recording, and for a stream piece by piece."""

import math

import torch
from torch import Tensor

from openxlstm.errors import UserError

ZEROS = 24
"""Zero crossings of the sinc on each side: a transition band of some 5 % of the lower rate."""
KAISER_BETA = 8.6
"""Of the window: stop band at -80 dB or so."""
HIGHEST_RATE = 768_000
OUTPUTS_AT_ONCE = 4096  # bounds the memory of long recordings


class Resampler:
    """A stream at one sample rate as a stream at another.

    Output n lies at the time of input n * rate / to and is a weighted sum of the inputs around it: a sinc that ends where the
    lower of the two rates has its highest frequency, under a Kaiser window (Crochiere & Rabiner 1983). With L / M = to / rate
    in lowest terms there are L sets of weights. Before the first and behind the last input there are zeros. Between equal rates
    everything passes unchanged.

    rate, to: samples a second, before and behind. Raises ValueError for rates that are not whole or not in 1 to 768,000.
    """

    def __init__(self, rate: int, to: int) -> None:
        for value in (rate, to):
            if not 1 <= value <= HIGHEST_RATE or int(value) != value:
                raise UserError(f"a sample rate of {value} Hz must be a whole number from 1 to {HIGHEST_RATE:,}")
        divisor = math.gcd(rate, to)
        self.up, self.down = to // divisor, rate // divisor  # L, M
        self._weights = weights(self.up, self.down) if self.up != self.down else torch.zeros(1, 0, dtype=torch.float64)
        self._reach = self._weights.shape[1] // 2  # inputs before and behind that an output sees
        self._held = torch.zeros(self._reach, dtype=torch.float64)
        self._first = -self._reach  # number of the first input that is held
        self._next = 0  # number of the next output

    def feed(self, samples: Tensor) -> Tensor:
        """The outputs, float32, that are complete with these inputs [N]."""
        if self.up == self.down:
            return samples.float()
        self._held = torch.cat([self._held, samples.double()])
        known = self._first + len(self._held)
        # output n is complete when input n M // L + reach is there
        ready = max(-(-(known - self._reach) * self.up // self.down), 0)
        return self._outputs(ready)

    def finish(self) -> Tensor:
        """The outputs that wait for inputs which do not come any more."""
        if self.up == self.down:
            return torch.zeros(0)
        num_inputs = self._first + len(self._held)
        total = -(-num_inputs * self.up // self.down)
        self._held = torch.cat([self._held, torch.zeros(self._reach + 1, dtype=torch.float64)])
        return self._outputs(total)

    def _outputs(self, stop: int) -> Tensor:
        offsets = torch.arange(1 - self._reach, self._reach + 1)
        found = []
        for start in range(self._next, stop, OUTPUTS_AT_ONCE):
            n = torch.arange(start, min(start + OUTPUTS_AT_ONCE, stop))
            before = n * self.down // self.up  # the last input that is not behind the output
            seen = self._held[before[:, None] + offsets - self._first]  # [outputs, 2 reach]
            found.append((seen * self._weights[n * self.down % self.up]).sum(1).float())
        self._next = max(self._next, stop)
        gone = self._next * self.down // self.up + 1 - self._reach - self._first
        if gone > 0:
            self._held = self._held[gone:].clone()
            self._first += gone
        return torch.cat(found) if found else torch.zeros(0)


def weights(up: int, down: int) -> Tensor:
    """[up, 2 reach] float64: row p has the weights of the inputs -reach + 1 to reach, counted from the last one before an
    output that lies p / up of an input behind it."""
    band = min(1.0, up / down)  # of the input's; the other rate is the lower one where it is below 1
    reach = math.ceil(ZEROS / band)
    if up * reach > 20_000_000:
        raise UserError(f"sample rates of a ratio of {up}:{down} would need too large a filter")
    phases = torch.arange(up, dtype=torch.float64)[:, None] / up
    t = torch.arange(1 - reach, reach + 1, dtype=torch.float64) - phases  # [up, 2 reach]
    place = (t / reach).clamp(-1, 1)
    beta = torch.tensor(KAISER_BETA, dtype=torch.float64)
    window = torch.special.i0(beta * (1 - place.square()).sqrt()) / torch.special.i0(beta)
    cut = band * (1 - 1 / ZEROS)  # in the middle of the transition band
    found = cut * torch.sinc(cut * t) * window
    return found / found.sum(1, keepdim=True)  # a constant stays one


def resample(samples: Tensor, rate: int, to: int) -> Tensor:
    """A whole recording [N] at another rate, float32 [ceil(N to / rate)]."""
    resampler = Resampler(rate, to)
    return torch.cat([resampler.feed(samples), resampler.finish()])
