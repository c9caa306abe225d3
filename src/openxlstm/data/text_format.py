"""How the texts of a classifier become token ids, and what its classes are called: kept beside the model."""

import bisect
import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openxlstm.data.tokenizer import BPETokenizer, ByteTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from openxlstm.errors import UserError
from openxlstm.files import write_atomic

FILE = "text.json"
Kind = Literal["words", "bpe", "bytes"]
Span = tuple[int, int]
"""Where a token stands in its text: characters start to stop - 1."""

WORD = re.compile(
    r"(?P<markup><br\s*/?>)"
    r"|[^\W\d_]+(?=n't\b)|n't\b|'(?:s|t|re|ve|ll|d|m)\b"  # does n't, it 's: as the treebanks have it
    r"|\w+"
    r"|(?P<sign>[^\w\s])(?P=sign)*",  # ... and !!! are one each
    re.IGNORECASE,
)


def words_of(text: str) -> list[Span]:
    """Where the words and signs of a text stand, however it was written: raw, or with spaces between all of them."""
    straight = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return [found.span() for found in WORD.finditer(straight) if not found["markup"]]


def spaced(text: str, spans: Iterable[Span]) -> str:
    """The words in lower case with a space between."""
    straight = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(straight[start:stop].lower() for start, stop in spans)


def plain(text: str) -> str:
    """The words of a text as `spaced`: the same for texts that differ in case and spaces alone."""
    return spaced(text, words_of(text))


def train_tokenizer(kind: Kind, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of at most so many ids (which bytes do not need) from the texts."""
    match kind:
        case "words":
            return WordTokenizer.train(map(plain, texts), vocab_size)
        case "bpe":
            return BPETokenizer.train(texts, vocab_size)
        case "bytes":
            return ByteTokenizer()


@dataclass(frozen=True)
class TextFormat:
    """tokenizer: of words (as `words_of` finds them), byte pairs or bytes. classes: the names of the classes, in their order.
    max_tokens: of a text, so many are read, from its beginning; 0 = all."""

    tokenizer: Tokenizer
    classes: tuple[str, ...]
    max_tokens: int = 0

    def encode(self, text: str) -> list[int]:
        """The token ids of a text. Raises UserError for one without any."""
        return self.tokens(text)[: self.max_tokens or None]

    def tokens(self, text: str) -> list[int]:
        """The same, however long it is."""
        ids = self.tokenizer.encode(plain(text) if self.tokenizer.kind == "words" else text)
        if not ids:
            raise UserError(f"there is no word in the text {text[:40]!r}")
        return ids

    def spans(self, text: str) -> list[Span]:
        """Where each token of `encode` stands in the text. Bytes of one character share its place."""
        if self.tokenizer.kind == "words":
            return words_of(text)[: self.max_tokens or None]
        byte_at = [0, *itertools.accumulate(len(character.encode()) for character in text)]
        token_bytes: Any = self.tokenizer.token_bytes  # type: ignore[attr-defined]
        ends = list(itertools.accumulate(len(token_bytes(token)) for token in self.encode(text)))
        starts = [0, *ends[:-1]]
        return [
            (bisect.bisect_right(byte_at, start) - 1, bisect.bisect_left(byte_at, stop)) for start, stop in zip(starts, ends)
        ]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and `text.json`."""
        self.tokenizer.save(folder)
        content = {"classes": self.classes, "max_tokens": self.max_tokens}
        write_atomic(Path(folder, FILE), json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "TextFormat":
        """What `save` wrote. Raises UserError, which names the file, for what is missing or is something else."""
        path = Path(folder, FILE)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(load_tokenizer(folder), tuple(map(str, content["classes"])), int(content["max_tokens"]))
        except FileNotFoundError:
            raise UserError(f"{folder}: no {FILE} beside the model, so it is none of a text classifier") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: cannot be read: {error!r}") from None
