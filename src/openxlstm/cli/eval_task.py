"""`openxlstm eval RUN` where the run is about a task: its score at any lengths."""

import json
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import say
from openxlstm.errors import UserError

TEXT_ONLY = ("data", "max_tokens", "context", "stride", "carry", "by_position", "by_frequency", "batch_size", "tokenizer")


def is_about_task(run: str | None) -> bool:
    """Whether `run` is a run folder whose configuration names a task."""
    file = Path(run or "", "config.json")
    try:
        data = json.loads(file.read_text(encoding="utf-8")).get("data")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(data, dict) and "task" in data


def run_task(args: Any) -> int:
    """Print the scores of a run at `--lengths`; by default at those that its report has."""
    from openxlstm.cli.eval import columns
    from openxlstm.cli.generate import load_of_task
    from openxlstm.tasks import DynamicsTask, Task
    from openxlstm.training.evaluate_dynamics import evaluate_dynamics
    from openxlstm.training.evaluate_task import evaluate_task
    from openxlstm.training.run import load_config

    for name in TEXT_ONLY:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is about text; {args.run} is the run of a task")
    task = load_config(Path(args.run)).data
    assert isinstance(task, Task)
    model, device = load_of_task(args)
    say(f"{model.num_parameters():,} parameters, {task.description}, on {device}")
    found = []
    evaluate: Any = evaluate_dynamics if isinstance(task, DynamicsTask) else evaluate_task
    for lengths in args.lengths.split(",") if args.lengths else task.reports:
        found.append(evaluate(model, task, args.split or "test", lengths.strip(), precision=args.precision))
        say(f"lengths {found[-1].lengths}: {found[-1].num_targets:,} answers")
    if args.json:
        print(json.dumps({"run": str(args.run), "task": task.name, "results": [one.to_dict() for one in found]}, indent=2))
        return 0
    others = list(found[0].others)
    rows = [["lengths", found[0].metric, "guessing", "loss", "answers", *others]]
    for one in found:
        parts: list[Any] = [one, *one.by_length] if len(one.by_length) > 1 else [one]
        for part in parts:
            more = [f"{part.others[name]:.4f}" if part is one else "" for name in others]
            shown = [f"{number:.4f}" for number in (part.score, part.guess, part.loss)]
            rows.append([part.lengths, *shown, f"{part.num_targets:,}", *more])
    print(columns(rows))
    return 0
