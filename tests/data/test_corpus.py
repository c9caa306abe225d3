"""Sources of text: what is read, how it is split, and what is said when it cannot be read."""

import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openxlstm.data.corpus import SPLITS, Corpus, TextConfig, load_corpus, source_fingerprint
from openxlstm.errors import UserError


def parts(corpus: Corpus) -> dict[str, list[str]]:
    return {split: list(corpus.split(split)) for split in SPLITS}


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text, "url": "u"}) + "\n" for text in texts))
    return path


def write_parquet(path: Path, texts: list[Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"text": texts, "id": list(range(len(texts)))}), path)
    return path


TEXTS = [f"document {i}\nwith a second line" for i in range(200)]


# The standard library


def test_stdlib_is_source_split_by_file() -> None:
    corpus = load_corpus(TextConfig())
    found = parts(corpus)
    assert corpus.num_bytes is not None
    assert corpus.num_bytes > 1_000_000
    assert corpus.num_bytes == sum(len(text.encode()) for texts in found.values() for text in texts)
    texts = [text for split in SPLITS for text in found[split]]
    assert len(set(texts)) == len(texts)  # so no file is in two parts
    assert all(found.values())
    assert sum("import" in text for text in texts) > len(texts) / 2
    train = sum(len(text) for text in found["train"])
    assert 0.8 < train / sum(map(len, texts)) < 0.97


def test_stdlib_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from openxlstm.data.corpus import *; c = load_corpus(TextConfig(max_bytes=500_000));"
        "print(hashlib.sha256(repr([list(c.split(s)) for s in SPLITS]).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        for seed in "12"
    ]
    assert runs[0].stdout == runs[1].stdout


def test_stdlib_sample_is_part_of_the_whole_and_keeps_the_split() -> None:
    whole, sample = parts(load_corpus(TextConfig())), load_corpus(TextConfig(max_bytes=1_000_000))
    assert sample.num_bytes is not None
    assert 800_000 < sample.num_bytes <= 1_000_000
    for split, texts in parts(sample).items():
        assert set(texts) <= set(whole[split])


# One text file


def test_text_is_cut_into_stretches(tmp_path: Path) -> None:
    text = "".join(f"{i:05d}" for i in range(2000))
    (tmp_path / "a.txt").write_text(text)
    corpus = load_corpus(TextConfig(source=str(tmp_path / "a.txt")))
    assert {split: [len(t) for t in texts] for split, texts in parts(corpus).items()} == {
        "train": [9000],
        "validation": [500],
        "test": [500],
    }
    assert "".join("".join(corpus.split(split)) for split in SPLITS) == text


@pytest.mark.parametrize("length", [1_115_394, 10, 99, 1000])
def test_ninety_to_ten(length: int, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("x" * length)
    corpus = load_corpus(TextConfig(source=str(tmp_path / "input.txt"), validation=0.1, test=0.0))
    assert len(next(iter(corpus.train))) == length * 9 // 10
    assert list(corpus.test) == []


def test_stretches_do_not_break_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é€🙂" * 333, encoding="utf-8")
    corpus = load_corpus(TextConfig(source=str(tmp_path / "a.txt")))
    assert "".join("".join(corpus.split(split)) for split in SPLITS) == "é€🙂" * 333


def test_given_files_and_compression(tmp_path: Path) -> None:
    (tmp_path / "t.xz").write_bytes(lzma.compress(b"train text"))
    (tmp_path / "v.txt").write_text("validation text")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"test text"))
    config = TextConfig(
        source=str(tmp_path / "t.xz"), validation_path=str(tmp_path / "v.txt"), test_path=str(tmp_path / "e.txt.gz")
    )
    assert parts(load_corpus(config)) == {"train": ["train text"], "validation": ["validation text"], "test": ["test text"]}


