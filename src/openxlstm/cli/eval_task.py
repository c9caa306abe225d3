"""`openxlstm eval RUN` where the run is about a task: its score at any lengths."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

from openxlstm.cli.arguments import device_of, say
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
    from openxlstm.tasks import SequencePairs, Split, Task, TextClassification
    from openxlstm.training.jobs.classifier import confusion_lines
    from openxlstm.training.run import load_config

    for name in TEXT_ONLY:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is about text; {args.run} is the run of a task")
    for name in ("tasks", "limit"):
        if getattr(args, name):
            raise UserError(f"--{name} is about zero-shot tasks of language models; {args.run} is the run of a task of its own")
    task = load_config(Path(args.run)).data
    assert isinstance(task, Task)
    if isinstance(task, SequencePairs):  # the tokens of the model, whatever has become of the files since
        task = dataclasses.replace(task, tokenizer=str(model_folder(args.run)))
    classifier = isinstance(task, TextClassification)
    model, device = load_classifier(args, task) if classifier else load_of_task(args)
    say(f"{model.num_parameters():,} parameters, {task.description}, on {device}")
    found = []
    evaluate, split = evaluation_of(task), cast(Split, args.split or "test")
    reports = (task.lengths_of(split),) if isinstance(task, SequencePairs) else task.reports
    asked = [part.strip() for part in args.lengths.split(",")] if args.lengths else reports
    if args.lengths and not all(asked):
        raise UserError(f"--lengths {args.lengths}: a length is empty; expected N or N-M, with commas between")
    for lengths in asked:
        found.append(evaluate(model, task, split, lengths, precision=args.precision))
        say(f"lengths {found[-1].lengths}: {found[-1].num_targets:,} answers")
    if args.json:
        print(json.dumps({"run": str(args.run), "task": task.name, "results": [one.to_dict() for one in found]}, indent=2))
        return 0
    if isinstance(task, SequencePairs):
        print(f"{found[0].line()}; {task.baseline}: {found[0].metric} {found[0].guess:.2f} ({found[0].num_written:,} texts)")
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
    for one in found if classifier else ():
        print(
            f"\nexpected calibration error {one.calibration_error:.4f}", *confusion_lines(one.classes, one.confusion), sep="\n"
        )
    return 0


def evaluation_of(task: Any) -> Any:
    """The function that scores a model of the task."""
    from openxlstm.tasks import DynamicsTask, SequencePairs, TextClassification
    from openxlstm.tasks.speech import DigitSequences
    from openxlstm.training.evaluation.classifier import evaluate_classifier
    from openxlstm.training.evaluation.dynamics import evaluate_dynamics
    from openxlstm.training.evaluation.pairs import evaluate_pairs
    from openxlstm.training.evaluation.speech import evaluate_speech
    from openxlstm.training.evaluation.task import evaluate_task

    kinds = {
        SequencePairs: evaluate_pairs,
        DynamicsTask: evaluate_dynamics,
        DigitSequences: evaluate_speech,
        TextClassification: evaluate_classifier,
    }
    return next((evaluate for kind, evaluate in kinds.items() if isinstance(task, kind)), evaluate_task)


def load_classifier(args: Any, task: Any) -> tuple[Any, str]:
    """The SequenceClassifier of a run and its device; UserError where the run's files are others than it was trained on."""
    from openxlstm.data.tokenizer import fingerprint
    from openxlstm.inference.classify import TextClassifier

    device = device_of(args)
    loaded = TextClassifier.load(args.run, device=device, backend=args.backend)
    now = task.format
    if (fingerprint(loaded.format.tokenizer), loaded.format.classes) != (fingerprint(now.tokenizer), now.classes):
        raise UserError(f"{task.source} has other training texts than {args.run} was trained on, so its tokens are others")
    return loaded.model, device
