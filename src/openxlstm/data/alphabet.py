"""What the labels of a speech recogniser mean."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openxlstm.errors import UserError

BLANK = 0
"""The label of CTC that stands for nothing."""


@dataclass(frozen=True)
class Alphabet:
    """The pieces that texts are made of; label i + 1 is piece i, label 0 the blank of CTC.

    pieces: words, or letters. joiner: what stands between two of them in a text: " " for words, "" for letters.
    """

    pieces: tuple[str, ...]
    joiner: str = ""

    def __len__(self) -> int:
        """Number of labels, the blank among them."""
        return len(self.pieces) + 1

    def labels(self, words: Sequence[str]) -> list[int]:
        """The labels of a text of words. Raises ValueError for a word that cannot be written."""
        text = list(words) if self.joiner else list(" ".join(words))
        try:
            return [self.pieces.index(piece) + 1 for piece in text]
        except ValueError:
            missing = next(piece for piece in text if piece not in self.pieces)
            raise UserError(f"there is no label for {missing!r}; have {', '.join(map(repr, self.pieces))}") from None

    def text(self, labels: Iterable[int]) -> str:
        """The text of labels."""
        return self.joiner.join(self.pieces[label - 1] for label in labels)


def of_words(words: Sequence[str]) -> Alphabet:
    """An alphabet whose pieces are these words."""
    return Alphabet(tuple(words), " ")


def of_letters(words: Sequence[str]) -> Alphabet:
    """An alphabet of the letters that these words have, and the space between words."""
    return Alphabet((" ", *sorted(set("".join(words)))))
