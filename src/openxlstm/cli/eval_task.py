"""`openxlstm eval RUN` where the run is about a task: its score at any lengths."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

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
    from openxlstm.inference.load import model_folder
    from openxlstm.tasks import SequencePairs, Split, Task
    from openxlstm.training.run import load_config

    for name in TEXT_ONLY:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is about text; {args.run} is the run of a task")
    task = load_config(Path(args.run)).data
    assert isinstance(task, Task)
    if isinstance(task, SequencePairs):  # the tokens of the model, whatever has become of the files since
        task = dataclasses.replace(task, tokenizer=str(model_folder(args.run)))
    model, device = load_of_task(args)
    say(f"{model.num_parameters():,} parameters, {task.description}, on {device}")
    found = []
    evaluate, split = evaluation_of(task), cast(Split, args.split or "test")
    reports = (task.lengths_of(split),) if isinstance(task, SequencePairs) else task.reports
    for lengths in args.lengths.split(",") if args.lengths else reports:
        found.append(evaluate(model, task, split, lengths.strip(), precision=args.precision))
        say(f"lengths {found[-1].lengths}: {found[-1].num_targets:,} answers")
    if args.json:
        print(json.dumps({"run": str(args.run), "task": task.name, "results": [one.to_dict() for one in found]}, indent=2))
        return 0
    if isinstance(task, SequencePairs):
        print(f"{found[0].line()}; {task.baseline}: {found[0].metric} {found[0].guess:.2f} ({found[0].num_written:,} texts)")
        return 0
    rows = [["lengths", found[0].metric, "guessing", "loss", "answers"]]
    for one in found:
        parts: list[Any] = [one, *one.by_length] if len(one.by_length) > 1 else [one]
        for part in parts:
            rows.append([part.lengths, f"{part.score:.4f}", f"{part.guess:.4f}", f"{part.loss:.4f}", f"{part.num_targets:,}"])
    print(columns(rows))
    return 0


def evaluation_of(task: Any) -> Any:
    """The function that scores a model of the task."""
    from openxlstm.tasks import DynamicsTask, SequencePairs
    from openxlstm.training.evaluate_dynamics import evaluate_dynamics
    from openxlstm.training.evaluate_pairs import evaluate_pairs
    from openxlstm.training.evaluate_task import evaluate_task

    if isinstance(task, SequencePairs):
        return evaluate_pairs
    return evaluate_dynamics if isinstance(task, DynamicsTask) else evaluate_task
