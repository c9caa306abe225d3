"""Token shards hold exactly the text, are found again, go on after an interruption, and are never silently wrong."""

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from openxlstm.data import tokens as tokens_module
from openxlstm.data.corpus import TextConfig, load_corpus
from openxlstm.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer
from openxlstm.data.tokens import TokenDataset, open_prepared, prepare, prepare_folder, write_shards
from openxlstm.errors import UserError

DOCUMENTS = ["one", "", "zwei €", "three\nlines\n", "4"] + [f"document {i}" for i in range(20)]
KEPT = [text for text in DOCUMENTS if text]


@pytest.mark.parametrize("shard_tokens", [1, 7, 50, 10_000])
def test_tokens_are_eos_document_eos(shard_tokens: int, tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    data = write_shards(DOCUMENTS, tokenizer, tmp_path, shard_tokens)
    expected = [256]
    starts = []
    for text in KEPT:
        starts.append(len(expected) - 1)
        expected += [*text.encode(), 256]
    assert data[:].tolist() == expected
    assert data.document_starts.tolist() == starts
    assert [tokenizer.decode(data.document(i).tolist()) for i in range(len(KEPT))] == KEPT
    assert data.num_bytes == sum(len(text.encode()) for text in KEPT)
    assert (data.num_tokens, data.num_documents, data.dtype) == (len(expected), len(KEPT), np.dtype("<u2"))
    assert len(data.shards) == {1: len(KEPT), 7: len(data.shards), 50: len(data.shards), 10_000: 1}[shard_tokens]
    for start, stop in ((0, 1), (3, 40), (30, 30), (len(expected) - 5, len(expected))):
        assert data.read(start, stop).tolist() == expected[start:stop]
    assert data.starts_in(4, 20).tolist() == [s for s in starts if 4 <= s < 20]
    with pytest.raises(IndexError):
        data.read(0, len(expected) + 1)


def test_without_an_end_token_documents_follow_each_other(tmp_path: Path) -> None:
    data = write_shards(["ab", "ba"], CharTokenizer("ab"), tmp_path)
    assert data[:].tolist() == [0, 1, 1, 0]
    assert data.document_starts.tolist() == [0, 2]
    assert [data.document(i).tolist() for i in range(2)] == [[0, 1], [1, 0]]


def test_line_ends_of_words_are_not_doubled(tmp_path: Path) -> None:
    data = write_shards([" a b \n a \n", "b"], WordTokenizer(["<unk>", "<eos>", "a", "b"]), tmp_path)
    assert data[:].tolist() == [1, 2, 3, 1, 2, 1, 3, 1]
    assert data.document_starts.tolist() == [0, 5]


def test_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    tokenizer = WordTokenizer([f"w{i}" for i in range(70_000)])
    data = write_shards(["w69999 w0"], tokenizer, tmp_path)
    assert data.dtype == np.dtype("<u4")
    assert data[:].tolist() == [1, 70_001, 2, 1]


def test_long_texts_are_tokenised_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"  line {i}:\twords,  and\n\n  more\n{'y' * (i % 7)} end\n" for i in range(400))
    tokenizer = BPETokenizer.train([text], 300)
    monkeypatch.setattr(tokens_module, "_PIECE", 100)
    assert len(list(tokens_module._pieces(text))) > 20
    data = write_shards([text], tokenizer, tmp_path)
    assert data.document(0).tolist() == tokenizer.encode(text)


def test_bits_per_byte(tmp_path: Path) -> None:
    data = write_shards(["ab€"], ByteTokenizer(), tmp_path)  # 5 bytes, 6 predicted tokens
    assert data.bits_per_byte(math.log(2)) == pytest.approx(6 / 5)


def test_dataset_can_be_sent_to_another_process(tmp_path: Path) -> None:
    data = write_shards(DOCUMENTS, ByteTokenizer(), tmp_path, 20)
    data.verify()
    copy = pickle.loads(pickle.dumps(data))
    assert copy[:].tolist() == data[:].tolist()
    assert len(pickle.dumps(data)) < 5000  # the tokens stay on disk


# Damage


