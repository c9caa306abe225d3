"""Every application beside baselines and twins of equal parameters, in one command that goes on where it was interrupted:

    python benchmarks/applications.py --data FOLDER --out FOLDER [--only sensors,music] [--seeds 0,1,2]

FOLDER holds the data, each under its usual name at any depth. What it lacks is left out and named. Each part is a
command of its own, which the page shows; OUT/applications.md has the tables of all, in the order of PARTS. Days on two cores;
--list prints the commands and stops.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openxlstm.files import write_atomic

HERE = Path(__file__).parent
TWINS = "slstm,lstm,transformer"


@dataclass(frozen=True)
class Part:
    """A command and where its table will be.

    needs: files or folders of the data, by what the command calls them; `{name}` in `command` is the place of one, `{data}` the
    folder, `{out}` the part's own folder, `{seeds}` the seeds.
    """

    name: str
    application: str
    command: tuple[str, ...]
    needs: dict[str, str]
    table: str = "table.md"


def script(name: str, *words: str) -> tuple[str, ...]:
    """The command of a benchmark beside this one."""
    return (sys.executable, str(HERE / f"{name}.py"), *words, "--out", "{out}", "--seeds", "{seeds}")


def comparison(task: str, models: str, *words: str) -> tuple[str, ...]:
    """`openxlstm compare` with one thread."""
    options = ("--models", models, "--seeds", "{seeds}", "--out", "{out}", "--trainer.threads=1")
    return (sys.executable, "-m", "openxlstm", "compare", task, *words, *options)


def forecasts(name: str, sets: str, models: str, needs: dict[str, str], horizons: str = "96,192,336,720") -> Part:
    words = ("--data", "{data}", "--sets", sets, "--models", models, "--horizons", horizons)
    return Part(name, "forecasting", script("forecasting", *words), needs)


def simulated(task: str) -> Part:
    return Part(task, "dynamics", comparison(task, "slstm,lstm"), {}, "compare.md")


PARTS = (
    forecasts(
        "ett",
        "ETTh1,ETTh2,ETTm1",
        "slstm,lstm,nlinear,naive",
        {"h1": "ETTh1.csv", "h2": "ETTh2.csv", "m1": "ETTm1.csv*"},
    ),
    forecasts("weather", "Weather", "slstm,lstm,nlinear,naive", {"weather": "weather.csv*"}),
    forecasts("exchange", "Exchange", "slstm,lstm,nlinear,naive", {"rates": "exchange_rate.csv"}),
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
        script("sensors", "--data", "{data}", "--models", "slstm,lstm"),
        {"nab": "combined_windows.json", "turbofan": "train_FD001.txt", "motions": "BasicMotions_TRAIN.ts"},
    ),
    Part(
        "jsb_chorales",
        "music",
        comparison("jsb_chorales", TWINS, "--data", "{roll}"),
        {"roll": "JSB_Chorales.mat"},
        "compare.md",
    ),
    Part("nottingham", "music", comparison("nottingham", TWINS, "--data", "{roll}"), {"roll": "Nottingham.mat"}, "compare.md"),
    *map(simulated, ("lorenz63", "lorenz96", "mackey_glass")),
    Part(
        "classification",
        "text",
        script("classification", "--data", "sst2={sst2},rotten_tomatoes={rotten_tomatoes},imdb={imdb}"),
        {"sst2": "sst2", "rotten_tomatoes": "rotten_tomatoes", "imdb": "aclImdb"},
    ),
    Part(
        "translation",
        "text",
        script("text_applications", "--data", "{data}", "--tasks", "multi30k,scitldr"),
        {"pairs": "multi30k", "summaries": "scitldr"},
    ),
    Part("speech", "speech", script("speech", "--data", "{recordings}"), {"recordings": "fsdd"}),
    Part("program_evaluation", "code", comparison("program_evaluation", "xlstm[1:1],lstm,transformer"), {}, "compare.md"),
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
    filled = {**files, "data": str(args.data), "out": str(args.out / part.name), "seeds": args.seeds}
    return [word.format_map(filled) for word in part.command]


def page(parts: Sequence[tuple[Part, list[str], str]]) -> str:
    """Tables and commands. parts: each with its command and what is to be said in place of a table, or nothing."""
    return "\n".join(line for part, command, said in parts for line in section(part, command, said)) + "\n"


def section(part: Part, command: list[str], said: str) -> Iterator[str]:
    yield from (f"## {part.name}", "")
    yield from (said, "")
    if command:
        shown = command[2:] if command[1] == "-m" else ["python", f"benchmarks/{Path(command[1]).name}", *command[2:]]
        yield from ("```", shlex.join(shown), "```", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is not measured again")
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
    done: list[tuple[Part, list[str], str]] = []
    worst = 0
    for part in PARTS:
        if part.name not in asked and part.application not in asked:
            continue
        files, missing = places(part, args.data)
        command = [] if missing else words_of(part, files, args)
        print(f"== {part.name}: {shlex.join(command) if command else 'not there: ' + ', '.join(missing)}", flush=True)
        if args.list:
            continue
        said = f"Not measured, not in the data: {', '.join(missing)}."
        if command:
            code = subprocess.run(command, check=False).returncode
            if code in (130, -2):  # Ctrl-C
                return 130
            table = args.out / part.name / part.table
            said = table.read_text() if code == 0 else f"Failed with exit code {code}."
            worst = max(worst, abs(code))
        done.append((part, command, said.strip()))
        write_atomic(args.out / "applications.md", page(done))
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
