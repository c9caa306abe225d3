"""Labelled texts: what is read, and what is refused with file, line and reason."""

import csv

import pytest

from openxlstm.data.labelled import checked, read_class, read_lines, read_prefixed, read_rows, read_table
from openxlstm.errors import UserError


def test_a_csv_has_quotes_and_lines_inside_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('n,text,label\n1,"good, ""very""\ngood",up\n\n2,bad,down\n', encoding="utf-8-sig")
    assert list(read_table(path, "text", "label")) == [
        ('good, "very"\ngood', "up", f"{path}, line 2"),
        ("bad", "down", f"{path}, line 5"),
    ]


def test_a_text_may_be_long(tmp_path):
    text, limit = "word " * 40_000, csv.field_size_limit()
    for name, quoted in (("a.csv", f'"{text}"'), ("a.tsv", text)):
        (tmp_path / name).write_text("text\n" + quoted + "\nshort\n", encoding="utf-8")
        rows = read_rows(tmp_path / name, ("text",))
        assert next(rows)[0] == (text,)
        assert csv.field_size_limit() == limit, "the limit of other readers is left alone"
        assert next(rows)[0] == ("short",)


def test_a_tsv_has_no_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('sentence\tlabel\nhe said "no\t0\n"yes" he said\t1\n', encoding="utf-8")
    assert checked(read_table(path, "sentence", "label")) == (['he said "no', '"yes" he said'], ["0", "1"])


def test_lines_with_a_label_first_and_lines_of_one_class(tmp_path):
    path = tmp_path / "stsa"
    path.write_text("0 no movement , no yuks .\n1 a stirring film\n", encoding="utf-8")
    assert [place[:2] for place in read_prefixed(path)] == [("no movement , no yuks .", "0"), ("a stirring film", "1")]
    path.write_bytes(b"caf\xe9 \x96 r\xe9sum\xe9 \n")  # Windows' Latin-1
    assert [place[:2] for place in read_class(path, "pos", "cp1252")] == [("caf\xe9 \N{EN DASH} r\xe9sum\xe9", "pos")]


CASES = [
    (b"text,label\ngood,1\nb\xe9d,0\n", ", line 3: byte 0xe9 is not UTF-8; save it as UTF-8"),
    (b"text,label\n  ,1\n", ", line 2: the text is empty"),
    (b"text,label\n<br />,1\n", ", line 2: the text is empty, it has no word: '<br />'"),
    (b"text,label\ngood,\n", ", line 2: the label is missing"),
    (b"text,label\ngood,1\nbad,2\n", ", line 3: unknown label '2'; have 0, 1"),
    (b"text,label\ngood\n", ", line 2: 1 fields where the header has 2"),
    (b"text,label\ngood,1,2\n", ", line 2: 3 fields where the header has 2"),
    (b"text,label,label\ngood,1,2\n", ", line 1: the header has 2 columns 'label'; rename all but one"),
    (b"text;label\ngood;1\n", ", line 1: no column 'text' in the header; have text;label"),
    (b'text,label\ngood,1\n"bad,0\n', ", line 3: unexpected end of data"),
    (b"", ": is empty; expected a header with 'text' and 'label'"),
]


@pytest.mark.parametrize(("content", "message"), CASES)
def test_what_is_malformed_is_named(content, message, tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        checked(read_table(path, "text", "label"), ("0", "1"))
    assert str(caught.value) == f"{path}{message}"


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(UserError, match=r"a.csv: no such file"):
        list(read_rows(tmp_path / "a.csv", ("text",)))
    with pytest.raises(UserError, match=r"a.json: expected a .csv or a .tsv file"):
        list(read_rows(tmp_path / "a.json", ("text",)))
    (tmp_path / "a").write_bytes(b"ok\n\x81 \xe9\n")
    with pytest.raises(UserError, match="line 2: byte 0x81 is not UTF-8 nor cp1252"):
        list(read_lines(tmp_path / "a", "cp1252"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path))
