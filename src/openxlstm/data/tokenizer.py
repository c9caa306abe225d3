"""Text to token ids and back: bytes, characters, words, byte-pair encoding, and any `tokenizer.json`."""

import codecs
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from openxlstm.data.utf8 import utf8
from openxlstm.errors import UserError, missing_extra
from openxlstm.files import write_atomic

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
FILL_IN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FillInOrder = Literal["psm", "spm"]
"""Prefix, suffix, middle, or suffix, prefix, middle. The marks are numbered in the order in which they are read."""
_FILL_IN_NAMES = (FILL_IN, ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"))
_EOS_NAMES = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "<EOS>", "[EOS]")


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the package asks of a tokenizer. `eos_id` ends a document and, as the first input of a model with an
    empty state, begins one; None where the vocabulary has no such token."""

    @property
    def kind(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without an added beginning or end."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` into the folder, whole or not at all."""
        ...


class ByteTokenizer:
    """UTF-8 bytes are the ids 0-255; 256 ends a document and decodes to nothing.

    fill_in: None, or the order of three more ids, `fill_in_ids`, which decode to nothing and mark prefix, suffix and middle.
    """

    kind = "bytes"
    vocab_size = 257
    eos_id = 256
    fill_in: FillInOrder | None = None
    fill_in_ids: tuple[int, int, int] | None = None

    def __init__(self, *, fill_in: FillInOrder | None = None) -> None:
        if fill_in not in (None, "psm", "spm"):
            raise UserError(f"fill_in={fill_in!r} is none of 'psm', 'spm'")
        if fill_in is not None:
            self.fill_in, self.vocab_size = fill_in, 260
            self.fill_in_ids = (257, 258, 259) if fill_in == "psm" else (258, 257, 259)

    def encode(self, text: str) -> list[int]:
        return list(utf8(text, "the text"))

    def token_bytes(self, token: int) -> bytes:
        _check_id(token, self.vocab_size)
        return bytes((token,)) if token < 256 else b""

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def save(self, directory: str | os.PathLike[str]) -> None:
        marks = {"fill_in": self.fill_in} if self.fill_in else {}
        _save(directory, {"kind": self.kind, **marks})


