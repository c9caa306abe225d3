"""`openxlstm monitor RUN FILE`: remaining life or activity after each row of sensors, from a file or as they come."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from openxlstm.cli.arguments import VerbParser, add_device_options, device_of, say
from openxlstm.errors import UserError


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "monitor",
        "Let the model of a run on a task of sensors read rows and say, after each, what it thinks: a CSV.\n"
        "turbofan: flights left. FILE is a C-MAPSS file (26 columns); rows of several engines may be mixed on stdin.\n"
        "activity: what somebody does. FILE is a .ts file; on stdin a row is a line of numbers parted by commas.\n"
        "With - rows are read from stdin, and answered one by one as they come.",
        [
            "openxlstm monitor runs/RUN test_FD001.txt --out life.csv",
            "openxlstm monitor runs/RUN BasicMotions_TEST.ts",
            "tail -f flights.txt | openxlstm monitor runs/RUN -",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder")
    p.add_argument("file", metavar="FILE", help="rows of sensors, or - for stdin")
    p.add_argument("--out", metavar="FILE", default="monitor.csv", help="where the answers go; those to stdin go to stdout")
    add_device_options(p, backend=False)
    p.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    from openxlstm.inference.sensors import LifeMonitor, load_monitor

    monitor = load_monitor(args.run, device_of(args))
    say(f"{monitor.model.num_parameters():,} parameters")
    life = isinstance(monitor, LifeMonitor)
    if args.file == "-":
        if args.json:
            raise UserError("--json has no summary of what never ends; leave it out with -")
        for line in (live_life if life else live_activity)(monitor, sys.stdin):
            print(line, flush=True)
        return 0
    from openxlstm.files import write_atomic

    lines, summary = (life_of_file if life else activity_of_file)(monitor, args.file)
    write_atomic(args.out, "\n".join(lines) + "\n")
    summary = {"run": str(args.run), "file": args.file, **summary, "out": args.out}
    print(json.dumps(summary, indent=2) if args.json else "\n".join([*shown(summary), f"answers: {args.out}"]))
    return 0


def shown(summary: dict[str, Any]) -> Iterator[str]:
    """The summary for people."""
    if "accuracy" in summary:
        yield f"{summary['cases']} cases, {summary['accuracy']:.1%} as labelled"
        return
    yield "unit  cycles  flights left"
    for one in summary["units"]:
        yield f"{one['unit']:<6}{one['cycles']:<8}{one['left']:.1f}"


def live_life(monitor: Any, lines: TextIO) -> Iterator[str]:
    """A line of CSV for each line of a C-MAPSS file; a stream of its own for each unit."""
    from openxlstm.data.sensors.text import numbered
    from openxlstm.data.sensors.turbofan import check_cycle, parse_row

    streams: dict[int, Any] = {}
    yield "unit,cycle,left"
    for number_of_line, line in numbered(lines):
        place = f"stdin, line {number_of_line}"
        unit, cycle, row = parse_row(line, place)
        stream = streams.setdefault(unit, monitor.new())
        check_cycle(unit, cycle, stream.rows, place)
        yield f"{unit},{cycle},{placed(stream.step, row, place):.2f}"


def live_activity(monitor: Any, lines: TextIO) -> Iterator[str]:
    """A line of CSV for each line of numbers."""
    from openxlstm.data.sensors.text import finite, numbered

    yield "step," + ",".join(["activity", *monitor.classes])
    for number_of_line, line in numbered(lines):
        place, cells = f"stdin, line {number_of_line}", line.strip().split(",")
        if len(cells) != len(monitor.mean):
            raise UserError(f"{place}: {len(cells)} numbers, the model reads {len(monitor.mean)} channels")
        marked = monitor.mark_missing
        row = [
            float("nan") if marked and cell.strip() == "?" else finite(cell, place, f"channel {channel}")
            for channel, cell in enumerate(cells, 1)
        ]
        found = placed(monitor.step, row, place)
        yield f"{monitor.rows},{max(found, key=found.__getitem__)}," + ",".join(f"{p:.4f}" for p in found.values())


def placed(read: Callable[[Any], Any], rows: Any, place: str) -> Any:
    """What a monitor says of rows; the ValueError for those that it refuses begins with their place."""
    try:
        return read(rows)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def life_of_file(monitor: Any, file: str) -> tuple[list[str], dict[str, Any]]:
    """Lines of CSV after each flight, and what is left after the last of each engine."""
    from openxlstm.data.sensors.turbofan import read_engines

    lines, units = ["unit,cycle,left"], []
    for engine in read_engines(file):
        left = placed(monitor.new().read, engine.rows, f"{file}, unit {engine.unit}")
        lines += [f"{engine.unit},{cycle},{value:.2f}" for cycle, value in enumerate(left, 1)]
        units.append({"unit": engine.unit, "cycles": len(left), "left": round(float(left[-1]), 2)})
    return lines, {"units": units}


def activity_of_file(monitor: Any, file: str) -> tuple[list[str], dict[str, Any]]:
    """Lines of CSV, one a case, and how many were named as their label says."""
    from openxlstm.data.sensors.recordings import read_ts

    found = read_ts(file)
    lines, right = ["case,label,activity," + ",".join(monitor.classes)], 0
    for case, (values, label) in enumerate(zip(found.values, found.labels), 1):
        chances = placed(monitor.new().read, values, f"{file}, case {case}")[-1]
        named = monitor.classes[int(chances.argmax())]
        right += named == found.classes[label]
        lines.append(f"{case},{found.classes[label]},{named}," + ",".join(f"{p:.4f}" for p in chances))
    return lines, {"cases": len(found.values), "accuracy": right / len(found.values)}
