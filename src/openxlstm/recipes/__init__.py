"""Recipes: functions that return a complete run configuration. A variant is `replace(shakespeare(), seed=1)`.

RECIPES are about text; every task has one under its own name (`recipes.tasks.task_recipe`), and many have a larger one, for a
GPU (LARGER).
"""

from collections.abc import Callable
from functools import partial

from openxlstm.errors import UserError
from openxlstm.recipes.language import enwik8, ptb, python_code, shakespeare, slimpajama, stdlib, tiny, wikitext2, wikitext103
from openxlstm.recipes.larger import MAKERS, larger
from openxlstm.recipes.tasks import task_recipe
from openxlstm.tasks import TASKS
from openxlstm.tasks.files import FileTask
from openxlstm.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "stdlib": stdlib,
    "python_code": python_code,
    "shakespeare": shakespeare,
    "wikitext2": wikitext2,
    "wikitext103": wikitext103,
    "ptb": ptb,
    "enwik8": enwik8,
    "slimpajama": slimpajama,
    "tiny": tiny,
}

LARGER: dict[str, Callable[[], RunConfig]] = {f"{name}_gpu": partial(larger, name) for name in MAKERS}
"""Larger runs, for a GPU."""

NEEDS_DATA = {
    "shakespeare": "the text, for example tinyshakespeare's input.txt",
    "wikitext2": "a folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens",
    "wikitext103": "a folder with wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens",
    "ptb": "a folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt",
    "enwik8": "the file enwik8, or a folder with it alone",
    **{name: kind.needs for name, kind in TASKS.items() if issubclass(kind, FileTask)},
}
NEEDS_DATA |= {f"{name}_gpu": NEEDS_DATA[name] for name in MAKERS if name in NEEDS_DATA}
"""Recipes and tasks for data that does not come with Python, and what `--data` should name."""


def recipe(name: str) -> RunConfig:
    """The configuration of a recipe or task; UserError, with the nearest names, for one that does not exist."""
    import difflib

    if made := (RECIPES | LARGER).get(name):
        return made()
    if name in TASKS:
        return task_recipe(name)
    near = difflib.get_close_matches(name, [*RECIPES, *TASKS, *LARGER], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"have {', '.join(RECIPES)} and the tasks of `openxlstm tasks`"
    raise UserError(f"unknown recipe {name!r}; {hint}")


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    made = RECIPES[name] if name in RECIPES else MAKERS[name.removesuffix("_gpu")]
    return ((made.func if isinstance(made, partial) else made).__doc__ or "").strip().splitlines()[0]


__all__ = [
    "LARGER",
    "MAKERS",
    "NEEDS_DATA",
    "RECIPES",
    "enwik8",
    "ptb",
    "python_code",
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
