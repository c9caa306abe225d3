"""`openxlstm recipes`: what can be trained, one line each."""

import json


def run(argv: list[str]) -> int:
    """Print the recipes; `--json` for programs."""
    from openxlstm.recipes import LARGER, NEEDS_DATA, RECIPES, summary
    from openxlstm.training.options import split_arguments, unknown

    words, options = split_arguments(argv, flags=("json", "help"))
    from openxlstm.errors import UserError

    for name in options:
        if name not in ("json", "help"):
            raise UserError(unknown(f"--{name}", ["--json", "--help"]))
    if words:
        raise UserError(f"{words[0]!r} is one argument too many; to see a recipe: openxlstm train {words[0]} --print-config")
    if "help" in options:
        print(
            "usage: openxlstm recipes [--json]\n\nLists the recipes of `openxlstm train` for text, and the larger runs "
            "for a GPU, one line each; `openxlstm tasks` lists the tasks."
        )
        return 0
    if "json" in options:
        print(
            json.dumps(
                {name: {"summary": summary(name), "data": NEEDS_DATA.get(name)} for name in (*RECIPES, *LARGER)}, indent=2
            )
        )
        return 0
    width = max(map(len, LARGER)) + 1
    for name in (*RECIPES, *LARGER):
        print(f"{name:<{width}}{summary(name)}" + ("  [--data]" if name in NEEDS_DATA else ""))
    return 0
