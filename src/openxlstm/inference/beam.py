"""Beam search over many texts at once. One hypothesis is greedy decoding; the code is the same."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openxlstm.errors import UserError
from openxlstm.inference.generate import reading
from openxlstm.inference.sampling import check_finite
from openxlstm.ops.state import select

UNITS = 2**20
"""A log-probability is counted in whole units of this part of a nat. Sums are then exact in any order, and what a product of
matrices rounds otherwise in another batch, 1e-15 in float64, is rounded away: a text gets the same hypotheses and the same
scores alone and in any batch."""

DEAD = -(2**60)
"""Units of a hypothesis that there is not."""


class Hypothesis(NamedTuple):
    """A text that was written."""

    tokens: tuple[int, ...]  # without the end token
    log_probability: float  # in nats, of all of them and of the end token
    score: float  # that, over the length penalty
    ended: bool  # False where the longest length ended it


def length_penalty(length: int, power: float) -> float:
    """What the log-probability of so many tokens, the end token among them, is divided by (arXiv 1609.08144, eq. 14)."""
    return ((5 + length) / 6) ** power


class BeamSearch(Iterator[list[tuple[int, ...]]]):
    """Writes N texts token by token, each by `beam` hypotheses side by side.

    Each step yields, for every text, the tokens that all its hypotheses have in common: nothing that comes later changes them.
    `found` has the hypotheses of each text, best first, once it is done.

    A hypothesis ends when the end token is among the `beam` best continuations. A text is done when `beam` hypotheses that have
    ended score no less than the best of those that go on; with one hypothesis, when it ends.
    """

    def __init__(
        self,
        model: Any,
        state: Any,
        *,
        eos_id: int,
        longest: Sequence[int],
        beam: int = 1,
        power: float = 1.5,
        vocab_size: int | None = None,
    ) -> None:
        """model: `logits, state = model(ids, state)`. state: of N texts, as `model.encode` returns it; it must know `reorder`.
        eos_id: begins and ends a text. longest: tokens that each may have. beam: hypotheses. power: of the length penalty.
        vocab_size: only ids below it are written. Raises UserError for values that make no sense."""
        if beam < 1:
            raise UserError(f"beam must be at least 1, got {beam}")
        if not power >= 0:
            raise UserError(f"the length penalty must be 0 or above, got {power}")
        if any(length < 1 for length in longest):
            raise UserError(f"the longest length must be at least 1, got {min(longest)}")
        self.model, self.eos_id, self.beam, self.power = model, eos_id, beam, power
        self.longest, self.vocab_size = list(longest), vocab_size
        N = len(self.longest)
        device = next(iter(model.parameters())).device
        rows = torch.arange(N, device=device).repeat_interleave(beam)
        self._state = select(state, rows)
        self._texts = list(range(N))  # those that are not done, in the order of the rows
        self._ids = torch.full((N * beam, 1), eos_id, device=device)
        self._scores = torch.full((N, beam), DEAD, dtype=torch.int64)  # units
        self._scores[:, 0] = 0  # all hypotheses are the same at first
        self._tokens = torch.zeros(N, beam, 0, dtype=torch.int64)
        self.found: list[list[Hypothesis]] = [[] for _ in range(N)]
        self._common: list[tuple[int, ...]] = [()] * N

    def __next__(self) -> list[tuple[int, ...]]:
        if not self._texts:
            raise StopIteration
        with reading(self.model):
            logits, state = self.model(self._ids, self._state)
        beams, tokens, scores = self._continuations(logits[:, -1, : self.vocab_size])
        ended = tokens == self.eos_id
        self._end(beams, tokens, scores, ended)
        # of twice as many candidates at most half end: one a hypothesis
        kept = ended.to(torch.uint8).argsort(dim=1, stable=True)[:, : self.beam]
        beams, tokens, self._scores = (x.gather(1, kept) for x in (beams, tokens, scores))
        self._tokens = torch.cat([self._tokens.gather(1, beams[..., None].expand_as(self._tokens)), tokens[..., None]], 2)
        self._cut_off()
        going = [place for place in range(len(self._texts)) if not self._done(place)]
        self._advance(state, beams, tokens, going)
        return self._agreed()

    def _continuations(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The 2 * beam best ways to go on of each text, best first: hypothesis, token and units, [N, 2 * beam] each."""
        check_finite(logits)
        units = (logits.double().log_softmax(-1) * UNITS).round()  # [N * beam, V], whole numbers
        best, ids = units.topk(min(2 * self.beam, units.shape[1]), dim=-1)
        best, ids = (x.view(len(self._texts), self.beam, -1) for x in (best.long().cpu(), ids.cpu()))
        totals = (self._scores[..., None] + best).clamp(min=DEAD).flatten(1)  # [N, beam * 2 beam]
        totals, order = totals.sort(dim=1, descending=True, stable=True)
        totals, order = totals[:, : 2 * self.beam], order[:, : 2 * self.beam]
        return order // best.shape[2], ids.flatten(1).gather(1, order), totals

    def _end(self, beams: Tensor, tokens: Tensor, scores: Tensor, ended: Tensor) -> None:
        for place, rank in ended[:, : self.beam].nonzero().tolist():
            if scores[place, rank] > DEAD:
                written = self._tokens[place, beams[place, rank]].tolist()
                self._add(self._texts[place], written, int(scores[place, rank]), True)

    def _cut_off(self) -> None:
        """Where a text is as long as it may be and no hypothesis has ended, those that go on are its hypotheses."""
        length = self._tokens.shape[2]
        for place, text in enumerate(self._texts):
            if length >= self.longest[text] and not self.found[text]:
                for tokens, units in zip(self._tokens[place].tolist(), self._scores[place].tolist()):
                    if units > DEAD:
                        self._add(text, tokens, units, False)

    def _add(self, text: int, tokens: list[int], units: int, ended: bool) -> None:
        nats = units / UNITS
        score = nats / length_penalty(len(tokens) + ended, self.power)
        self.found[text].append(Hypothesis(tuple(tokens), nats, score, ended))

    def _done(self, place: int) -> bool:
        text, length = self._texts[place], self._tokens.shape[2]
        ended = sorted((one.score for one in self.found[text]), reverse=True)
        if length >= self.longest[text]:
            return True
        alive = int(self._scores[place].max()) / UNITS / length_penalty(length, self.power)
        return len(ended) >= self.beam and ended[self.beam - 1] >= alive

    def _advance(self, state: Any, beams: Tensor, tokens: Tensor, going: list[int]) -> None:
        """Let each hypothesis have the state of the one that it continues, and drop the texts that are done."""
        for place, text in enumerate(self._texts):
            if place not in going:
                self.found[text].sort(key=lambda one: -one.score)
                self._common[text] = self.found[text][0].tokens
        device = self._ids.device
        rows = (torch.arange(len(self._texts))[:, None] * self.beam + beams).flatten()
        self._state = state.reorder(rows.to(device)) if self.beam > 1 else state
        if len(going) < len(self._texts):
            chosen = torch.tensor(going, dtype=torch.int64)
            self._texts = [self._texts[place] for place in going]
            self._scores, self._tokens, tokens = self._scores[chosen], self._tokens[chosen], tokens[chosen]
            kept = (chosen[:, None] * self.beam + torch.arange(self.beam)).flatten()
            self._state = select(self._state, kept.to(device))
        self._ids = tokens.flatten()[:, None].to(device)

    def _agreed(self) -> list[tuple[int, ...]]:
        for place, text in enumerate(self._texts):
            alive = self._tokens[place][self._scores[place] > DEAD].tolist()
            texts = [*alive, *(one.tokens for one in self.found[text])]
            shared = len(self._common[text])
            while all(len(tokens) > shared and tokens[shared] == texts[0][shared] for tokens in texts):
                shared += 1
            self._common[text] = tuple(texts[0][:shared])
        return list(self._common)


def beam_search(model: Any, state: Any, **options: Any) -> list[list[Hypothesis]]:
    """The hypotheses of each text, best first; arguments as of BeamSearch."""
    search = BeamSearch(model, state, **options)
    for _ in search:
        pass
    return search.found
