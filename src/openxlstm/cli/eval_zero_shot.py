"""`openxlstm eval RUN --tasks NAME,NAME`: zero-shot tasks by lm-eval."""

import json
from typing import Any

from openxlstm.cli.arguments import say
from openxlstm.cli.generate import load
from openxlstm.errors import UserError

TEXT_ONLY = ("split", "max_tokens", "lengths", "context", "stride", "carry", "by_position", "by_frequency", "batch_size")


def run_zero_shot(args: Any) -> int:
    """Print a line for each metric of each task."""
    from openxlstm.cli.eval import columns
    from openxlstm.integrations.lm_eval import evaluate_tasks

    for name in TEXT_ONLY:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is about text or a run's own task, not about --tasks")
    if args.precision != "fp32":
        raise UserError(
            f"--precision {args.precision} is about text or a run's own task; --tasks are scored in the model's own"
        )
    names = list(dict.fromkeys(filter(None, map(str.strip, args.tasks.split(",")))))
    loaded = load(args)
    found = evaluate_tasks(loaded, names, folder=args.data, limit=args.limit)
    if args.limit:
        say(f"only the first {args.limit} samples of each task")
    if args.json:
        print(json.dumps({"run": str(loaded.folder), "limit": args.limit, "results": found}, indent=2))
        return 0
    rows = [["task", "metric", "value", "± standard error"]]
    for task, values in found.items():
        for metric in filter(lambda name: not name.endswith("_stderr"), values):
            error = values.get(f"{metric}_stderr")
            rows.append([task, metric, f"{values[metric]:.4f}", "-" if error is None else f"{error:.4f}"])
    print(columns(rows))
    return 0
