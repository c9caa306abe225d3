"""`openxlstm tasks`: what can be asked of a model, one line each."""

import json

from openxlstm.errors import UserError


def run(argv: list[str]) -> int:
    """Print the tasks; `--json` for programs."""
    from openxlstm.recipes import NEEDS_DATA
    from openxlstm.tasks import TASKS, summary
    from openxlstm.training.options import split_arguments, unknown

    words, options = split_arguments(argv, flags=("json", "help"))
    for name in options:
        if name not in ("json", "help"):
            raise UserError(unknown(f"--{name}", ["--json", "--help"]))
    if words:
        raise UserError(f"{words[0]!r} is one argument too many; to see a task's settings: openxlstm train {words[0]} --help")
    if "help" in options:
        print(
            "usage: openxlstm tasks [--json]\n\n"
            "Lists the tasks, one line each. `openxlstm train TASK` trains one, `openxlstm compare TASK` several models on one."
        )
        return 0
    if "json" in options:
        print(json.dumps({name: facts(name, NEEDS_DATA.get(name)) for name in TASKS}, indent=2))
        return 0
    for name in TASKS:
        print(f"{name:<29}{summary(name)}" + ("  [--data]" if name in NEEDS_DATA else ""))
    return 0


def facts(name: str, data: str | None) -> dict[str, object]:
    """What a program may want to know of a task, with its default settings."""
    from openxlstm.tasks import TASKS, summary

    task = TASKS[name]()
    return {
        "summary": summary(name),
        "data": data,
        "metric": task.metric.name,
        "higher_is_better": task.metric.higher_is_better,
        "lengths": {"training": task.trained, "score": task.reports[0], "further": task.reports[1:]},
        "anchors": [anchor._asdict() for anchor in task.anchors],
    }