def test_separator_parts_documents(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("<|endoftext|>".join(TEXTS) + "<|endoftext|>\n")
    found = parts(load_corpus(TextConfig(source=str(tmp_path / "s.txt"), separator="<|endoftext|>")))
    assert sorted(text for texts in found.values() for text in texts) == sorted(TEXTS)


def test_max_bytes_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é" * 1000, encoding="utf-8")
    assert load_corpus(TextConfig(source=str(tmp_path / "a.txt"), max_bytes=101)).num_bytes == 100


def test_max_bytes_of_a_folder_of_long_texts(tmp_path: Path) -> None:
    """WikiText and the like: a file is one document, and longer than the limit."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"wiki.{split}.txt").write_text("a" * 1000)
    found = parts(load_corpus(TextConfig(source=str(tmp_path), max_bytes=200, validation=0.1, test=0.05)))
    assert {split: sum(map(len, texts)) for split, texts in found.items()} == {"train": 200, "validation": 20, "test": 10}


def test_bad_utf8_names_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good " + b"\xe9t\xe9")
    with pytest.raises(UserError, match=r"a\.txt: byte 5: not utf-8"):
        load_corpus(TextConfig(source=str(tmp_path / "a.txt")))
    corpus = load_corpus(TextConfig(source=str(tmp_path / "a.txt"), encoding="latin-1", validation=0, test=0))
    assert list(corpus.train) == ["good été"]


def test_damaged_archive(tmp_path: Path) -> None:
    for name, data in (("a.xz", lzma.compress(b"x" * 1000)[:-20]), ("a.gz", gzip.compress(b"x" * 1000)[:-10])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: cannot be read"):
            load_corpus(TextConfig(source=str(tmp_path / name)))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_an_archive_that_is_damaged_inside(tmp_path: Path, name: str) -> None:
    data = gzip.compress(b'{"text": "x"}\n' * 9)
    (tmp_path / name).write_bytes(data[:10] + b"\xff" * 9 + data[19:])
    with pytest.raises(UserError, match=rf"{name}: cannot be read: Error -3 while decompressing"):
        load_corpus(TextConfig(source=str(tmp_path / name)))


# Documents


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_documents_are_split_by_document(form: str, streaming: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        write_parquet(path, TEXTS)
    else:
        write_jsonl(tmp_path / "a.jsonl", TEXTS)
        path.write_bytes(
            gzip.compress((tmp_path / "a.jsonl").read_bytes()) if form.endswith("gz") else (tmp_path / "a.jsonl").read_bytes()
        )
    found = parts(load_corpus(TextConfig(source=str(path), streaming=streaming)))
    assert sorted(text for texts in found.values() for text in texts) == sorted(TEXTS)
    assert all(3 <= len(found[split]) <= 25 for split in ("validation", "test"))  # 10 expected
    again = parts(load_corpus(TextConfig(source=str(path), streaming=not streaming)))
    assert again == found
    assert parts(load_corpus(TextConfig(source=str(path), seed=1))) != found


def test_few_documents_still_give_each_part_one(tmp_path: Path) -> None:
    found = parts(load_corpus(TextConfig(source=str(write_jsonl(tmp_path / "a.jsonl", TEXTS[:3])))))
    assert [len(texts) for texts in found.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:3: not JSON"),
        ("[1]", r"a\.jsonl:3: a JSON object is wanted, not list"),
        ('{"body": "x"}', r"a\.jsonl:3: no key 'text'; have body"),
        ('{"text": 5}', r"a\.jsonl:3: 'text' holds int"),
        ('{"text": null}', r"a\.jsonl:3: 'text' holds NoneType"),
        ('{"text": "caf\\udce9"}', r"a\.jsonl:3: 'text' cannot be written as UTF-8: surrogates not allowed at place 3"),
        ('{"text": "x", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", r"a\.jsonl:3: cannot be read as JSON: maximum recursion"),
        ('{"text": "x", "n": ' + "9" * 10_000 + "}", r"a\.jsonl:3: cannot be read as JSON: Exceeds the limit"),
    ],
)
def test_bad_jsonl_names_the_line(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        load_corpus(TextConfig(source=str(tmp_path / "a.jsonl")))


def test_bad_utf8_in_jsonl_names_line_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n{"text": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: byte 24 of the file: not utf-8"):
        load_corpus(TextConfig(source=str(tmp_path / "a.jsonl")))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    """Windows' editors write one."""
    (tmp_path / "a.txt").write_text("one\ufefftwo", encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text('{"text": "\ufeffx"}\n{"text": "y"}\n', encoding="utf-8-sig")
    for name, texts in (("a.txt", ["one\ufefftwo"]), ("b.jsonl", ["\ufeffx", "y"])):
        for streaming in (False, True):
            config = TextConfig(source=str(tmp_path / name), validation=0, test=0, streaming=streaming)
            assert list(load_corpus(config).train) == texts


def test_bad_parquet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'body'; have text, id"):
        load_corpus(TextConfig(source=str(write_parquet(tmp_path / "a.parquet", TEXTS)), text_key="body"))
    with pytest.raises(UserError, match=r"a\.parquet: row 1: 'text' holds NoneType"):
        load_corpus(TextConfig(source=str(write_parquet(tmp_path / "a.parquet", ["x", None]))))
    (tmp_path / "b.parquet").write_text("not parquet")
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read as parquet") as caught:
        load_corpus(TextConfig(source=str(tmp_path / "b.parquet")))
    assert "\n" not in str(caught.value)


# Folders


def test_folder_is_split_by_file(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"sub{i % 3}").mkdir(exist_ok=True)
        (tmp_path / f"sub{i % 3}" / f"{i}.md").write_text(f"file {i}")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".hidden").write_text("hidden")
    corpus = load_corpus(TextConfig(source=str(tmp_path)))
    found = parts(corpus)
    assert [len(found[split]) for split in SPLITS] == [36, 2, 2]
    assert sorted(text for texts in found.values() for text in texts) == sorted(f"file {i}" for i in range(40))
    assert "1 binary files left out" in corpus.description


def test_folder_with_named_parts(tmp_path: Path) -> None:
    """The layouts of WikiText-2 and Penn Treebank."""
    (tmp_path / "wiki.train.tokens.xz").write_bytes(lzma.compress(b" = A = \n"))
    (tmp_path / "wiki.valid.tokens").write_text(" = B = \n")
    (tmp_path / "wiki.test.tokens").write_text(" = C = \n")
    assert parts(load_corpus(TextConfig(source=str(tmp_path)))) == {
        "train": [" = A = \n"],
        "validation": [" = B = \n"],
        "test": [" = C = \n"],
    }


def test_folder_with_folders_of_parts(tmp_path: Path) -> None:
    """A folder a part, whatever their files are called."""
    for folder, file in (("train", "a.txt"), ("train", "test_b.txt"), ("valid", "c.txt"), ("test", "train.txt")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text(f"{folder} {file}")
    named = {"train": ["train a.txt", "train test_b.txt"], "validation": ["valid c.txt"], "test": ["test train.txt"]}
    assert parts(load_corpus(TextConfig(source=str(tmp_path)))) == named
    (tmp_path / "README.md").write_text("about them")
    assert parts(load_corpus(TextConfig(source=str(tmp_path)))) == named
    (tmp_path / "model.py").write_text("code")  # a project with such folders is none
    assert "NOT as some are named" in load_corpus(TextConfig(source=str(tmp_path))).description


def test_what_lies_beside_named_parts_is_left_out(tmp_path: Path) -> None:
    """A README must not turn the test file into training text."""
    for name in ("train-1", "train-2", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(name)
    named = {"train": ["train-1", "train-2"], "validation": ["valid"], "test": ["test"]}
    before = source_fingerprint(TextConfig(source=str(tmp_path)))
    for name in ("README.md", "LICENSE", "vocab.txt", "SHA256SUMS"):
        (tmp_path / name).write_text(f"this is {name}")
        corpus = load_corpus(TextConfig(source=str(tmp_path)))
        assert parts(corpus) == named, name
        assert name in corpus.description or "more" in corpus.description
    assert source_fingerprint(TextConfig(source=str(tmp_path))) != before


@pytest.mark.parametrize("name", ["model.py", "train_and_test.txt"])
def test_files_that_name_no_part_are_split_with_the_others_and_that_is_said(name: str, tmp_path: Path) -> None:
    """Folders of code have train.py and test_x.py, which are no parts."""
    for file in ("train.py", "test_x.py", "README.md", name):
        (tmp_path / file).write_text(file)
    corpus = load_corpus(TextConfig(source=str(tmp_path)))
    found = [text for texts in parts(corpus).values() for text in texts]
    assert sorted(found) == sorted(["train.py", "test_x.py", "README.md", name])
    assert "4 files, split by file (2 train, 1 validation, 1 test), NOT as some are named" in corpus.description
    assert f"because of {name}, which would be in no part" in corpus.description
    (tmp_path / "train.py").unlink()
    assert "NOT" not in load_corpus(TextConfig(source=str(tmp_path))).description


def test_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("x" * 100)
    assert [len(t) for texts in parts(load_corpus(TextConfig(source=str(tmp_path)))).values() for t in texts] == [90, 5, 5]


# Hugging Face, offline


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_folder_with_given_parts(offline: None, streaming: bool, tmp_path: Path) -> None:
    folder = tmp_path / "slim"
    folder.mkdir()
    for split, texts in (("train", TEXTS[:150]), ("validation", TEXTS[150:170]), ("test", TEXTS[170:])):
        write_jsonl(folder / f"{split}.jsonl", texts)
    corpus = load_corpus(TextConfig(source=f"hf:{folder}", streaming=streaming))
    assert parts(corpus) == {"train": TEXTS[:150], "validation": TEXTS[150:170], "test": TEXTS[170:]}
    assert parts(corpus)["test"] == TEXTS[170:]  # read a second time
    short = parts(load_corpus(TextConfig(source=f"hf:{folder}", streaming=streaming, max_bytes=300)))
    assert short["train"] == TEXTS[: len(short["train"])]
    assert 300 <= sum(map(len, short["train"])) < 350
    assert len(short["validation"]) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_rows_that_are_lines(offline: None, streaming: bool, tmp_path: Path) -> None:
    folder = tmp_path / "wikitext"
    folder.mkdir()
    for split, rows in (("train", ["", " = A = \n", "", " text \n"]), ("validation", ["v"]), ("test", ["", "t\n"])):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", rows)
    found = parts(load_corpus(TextConfig(source=f"hf:{folder}", streaming=streaming)))
    assert found == {"train": ["\n = A = \n\n text \n"], "validation": ["v\n"], "test": ["\nt\n"]}
    found = parts(load_corpus(TextConfig(source=f"hf:{folder}", streaming=streaming, rows="documents")))
    assert found["train"] == [" = A = \n", " text \n"]


def test_hugging_face_without_parts_is_split_by_document(offline: None, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    write_jsonl(folder / "data.jsonl", TEXTS, key="body")
    with pytest.raises(UserError, match="no column 'text'; have body, url"):
        load_corpus(TextConfig(source=f"hf:{folder}"))
    found = parts(load_corpus(TextConfig(source=f"hf:{folder}", text_key="body")))
    assert sorted(text for texts in found.values() for text in texts) == sorted(TEXTS)
    assert all(found.values())


def test_hugging_face_that_cannot_be_reached(offline: None) -> None:
    with pytest.raises(UserError, match="hf:nobody/nothing: cannot be loaded") as caught:
        load_corpus(TextConfig(source="hf:nobody/nothing"))
    assert "\n" not in str(caught.value)


# Settings and other faults


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 1.5}, "validation=1.5"),
        ({"validation": 0.5, "test": 0.5}, "nothing to train on"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"encoding": "utf-99"}, "utf-99"),
        ({"rows": "pages"}, "rows='pages'"),
        ({"separator": ""}, "separator"),
        ({"source": ""}, "source is empty"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextConfig(**settings)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load_corpus(TextConfig(source=str(tmp_path / "nowhere")))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="the file is empty"):
        load_corpus(TextConfig(source=str(tmp_path / "empty.txt")))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no text to train on"):
        load_corpus(TextConfig(source=str(tmp_path / "empty.jsonl")))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no text in 0 files"):
        load_corpus(TextConfig(source=str(tmp_path / "folder")))
    with pytest.raises(UserError, match="no such file"):
        load_corpus(TextConfig(validation_path=str(tmp_path / "nowhere")))


def test_fingerprint_follows_settings_and_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    config = TextConfig(source=str(path))
    first = source_fingerprint(config)
    assert source_fingerprint(config) == first
    assert source_fingerprint(TextConfig(source=str(path), tokenizer="chars")) != first
    path.write_text("three")
    assert source_fingerprint(config) != first


def test_fingerprint_knows_a_tokenizer_by_its_content(tmp_path: Path) -> None:
    for name in ("model", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text('{"kind": "bytes"}')

    def found(name: str) -> str:
        return source_fingerprint(TextConfig(tokenizer=str(tmp_path / name)))

    first = found("model")
    (tmp_path / "model" / "weights").write_text("a later checkpoint")
    assert found("model") == found("copy") == found("copy/tokenizer.json") == first
    (tmp_path / "copy" / "tokenizer.json").write_text('{"kind": "chars", "characters": "ab", "eos": false}')
    assert found("copy") != first
