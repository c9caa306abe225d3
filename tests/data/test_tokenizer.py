"""Every tokenizer gives text back, survives being saved, and streams whole characters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openxlstm.data.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    FillInOrder,
    StreamDecoder,
    Tokenizer,
    WordTokenizer,
    fingerprint,
    load_tokenizer,
)
from openxlstm.errors import UserError

TEXT = "def naïve(x):\n    return '€', \"日本語\", '🙂👩‍👩‍👧'  # ½\n\n\ttabs  and   spaces\r\n"
WORDS = "the cat sat\n\nthe dog <unk> sat\n"


def make(kind: str) -> tuple[Tokenizer, str]:
    """A tokenizer and a text that it can give back exactly."""
    if kind == "words":
        return WordTokenizer.train([WORDS]), WORDS
    if kind == "chars":
        return CharTokenizer.train([TEXT]), TEXT
    if kind == "bpe":
        return BPETokenizer.train(["def return spaces and tabs and spaces\n" * 20], 300), TEXT
    if kind == "unigram":  # not byte-level: how a token reads depends on its neighbours
        return unigram(), "the cat sat on the mat"
    return ByteTokenizer(), TEXT


def unigram() -> BPETokenizer:
    """A sentencepiece-like tokenizer, as other projects publish them."""
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=40, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    inner.train_from_iterator(["the cat sat on the mat", "the mat sat on the cat"] * 5, trainer)
    return BPETokenizer(inner.to_str())


KINDS = ["bytes", "chars", "words", "bpe", "unigram"]


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_also_after_saving(kind: str, tmp_path: Path) -> None:
    tokenizer, text = make(kind)
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = load_tokenizer(path)
        assert (again.kind, again.vocab_size, again.eos_id) == (tokenizer.kind, tokenizer.vocab_size, tokenizer.eos_id)
        assert again.encode(text) == ids
        assert fingerprint(again) == fingerprint(tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_joins_to_the_whole_text(kind: str) -> None:
    tokenizer, text = make(kind)
    decoder = StreamDecoder(tokenizer)
    for _ in range(2):  # after flush it is as new
        pieces = [decoder.push(token) for token in tokenizer.encode(text)]
        assert not any("�" in piece for piece in pieces)
        assert "".join(pieces) + decoder.flush() == text


def test_streaming_holds_a_character_back_until_it_is_whole() -> None:
    decoder = StreamDecoder(ByteTokenizer())
    assert [decoder.push(byte) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert decoder.push(0xE2) == ""
    assert decoder.flush() == "�"


def test_streaming_shows_bytes_that_are_no_text() -> None:
    tokenizer = ByteTokenizer()
    ids = [0x41, 0xFF, 0xFE, 0x42, 0xE2, 0x82, 0x43, 0xF0]
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == tokenizer.decode(ids)


def test_bytes_are_themselves() -> None:
    assert ByteTokenizer().encode("aé") == [0x61, 0xC3, 0xA9]
    assert ByteTokenizer().decode([0x61, 256]) == "a"
    with pytest.raises(UserError, match="257 is outside the vocabulary"):
        ByteTokenizer().decode([257])


def test_unknown_character_is_named() -> None:
    with pytest.raises(UserError, match=r"'z' at place 2 .* 2 characters"):
        CharTokenizer("ab").encode("abz")
    assert CharTokenizer("ba").characters == ("a", "b")
    assert CharTokenizer("ab", eos=True).eos_id == 2


def test_words_follow_the_penn_treebank_convention() -> None:
    tokenizer = WordTokenizer.train([" b a a \n c \n"])
    assert tokenizer.words == ("<unk>", "<eos>", "a", "b", "c")
    assert tokenizer.encode("a zebra \n\n b") == [2, 0, 1, 1, 3]
    assert tokenizer.decode([2, 0, 1, 1, 3]) == "a <unk>\n\nb"
    assert WordTokenizer.train(["b a a"], vocab_size=3).words == ("<unk>", "<eos>", "a")


def test_words_that_hold_unk_themselves_are_not_counted_twice() -> None:
    assert sorted(WordTokenizer.train(["x <unk> x"]).words) == ["<eos>", "<unk>", "x"]


def test_bpe_training_is_deterministic_across_processes(tmp_path: Path) -> None:
    text = "".join(f"word{i % 37} other{i % 11}, " for i in range(2000))
    code = "import sys; from openxlstm.data.tokenizer import *;print(fingerprint(BPETokenizer.train([sys.argv[1]], 400)))"
    found = {fingerprint(BPETokenizer.train([text], 400))}
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code, text], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert len(found) == 1


def test_bpe_has_the_size_asked_for_and_compresses() -> None:
    tokenizer = BPETokenizer.train(["the cat sat on the mat, the dog ate the hat. " * 50], 270)
    assert tokenizer.vocab_size == 270
    assert tokenizer.decode([tokenizer.eos_id or 0]) == ""
    assert len(tokenizer.encode("the cat sat on the mat")) < 15
    with pytest.raises(UserError, match="257"):
        BPETokenizer.train(["x"], 100)


@pytest.mark.parametrize("fill_in", [None, "spm"])
def test_marks_in_a_text_are_text(fill_in: FillInOrder | None, tmp_path: Path) -> None:
    """Source code about tokenizers must not end documents in the middle."""
    tokenizer = BPETokenizer.train(["a b c " * 9], 260, fill_in=fill_in)
    text = "a <|endoftext|> b <|fim_prefix|>c<|fim_middle|>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids
    assert not {*ids} & {*(tokenizer.fill_in_ids or ())}
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, BPETokenizer)
    assert again.encode(text) == ids
    assert again.encode_batch([text, text]) == tokenizer.encode_batch([text, text]) == [ids, ids]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["split_special_tokens"] is True, "for transformers"


def test_marks_in_a_text_stay_tokens_where_a_published_tokenizer_has_them_so(tmp_path: Path) -> None:
    BPETokenizer.train(["a b c " * 9], 260).save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    for _ in range(2):
        published = load_tokenizer(tmp_path)
        assert published.encode("a<|endoftext|>").count(0) == 1
        published.save(tmp_path)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
def test_text_that_is_not_unicode_is_refused(kind: str) -> None:
    tokenizer, _ = make(kind)
    text = "caf\udce9"  # how Python reads a Latin-1 word of the command line
    with pytest.raises(UserError, match="cannot be written as UTF-8: surrogates not allowed at place 3"):
        tokenizer.encode(text)
    if isinstance(tokenizer, BPETokenizer):
        with pytest.raises(UserError, match="cannot be written as UTF-8"):
            tokenizer.encode_batch(["good", text])


def test_special_tokens_of_a_tokenizer_json_are_not_added(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a b") == [2, 3]
    assert (tokenizer.kind, tokenizer.eos_id) == ("wordlevel", 1)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "a"}}))
    assert load_tokenizer(tmp_path).eos_id == 2


def test_gpt2_files_load(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("ab a") == [2, 3, 0]
    assert tokenizer.decode([2, 3, 0]) == "ab a"
    assert tokenizer.eos_id == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"tokenizer.json:1: not JSON"),
        ("[]", "holds an object"),
        ('{"kind": "letters"}', "unknown kind of tokenizer 'letters'"),
        ('{"kind": "words"}', "the key 'words' is missing"),
        ('{"model": {"type": "Nonsense"}}', "not a tokenizer.json"),
    ],
)
def test_bad_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "nowhere")


def test_published_tokenizers() -> None:
    folder = os.environ.get("OPENXLSTM_DATA")
    if not folder:
        pytest.skip("OPENXLSTM_DATA names no data folder")
    assert load_tokenizer(Path(folder, "tokenizers/gpt2")).encode("Hello world") == [15496, 995]
    assert load_tokenizer(Path(folder, "tokenizers/gpt-neox-20b")).encode("Hello world") == [12092, 1533]
