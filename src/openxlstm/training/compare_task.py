"""Rows, table and picture of a comparison on a task: scores next to what guessing scores and what was published."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from openxlstm.training.compare_table import comparable, lines_of, with_spread
from openxlstm.training.record import draw_scores, in_lines

CURVE, CURVE_LABEL = "val_score", "validation score"
"""The column of metrics.csv that is drawn over steps."""
FINAL = "finished model, test"

PUBLISHED = {
    "slstm": ("xLSTM[0:1]", "sLSTM"),
    "xlstm[0:1]": ("xLSTM[0:1]", "sLSTM"),
    "mlstm": ("xLSTM[1:0]", "mLSTM"),
    "xlstm[1:0]": ("xLSTM[1:0]", "mLSTM"),
    "xlstm[1:1]": ("xLSTM[1:1]",),
    "lstm": ("LSTM (Block)", "LSTM"),
    "transformer": ("Llama", "Transformer"),
    "attention": ("Llama", "Transformer"),
}
"""A pattern -> the names that the same kind of model has in papers; the first that has a number is shown."""


def row(model: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of one model, over its seeds."""
    tests = [r["test"] for r in reports]
    scores = [test["score"] for test in tests]
    mean = statistics.mean(scores)
    lengths = [
        {"lengths": column[0]["lengths"], "score": statistics.mean(other["score"] for other in column)}
        for column in zip(*(r["other_lengths"] for r in reports))
    ]
    parts = [
        {"lengths": column[0]["lengths"], "score": statistics.mean(part["score"] for part in column)}
        for column in zip(*(test["by_length"] for test in tests))
    ]
    known = {anchor["model"]: anchor for anchor in reversed(reports[0]["anchors"])}
    return {
        "num_parameters": reports[0]["num_parameters"],
        "metric": tests[0]["metric"],
        "lengths": tests[0]["lengths"],
        "score": mean,
        "scores": scores,
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "guess": tests[0]["guess"],
        "baselines": {name: found["score"] for name, found in reports[0].get("baselines", {}).items()},
        "by_length": parts,
        "other_lengths": lengths,
        "further": further(reports),
        "published": next((known[name] for name in PUBLISHED.get(model.lower(), ()) if name in known), None),
        "validation_score": statistics.mean(r["validation"]["score"] for r in reports),
        "objective": -mean if tests[0]["higher_is_better"] else mean,
        "tokens_per_second": statistics.mean(r["tokens_per_second"] for r in reports),
    }


def further(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of what is reported beside the score: other scores of the same texts, and the score of greedy ones."""
    metric = reports[0]["test"]["metric"]
    names = [name for name in reports[0]["test"].get("scores", {}) if name != metric]
    found = {name: statistics.mean(r["test"]["scores"][name] for r in reports) for name in names}
    if "greedy" in reports[0]:
        found[f"greedy {metric}"] = statistics.mean(r["greedy"]["score"] for r in reports)
    return found


def final(report: Mapping[str, Any]) -> float:
    """The score of a finished run."""
    return float(report["test"]["score"])


def table(rows: Sequence[Mapping[str, Any]], *, sweep: bool) -> str:
    """Markdown. The score is of the test samples, its spread the standard deviation over seeds; further lengths have columns of
    their own. `~` is before a published number that was not read in its source. sweep: show each model's learning rate."""
    done = [row for row in rows if "score" in row]
    if not done:
        return "\n".join(["| model | seeds |", "|---|---:|", *(f"| {r['model']} | 0 of {r['failed']} |" for r in rows)])
    first = done[0]
    others = [f"at {other['lengths']}" for other in first["other_lengths"]]
    head = ["model", "parameters", "seeds", *["lr"] * sweep, f"{first['metric']} at {first['lengths']}", *others]
    head += [*first["further"], "published"]

    def values(row: Mapping[str, Any]) -> list[str]:
        anchor = row["published"]
        found = [f"{row['lr']:g}"] * sweep
        found += [with_spread(row["score"], row["spread"]), *(f"{other['score']:.4f}" for other in row["other_lengths"])]
        found += [f"{value:.4f}" for value in row["further"].values()]
        return [*found, "" if anchor is None else f"{'' if anchor['checked'] else '~'}{anchor['score']:g}"]

    lines = lines_of(head, rows, values)
    behind = " |" * (len(others) + len(first["further"]) + 1 + comparable(rows))
    for name, score in first["baselines"].items():
        lines.append(f"| {name} |" + " |" * (2 + sweep) + f" {score:.4f} |" + behind)
    if first["guess"] not in first["baselines"].values():
        lines.append("| guessing |" + " |" * (2 + sweep) + f" {first['guess']:.4f} |" + behind)
    return "\n".join(lines)


def draw(axes: Any, models: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Test scores over the length, or seed by seed where there is one length. models: name -> the reports of its seeds, one at
    least for one of them."""
    if not models:
        return
    scores = {
        model: [
            [*report["test"]["by_length"], *(part for other in report["other_lengths"] for part in other["by_length"])]
            for report in reports
        ]
        for model, reports in models.items()
    }
    first = next(iter(models.values()))[0]
    if len(next(iter(scores.values()))[0]) > 1:
        draw_scores(axes, scores, first["train_length"], first["test"]["higher_is_better"])
        axes.set_xlabel(first.get("unit", "length"))
        axes.legend(framealpha=0.8, edgecolor="none")
    else:
        draw_seeds(axes, {model: [final(report) for report in reports] for model, reports in models.items()})
        axes.axhline(first["test"]["guess"], color="0.4", linestyle="--", linewidth=1.0)
        axes.set_xlabel("dots: seeds, lines: their means, dashed: guessing")
    axes.set_ylabel(f"{first['test']['metric']}, test")
    axes.grid(alpha=0.25)


def draw_seeds(axes: Any, models: Mapping[str, Sequence[float]]) -> None:
    """A column of dots for each model."""
    for place, scores in enumerate(models.values()):
        axes.plot([place] * len(scores), scores, "o", color=f"C{place}", alpha=0.6)
        axes.hlines(statistics.mean(scores), place - 0.25, place + 0.25, color=f"C{place}", linewidth=2.0)
    axes.set_xticks(range(len(models)), list(map(in_lines, models)))
    axes.set_xlim(-0.6, len(models) - 0.4)
