"""Texts as token ids, and where each token stands."""

import json

import pytest

from openxlstm.data.text_format import TextFormat, plain, train_tokenizer
from openxlstm.errors import UserError

TEXTS = ["It's a fine film.", "It doesn't work; it can't!", "Caf\xe9s \N{GRINNING FACE} are fine..."]


@pytest.mark.parametrize(
    ("raw", "apart"),
    [
        ("It doesn't work!!!", "it does n't work !!!"),
        ("They can\N{RIGHT SINGLE QUOTATION MARK}t; SHE'S here...", "they ca n't ; she 's here ..."),
        ("a well-made 'art' film<br /><br />of 1999", "a well - made ' art ' film of 1999"),
    ],
)
def test_raw_and_spaced_text_have_the_same_words(raw, apart):
    assert plain(raw) == plain(apart) == apart


@pytest.mark.parametrize(("kind", "size"), [("words", 50), ("bpe", 270), ("bytes", 0)])
def test_spans_show_the_tokens_in_the_text(kind, size):
    form = TextFormat(train_tokenizer(kind, TEXTS, size), ("down", "up"))
    for text in TEXTS:
        ids, spans = form.encode(text), form.spans(text)
        assert len(ids) == len(spans)
        if kind == "words":
            assert [text[start:stop].lower() for start, stop in spans] == plain(text).split()
            continue
        covered = {place for start, stop in spans for place in range(start, stop)}
        assert covered == set(range(len(text))), "every character belongs to a token"
        for token, (start, stop) in zip(ids, spans):
            assert form.tokenizer.token_bytes(token) in text[start:stop].encode()


def test_so_many_tokens_and_no_more(tmp_path):
    form = TextFormat(train_tokenizer("words", TEXTS, 50), ("down", "up"), max_tokens=3)
    assert len(form.encode(TEXTS[1])) == len(form.spans(TEXTS[1])) == 3
    assert len(form.tokens(TEXTS[1])) == 9
    with pytest.raises(UserError, match="no word in the text '<br />'"):
        form.encode("<br />")


@pytest.mark.parametrize(("kind", "size"), [("words", 50), ("bpe", 270), ("bytes", 0)])
def test_what_is_saved_is_loaded(kind, size, tmp_path):
    form = TextFormat(train_tokenizer(kind, TEXTS, size), ("thumbs down", "\N{THUMBS UP SIGN}"), max_tokens=7)
    form.save(tmp_path)
    loaded = TextFormat.load(tmp_path)
    assert (loaded.classes, loaded.max_tokens) == (form.classes, 7)
    assert [loaded.encode(text) for text in TEXTS] == [form.encode(text) for text in TEXTS]


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match=r"no text.json beside the model, so it is none of a text classifier"):
        TextFormat.load(tmp_path)
    (tmp_path / "text.json").write_text(json.dumps({"classes": ["a"]}))
    with pytest.raises(UserError, match=r"text.json: cannot be read|no tokenizer there"):
        TextFormat.load(tmp_path)
