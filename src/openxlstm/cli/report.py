"""`openxlstm report --scale minutes`."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from openxlstm.cli.arguments import did_you_mean, say
from openxlstm.cli.compare import parse_jobs
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.experiments import Question

OWN = {
    "scale": "minutes|hours|gpu  what it may cost: an hour on two cores, a night on two cores, a GPU (default: minutes)",
    "only": "NAME,NAME  these questions alone; other answers in the folder stay",
    "data": "NAME=PATH,NAME=PATH  files for questions whose data does not come with Python; without them they are not asked",
    "out": "FOLDER  where runs and report go (default: runs/report-SCALE; the same command continues there)",
    "cells": "FOLDER  where trained models go, to keep the report's folder small (default: cells in --out)",
    "jobs": "N  trainings at a time, each in a process of its own (default: one a core; on a GPU one)",
    "list": "print the questions and stop",
    "help": "this text",
}


def run(argv: list[str]) -> int:
    """Answer the questions and print the summary; 130 when interrupted by Ctrl-C."""
    from openxlstm.experiments import QUESTIONS, SCALES
    from openxlstm.training.options import split_arguments, unknown

    words, options = split_arguments(argv, ("list", "help"))
    for option in options:
        if option not in OWN:
            raise UserError(unknown(f"--{option}", [f"--{name}" for name in OWN]))
    if words:
        raise UserError(f"{words[0]!r} is one argument too many; questions are named with --only={words[0]}")
    if "help" in options:
        print(help_text())
        return 0
    scale = options.get("scale", SCALES[0])
    if scale not in SCALES:
        raise UserError(f"--scale must be one of {', '.join(SCALES)}, not {scale!r}")
    if "list" in options:
        for question in QUESTIONS.values():
            print(f"{question.name:<20}{question.claim}")
        return 0
    names = [name.strip() for name in options.get("only", "").split(",") if name.strip()]
    if "only" in options and not names:
        raise UserError("--only names no question; openxlstm report --list shows them")
    for name in names:
        if name not in QUESTIONS:
            raise UserError(f"unknown question {name!r}{did_you_mean(name, QUESTIONS)}")

    jobs = parse_jobs(options) if "jobs" in options else usual_jobs()

    from openxlstm.experiments import answer_all
    from openxlstm.experiments.report import summary

    folder = Path(options.get("out", f"runs/report-{scale}"))
    chosen = [q for q in with_data(QUESTIONS.values(), options.get("data", "")) if not names or q.name in names]
    for question in chosen:  # before the first is asked, which may take hours
        if question.data and not question.data.startswith("hf:") and not Path(question.data).exists():
            raise UserError(f"--data {question.name}={question.data}: no such file or folder")
    cells = Path(options["cells"]) if "cells" in options else None
    report = answer_all(chosen, scale, folder, say, jobs, cells)
    if report.interrupted is not None:
        say(f"interrupted; the same command continues in {folder}")
        return 128 + report.interrupted
    print(f"{summary(report.answers)}\n\nreport: {folder / 'report.md'}, {folder / 'report.html'}")
    return 0


def usual_jobs() -> int:
    """Trainings at a time where nobody says: they have one thread each."""
    import torch

    from openxlstm.training.cells import available_cpus

    return 1 if torch.cuda.is_available() else available_cpus()


def with_data(questions: Iterable["Question"], data: str) -> list["Question"]:
    """The questions with the files of `data` ("pixels=FOLDER,..."). Raises UserError for one that takes none."""
    from openxlstm.experiments import Trained
    from openxlstm.recipes import NEEDS_DATA

    questions = list(questions)
    taking = [question.name for question in questions if isinstance(question, Trained) and question.recipe in NEEDS_DATA]
    places = {}
    for part in filter(None, data.split(",")):
        name, _, path = part.partition("=")
        if name not in taking or not path:
            raise UserError(f"--data {part}: expected NAME=PATH, where NAME is {' or '.join(taking)}")
        places[name] = path
    return [
        dataclasses.replace(q, data=places[q.name]) if isinstance(q, Trained) and q.name in places else q for q in questions
    ]


def help_text() -> str:
    own = "\n".join(f"  --{option:<8}{text}" for option, text in OWN.items())
    return (
        "usage: openxlstm report [--scale minutes] [--only NAME,NAME] [--out FOLDER] [--jobs N]\n\n"
        "Asks of each claim about xLSTM whether it holds on this machine: trains the models that can tell, with equal\n"
        "parameters, and writes a report that puts claim, published number and measurement side by side.\n\n"
        f"options:\n{own}\n\n"
        "examples:\n"
        "  openxlstm report --only parity,recall\n"
        "  openxlstm report --scale hours"
    )
