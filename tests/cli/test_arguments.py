"""The parser that the verbs share."""

import argparse

import pytest

from openxlstm.cli.arguments import VerbParser, did_you_mean, number, numbers
from openxlstm.errors import UserError


@pytest.fixture
def parser():
    p = VerbParser("verb", "What it does.", ["openxlstm verb FILE"])
    p.add_argument("file", nargs="?")
    p.add_argument("--max-tokens", type=number(int, least=0), default=0, help="how many")
    p.add_argument("--quiet", action="store_true", help="say less")
    return p


def test_unknown_option_names_the_nearest(parser):
    with pytest.raises(UserError, match="unknown option '--max-token'; did you mean '--max-tokens'"):
        parser.parse_args(["--max-token", "3"])
    with pytest.raises(UserError, match="--max-tokens"):
        parser.parse_args(["--max-token=3"])


def test_options_are_not_abbreviated(parser):
    with pytest.raises(UserError, match="did you mean '--quiet'"):
        parser.parse_args(["--quie"])


def test_an_unknown_option_comes_before_what_is_missing(parser):
    parser.add_argument("--needed", required=True)
    with pytest.raises(UserError, match="unknown option '--nedded'; did you mean '--needed'"):
        parser.parse_args(["--nedded", "1"])
    assert parser.parse_args(["--needed=--strange", "--", "--a-file"]).file == "--a-file"
    with pytest.raises(UserError, match="'-x' is an unknown option"):
        parser.parse_args(["--needed=1", "-x"])


def test_a_word_too_many(parser):
    with pytest.raises(UserError, match="'b' is one argument too many"):
        parser.parse_args(["a", "b"])


def test_wrong_values_say_what_was_expected(parser):
    with pytest.raises(UserError, match=r"^--max-tokens: expects a whole number, got 'x' \(see: openxlstm verb --help\)$"):
        parser.parse_args(["--max-tokens", "x"])
    with pytest.raises(UserError, match="expects a whole number at least 0, got -1"):
        parser.parse_args(["--max-tokens=-1"])


def test_help_shows_defaults_that_say_something_and_examples(parser):
    text = parser.format_help()
    assert "how many (default: 0)" in text
    assert "default: False" not in text
    assert text.rstrip().endswith("openxlstm verb FILE")


@pytest.mark.parametrize("text", ["0", "1.5", "nan", "inf", "x"])
def test_bounds(text):
    with pytest.raises(argparse.ArgumentTypeError):
        number(float, above=0, most=1)(text)


def test_numbers():
    assert numbers(int, least=1)("64, 256,2048") == (64, 256, 2048)
    with pytest.raises(argparse.ArgumentTypeError, match="got 0"):
        numbers(int, least=1)("64,0")
    assert number(int)(str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(argparse.ArgumentTypeError, match="at most 64 bits"):
        number(int, least=0)(str(2**63))


def test_nothing_near():
    assert did_you_mean("qqqq", ["train"]) == ""
