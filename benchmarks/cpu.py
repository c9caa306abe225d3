"""All CPU measurements of this project, in one table and one figure beside what they are meant to reach.

    pip install -c constraints.txt -e '.[bench,train,hf]'
    python benchmarks/cpu.py --text input.txt --out benchmarks/results/cpu_<hardware>_<date>

Runs cells.py, decode.py and training.py one after the other, each in a process of its own, about half an hour together; each
leaves its JSON in the folder, with all sides, medians, versions and the load of others. What is there already is not measured
again. `--text` is any text of a megabyte: the perplexity of rounded weights is measured with it.
"""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bar:
    """A measured number and what it is meant to be at least (or, where `at_most`, at most)."""

    what: str
    measured: float
    target: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.target if self.at_most else self.measured >= self.target


def parts(text: Path | None, rounds: int | None) -> dict[str, list[str]]:
    """The name of each record and the command that makes it."""
    few = ["--rounds", str(rounds)] if rounds else []
    return {
        "cells": ["cells.py", *few],
        "decode": ["decode.py", *few, *(["--text", str(text)] if text else [])],
        "training": ["training.py", "--settings", *few],
        "training-tuned": ["training.py", "--cpu-tuning", *few],
    }


def named(results: list[dict[str, Any]], *words: str) -> dict[str, Any]:
    """The first result whose title has all `words`."""
    return next(r for r in results if all(word in r["what"] for word in words))


def cell_bars(results: list[dict[str, Any]]) -> list[Bar]:
    """The recurrences alone."""
    ours = "openxlstm cpu"
    cases = [
        ("sLSTM against xlstm vanilla", ("sLSTM cell",), 50, 60),
        *((f"sLSTM against nn.LSTM, D={D}", ("nn.LSTM", f"D={D}"), 4, 3.5) for D in (256, 512, 1024)),
        *((f"mLSTM against native_custbw, T={T}", ("mLSTM, B", f"T={T}"), 4.5, 4) for T in (1024, 4096)),
    ]
    bars = [
        Bar(f"{title}, {part}", named(results, *words)[part]["times_faster"][ours], target)
        for title, words, *targets in cases
        for part, target in zip(("forward", "forward+backward"), targets, strict=True)
    ]
    for T, target in ((1024, 10), (4096, 25)):
        found = named(results, "causal attention", f"T={T}")
        bars.append(Bar(f"mLSTM against causal SDPA, T={T}, forward", found["forward"]["times_faster"][ours], target))
    bars.append(Bar("mLSTM forward, share of oneDNN's float32 peak", named(results, "share of oneDNN")["share"], 0.65))
    for kind, found in named(results, "instruction sets")["found"].items():
        if "avx2" in found["times_faster"]:
            bars.append(Bar(f"{kind}, AVX2 build against AVX-512", found["times_faster"]["avx2"], 0.4))
    return bars


def decode_bars(results: list[dict[str, Any]]) -> list[Bar]:
    """A token at a time."""
    bars = [
        Bar(
            f"decode {name}, share of copy bandwidth",
            named(results, name)["native"]["fp32"]["share_of_bound"]["median"]["copy"],
            0.8,
        )
        for name in ("7M large", "85M large")
    ]
    bars.append(Bar("decode 85M, int8 against fp32", named(results, "85M large")["int8_times_faster_than_fp32"]["median"], 2.5))
    far = named(results, "position")
    bars.append(Bar("decode time at 64k over that at 64", far["time_ratio"]["median of rounds"], 1.03, at_most=True))
    for found in (r for r in results if "perplexity_over_fp32" in r):
        bars.append(
            Bar(f"int8 perplexity over fp32, {found['what'].split(',')[0]}", found["perplexity_over_fp32"]["int8"], 1.01, True)
        )
    return bars


def training_bars(results: list[dict[str, Any]], how: str) -> list[Bar]:
    """Whole steps; the transformer is the twin of equal depth."""
    bars = []
    for found in (r for r in results if "times_faster" in r):
        pattern, T, precision = (
            found["what"].split(",")[0],
            found["what"].split("T=")[1].split(",")[0],
            found["what"].split(", ")[-1],
        )
        for other, ratio in found["times_faster"].items():
            if other == "xlstm package":
                bars.append(Bar(f"step {pattern} against package, T={T} {precision}{how}", 1 / ratio, 4))
            elif other.split(", ")[1] in found["what"]:
                bars.append(
                    Bar(f"step {pattern} against transformer, T={T} {precision}{how}", 1 / ratio, 1.2 if T == "256" else 3)
                )
    return bars


def bars_of(records: dict[str, list[dict[str, Any]]]) -> list[Bar]:
    return [
        *cell_bars(records["cells"]),
        *decode_bars(records["decode"]),
        *training_bars(records["training"], ""),
        *training_bars(records["training-tuned"], ", tuned"),
    ]


def shown(x: float) -> str:
    return f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def as_table(bars: list[Bar]) -> str:
    lines = ["| measured | value | bar | |", "|---|---:|---:|---|"]
    for bar in bars:
        sign = "≤" if bar.at_most else "≥"
        lines.append(f"| {bar.what} | {shown(bar.measured)} | {sign} {bar.target:g} | {'met' if bar.met else 'missed'} |")
    return "\n".join(lines)


def draw(bars: list[Bar], path: Path) -> None:
    """Each number over its target, on a logarithmic axis: right of 1 is met."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.26 * len(bars) + 1), layout="constrained")
    axes = figure.subplots()
    reached = [bar.target / bar.measured if bar.at_most else bar.measured / bar.target for bar in bars]
    at = range(len(bars), 0, -1)
    axes.barh(at, [math.log2(x) for x in reached], color=["#2a7f62" if bar.met else "#c0562f" for bar in bars], height=0.7)
    axes.set_yticks(at, [f"{bar.what}: {shown(bar.measured)}" for bar in bars], fontsize=7)
    axes.set_ylim(0.3, len(bars) + 0.7)
    axes.axvline(0, color="black", linewidth=0.8)
    ticks = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 3) if min(reached) * 0.9 <= t <= max(reached) * 1.1]
    axes.set_xticks([math.log2(t) for t in ticks], [f"{t:g}" for t in ticks])
    axes.set_xlabel("measured / bar")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the records, bars.md and bars.png")
    parser.add_argument("--text", type=Path, help="a text file, for the cost of rounding weights")
    parser.add_argument("--rounds", type=int, help="timed rounds of every case (default: what each part chooses)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    records = {}
    for name, (script, *options) in parts(args.text, args.rounds).items():
        path = args.out / f"{name}.json"
        if not path.exists():
            print(f"== {name}", flush=True)
            subprocess.run([sys.executable, str(HERE / script), *options, "--out", str(path)], check=True)
        records[name] = json.loads(path.read_text())["results"]
    bars = bars_of(records)
    (args.out / "bars.md").write_text(as_table(bars) + "\n")
    draw(bars, args.out / "bars.png")
    print(f"\n{as_table(bars)}\n\n{sum(bar.met for bar in bars)} of {len(bars)} bars met; figure: {args.out / 'bars.png'}")


if __name__ == "__main__":
    main()
