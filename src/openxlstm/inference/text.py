"""Text in, text out, piece by piece."""

import time
from collections.abc import Iterator
from typing import Any

from openxlstm.data.fill_in import ask
from openxlstm.data.tokenizer import StreamDecoder, Tokenizer
from openxlstm.errors import UserError
from openxlstm.inference.generate import generate
from openxlstm.inference.sampling import Sampling


class TextStream(Iterator[str]):
    """Yields the continuation of a prompt as text, whole characters at a time; the pieces joined are the text.

    num_prompt_tokens, num_tokens: how many tokens were read and written so far. ended_by: "end of text", "length", or None
    while it runs. prefill_seconds, seconds: time for the prompt and first token, and for the rest. decode, why_torch: as of a
    TokenStream.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        prompt: str,
        max_new_tokens: int | None = 256,
        *,
        sampling: Sampling | None = None,
        seed: int | None = 0,
        begins: bool = True,
        suffix: str | None = None,
        decode: str = "auto",
        weights: str = "fp32",
    ) -> None:
        """model, tokenizer: e.g. of `load_run`. An empty prompt starts a new text, where the tokenizer has an end token.
        max_new_tokens: None = until the model ends the text. sampling, seed, decode, weights: as in `generate`. begins: the
        prompt is the start of a text (in training the end token of one text is read before the next); False = it is out of the
        middle of one. suffix: write what is between the prompt and this. Raises UserError for a prompt that the tokenizer
        cannot express, and for a suffix where it has no marks for filling in."""
        end = tokenizer.eos_id
        ids = tokenizer.encode(prompt) if suffix is None else ask(tokenizer, prompt, suffix)
        if suffix is None and end is not None and (begins or not ids):
            ids = [end, *ids]
        if not ids:
            raise UserError("the prompt is empty, and this tokenizer has no token that begins a text: give some text")
        if end is not None and tokenizer.decode([end]):
            end = None  # it reads as text, such as a line end, and more may follow it
        self._stream = generate(
            model,
            [ids],
            max_new_tokens,
            sampling=sampling,
            seed=seed,
            eos_id=end,
            vocab_size=min(tokenizer.vocab_size, model.config.vocab_size),
            decode=decode,
            weights=weights,
        )
        self.decode, self.why_torch = self._stream.decode, self._stream.why_torch
        self._decoder = StreamDecoder(tokenizer)
        self._end = end
        self.num_prompt_tokens = len(ids)
        self.num_tokens = 0
        self.ended_by: str | None = None
        self.prefill_seconds = self.seconds = 0.0

    def __next__(self) -> str:
        while self.ended_by is None:
            start = time.perf_counter()
            row = next(self._stream, None)
            passed = time.perf_counter() - start
            if self.num_tokens == 0:
                self.prefill_seconds = passed
            else:
                self.seconds += passed
            token = None if row is None else row[0]
            if token is None or token == self._end:
                self.ended_by = "length" if token is None else "end of text"
                piece = self._decoder.flush()
            else:
                self.num_tokens += 1
                piece = self._decoder.push(token)
            if piece:
                return piece
        raise StopIteration
