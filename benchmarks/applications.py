"""Every application beside baselines and twins of equal parameters, in one command that goes on where it was interrupted:

    python benchmarks/applications.py --data FOLDER --out FOLDER [--cells FOLDER] [--only sensors,music] [--seeds 0,1,2]

FOLDER holds the data, each under its usual name at any depth. What it lacks is left out and named. Each part is a
command of its own, which the page shows; OUT/applications.md has what each should reach and whether it does, and the tables
of all parts that were ever measured in OUT, in the order of PARTS. Trained models go to --cells, so that OUT stays small: it
is enough to go on elsewhere. Days on two cores; --list prints the commands and stops.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import bars

from openxlstm.files import write_atomic

HERE = Path(__file__).parent
INTRODUCTION = (
    "xLSTM beside baselines and twins of equal parameters, which have the same recipe. Validation chose every setting unless "
    "the documentation of the task says otherwise. Scores are compared by their means: where those are nearer to each other "
    "than the deviations between seeds, neither model is shown to be better."
)
TWINS = "slstm,lstm,transformer"


@dataclass(frozen=True)
class Part:
    """A command and where its table will be.

    needs: files or folders of the data, by what the command calls them; `{name}` in `command` is the place of one, `{data}` the
    folder, `{out}` and `{cells}` the part's own folders, `{seeds}` the seeds.
    """

    name: str
    application: str
    command: tuple[str, ...]
    needs: dict[str, str]
    table: str = "table.md"


def script(name: str, *words: str) -> tuple[str, ...]:
    """The command of a benchmark beside this one."""
    return (sys.executable, str(HERE / f"{name}.py"), *words, "--out", "{out}", "--seeds", "{seeds}")


def training(name: str, *words: str) -> tuple[str, ...]:
    """The same of one that leaves run folders."""
    return script(name, *words, "--cells", "{cells}")


def comparison(task: str, models: str, *words: str) -> tuple[str, ...]:
    """`openxlstm compare` with one thread."""
    options = ("--models", models, "--seeds", "{seeds}", "--out", "{out}", "--cells", "{cells}", "--trainer.threads=1")
    return (sys.executable, "-m", "openxlstm", "compare", task, *words, *options)


def forecasts(name: str, sets: str, models: str, needs: dict[str, str], *options: str) -> Part:
    words = ("--data", "{data}", "--sets", sets, "--models", models, *options)
    return Part(name, "forecasting", script("forecasting", *words), needs)


def windows(name: str, sets: str, needs: dict[str, str]) -> Part:
    """Sliding windows over one table, at the usual horizons."""
    return forecasts(name, sets, "xlstm,lstm,nlinear,naive", needs, "--horizons", "96,192,336,720")


def music(task: str, file: str, lrs: str) -> Part:
    """Pieces of one file, each model at the best of some learning rates."""
    command = comparison(task, TWINS, "--data", "{roll}", "--lrs", lrs, "--lr-seeds", "0")
    return Part(task, "music", command, {"roll": file}, "compare.md")


def simulated(task: str) -> Part:
    return Part(task, "dynamics", comparison(task, "slstm,lstm"), {}, "compare.md")


def written(task: str, *options: str, models: str = "") -> Part:
    """Texts that are written from texts. options: settings of the runs. models: those compared, if not all."""
    words = ["--data", "{data}", "--tasks", task, *(["--models", models] if models else [])]
    settings = ["--", *options] if options else []
    return Part(task, "text", (*training("text_applications", *words), *settings), {"folder": task})


PARTS = (
    windows("ett", "ETTh1,ETTh2,ETTm1", {"h1": "ETTh1.csv", "h2": "ETTh2.csv", "m1": "ETTm1.csv*"}),
    windows("weather", "Weather", {"weather": "weather.csv*"}),
    windows("exchange", "Exchange", {"rates": "exchange_rate.csv"}),
    Part("updates", "forecasting", (sys.executable, str(HERE / "forecast_updates.py"), "--out", "{out}"), {}),
    forecasts(
        "m4_hourly",
        "M4",
        "slstm,lstm,linear,naive2,seasonal_naive,drift",
        {"train": "Hourly-train.csv", "test": "Hourly-test.csv"},
    ),
    forecasts("prices", "VIX,SP500", "slstm,lstm,naive", {"vix": "vix-daily.csv", "sp500": "sp500-2000.csv"}),
    Part(
        "sensors",
        "sensors",
        training("sensors", "--data", "{data}", "--models", "slstm,lstm"),
        {"nab": "combined_windows.json", "turbofan": "train_FD001.txt", "motions": "BasicMotions_TRAIN.ts"},
    ),
    music("jsb_chorales", "JSB_Chorales.mat", "1.5e-3,3e-3,6e-3,1.2e-2"),
    music("nottingham", "Nottingham.mat", "3e-3,6e-3,1.2e-2,2.4e-2"),
    *map(simulated, ("lorenz63", "lorenz96", "mackey_glass")),
    Part(
        "classification",
        "text",
        training("classification", "--data", "sst2={sst2},rotten_tomatoes={rotten_tomatoes},imdb={imdb}"),
        {"sst2": "sst2", "rotten_tomatoes": "rotten_tomatoes", "imdb": "aclImdb"},
    ),
    written("multi30k", "--trainer.steps=800"),
    written("scitldr", models=TWINS),
    Part("speech", "speech", training("speech", "--data", "{recordings}"), {"recordings": "fsdd"}),
    Part(
        "program_evaluation",
        "code",
        comparison("program_evaluation", TWINS, "--trainer.steps=5000"),
        {},
        "compare.md",
    ),
)
APPLICATIONS = tuple(dict.fromkeys(part.application for part in PARTS))


def places(part: Part, data: Path) -> tuple[dict[str, str], list[str]]:
    """Where the files of a part are, and the names of those that are not there."""
    found = {name: sorted(data.rglob(pattern)) for name, pattern in part.needs.items()}
    return {name: str(paths[0]) for name, paths in found.items() if paths}, [
        part.needs[n] for n, paths in found.items() if not paths
    ]


def words_of(part: Part, files: dict[str, str], args: argparse.Namespace) -> list[str]:
    """The command of a part."""
    own = {"out": str(args.out / part.name), "cells": str((args.cells or args.out) / part.name)}
    filled = {**files, **own, "data": str(args.data), "seeds": args.seeds}
    return [word.format_map(filled) for word in part.command]


def shown(part: Part, files: dict[str, str], args: argparse.Namespace) -> list[str]:
    """The same for the page: without what a user calls his folders."""
    data = {name: f"DATA/{Path(place).relative_to(args.data)}" for name, place in files.items()}
    named = argparse.Namespace(data=Path("DATA"), out=Path("OUT"), cells=Path("CELLS"), seeds=args.seeds)
    return words_of(part, data, named)


def page(out: Path, commands: dict[str, list[str]], instead: dict[str, str]) -> str:
    """Tables and commands of all parts, and what there is to say of those without a table. commands: as a reader types them,
    where the data is there. instead: what is said in place of a table that was asked for."""
    summary = bars.table(out)
    lines = ["# Applications", "", INTRODUCTION, "", *([summary] if summary else [])]
    unmeasured = []
    for part in PARTS:
        table = out / part.name / part.table
        said = instead.get(part.name) or (table.read_text().strip() if table.exists() else "")
        if not said:
            unmeasured.append(part.name)
            continue
        lines += [f"## {part.name}", "", said, ""]
        if command := commands.get(part.name):
            typed = command[2:] if command[1] == "-m" else ["python", f"benchmarks/{Path(command[1]).name}", *command[2:]]
            lines += ["```", shlex.join(typed), "```", ""]
    if unmeasured:
        lines += [f"Not measured yet: {', '.join(unmeasured)}.", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is not measured again")
    parser.add_argument("--cells", type=Path, help="folder of the trained models (default: OUT)")
    parser.add_argument("--only", help=f"some of the applications {', '.join(APPLICATIONS)}, or of the parts")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    args = parser.parse_args()
    asked = args.only.split(",") if args.only else APPLICATIONS
    known = {*APPLICATIONS, *(part.name for part in PARTS)}
    if not args.data.is_dir():
        parser.error(f"--data {args.data}: no such folder")
    for name in asked:
        if name not in known:
            parser.error(f"--only {name}: have {', '.join(sorted(known))}")
    found = {part.name: places(part, args.data) for part in PARTS}
    commands = {part.name: shown(part, found[part.name][0], args) for part in PARTS if not found[part.name][1]}
    instead: dict[str, str] = {}
    for part in PARTS:
        if part.name not in asked and part.application not in asked:
            continue
        files, missing = found[part.name]
        command = [] if missing else words_of(part, files, args)
        print(f"== {part.name}: {shlex.join(command) if command else 'not there: ' + ', '.join(missing)}", flush=True)
        if args.list:
            continue
        if command:
            code = subprocess.run(command, check=False).returncode
            if code in (130, -2):  # Ctrl-C
                return 130
            if code:
                instead[part.name] = f"Failed with exit code {code}."
        elif not (args.out / part.name / part.table).exists():
            instead[part.name] = f"Not measured, not in the data: {', '.join(missing)}."
        write_atomic(args.out / "applications.md", page(args.out, commands, instead))
    return 1 if any(said.startswith("Failed") for said in instead.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
