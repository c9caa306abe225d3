"""What each application should reach, and whether it does, from the files that the benchmarks leave."""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import spell

Scores = dict[str, list[float]]
"""Model or baseline -> its test score with each seed."""


@dataclass(frozen=True)
class Bar:
    """What one model should reach.

    part: of the applications, whose folder `read` gets. what: task and metric. model: the one that is measured.
    bar: the score that it must have at least, or at most where `at_most`; None is none. rivals: models and baselines that it
    must be better than.
    """

    part: str
    what: str
    model: str
    read: Callable[[Path], Scores]
    bar: float | None = None
    at_most: bool = False
    rivals: tuple[str, ...] = ()

    def missed(self, found: Scores) -> list[str]:
        """What is not reached: "bar", or the names of rivals. Those that were not measured are not among them."""
        sign = 1 if self.at_most else -1
        mine = sign * statistics.mean(found[self.model])
        behind = [name for name in self.rivals if name in found and not mine < sign * statistics.mean(found[name])]
        return (["bar"] if self.bar is not None and not mine <= sign * self.bar else []) + behind

    def verdict(self, found: Scores) -> str:
        """Whether it is reached, in words."""
        if missed := self.missed(found):
            return "no: " + ", ".join(name if name == "bar" else f"not better than {name}" for name in missed)
        unmeasured = [name for name in self.rivals if name not in found]
        return f"not known: {', '.join(unmeasured)} not measured" if unmeasured else "yes"


def kept(prefix: str, *keys: str, models: str = ".+?") -> Callable[[Path], Scores]:
    """Scores in files PREFIX-MODEL-SEED.json, and PREFIX-MODEL-SEED-DIGEST.json, under nested keys; of baselines too. models:
    the pattern of their names."""
    name = re.compile(rf"{re.escape(prefix)}-({models})-(\d+)(?:-[0-9a-f]{{8,}})?")

    def read(folder: Path) -> Scores:
        found: Scores = defaultdict(list)
        for path in sorted(folder.glob(f"{prefix}-*.json")):
            if known := name.fullmatch(path.stem):
                stored = json.loads(path.read_text())
                value: Any = stored
                for key in keys:
                    value = value[key]
                found[known[1]].append(float(value))
                for baseline, one in stored.get("baselines", {}).items():
                    found[baseline] = [one["score"]]
        return dict(found)

    return read


def comparison(folder: Path) -> dict[str, Any]:
    """What the compare.json of a folder holds; no rows and no cells where there is none."""
    path = folder / "compare.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": [], "cells": []}


def compared(place: str = "") -> Callable[[Path], Scores]:
    """Scores in the compare.json of a folder below the part's."""

    def read(folder: Path) -> Scores:
        rows = comparison(folder / place)["rows"]
        found = {row["model"]: row["scores"] for row in rows if row.get("scores")}
        baselines = {name: [score] for row in rows[:1] for name, score in row.get("baselines", {}).items()}
        return found | baselines

    return read


def at_length(length: str) -> Callable[[Path], Scores]:
    """The scores of the models at one length, or level, in the part's compare.json."""

    def read(folder: Path) -> Scores:
        found: Scores = defaultdict(list)
        for cell in comparison(folder)["cells"]:
            if report := cell["report"]:  # a training that failed has none
                found[cell["model"]] += [part["score"] for part in report["test"]["by_length"] if part["lengths"] == length]
        return dict(found)

    return read


def covered(prefix: str, model: str, share: float = 0.8) -> Callable[[Path], Scores]:
    """By how many points an interval that should cover a share of the truths covers more or less, in files as of `kept`; of one
    model, since not all have intervals."""
    read = kept(prefix, "test", "coverage", models=re.escape(model))
    return lambda folder: {model: [100 * abs(value - share) for value in values] for model, values in read(folder).items()}


def stored(prefix: str, value: Callable[[dict[str, Any]], float]) -> Callable[[Path], Scores]:
    """What `value` makes of each PREFIX-MODEL.json."""

    def read(folder: Path) -> Scores:
        paths = sorted(folder.glob(f"{prefix}-*.json"))
        return {path.stem.removeprefix(f"{prefix}-"): [float(value(json.loads(path.read_text())))] for path in paths}

    return read


ACCURACY = {"sst2": 0.82, "rotten_tomatoes": 0.76, "imdb": 0.84}
"""Of classifiers of text."""

