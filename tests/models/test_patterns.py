"""Names for sequences of blocks."""

import pytest

from openxlstm.errors import UserError
from openxlstm.layers import BLOCKS
from openxlstm.models.patterns import BLOCK_NAMES, expand, split_names, split_settings


def slstm_at(pattern: str, num_blocks: int) -> list[int]:
    return [i for i, kind in enumerate(expand(pattern, num_blocks)) if kind == "slstm"]


def test_published_placement() -> None:
    assert slstm_at("xlstm[7:1]", 48) == [3, 5, 7, 40, 42, 44]
    assert slstm_at("xlstm[7:1]", 24) == [3, 20]


@pytest.mark.parametrize(
    ("pattern", "num_blocks", "positions"),
    [
        ("xlstm[1:0]", 3, []),
        ("xlstm[0:1]", 3, [0, 1, 2]),
        ("xlstm[1:1]", 4, [1, 3]),
        ("xLSTM[ 1 : 1 ]", 4, [1, 3]),
        ("xlstm[7:1]", 16, [7, 15]),
        ("xlstm[7:1]", 4, [3]),  # at least one of each
        ("xlstm[1:7]", 2, [1]),
        ("xlstm[3:2]", 5, [2, 4]),
    ],
)
def test_ratio(pattern: str, num_blocks: int, positions: list[int]) -> None:
    assert slstm_at(pattern, num_blocks) == positions


@pytest.mark.parametrize("num_blocks", range(2, 40))
@pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 1), (7, 1), (1, 3), (5, 2)])
def test_ratio_is_nearest(a: int, b: int, num_blocks: int) -> None:
    if (a, b, num_blocks) == (7, 1, 24):
        return  # the paper's exception
    count = len(slstm_at(f"xlstm[{a}:{b}]", num_blocks))
    exact = num_blocks * b / (a + b)
    assert abs(count - exact) <= 0.5 or count in (1, num_blocks - 1)


def test_lists_and_aliases() -> None:
    assert expand("mlstm, slstm,transformer") == ("mlstm", "slstm", "attention")
    assert expand("transformer", 2) == ("attention", "attention")
    assert expand("mlstm_large", 2) == ("mlstm_large", "mlstm_large")
    assert set(BLOCK_NAMES) == set(BLOCKS)


@pytest.mark.parametrize(
    ("pattern", "num_blocks", "message"),
    [
        ("gru", 2, "unknown block 'gru'"),
        ("mlstm,gru", None, "unknown block 'gru'"),
        ("mlstm,slstm", 3, "names 2 blocks"),
        ("xlstm[7:1]", None, "needs num_blocks"),
        ("xlstm[7:1]", 1, "num_blocks >= 2"),
        ("xlstm[0:0]", 2, "has no blocks"),
        ("xlstm[7]", 2, "unknown block"),
        ("mlstm", 0, "at least 1"),
        ("", 2, "unknown block ''"),
    ],
)
def test_errors(pattern: str, num_blocks: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        expand(pattern, num_blocks)
    assert "\n" not in str(caught.value)


def test_variants() -> None:
    assert split_names("mlstm, xlstm[7:1]{a=1, b=2},lstm") == ("mlstm", "xlstm[7:1]{a=1, b=2}", "lstm")
    assert split_settings("xlstm[7:1]{a=1, b = x-2}") == ("xlstm[7:1]", {"a": "1", "b": "x-2"})
    assert split_settings("mlstm,slstm{a=}") == ("mlstm,slstm", {"a": ""})
    assert split_settings("mlstm") == ("mlstm", {})


@pytest.mark.parametrize(
    "name", ["mlstm{a=1", "mlstm}", "mlstm{a}", "mlstm{}", "mlstm{=1}", "mlstm{a=1,a=2}", "{a=1}{b=2}", "m{a=1}s"]
)
def test_variant_errors(name: str) -> None:
    with pytest.raises(UserError, match=r"not of the form PATTERN\{SETTING=VALUE,...\}") as caught:
        split_settings(name)
    assert "\n" not in str(caught.value)