@pytest.mark.parametrize("name", ["00001.bin", "00001.starts.bin"])
def test_truncated_shard(name: str, tmp_path: Path) -> None:
    write_shards(DOCUMENTS, ByteTokenizer(), tmp_path, 20)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{name}: .* bytes where the index says .* damaged"):
        TokenDataset(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        TokenDataset(tmp_path)


def test_changed_token_is_noticed_when_its_shard_is_read(tmp_path: Path) -> None:
    write_shards(DOCUMENTS, ByteTokenizer(), tmp_path, 20)
    path = tmp_path / "00001.bin"
    raw = bytearray(path.read_bytes())
    raw[4] ^= 1
    path.write_bytes(raw)
    data = TokenDataset(tmp_path)
    data.read(0, 5)
    with pytest.raises(UserError, match=r"00001\.bin: the checksum differs"):
        data.read(0, data.num_tokens)
    with pytest.raises(UserError, match="checksum"):
        data.verify()


def test_changed_document_starts_are_noticed(tmp_path: Path) -> None:
    write_shards(DOCUMENTS, ByteTokenizer(), tmp_path)
    path = tmp_path / "00000.starts.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UserError, match="checksum"):
        TokenDataset(tmp_path).starts_in(0, 5)


def test_bad_index(tmp_path: Path) -> None:
    write_shards(DOCUMENTS, ByteTokenizer(), tmp_path)
    (tmp_path / "index.json").write_text('{"dtype": "<u2"}')
    with pytest.raises(UserError, match="not an index"):
        TokenDataset(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(UserError, match="not a finished set"):
        TokenDataset(tmp_path)


# Interruption


class Interrupted(Exception):
    pass


class Counted(ByteTokenizer):
    """Knows which texts it was asked to encode."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.seen.append(text)
        return super().encode(text)


def until(number: int) -> Iterator[str]:
    yield from DOCUMENTS[:number]
    raise Interrupted


@pytest.mark.parametrize("number", [0, 1, 3, 10, 24, 25])
def test_an_interrupted_call_goes_on_after_the_last_whole_shard(number: int, tmp_path: Path) -> None:
    whole = write_shards(DOCUMENTS, ByteTokenizer(), tmp_path / "whole", 30)
    with pytest.raises(Interrupted):
        write_shards(until(number), ByteTokenizer(), tmp_path / "part", 30)
    with pytest.raises(UserError, match="not a finished set"):
        TokenDataset(tmp_path / "part")
    tokenizer: Tokenizer = Counted()
    data = write_shards(DOCUMENTS, tokenizer, tmp_path / "part", 30)
    assert data[:].tolist() == whole[:].tolist()
    assert data.document_starts.tolist() == whole.document_starts.tolist()
    assert data.num_bytes == whole.num_bytes
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    if number >= 10:
        assert isinstance(tokenizer, Counted)
        assert len(tokenizer.seen) < len(KEPT) - 4


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        write_shards(until(20), ByteTokenizer(), tmp_path, 30, fingerprint="a")
    data = write_shards(["new"], ByteTokenizer(), tmp_path, 30, fingerprint="b")
    assert data[:].tolist() == [256, *b"new", 256]
    assert len(list(tmp_path.glob("*.bin"))) == 2


# Prepared folders


def text_file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} of some text\n" for i in range(500)))
    return str(path)


@pytest.mark.parametrize("kind", ["bytes", "chars", "words", "bpe"])
def test_prepare_keeps_the_text(kind: str, tmp_path: Path) -> None:
    config = TextConfig(source=text_file(tmp_path), tokenizer=kind, vocab_size=280 if kind == "bpe" else None)
    prepared = prepare(config, tmp_path / "cache")
    assert prepared.tokenizer.kind == kind
    text = Path(config.source).read_text()
    decoded = [prepared.tokenizer.decode(prepared.split(s).document(0).tolist()) for s in ("train", "validation", "test")]
    # A stretch may end within a line: a word tokenizer then closes it.
    assert "".join(decoded) == text if kind != "words" else "".join(decoded).split() != []
    assert prepared.train.num_bytes == len(text) * 9 // 10
    assert prepared.config["tokenizer"] == kind


def test_prepare_finds_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TextConfig(source=text_file(tmp_path))
    first = prepare(config, tmp_path / "cache")
    monkeypatch.setattr(tokens_module, "load_corpus", lambda config: pytest.fail("read the text again"))
    second = prepare(config, tmp_path / "cache")
    assert second.train[:].tolist() == first.train[:].tolist()
    assert second.folder == first.folder
    third = prepare(TextConfig(source=str(first.folder)), tmp_path / "elsewhere")
    assert third.train[:].tolist() == first.train[:].tolist()
    assert not (tmp_path / "elsewhere").exists()


def test_prepare_notices_changed_text_and_settings(tmp_path: Path) -> None:
    config = TextConfig(source=text_file(tmp_path))
    first = prepare(config, tmp_path / "cache")
    Path(config.source).write_text("other text " * 100)
    second = prepare(config, tmp_path / "cache")
    assert second.tokenizer.decode(second.train[:12].tolist()) == "other text "
    assert open_prepared(first.folder).train.num_tokens == first.train.num_tokens


def test_prepare_from_several_processes(tmp_path: Path) -> None:
    source = text_file(tmp_path)
    code = (
        "import sys; from openxlstm.data.tokens import *;"
        "p = prepare(TextConfig(source=sys.argv[1], tokenizer='bpe', vocab_size=280), sys.argv[2]); p.train.verify();"
        "print(p.train.num_tokens)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, source, str(tmp_path / "cache")]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1]


def test_parts_without_text_are_none(tmp_path: Path) -> None:
    prepared = prepare(TextConfig(source=text_file(tmp_path), test=0.0), tmp_path / "cache")
    assert prepared.test is None
    with pytest.raises(UserError, match="there is no test text"):
        prepared.split("test")
    with pytest.raises(UserError, match="no split 'tset'"):
        prepared.split("tset")


def test_tokenizer_that_does_not_fit_the_tokens(tmp_path: Path) -> None:
    prepared = prepare(TextConfig(source=text_file(tmp_path), tokenizer="chars"), tmp_path / "cache")
    CharTokenizer("abc").save(prepared.folder / "tokenizer")
    with pytest.raises(UserError, match="is not the tokenizer that made the tokens"):
        open_prepared(prepared.folder)


def test_folder_of_another_format(tmp_path: Path) -> None:
    prepared = prepare(TextConfig(source=text_file(tmp_path)), tmp_path / "cache")
    facts = json.loads((prepared.folder / "prepared.json").read_text())
    (prepared.folder / "prepared.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        open_prepared(prepared.folder)


def test_prepare_folder_does_not_write_over_other_things(tmp_path: Path) -> None:
    config = TextConfig(source=text_file(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not an empty folder"):
        prepare_folder(config, tmp_path / "mine")
    prepare_folder(config, tmp_path / "out")
    prepare_folder(config, tmp_path / "out")
    other = TextConfig(source=config.source, tokenizer="chars", test=0.0)
    with pytest.raises(UserError, match="with other settings; --force replaces it"):
        prepare_folder(other, tmp_path / "out")
    assert prepare_folder(other, tmp_path / "out", force=True).tokenizer.kind == "chars"
    assert prepare_folder(other, tmp_path / "out").test is None


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"bad \xff", {}, "not utf-8"),
        (b"some text\n", {"tokenizer": "bpe", "vocab_size": 9}, "vocab_size=9 is too small"),
        (b"\n", {"streaming": True}, "no text to train on"),
    ],
)
def test_a_bad_source_replaces_nothing(content: bytes, settings: dict, message: str, tmp_path: Path) -> None:
    first = prepare_folder(TextConfig(source=text_file(tmp_path)), tmp_path / "out")
    bad = tmp_path / "bad.jsonl" if settings.get("streaming") else tmp_path / "bad.txt"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare_folder(TextConfig(source=str(bad), **settings), tmp_path / "out", force=True)
    assert open_prepared(tmp_path / "out").train[:].tolist() == first.train[:].tolist()


def test_tokens_are_not_read_as_text(tmp_path: Path) -> None:
    out = prepare_folder(TextConfig(source=text_file(tmp_path)), tmp_path / "out").folder
    for config in (
        TextConfig(source=str(out)),
        TextConfig(source=text_file(tmp_path), validation_path=str(out)),
        TextConfig(source=text_file(tmp_path), test_path=str(out)),
    ):
        with pytest.raises(UserError, match="out: is prepared already"):
            prepare_folder(config, tmp_path / "again")
        with pytest.raises(UserError, match="out: is prepared already"):
            load_corpus(config)
    assert not (tmp_path / "again").exists()


def test_the_standard_library_may_be_prepared_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = TextConfig(max_bytes=20_000)
    first = prepare_folder(config, "stdlib")
    assert prepare_folder(config, "stdlib").train.num_tokens == first.train.num_tokens


def test_published_token_counts(tmp_path: Path) -> None:
    folder = os.environ.get("OPENXLSTM_DATA")
    if not folder:
        pytest.skip("OPENXLSTM_DATA names no data folder")
    prepared = prepare(TextConfig(source=str(Path(folder, "ptb")), tokenizer="words"), tmp_path)
    assert prepared.tokenizer.vocab_size == 10_000
    assert [prepared.split(s).num_tokens - 1 for s in ("train", "validation", "test")] == [929_589, 73_760, 82_430]
    prepared = prepare(TextConfig(source=str(Path(folder, "wikitext-2")), tokenizer="words"), tmp_path)
    assert prepared.tokenizer.vocab_size == 33_278
    assert [prepared.split(s).num_tokens - 1 for s in ("train", "validation", "test")] == [2_088_628, 217_646, 245_569]
    config = TextConfig(source=str(Path(folder, "tinyshakespeare")), tokenizer="chars", validation=0.1, test=0.0)
    prepared = prepare(config, tmp_path)
    assert [prepared.train.num_tokens, prepared.split("validation").num_tokens] == [1_003_854, 111_540]