class CharTokenizer:
    """One id per character of a closed alphabet. A character outside it is an error that names it.

    characters: the alphabet; sorted, doubles dropped. The id is the place in the sorted alphabet.
    eos: add one more id that ends a document and decodes to nothing.
    """

    kind = "chars"

    def __init__(self, characters: Iterable[str], *, eos: bool = False) -> None:
        self.characters = tuple(sorted(set(characters)))
        if not self.characters:
            raise UserError("a character tokenizer needs at least one character")
        self._ids = {character: index for index, character in enumerate(self.characters)}
        self.eos_id: int | None = len(self.characters) if eos else None
        self.vocab_size = len(self.characters) + eos

    @classmethod
    def train(cls, texts: Iterable[str], *, eos: bool = False) -> "CharTokenizer":
        """The alphabet of the texts."""
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        return cls(characters, eos=eos)

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise UserError(
                f"character {character!r} at place {text.index(character)} is not in the tokenizer's alphabet of "
                f"{len(self.characters)} characters; use the tokenizer 'bytes' or 'bpe' for open text"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        for token in ids:
            _check_id(token, self.vocab_size)
        return "".join(self.characters[token] for token in ids if token != self.eos_id)

    def save(self, directory: str | os.PathLike[str]) -> None:
        _save(directory, {"kind": self.kind, "characters": "".join(self.characters), "eos": self.eos_id is not None})


class WordTokenizer:
    """Words between white space; each line end is `<eos>`, each word outside the vocabulary `<unk>` (the convention of Penn
    Treebank and WikiText). Decoding puts one space between words, so white space is not kept exactly.

    words: the vocabulary, in the order of its ids; `<unk>` and `<eos>` are put in front where absent.
    """

    kind = "words"

    def __init__(self, words: Iterable[str]) -> None:
        vocabulary = list(dict.fromkeys(words))
        self.words = tuple([special for special in ("<unk>", "<eos>") if special not in vocabulary] + vocabulary)
        self._ids = {word: index for index, word in enumerate(self.words)}
        self.unk_id = self._ids["<unk>"]
        self.eos_id: int | None = self._ids["<eos>"]
        self.vocab_size = len(self.words)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None = None) -> "WordTokenizer":
        """The words of the texts, the most frequent first (ties in alphabetical order); at most `vocab_size` ids, None for
        all. `<unk>` and `<eos>` count among them."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split())
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        if vocab_size is not None:
            ranked = ["<unk>", "<eos>", *(word for word in ranked if word not in ("<unk>", "<eos>"))][:vocab_size]
        return cls(ranked)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        assert self.eos_id is not None
        for line in text.split("\n"):
            ids.extend(self._ids.get(word, self.unk_id) for word in line.split())
            ids.append(self.eos_id)
        ids.pop()  # the last line has no line end of its own
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        pieces: list[str] = []
        fresh = True
        for token in ids:
            _check_id(token, self.vocab_size)
            if token == self.eos_id:
                pieces.append("\n")
            else:
                pieces.append(self.words[token] if fresh else " " + self.words[token])
            fresh = token == self.eos_id
        return "".join(pieces)

    def save(self, directory: str | os.PathLike[str]) -> None:
        _save(directory, {"kind": self.kind, "words": self.words})


class BPETokenizer:
    """A tokenizer of the `tokenizers` library: byte-level BPE trained here, or any `tokenizer.json`.

    content: the text of a `tokenizer.json`.
    eos_token: the token that ends a document; None takes the first of the usual names that the vocabulary has.
    plain_marks: a mark such as `<|endoftext|>` that stands in a text is text like any other, as in tokenizers trained here;
        else it becomes the token of that name, as most published tokenizers have it.
    """

    def __init__(self, content: str, *, eos_token: str | None = None, where: str = FILE, plain_marks: bool = False) -> None:
        library = _tokenizers()
        try:
            self._inner = library.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{where}: not a tokenizer.json of the tokenizers library: {error}") from None
        self.plain_marks = plain_marks
        self._inner.encode_special_tokens = plain_marks  # which tokenizer.json has no place for
        described = json.loads(content)
        self.kind = str((described.get("model") or {}).get("type") or "bpe").lower()
        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError(f"{where}: the vocabulary is empty")
        self.vocab_size = max(vocabulary.values()) + 1
        if eos_token is not None and eos_token not in vocabulary:
            raise UserError(f"{where}: the end token {eos_token!r} is not in the vocabulary")
        self.eos_token = eos_token or next((name for name in _EOS_NAMES if name in vocabulary), None)
        self.eos_id: int | None = vocabulary[self.eos_token] if self.eos_token else None
        marks = next((names for names in _FILL_IN_NAMES if vocabulary.keys() >= set(names)), None)
        self.fill_in_ids = (vocabulary[marks[0]], vocabulary[marks[1]], vocabulary[marks[2]]) if marks else None
        self._silent = {self.eos_id, *(self.fill_in_ids or ())}
        self._added = {index: token.content for index, token in self._inner.get_added_tokens_decoder().items()}
        self._byte_level = _is_byte_level(described.get("decoder"))
        self._names = {index: name for name, index in vocabulary.items()}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 8192, *, fill_in: FillInOrder | None = None) -> "BPETokenizer":
        """Byte-level BPE: every text can be encoded and comes back exactly, one with `<|endoftext|>` or other marks in it too.
        The same texts give the same tokenizer.

        vocab_size: 257 (the bytes and the end token) or more; text too short for so many merges gives fewer.
        fill_in: None, or the order of three of the tokens, `fill_in_ids`, which decode to nothing and mark prefix, suffix and
        middle."""
        prefix, suffix, middle = FILL_IN
        marks = {None: [], "psm": [prefix, suffix, middle], "spm": [suffix, prefix, middle]}
        special = [END_OF_TEXT, *marks[fill_in]]
        if vocab_size < 256 + len(special):
            raise UserError(
                f"vocab_size={vocab_size} is too small for byte-level BPE: 256 bytes and "
                f"{'the end token' if not fill_in else 'four special tokens'} make {256 + len(special)}"
            )
        library = _tokenizers()
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner.to_str(pretty=True), eos_token=END_OF_TEXT, plain_marks=True)

    def encode(self, text: str) -> list[int]:
        utf8(text, "the text")
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, in several threads."""
        for text in texts:
            utf8(text, "the text")
        return [encoding.ids for encoding in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes the token stands for; None where that depends on its neighbours (not byte-level)."""
        if not self._byte_level:
            return None
        _check_id(token, self.vocab_size)
        if token in self._added:
            return b"" if token in self._silent else self._added[token].encode()
        name = self._names.get(token)
        if name is None:  # a gap in the numbering
            return b""
        return b"".join(bytes((_BYTE_OF[character],)) if character in _BYTE_OF else character.encode() for character in name)

    def decode(self, ids: Sequence[int]) -> str:
        if self._byte_level:
            return b"".join(self.token_bytes(token) or b"" for token in ids).decode("utf-8", "replace")
        for token in ids:
            _check_id(token, self.vocab_size)
        return self._inner.decode([token for token in ids if token not in self._silent], skip_special_tokens=False)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Also writes `tokenizer_config.json`, so that other software finds the end token, and how marks in a text are read."""
        folder = Path(directory)
        write_atomic(folder / FILE, self._inner.to_str(pretty=True))
        names: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.eos_token}
        names |= {"split_special_tokens": True} if self.plain_marks else {}  # transformers' name for it
        write_atomic(folder / "tokenizer_config.json", json.dumps(names, indent=1) + "\n")