BARS = (
    Bar("ett", "ETTh1, 96 hours, MSE", "xlstm", kept("ETTh1-96", "test", "mse"), 0.380, True, ("lstm", "nlinear", "naive")),
    Bar("ett", "ETTh2, 96 hours, MSE", "xlstm", kept("ETTh2-96", "test", "mse"), 0.285, True, ("lstm", "nlinear", "naive")),
    Bar("ett", "ETTm1, 96 quarters, MSE", "xlstm", kept("ETTm1-96", "test", "mse"), 0.310, True, ("lstm", "nlinear", "naive")),
    Bar("weather", "Weather, 96 steps, MSE", "xlstm", kept("Weather-96", "test", "mse"), 0.160, True, ("lstm", "nlinear")),
    *(Bar(part, f"{what}, 80 % intervals, points off", model, covered(prefix, model), 3.0, True)
      for part, what, model, prefix in (
        ("ett", "ETTh1, 96 hours", "xlstm", "ETTh1-96"),
        ("ett", "ETTh2, 96 hours", "xlstm", "ETTh2-96"),
        ("ett", "ETTm1, 96 quarters", "xlstm", "ETTm1-96"),
        ("weather", "Weather, 96 steps", "xlstm", "Weather-96"),
        ("exchange", "Exchange, 96 days", "xlstm", "Exchange-96"),
        ("prices", "VIX, 5 days", "slstm", "VIX-5"),
        ("prices", "S&P 500, 5 days", "slstm", "SP500-5"),
    )),
    Bar("updates", "a new row, difference of forecasts to reading anew", "slstm",
        stored("updates", lambda found: max(row["difference"] for row in found["rows"])), 1e-5, True),
    Bar("updates", "a new row, its time after the longest history over the shortest", "slstm",
        stored("updates", lambda found: found["rows"][-1]["milliseconds"] / found["rows"][0]["milliseconds"]), 1.1, True),
    Bar("m4_hourly", "M4 hourly, OWA", "slstm", kept("M4-48", "test", "owa"), 1.0, True, ("lstm", "linear", "seasonal_naive")),
    Bar("prices", "VIX, RMSE over 5 days", "slstm", kept("VIX-5", "test", "rmse"), None, True, ("lstm", "naive")),
    Bar("prices", "S&P 500, RMSE over 5 days", "slstm", kept("SP500-5", "test", "rmse"), None, True, ("lstm", "naive")),
    Bar("sensors", "NAB, standard profile", "slstm", kept("NAB", "test", "standard"), None, False,
        ("lstm", "moving_z_score", "random", "null")),
    Bar("sensors", "C-MAPSS FD001, RMSE", "slstm", kept("FD001", "test", "rmse"), 15.0, True, ("lstm", "linear")),
    Bar("sensors", "BasicMotions, accuracy", "slstm", kept("BasicMotions", "test", "accuracy"), 0.95),
    Bar("jsb_chorales", "JSB Chorales, nats a step", "slstm", compared(), 8.45, True, ("lstm", "transformer")),
    Bar("nottingham", "Nottingham, nats a step", "slstm", compared(), 3.29, True, ("lstm", "transformer")),
    Bar("lorenz63", "Lorenz 1963, Lyapunov times", "slstm", compared(), 6.0, False, ("lstm", "linear autoregression")),
    Bar("lorenz96", "Lorenz 1996, Lyapunov times", "slstm", compared(), None, False, ("lstm", "linear autoregression")),
    Bar("mackey_glass", "Mackey-Glass, Lyapunov times", "slstm", compared(), None, False, ("lstm", "linear autoregression")),
    Bar("classification", "SST-2, accuracy", "mlstm", compared("sst2"), ACCURACY["sst2"], False, ("lstm", "transformer")),
    Bar("classification", "Rotten Tomatoes, accuracy", "mlstm", compared("rotten_tomatoes"), ACCURACY["rotten_tomatoes"], False,
        ("lstm", "transformer")),
    Bar("classification", "IMDB, a part, accuracy", "mlstm", compared("imdb"), ACCURACY["imdb"], False,
        ("lstm", "transformer")),
    Bar("multi30k", "Multi30k de-en, BLEU", "slstm", kept("multi30k", "test", "scores", "BLEU"), 24.0, False,
        ("lstm", "transformer")),
    Bar("scitldr", "SciTLDR, ROUGE-1", "slstm", kept("scitldr", "test", "scores", "ROUGE-1"), None, False,
        ("the first sentence", "lstm", "transformer")),
    Bar("speech", "spoken digits, accuracy", "slstm", compared("spoken_digits-official"), 0.98, False,
        ("lstm", "transformer")),
    Bar("speech", "digit sequences, word error rate", "slstm", compared("digit_sequences-official"), 0.05, True,
        ("lstm", "transformer")),
    Bar("speech", "an hour of live speech, the text is that of long pieces (1: yes)", "slstm",
        stored("stream", lambda found: found["same_text"]), 1.0),
    Bar("speech", "an hour of live speech, longest wait for 100 ms, ms", "slstm",
        stored("stream", lambda found: found["worst_wall_ms"]), 200.0, True),
    Bar("speech", "an hour of live speech, memory beyond that of its first minute, MB", "slstm",
        stored("stream", lambda found: found["most_mb"] - found["warm_mb"]), 10.0, True),
    Bar("program_evaluation", "program evaluation, numbers of one digit, accuracy", "slstm", at_length("1"), 0.95, False,
        ("lstm", "transformer")),
    Bar("program_evaluation", "program evaluation, numbers of two digits, accuracy", "slstm", at_length("2"), 0.95, False,
        ("lstm", "transformer")),
)  # fmt: skip


def four_digits(scores: Sequence[float]) -> str:
    """`spell` with four digits of the mean; four decimals below 1, of rounding errors the power of ten."""
    mean = abs(statistics.mean(scores))
    if 0 < mean < 5e-5:
        return f"{mean:.1e}"
    return spell(scores, 4 if mean < 1 else max(0, 4 - len(str(int(mean)))))


def table(out: Path) -> str:
    """Markdown of all bars of which something was measured below `out`; empty where nothing was."""
    lines = []
    for bar in BARS:
        found = bar.read(out / bar.part)
        if bar.model not in found:
            continue
        limit = "" if bar.bar is None else f"{'≤' if bar.at_most else '≥'} {bar.bar:g}"
        rivals = ", ".join(f"{name} {four_digits(found[name])}" for name in bar.rivals if name in found)
        scores = found[bar.model]
        cells = [bar.what, bar.model, four_digits(scores), str(len(scores)), limit, rivals, bar.verdict(found)]
        lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return ""
    head = ["task and score in test", "model", "mean ± deviation", "seeds", "bar", "to be better than", "reached"]
    return "\n".join(["| " + " | ".join(head) + " |", "|---|---|---:|---:|---:|---|---|", *lines]) + "\n"
