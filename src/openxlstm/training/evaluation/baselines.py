"""What a general-purpose compressor makes of the same text."""

import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openxlstm.data import PreparedText, TextConfig, load_corpus


@dataclass(frozen=True)
class Squeezed:
    """Size of a text under `xz -9e`. `what` says exactly what was compressed."""

    what: str
    num_bytes: int
    compressed_bytes: int
    bits_per_byte: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def xz(documents: Sequence[str], part: str) -> Squeezed | None:
    """Compress the documents, joined end to end, in one piece (LZMA, preset 9 extreme); None for no text.

    The compressor sees this text alone. The model was trained on the training text before, the compressor was not; on the other
    hand the compressor's number includes all it needs to undo itself, and the model's weights are not counted.
    """
    content = "".join(documents).encode()
    if not content:
        return None
    size = len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    files = f"{len(documents)} documents" if len(documents) != 1 else "1 document"
    what = f"xz -9e of the same {part} text ({files} joined, {len(content):,} bytes, compressed alone)"
    return Squeezed(what, len(content), size, 8 * size / len(content))


def split_text(config: TextConfig, text: PreparedText, part: str) -> list[str]:
    """The documents of a part: decoded from the tokens where that gives back every byte, else read again from the source."""
    data = text.split(part)
    decoded = [text.tokenizer.decode(data.document(number).tolist()) for number in range(data.num_documents)]
    if sum(len(document.encode()) for document in decoded) == data.num_bytes:
        return decoded
    if config.source == str(text.folder):  # a prepared folder: the source is not there any more
        return decoded
    return list(load_corpus(config).split(part))


def word_count(documents: Sequence[str]) -> int:
    """Words as language-model tables count them: split at white space, and one end mark a line."""
    return sum(len(document.split()) + document.count("\n") for document in documents)
