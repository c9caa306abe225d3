"""Pairs of texts from files, and what is refused."""

import json

import pytest

from openxlstm.data.pairs import aligned_parts, first_sentence, json_parts, read_aligned, read_json_pairs, split_by_hash
from openxlstm.errors import UserError
from wordpairs import write_summaries, write_translations


@pytest.fixture
def files(tmp_path):
    """files(a.de=b"...") writes them."""

    def write(**contents):
        for name, content in contents.items():
            (tmp_path / name.replace("_", ".")).write_bytes(content)
        return tmp_path

    return write


def test_line_n_belongs_to_line_n(files):
    folder = files(a_de="Eins. Zwei!\r\nÄpfel im Regal\n".encode(), a_en=b"One. Two!\napples\xe2\x80\xa8on a shelf")
    one, two = read_aligned(folder / "a.de", folder / "a.en")
    assert one == ("Eins. Zwei!", ("One. Two!",), "Eins.")
    assert two.targets == ("apples\u2028on a shelf",), "only a line feed ends a line"


def test_a_byte_order_mark_is_no_text(files):
    mark, line = b"\xef\xbb\xbf", b'{"source": "a", "target": "b"}'
    folder = files(a_de=mark + b"eins\n", a_en=mark + b"one\n", a_jsonl=mark + line)
    assert [pair[:2] for pair in read_aligned(folder / "a.de", folder / "a.en")] == [("eins", ("one",))]
    assert [pair[:2] for pair in read_json_pairs(folder / "a.jsonl", "source", "target")] == [("a", ("b",))]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\nb\n", b"a\n", r"a\.en: has 1 lines and .*a\.de has 2; in aligned files line n belongs to line n"),
        (b"a\n\nb\n", b"a\nc\nb\n", r"a\.de:2: the line is empty"),
        (b"a\n \nb\n", b"a\nc\nb\n", r"a\.de:2: the line is empty"),
        (b"a\nb\n", b"a\nb\n\n", r"a\.en:3: the line is empty"),
        (b"a\nb\xff\n", b"a\nb\n", r"a\.de:2: is not UTF-8: invalid start byte at byte 1 of the line"),
    ],
)
def test_files_that_are_not_aligned_are_refused(files, source, target, message):
    folder = files(a_de=source, a_en=target)
    with pytest.raises(UserError, match=message):
        read_aligned(folder / "a.de", folder / "a.en")


def test_json_lines(files):
    lines = [
        {"source": ["One thing. Two.", " ", "More."], "target": ["first", "second"]},
        {"source": "Just one sentence? And more", "target": "short"},
    ]
    folder = files(a_jsonl="\n".join(map(json.dumps, lines)).encode())
    first, second = read_json_pairs(folder / "a.jsonl", "source", "target")
    assert first == ("One thing. Two. More.", ("first", "second"), "One thing. Two.")
    assert second == ("Just one sentence? And more", ("short",), "Just one sentence?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is no JSON"),
        (b"[1]", "expects an object with 'source' and 'target'"),
        (b'{"source": "a"}', "there is no 'target', only 'source'"),
        (b'{"source": 3, "target": "b"}', "'source' must be a text or a list of texts"),
        (b'{"source": [], "target": "b"}', "'source' must be a text or a list of texts"),
        (b'{"source": "a", "target": " "}', "'target' is empty"),
        (b'{"source": "a", "target": ["", " "]}', "'target' is empty"),
        (b'{"source": "\\ud800", "target": "b"}', "'source' cannot be written as UTF-8"),
        (b'{"source": "\xff", "target": "b"}', "is not UTF-8"),
        (b"", "the line is empty"),
        (b'{"source": ' + b"9" * 10_000 + b"}", "is no JSON: Exceeds the limit"),
    ],
)
def test_json_lines_that_are_refused(files, line, message):
    folder = files(a_jsonl=b'{"source": "a", "target": "b"}\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {message}"):
        read_json_pairs(folder / "a.jsonl", "source", "target")


def test_folders_have_three_parts(tmp_path):
    parts = aligned_parts(str(write_translations(tmp_path / "numbers")), "de", "en")
    assert [len(part) for part in parts] == [160, 12, 16]
    assert [len(part) for part in json_parts(str(write_summaries(tmp_path / "texts")), "source", "target")] == [60, 8, 8]
    (tmp_path / "numbers" / "test_more.de").write_text("eins\n")
    with pytest.raises(UserError, match=r"expects one file test\*\.de for test, has test_more\.de, test_numbers\.de"):
        aligned_parts(str(tmp_path / "numbers"), "de", "en")
    (tmp_path / "texts" / "dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"expects one file val\*\.jsonl or .* for validation, has none"):
        json_parts(str(tmp_path / "texts"), "source", "target")


def test_one_file_is_split_by_its_content(tmp_path):
    write_translations(tmp_path, train=300)
    both = f"{tmp_path / 'train.de'},{tmp_path / 'train.en'}"
    parts = aligned_parts(both, "de", "en")
    assert sum(map(len, parts)) == 300
    assert 15 < len(parts.validation) < 50
    assert 15 < len(parts.test) < 50
    pairs = [pair for part in parts for pair in part]
    again = split_by_hash(pairs[::-1] + pairs[:9])
    for one, other in zip(parts, again):
        assert {pair.source for pair in one} == {pair.source for pair in other}, "in any order, with any repetition"
    (tmp_path / "a").write_text("x\n")
    with pytest.raises(UserError, match=r"there is no pair for .*; are there enough pairs"):
        aligned_parts(f"{tmp_path / 'a'},{tmp_path / 'a'}", "de", "en")
    with pytest.raises(UserError, match=r"no such folder; expects one, or two aligned files as SOURCE,TARGET"):
        aligned_parts(str(tmp_path / "nowhere"), "de", "en")


@pytest.mark.parametrize(
    ("text", "first"),
    [("A b. C d.", "A b."), ("no end", "no end"), ("v1.2 is out! Now.", "v1.2 is out!"), ("title\nA text.", "title")],
)
def test_first_sentence(text, first):
    assert first_sentence(text) == first
