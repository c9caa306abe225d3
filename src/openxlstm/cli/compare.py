"""`openxlstm compare RECIPE --models a,b --seeds 0,1`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from openxlstm.errors import UserError

MODELS = "mlstm,slstm,xlstm[1:1],lstm,transformer"
"""What is compared unless something else is asked for."""
OWN = {
    "models": f"A,B,...  patterns as in --model.pattern, split at commas; settings of one model in braces (default: {MODELS})",
    "seeds": "N,N,...  (default: 0)",
    "lrs": "X,X,...  learning rates to try with every model; the best in validation is shown (default: the recipe's)",
    "lr-seeds": "N,N,...  the seeds that try all of --lrs; the others take the best of these (default: all seeds)",
    "jobs": "N  trainings at a time, each in a process of its own, with the cores divided between them (default: 1)",
    "data": "FILE|FOLDER  short for --data.source",
    "config": "FILE  settings as JSON; options on the command line come on top",
    "out": "FOLDER  where runs, table and figure go (default: runs/compare-NAME-HASH; the same command continues there)",
    "cells": "FOLDER  where trained models go, to keep --out small (default: --out)",
    "json": "print the table as JSON",
    "help": "this text",
}


def run(argv: list[str]) -> int:
    """Train the models and print one table; 130 when interrupted by Ctrl-C."""
    from openxlstm.cli.train import resolve
    from openxlstm.models.patterns import split_names
    from openxlstm.training.options import parse_value, split_arguments

    words, options = split_arguments(argv, ("json", "help"))
    own = {name: options.pop(name) for name in OWN if name in options}
    if "help" in own:
        print(help_text())
        return 0
    if len(words) > 1:
        raise UserError(f"{words[1]!r} is one argument too many; models are given as --models={words[1]},...")
    for clash, instead in (("seed", "seeds"), ("model.pattern", "models")):
        if clash in options:
            raise UserError(f"--{clash} is what compare varies; use --{instead}")
    if "optimizer.lr" in options and "lrs" in own:
        raise UserError("--optimizer.lr and --lrs are the same; give one")
    config = resolve(words[0] if words else None, own, options, also=OWN)
    usual = [model for model in split_names(MODELS) if config.model.num_blocks > 1 or "[" not in model]  # one block, one kind
    models = split_names(own["models"]) if "models" in own else usual
    seeds = parse_value(tuple[int, ...], own.get("seeds", "0"), "--seeds")
    lrs = parse_value(tuple[float, ...], own.get("lrs", ""), "--lrs")
    lr_seeds = parse_value(tuple[int, ...], own.get("lr-seeds", ""), "--lr-seeds")
    for name, given in (("seeds", seeds), ("lrs", lrs), ("lr-seeds", lr_seeds)):
        if not given and name in own:
            raise UserError(f"--{name} needs at least one number")
    if any(lr <= 0 for lr in lrs):
        raise UserError(f"--lrs={own['lrs']} must be positive")
    if lr_seeds and not lrs:
        raise UserError("--lr-seeds says who tries the learning rates; name these with --lrs")

    jobs = parse_jobs(own)

    from openxlstm.training.compare import check_same_settings, compare

    folder, cells = (Path(own[name]) if name in own else None for name in ("out", "cells"))
    if folder is not None:
        check_same_settings(folder, config)
    found = compare(config, models, seeds, folder, say=_say, lrs=lrs, jobs=jobs, cells=cells, lr_seeds=lr_seeds)
    if found.interrupted is not None:
        _say(f"interrupted; the same command continues in {found.folder}")
        return 128 + found.interrupted
    if "json" in own:
        print(json.dumps({"folder": str(found.folder), "rows": found.rows()}, indent=2))
    else:
        print(found.table())
        for cell in found.cells:
            if cell.failure is not None:
                rate = f"lr {cell.lr:g}, " if lrs else ""
                print(f"\n{cell.model}, {rate}seed {cell.seed} failed: {cell.failure}")
        print(f"\nfigure: {found.folder / 'compare.png'}\ntable:  {found.folder / 'compare.json'}")
    return 1 if all(cell.report is None for cell in found.cells) else 0


def parse_jobs(own: Mapping[str, str]) -> int:
    """The option --jobs, of `report` too."""
    from openxlstm.training.options import parse_value

    jobs = parse_value(int, own.get("jobs", "1"), "--jobs")
    if jobs < 1:
        raise UserError(f"--jobs={jobs} must be at least 1")
    return jobs


def help_text() -> str:
    own = "\n".join(f"  --{option:<10}{text}" for option, text in OWN.items())
    return (
        "usage: openxlstm compare [RECIPE|TASK] [--models A,B] [--seeds 0,1] [--lrs X,Y] [--a.b=value ...]\n\n"
        "Trains several kinds of model on the data and settings of one recipe or task, each with as many parameters (to 1 %)\n"
        "as the recipe's own model, and prints one table. Finished runs are kept: the same command continues there.\n\n"
        f"options:\n{own}\n\n"
        "Every setting of `openxlstm train` may be given as well (openxlstm train RECIPE --help lists them).\n\n"
        "examples:\n"
        "  openxlstm compare wikitext2 --data FOLDER --seeds 0,1,2\n"
        "  openxlstm compare --models 'mlstm,xlstm[1:1],transformer' --trainer.steps=300\n"
        "  openxlstm compare --models 'mlstm,mlstm{conv_width=0},mlstm{input_gate_mode=bias,forget_gate_mode=one}'\n"
        "  openxlstm compare parity --seeds 0,1,2 --lrs 1e-3,3e-3,1e-2 --lr-seeds 0"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
