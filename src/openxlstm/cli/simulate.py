"""`openxlstm simulate RUN --steps N`: a trained model of a chaotic system goes on alone."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import VerbParser, add_device_options, check_figures, number, say
from openxlstm.errors import UserError


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "simulate",
        "Let the model of a run on a chaotic system (openxlstm tasks: lorenz63, ...) read some samples and go on alone.\n"
        "Writes a CSV with a row a step: step, time, time in Lyapunov times, each channel as predicted, and as the system\n"
        "has it where that is known; and a figure. A summary goes to stdout.",
        [
            "openxlstm train lorenz63",
            "openxlstm simulate runs/RUN --steps 500",
            "openxlstm simulate runs/RUN --steps 5000 --trajectory 3 --out long.csv",
            "openxlstm simulate runs/RUN --steps 500 --from measured.csv",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder")
    p.add_argument("--steps", type=number(int, least=1), required=True, metavar="N", help="samples to predict")
    start = p.add_mutually_exclusive_group()
    start.add_argument(
        "--trajectory", type=number(int, least=0), default=0, metavar="K",
        help="warm up on the first samples of test trajectory K, whose truth is then written too",
    )  # fmt: skip
    start.add_argument(
        "--from", dest="file", metavar="FILE",
        help="warm up on all rows of a CSV file with the channels of the task as columns, samples at the task's time step",
    )  # fmt: skip
    p.add_argument("--out", metavar="FILE", default="simulation.csv", help="where the samples go; the figure goes beside it")
    p.add_argument("--no-figure", action="store_true", help="draw nothing")
    add_device_options(p, backend=False)
    p.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    if Path(args.out).suffix == ".png":
        raise UserError(f"--out {args.out}: name the CSV file; the figure gets the same name with .png")
    if not args.no_figure:
        check_figures()
    import numpy as np
    import torch

    from openxlstm.cli.generate import load_of_task
    from openxlstm.files import write_atomic
    from openxlstm.inference.free_run import free_run
    from openxlstm.tasks.free_run import valid_steps

    task = task_of(args.run)
    model, device = load_of_task(args)
    truth = None
    if args.file:
        prefix = task.scale.normal(read_channels(Path(args.file), task.channels))
    else:
        if args.trajectory >= task.test_trajectories:
            raise UserError(f"--trajectory {args.trajectory}: there are {task.test_trajectories}, counted from 0")
        samples = task.warmup + args.steps
        prefix = task.measured("test", samples)[args.trajectory, : task.warmup]
        truth = task.truth("test", samples)[args.trajectory, task.warmup :]
    model.eval()
    say(f"{model.num_parameters():,} parameters, {len(prefix)} samples of warm-up, on {device}")
    scale = torch.tensor(task.scale.step, device=device)
    found = free_run(model, torch.tensor(prefix, device=device)[None], args.steps, scale)[0].cpu().numpy()

    lyapunov_steps = task.lyapunov_time / task.dt
    summary: dict[str, Any] = {"run": str(args.run), "task": task.name, "steps": args.steps, "out": str(args.out)}
    summary["lyapunov_times"] = args.steps / lyapunov_steps
    if truth is not None:
        valid = int(valid_steps(found[None], truth[None], task.threshold)[0])
        summary |= {"trajectory": args.trajectory, "valid_steps": valid, "valid_lyapunov_times": valid / lyapunov_steps}
    if not np.isfinite(found).all():
        say("note: the model left all bounds")
    physical = task.scale.physical(found)
    write_atomic(args.out, table(physical, None if truth is None else task.scale.physical(truth), task, lyapunov_steps))
    if not args.no_figure:
        summary["figure"] = str(Path(args.out).with_suffix(".png"))
        draw(Path(summary["figure"]), f"{args.run}, alone", physical, truth, task, summary)
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    print(f"{args.steps} steps, {summary['lyapunov_times']:.1f} Lyapunov times: {args.out}")
    if truth is not None:
        print(f"valid for {summary['valid_steps']} steps, {summary['valid_lyapunov_times']:.2f} Lyapunov times")
    if "figure" in summary:
        print(f"figure: {summary['figure']}")
    return 0


def task_of(folder: str) -> Any:
    """The DynamicsTask that a run is about; UserError for any other run."""
    from openxlstm.tasks import TASKS, DynamicsTask, Task
    from openxlstm.training.run import load_config

    data = load_config(Path(folder)).data
    if not isinstance(data, DynamicsTask):
        about = f"task {data.name!r}" if isinstance(data, Task) else "text"
        known = ", ".join(name for name, kind in TASKS.items() if issubclass(kind, DynamicsTask))
        raise UserError(f"{folder} is a run on {about}; simulate takes runs on a chaotic system: {known}")
    return data


def read_channels(path: Path, channels: Sequence[str]) -> Any:
    """The columns `channels` of a CSV file with a header, float64 [rows, F]; UserError for what is missing or no number."""
    import numpy as np

    with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark before what they save
        reader = csv.reader(file)
        try:
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: no CSV after line {reader.line_num}: {error}") from None
    header = [name.strip() for name in rows[0][1]] if rows else []
    for name in channels:
        if name not in header:
            raise UserError(f"{path} has no column {name!r}; the task's channels are {', '.join(channels)}")
    if len(rows) < 2:
        raise UserError(f"{path} has no row below its header; the model needs at least one sample")
    found = np.empty((len(rows) - 1, len(channels)))
    for sample, (line, row) in enumerate(rows[1:]):
        for place, name in enumerate(channels):
            try:
                found[sample, place] = float(row[header.index(name)])
            except (ValueError, IndexError):
                raise UserError(f"{path}, line {line}: column {name!r} is not a number") from None
            if not np.isfinite(found[sample, place]):
                raise UserError(f"{path}, line {line}: column {name!r} is {row[header.index(name)]}; the model needs numbers")
    return found


def table(found: Any, truth: Any, task: Any, lyapunov_steps: float) -> str:
    """CSV text of samples [T, F]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = [] if truth is None else [f"{name}_system" for name in task.channels]
    writer.writerow(["step", "time", "lyapunov_time", *task.channels, *known])
    for place, row in enumerate(found):
        step = place + 1
        values = [*row.tolist(), *([] if truth is None else truth[place].tolist())]
        writer.writerow([step, f"{step * task.dt:.10g}", f"{step / lyapunov_steps:.6g}", *(f"{v:.9g}" for v in values)])
    return text.getvalue()


def draw(path: Path, title: str, physical: Any, truth: Any, task: Any, summary: dict[str, Any]) -> None:
    """The first channel over time and the attractor, in the units of the system."""
    from openxlstm.training.jobs.dynamics_figure import draw_attractor, draw_series
    from openxlstm.training.record import canvas

    known = None if truth is None else task.scale.physical(truth)
    with canvas(path, title, (11.0, 4.2)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        steps = task.lyapunov_time / task.dt
        draw_series(left, physical, known, steps, task.channels[0], summary.get("valid_lyapunov_times"))
        draw_attractor(right, physical[None], None if known is None else known[None], task)
