"""Recipes: functions that return a complete run configuration. A variant is `replace(shakespeare(), seed=1)`."""

from collections.abc import Callable

from openxlstm.errors import UserError
from openxlstm.recipes.language import shakespeare, stdlib, tiny, wikitext2
from openxlstm.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "stdlib": stdlib,
    "shakespeare": shakespeare,
    "wikitext2": wikitext2,
    "tiny": tiny,
}

NEEDS_DATA = {
    "shakespeare": "the text, for example tinyshakespeare's input.txt",
    "wikitext2": "a folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens",
}
"""Recipes for data that does not come with Python, and what `--data` should name."""


def recipe(name: str) -> RunConfig:
    """The configuration of a recipe; UserError, with the nearest names, for one that does not exist."""
    import difflib

    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"have {', '.join(RECIPES)}"
        raise UserError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]()


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").strip().splitlines()[0]


__all__ = ["NEEDS_DATA", "RECIPES", "recipe", "shakespeare", "stdlib", "summary", "tiny", "wikitext2"]
