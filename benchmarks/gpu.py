"""All GPU measurements of this project in one command of eight minutes, in tables beside what they are meant to reach.

    pip install -e '.[triton]' mlstm_kernels==2.0.6 fla-core==0.6.0 flashrnn==1.0.8 einops ninja
    python benchmarks/gpu.py --out benchmarks/results/gpu_<hardware>_<date>

Each side runs in a process of its own with a time limit: a kernel that aborts or hangs takes nothing with it but its own rows.
No time is taken of a kernel whose result is away from float64. Times are medians of single calls between CUDA events, with two
sets of inputs in turn; backward passes start at a random cotangent. A competitor that is not installed is a line that says so.
The folder gets gpu.json (all rows, hardware, versions, commit, command), table.md and bars.md.

--rehearse goes through the whole program without a GPU: tiny shapes, Triton's interpreter, wall-clock times. It shows that the
program runs; its numbers mean nothing and are not kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cpu import Bar, shown
from gpu_sides import SIDES, Bench, rows
from measure import environment

from openxlstm.ops import gpu

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
Wish = tuple[str, float | None, float, bool]
"""What is meant to be reached: its name, the number or None where it was not measured, the target, whether it is a maximum."""


def run_side(name: str, path: Path, options: list[str], seconds: float) -> None:
    """One side in a process of its own. Whatever ends it early is written down as the reason."""
    command = [sys.executable, str(Path(__file__)), "--side", name, "--rows", str(path), *options]
    try:
        done = subprocess.run(command, env=os.environ | variables(options), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return note(path, name, f"stopped after {seconds:.0f} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        note(path, name, f"{how}: {lines[-1][:200] if lines else 'no message'}")
    return None


def variables(options: list[str]) -> dict[str, str]:
    """A rehearsal runs Triton's kernels in its interpreter, and nothing through its compiler."""
    if "--rehearse" not in options:
        return {}
    return {"TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def note(path: Path, side: str, reason: str) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"side": side, "case": "-", "reason": reason}) + "\n")


def measure(names: list[str], path: Path, options: list[str], seconds: float) -> list[Row]:
    """All sides one after the other, as long as there is time."""
    end = time.monotonic() + seconds
    for name in names:
        side, left = SIDES[name], end - time.monotonic()
        absent = side.missing()
        if absent:
            note(path, name, f"not measured: {absent}")
        elif left < 15:
            note(path, name, "not measured: the time was up")
        else:
            start = time.monotonic()
            run_side(name, path, options, min(left, side.seconds * (3 if "--rehearse" in options else 1)))
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return list(rows(path))


def find(found: list[Row], side: str, case: str, part: str) -> float | None:
    """Milliseconds of the quickest row whose side and case begin like this."""
    times = [
        row["milliseconds"]
        for row in found
        if row["side"].startswith(side)
        and row["case"].startswith(case)
        and row.get("part") == part
        and not row["case"].endswith(("again", "[B, T, H, D]"))
    ]
    return min(times, default=None)


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def value(found: list[Row], name: str, **of: Any) -> float | None:
    """A field of the first row that has these others."""
    return next((row[name] for row in found if all(row.get(k) == v for k, v in of.items()) and row.get(name) is not None), None)


def wishes(found: list[Row]) -> list[Wish]:
    """The bars: bfloat16, 65,536 tokens a call, an H200."""
    both = "forward+backward"
    listed: list[Wish] = []
    for heads, forward, total in (("8 heads 256/512", 2.0, 7.5), ("16 heads 128/256", 1.6, 6.0)):
        case = f"{heads}, B=8 T=8192"
        ours = find(found, "openxlstm mLSTM", case, both)
        listed += [
            (f"mLSTM {heads}, T=8192, forward, ms", find(found, "openxlstm mLSTM", case, "forward"), forward, True),
            (f"mLSTM {heads}, T=8192, {both}, ms", ours, total, True),
            (
                f"mLSTM {heads}, {both}, against the best mlstm_kernels",
                ratio(find(found, "mlstm_kernels", case, both), ours),
                2.5,
                False,
            ),
        ]
    for B, T, target in ((8, 8192, 3.0), (2, 32768, 10.0)):
        ours = find(found, "openxlstm mLSTM", f"8 heads 256/512, B={B} T={T}", both)
        best = find(found, "SDPA", f"32 heads 128, B={B} T={T}", both)
        listed.append((f"mLSTM against the best SDPA, T={T}, {both}", ratio(best, ours), target, False))
    for part in ("forward", both):
        lstm = find(found, "cuDNN LSTM", "nn.LSTM 768", part)
        for heads in ("12 heads 64", "6 heads 128"):
            ours = find(found, "openxlstm sLSTM", heads, part)
            listed += [
                (
                    f"sLSTM {heads}, {part}, against FlashRNN's Triton",
                    ratio(find(found, "FlashRNN", heads, part), ours),
                    1.0,
                    False,
                ),
                (f"sLSTM {heads}, {part}, time over nn.LSTM's", ratio(ours, lstm), 1.2, True),
            ]
    for op in ("mLSTM", "sLSTM"):
        worst = [row["worst"] for row in found if row["side"] == f"openxlstm {op}" and row.get("part") == "errors"]
        listed.append((f"{op}, error over that of plain torch in bfloat16", max(worst, default=None), 2.0, True))
    steps = [value(found, "milliseconds", side=f"training {cell}") for cell in ("mlstm_kernels", "openxlstm")]
    listed.append(("training 164M against the model with mlstm_kernels", ratio(*steps), 1.5, False))
    near, far = (value(found, "milliseconds", case=f"decode 7B at {position}") for position in (0, 65536))
    listed += [
        ("decode 7B at 0, share of the copy rate", value(found, "share_of_copy", case="decode 7B at 0"), 0.85, False),
        ("decode 7B at 64k, share of the copy rate", value(found, "share_of_copy", case="decode 7B at 65536"), 0.85, False),
        ("decode 7B, time at 64k over that at 0", ratio(far, near), 1.02, True),
    ]
    return listed


def bars_table(listed: list[Wish], rehearsed: bool = False) -> str:
    """Each bar as met, missed or not measured; a rehearsal decides none."""
    lines = ["| measured | value | bar | |", "|---|---:|---:|---|"]
    for what, measured, target, at_most in listed:
        sign = "≤" if at_most else "≥"
        if measured is None:
            lines.append(f"| {what} | - | {sign} {target:g} | not measured |")
        else:
            bar = Bar(what, measured, target, at_most)
            verdict = "rehearsed" if rehearsed else "met" if bar.met else "missed"
            lines.append(f"| {what} | {shown(measured)} | {sign} {target:g} | {verdict} |")
    return "\n".join(lines)


def rows_table(found: list[Row]) -> str:
    """One line a row; the last column has what belongs to that kind of row alone."""
    lines = ["| side | case | pass | ms | over its floor | peak MiB | |", "|---|---|---|---:|---:|---:|---|"]
    for row in found:
        ms, over, peak = (number(row.get(name)) for name in ("milliseconds", "over_floor", "peak_mib"))
        lines.append(f"| {row['side']} | {row['case']} | {row.get('part', '')} | {ms} | {over} | {peak} | {remark(row)} |")
    return "\n".join(lines)


def number(x: float | None) -> str:
    return "" if x is None else f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def remark(row: Row) -> str:
    if "reason" in row:
        return row["reason"].replace("|", "/")
    if "errors" in row:
        return ", ".join(f"{name} {e['ours']:.1e} (plain {e['plain']:.1e})" for name, e in row["errors"].items())
    named = {
        "gbs": "GB/s",
        "tflops": "TFLOP/s",
        "tokens_per_second": "tokens/s",
        "mfu": "of the peak (MFU)",
        "share_of_copy": "of the copy rate",
        "projection_ms": "ms of it W x alone",
    }
    return ", ".join(f"{number(row[name])} {unit}" for name, unit in named.items() if row.get(name) is not None)


def hardware() -> dict[str, Any]:
    """The GPU and its driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        answer = ""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "nvidia_smi": answer,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def installed() -> tuple[str, ...]:
    """Packages whose versions belong into the record."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("triton", "mlstm_kernels", "fla-core", "flashrnn"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def store(folder: Path, found: list[Row]) -> None:
    """The record of a run."""
    where = environment(installed()) | hardware()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"environment": where, "results": found}, indent=2) + "\n")
    (folder / "table.md").write_text(rows_table(found) + "\n")
    (folder / "bars.md").write_text(bars_table(wishes(found)) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for gpu.json, table.md and bars.md")
    parser.add_argument("--only", nargs="+", metavar="SIDE", choices=SIDES, default=list(SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of every case (default 20)")
    parser.add_argument("--seconds", type=float, default=480, help="for everything (default 480)")
    parser.add_argument("--rehearse", action="store_true", help="tiny, interpreted, on the CPU; keeps nothing")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.side:
        return SIDES[args.side].run(Bench(args.side, args.rows, rehearse=args.rehearse, rounds=args.rounds))
    if args.rehearse and args.out:
        refuse("a rehearsal is not a measurement: nothing is kept of it, leave out --out")
    if not args.rehearse and not torch.cuda.is_available():
        refuse("there is no CUDA device to measure; --rehearse goes through the program without one")
    reason = None if args.rehearse and gpu.installed() else gpu.missing()
    if reason:
        refuse(reason)
    options = ["--rounds", str(args.rounds), *(["--rehearse"] if args.rehearse else [])]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.only, Path(folder) / "rows.jsonl", options, args.seconds)
    if args.rehearse:
        print("A REHEARSAL: the numbers below mean nothing\n")
    elif args.out:
        store(args.out, found)
    print(f"{rows_table(found)}\n\n{bars_table(wishes(found), args.rehearse)}")
    return None


def refuse(reason: str) -> None:
    print(f"gpu.py: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
