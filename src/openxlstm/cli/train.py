"""`openxlstm train [RECIPE] [--a.b=value ...]`."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openxlstm.errors import UserError

DEFAULT = "stdlib"
FLAGS = ("print-config", "help", "json", "cpu-tuning")
OWN = {
    "data": "FILE|FOLDER  short for --data.source",
    "config": "FILE  settings as JSON (a run's config.json, or some of its keys); options on the command line come on top",
    "resume": "RUN_DIR  continue an interrupted run from its last checkpoint",
    "run-dir": "FOLDER  where the run goes; it must not hold one yet (default: runs/NAME-TIME-HASH)",
    "cpu-tuning": "short for --trainer.cpu_tuning=true: settings of the process that make training on CPUs faster",
    "print-config": "print the resolved configuration as JSON and stop",
    "sample": "N  tokens to generate at the end of training on text; 0 = none (default: 300)",
    "json": "print the report as JSON instead of text",
    "help": "this text, with the values of the recipe that is named",
}


def run(argv: list[str]) -> int:
    """Train, then print the result to stdout; 130 when interrupted by Ctrl-C, 143 by SIGTERM."""
    from openxlstm.training.options import split_arguments

    words, options = split_arguments(argv, FLAGS)
    if len(words) > 1:
        raise UserError(f"{words[1]!r} is one argument too many; options are written --{words[1]}=VALUE or see --help")
    own = {name: options.pop(name) for name in OWN if name in options}
    if "help" in own:
        print(help_text(words[0] if words else DEFAULT))
        return 0
    if "resume" in own:
        return _resume(words, own, options)
    config = resolve(words[0] if words else None, own, options)
    if "print-config" in own:
        print(json.dumps(config.to_dict(), indent=2))
        return 0
    sample = _sample_length(own)

    from openxlstm.training.run import train

    return _finish(train(config, run_dir=own.get("run-dir")), sample, "json" in own)


def resolve(name: str | None, own: Mapping[str, str], options: Mapping[str, str], also: Iterable[str] = OWN) -> Any:
    """The RunConfig of a command line: recipe, then --config, then --data and the dotted options.

    own: the verb's own options that were given. also: all it has, to suggest where an option does not exist."""
    from openxlstm.recipes import NEEDS_DATA, recipe
    from openxlstm.training.config import RunConfig, with_values
    from openxlstm.training.options import describe, override, unknown

    config = RunConfig() if name is None and "config" in own else recipe(name or DEFAULT)
    if "config" in own:
        config = with_values(config, read_config(Path(own["config"])), own["config"])
    if "data" in own and "data.source" not in describe(config):
        raise UserError(f"{name or own['config']} makes its samples itself; it takes no --data")
    known = [*(f"--{k}" for k in describe(config)), *(f"--{k}" for k in also)]
    for option in options:
        if f"--{option}" not in known:
            raise UserError(unknown(f"--{option}", known))
    options = dict(options)
    if "data" in own:
        if "data.source" in options:
            raise UserError("--data and --data.source are the same; give one")
        options["data.source"] = own["data"]
    if "cpu-tuning" in own:
        if "trainer.cpu_tuning" in options:
            raise UserError("--cpu-tuning and --trainer.cpu_tuning are the same; give one")
        options["trainer.cpu_tuning"] = "true"
    given = "data.source" in options or "config" in own
    config = override(config, options)
    if name in NEEDS_DATA and not given and "print-config" not in own:
        raise UserError(f"recipe {name!r} needs --data: {NEEDS_DATA[name]}")
    return config


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file; UserError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content


def help_text(name: str) -> str:
    from openxlstm.recipes import RECIPES, recipe, summary
    from openxlstm.training.options import help_text as options_text

    own = "\n".join(f"  --{option:<14}{text}" for option, text in OWN.items())
    recipes = "\n".join(f"  {known:<16}{summary(known)}" for known in RECIPES)
    return (
        f"usage: openxlstm train [RECIPE] [--a.b=value ...]\n\n"
        f"Trains a language model, or a model of a task, and leaves everything in one folder under runs/.\n\n"
        f"recipes (default: {DEFAULT}; also every task that `openxlstm tasks` lists):\n{recipes}\n\n"
        f"options of the command:\n{own}\n\n"
        f"settings, with the values of recipe {name!r}:\n{options_text(recipe(name))}\n\n"
        "examples:\n"
        "  openxlstm train\n"
        "  openxlstm train shakespeare --data input.txt --trainer.steps=500 --model.pattern='xlstm[1:1]'\n"
        "  openxlstm train parity --model.pattern=lstm --data.eval_length=40-500\n"
        "  openxlstm train --resume runs/RUN\n"
        "  torchrun --nproc-per-node 2 -m openxlstm train shakespeare --data input.txt --trainer.strategy=fsdp2"
    )


def _resume(words: list[str], own: Mapping[str, str], options: Mapping[str, str]) -> int:
    extra = [*words, *(f"--{k}" for k in options), *(f"--{k}" for k in own if k not in ("resume", "sample", "json"))]
    if extra:
        raise UserError(f"--resume continues a run as it was configured; leave out {extra[0]}")
    sample = _sample_length(own)

    from openxlstm.training.run import train

    return _finish(train(resume=own["resume"]), sample, "json" in own)


def _sample_length(own: Mapping[str, str]) -> int:
    from openxlstm.training.options import parse_value

    length = parse_value(int, own.get("sample", "300"), "--sample")
    if length < 0:
        raise UserError(f"--sample={length} must not be negative")
    return length


def _finish(result: Any, sample: int, as_json: bool) -> int:
    if int(os.environ.get("RANK", "0")) != 0:
        return 0 if result.interrupted is None else 128 + result.interrupted
    if result.interrupted is not None:
        print(f"interrupted at step {result.step}; continue with: openxlstm train --resume {result.folder}", file=sys.stderr)
        return 128 + (result.interrupted if result.interrupted in (signal.SIGINT, signal.SIGTERM) else signal.SIGTERM)
    from openxlstm.data import TextConfig

    text = write_sample(result, sample) if sample and isinstance(result.config.data, TextConfig) else None
    if as_json:
        print(json.dumps({**result.report, "sample": text}, indent=2))
        return 0
    for line in result.lines():
        print(line)
    if text is not None:
        print(f"\nsample ({sample} tokens, temperature 0.8):\n{text}")
    return 0


def write_sample(result: Any, length: int) -> str:
    """A text by the trained model, from the start of a document, with a fixed seed."""
    from openxlstm.inference import Sampling, complete

    tokenizer = result.tokenizer
    start = tokenizer.eos_id if tokenizer.eos_id is not None else (tokenizer.encode("\n") or [0])[0]
    (ids,) = complete(
        result.model, [[start]], length, sampling=dataclasses.replace(Sampling(), temperature=0.8), seed=result.config.seed
    )
    return tokenizer.decode(ids)
