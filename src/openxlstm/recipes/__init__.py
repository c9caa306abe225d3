"""Recipes: functions that return a complete run configuration. A variant is `replace(shakespeare(), seed=1)`.

RECIPES are about text; every task has one under its own name (`recipes.tasks.task_recipe`).
"""

from collections.abc import Callable

from openxlstm.errors import UserError
from openxlstm.recipes.language import enwik8, ptb, shakespeare, slimpajama, stdlib, tiny, wikitext2, wikitext103
from openxlstm.recipes.tasks import task_recipe
from openxlstm.tasks import TASKS
from openxlstm.tasks.images import ImageFiles
from openxlstm.tasks.long_range_arena import ArenaTask
from openxlstm.tasks.music import PianoRoll
from openxlstm.tasks.sensors import SensorTask
from openxlstm.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "stdlib": stdlib,
    "shakespeare": shakespeare,
    "wikitext2": wikitext2,
    "wikitext103": wikitext103,
    "ptb": ptb,
    "enwik8": enwik8,
    "slimpajama": slimpajama,
    "tiny": tiny,
}

NEEDS_DATA = {
    "shakespeare": "the text, for example tinyshakespeare's input.txt",
    "wikitext2": "a folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens",
    "wikitext103": "a folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens",
    "ptb": "a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt",
    "enwik8": "the file enwik8, or a folder with it alone",
    **{name: kind.needs for name, kind in TASKS.items() if issubclass(kind, (ArenaTask, ImageFiles, PianoRoll, SensorTask))},
}
"""Recipes and tasks for data that does not come with Python, and what `--data` should name."""


def recipe(name: str) -> RunConfig:
    """The configuration of a recipe or task; UserError, with the nearest names, for one that does not exist."""
    import difflib

    if name in RECIPES:
        return RECIPES[name]()
    if name in TASKS:
        return task_recipe(name)
    near = difflib.get_close_matches(name, [*RECIPES, *TASKS], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"have {', '.join(RECIPES)} and the tasks of `openxlstm tasks`"
    raise UserError(f"unknown recipe {name!r}; {hint}")


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").strip().splitlines()[0]


__all__ = [
    "NEEDS_DATA",
    "RECIPES",
    "enwik8",
    "ptb",
    "recipe",
    "shakespeare",
    "slimpajama",
    "stdlib",
    "summary",
    "task_recipe",
    "tiny",
    "wikitext2",
    "wikitext103",
]
