"""Text in, another text out: translations and summaries, many at once or one as it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from openxlstm.data.tokenizer import StreamDecoder, Tokenizer
from openxlstm.errors import UserError
from openxlstm.inference.beam import BeamSearch, beam_search
from openxlstm.inference.generate import reading

ROWS = 32
"""Texts that are written at once."""


class Written(NamedTuple):
    """A text that a model wrote. score: what beam search ranks by (see `beam.Hypothesis`). ended: False where it was cut off at
    the longest length."""

    text: str
    score: float
    num_tokens: int
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Translator:
    """An EncoderDecoder with its tokenizer.

    model, tokenizer: as a run leaves them. A float64 model gives a text the same answer in any batch (see `beam.UNITS`); one in
    float32 nearly always.
    beam: hypotheses; 1 is greedy. length_penalty: its power; 0 favours short texts.
    max_tokens: longest text that is written; 0 = twice the source and ten.
    chunk: tokens of a source that are read at a time where the model can read it in pieces (bridge "prefix"): its length then
        costs no memory.
    """

    model: Any
    tokenizer: Tokenizer
    beam: int = 4
    length_penalty: float = 1.5
    max_tokens: int = 0
    chunk: int = 512

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("max_tokens", 0), ("chunk", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def translate(self, texts: Sequence[str], rows: int = ROWS) -> list[Written]:
        """The best found for each text. rows: texts at once, of about equal length. Raises UserError for an empty text."""
        sources = [self.source(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda n: len(sources[n]))
        found: dict[int, Written] = {}
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            chosen = [sources[n] for n in batch]
            for n, hypotheses in zip(batch, beam_search(self.model, self.encode(chosen), **self._options(chosen))):
                best = hypotheses[0]
                found[n] = Written(self.tokenizer.decode(best.tokens), best.score, len(best.tokens), best.ended)
        return [found[n] for n in range(len(texts))]

    def stream(self, text: str) -> Iterator[str]:
        """The best that is found for a text, in pieces: each is given out as soon as all hypotheses agree on it, with beam 1 at
        once. The pieces joined are the text of `translate`."""
        source = self.source(text)
        decoder, shown = StreamDecoder(self.tokenizer), 0
        for (agreed,) in BeamSearch(self.model, self.encode([source]), **self._options([source])):
            piece = "".join(map(decoder.push, agreed[shown:]))
            shown = len(agreed)
            if piece:
                yield piece
        if piece := decoder.flush():
            yield piece

    def source(self, text: str) -> list[int]:
        """Token ids of a text to read, with the end token behind them."""
        if not text.strip():
            raise UserError("there is nothing to read: the text is empty")
        return [*self.tokenizer.encode(text.strip()), self._end]

    def encode(self, sources: Sequence[Sequence[int]]) -> Any:
        """The state in which the model begins to write, for sources of any lengths."""
        longest = max(map(len, sources))
        device = next(iter(self.model.parameters())).device
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in sources], device=device)
        lengths = torch.tensor(list(map(len, sources)), device=device)
        mask = None if bool((lengths == longest).all()) else torch.arange(longest, device=device) < lengths[:, None]
        with reading(self.model):
            if self.model.config.bridge != "prefix":
                return self.model.encode(ids, mask)
            state = None
            for start in range(0, longest, self.chunk):
                piece = slice(start, start + self.chunk)
                state = self.model.encode(ids[:, piece], None if mask is None else mask[:, piece], state)
            return state

    @property
    def _end(self) -> int:
        if self.tokenizer.eos_id is None:
            raise UserError("the tokenizer has no end token, which begins and ends what is written")
        return self.tokenizer.eos_id

    def _options(self, sources: Sequence[Sequence[int]]) -> dict[str, Any]:
        return dict(
            eos_id=self._end,
            longest=[self.max_tokens or 2 * len(source) + 10 for source in sources],
            beam=self.beam,
            power=self.length_penalty,
            vocab_size=min(self.tokenizer.vocab_size, self.model.config.vocab_size),
        )