class StreamDecoder:
    """Text of tokens that come one by one, without ever showing half a character.

    What `push` and `flush` return, joined, is `tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: list[int] = []  # already shown; gives the new tokens their left neighbours
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The characters that this token completes; may be empty."""
        token_bytes = getattr(self._tokenizer, "token_bytes", None)
        if token_bytes is not None and (data := token_bytes(token)) is not None:
            return self._bytes.decode(data)
        self._waiting.append(token)
        text = self._new_text()
        # A UTF-8 character has at most 4 bytes, so after 4 byte-fallback tokens U+FFFD is the true reading.
        if text.endswith("�") and len(self._waiting) < 4:
            return ""
        self._before, self._waiting = (self._before + self._waiting)[-8:], []
        return text

    def flush(self) -> str:
        """What is left at the end: an unfinished character reads as U+FFFD. The decoder is then as new."""
        text = self._bytes.decode(b"", final=True) + (self._new_text() if self._waiting else "")
        self._bytes.reset()
        self._before, self._waiting = [], []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode(self._before + self._waiting)[len(before) :]


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a tokenizer.

    path: a `tokenizer.json` (ours or of the tokenizers library), a folder with one, or a folder with `vocab.json` and
    `merges.txt` (GPT-2)."""
    place = Path(path)
    if place.is_dir():
        if not (place / FILE).exists() and (place / "vocab.json").exists() and (place / "merges.txt").exists():
            return _load_gpt2(place)
        place = place / FILE
    try:
        content = place.read_text(encoding="utf-8")
        described = json.loads(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no tokenizer there (looked for {place.name})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(described, dict):
        raise UserError(f"{place}: a tokenizer.json holds an object, not {type(described).__name__}")
    if "kind" in described and "model" not in described:
        return _load_ours(described, place)
    eos_token, plain_marks = _declared(place.with_name("tokenizer_config.json"))
    return BPETokenizer(content, eos_token=eos_token, where=str(place), plain_marks=plain_marks)


def fill_in_ids(tokenizer: Tokenizer) -> tuple[int, int, int] | None:
    """Ids of the marks before prefix, suffix and middle, for models that fill in text (`data.fill_in`); None without them."""
    return getattr(tokenizer, "fill_in_ids", None)


def fingerprint(tokenizer: Tokenizer) -> str:
    """16 hex digits that differ between tokenizers that number text differently, marks written in a text apart."""
    if isinstance(tokenizer, BPETokenizer):
        content = json.dumps([json.loads(tokenizer._inner.to_str()), tokenizer.eos_token], sort_keys=True)
    elif isinstance(tokenizer, CharTokenizer):
        content = json.dumps([tokenizer.kind, tokenizer.characters, tokenizer.eos_id])
    elif isinstance(tokenizer, WordTokenizer):
        content = json.dumps([tokenizer.kind, tokenizer.words])
    else:
        content = json.dumps([tokenizer.kind, tokenizer.vocab_size, tokenizer.eos_id, *(fill_in_ids(tokenizer) or ())])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _load_ours(described: dict[str, Any], place: Path) -> Tokenizer:
    kind = described["kind"]
    try:
        if kind == ByteTokenizer.kind:
            return ByteTokenizer(fill_in=described.get("fill_in"))
        if kind == CharTokenizer.kind:
            return CharTokenizer(described["characters"], eos=described["eos"])
        if kind == WordTokenizer.kind:
            return WordTokenizer(described["words"])
    except KeyError as error:
        raise UserError(f"{place}: the key {error} is missing") from None
    raise UserError(f"{place}: unknown kind of tokenizer {kind!r}; have 'bytes', 'chars', 'words'")


def _load_gpt2(folder: Path) -> BPETokenizer:
    library = _tokenizers()
    try:
        model = library.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{folder}: vocab.json and merges.txt do not make a BPE tokenizer: {error}") from None
    inner = library.Tokenizer(model)
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    if inner.token_to_id(END_OF_TEXT) is not None:
        inner.add_special_tokens([END_OF_TEXT])
    return BPETokenizer(inner.to_str(), where=str(folder))


def _declared(config: Path) -> tuple[str | None, bool]:
    """End token and `plain_marks` that a `tokenizer_config.json` has, if there is one."""
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        token, plain_marks = settings.get("eos_token"), settings.get("split_special_tokens") is True
    except FileNotFoundError:
        return None, False
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: not a JSON object: {error}") from None
    return token.get("content") if isinstance(token, dict) else token, plain_marks


def _save(directory: str | os.PathLike[str], content: dict[str, Any]) -> None:
    write_atomic(Path(directory) / FILE, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _check_id(token: int, vocab_size: int) -> None:
    if not 0 <= token < vocab_size:
        raise UserError(f"token id {token} is outside the vocabulary of {vocab_size}")


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    return decoder is not None and decoder.get("type") == "ByteLevel"


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise missing_extra("tokenizers", "train", "byte-pair encoding") from None
    return tokenizers


def _byte_names() -> dict[str, int]:
    """Byte-level BPE writes every byte as a printable character: the printable Latin-1 characters stand for themselves, the
    other 68 bytes, in order, for the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_names()
