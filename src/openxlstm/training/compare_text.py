"""Rows, table and picture of a comparison on text: losses, also in longer windows and by how rare a token is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from openxlstm.training.compare_table import lines_of, with_spread

CURVE, CURVE_LABEL = "val_loss", "validation loss, nats per token"
"""The column of metrics.csv that is drawn over steps."""
FINAL = "finished model, whole text"


def row(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of one model, means over its seeds. by_context: window length -> nats a token, that of training first.
    by_frequency: nats a token by tenths of the text, that of the rarest tokens first."""
    validations = [r["validation"] for r in reports]
    losses, bits, words = ([v[key] for v in validations] for key in ("nats_per_token", "bits_per_byte", "word_perplexity"))
    windows = zip(*([r["validation"], *r["other_contexts"]] for r in reports))
    tenths = zip(*(v["by_frequency"] or () for v in validations))
    return {
        "num_parameters": reports[0]["num_parameters"],
        "nats_per_token": statistics.mean(losses),
        "spread": statistics.stdev(losses) if len(losses) > 1 else None,
        "perplexity": math.exp(min(statistics.mean(losses), 700)),
        "bits_per_byte": statistics.mean(bits) if None not in bits else None,
        "word_perplexity": None if None in words else math.exp(statistics.mean(map(math.log, words))),
        "by_context": {str(c[0]["context"]): statistics.mean(part["nats_per_token"] for part in c) for c in windows},
        "by_frequency": [statistics.mean(part[2] for part in column) for column in tenths],
        "tokens_per_second": statistics.mean(r["tokens_per_second"] for r in reports),
    }


def final(report: Mapping[str, Any]) -> float:
    """The loss of a finished run."""
    return float(report["validation"]["nats_per_token"])


def table(rows: Sequence[Mapping[str, Any]], *, sweep: bool) -> str:
    """Markdown. Perplexities are exp of the mean loss; the spread is the standard deviation over seeds; longer windows have
    columns of their own. sweep: show each model's learning rate."""
    words = any(row.get("word_perplexity") for row in rows)
    contexts = next((list(row["by_context"]) for row in rows if "by_context" in row), [""])
    losses = [f"nats/token at {contexts[0]}", *(f"nats at {context}" for context in contexts[1:])]
    head = ["model", "parameters", "seeds", *(losses if len(losses) > 1 else ["nats/token"])]
    head += ["bits per byte", "perplexity", *["word perplexity"] * words, *["lr"] * sweep]

    def values(row: Mapping[str, Any]) -> list[str]:
        found = [with_spread(row["nats_per_token"], row["spread"])]
        found += [f"{row['by_context'][context]:.4f}" for context in contexts[1:]]
        found += ["" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}", f"{row['perplexity']:.2f}"]
        if words:
            found.append("" if row["word_perplexity"] is None else f"{row['word_perplexity']:.1f}")
        return [*found, *[f"{row['lr']:g}"] * sweep]

    return "\n".join(lines_of(head, rows, values))


def draw(axes: Any, models: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Losses in windows of several lengths where there are some, else who gains on which tokens. models: name -> the reports of
    its seeds, one at least for each."""
    rows = {model: row(reports) for model, reports in models.items()}
    contexts = [list(found["by_context"]) for found in rows.values()]
    if contexts and len(contexts[0]) > 1:
        draw_contexts(axes, {model: found["by_context"] for model, found in rows.items()})
    else:
        draw_tenths(axes, {model: found["by_frequency"] for model, found in rows.items()})
    axes.grid(alpha=0.25)


def draw_contexts(axes: Any, models: Mapping[str, Mapping[str, float]]) -> None:
    """Nats a token over the length of the windows."""
    lengths = [int(context) for context in next(iter(models.values()))]
    for place, losses in enumerate(models.values()):
        axes.plot(lengths, list(losses.values()), color=f"C{place}", marker="o", markersize=4)
    axes.axvline(lengths[0], color="0.6", linestyle="--", linewidth=1.0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xlabel("tokens in a window (dashed: as in training)")
    axes.set_ylabel("nats per token, whole text")


def draw_tenths(axes: Any, models: Mapping[str, Sequence[float]]) -> None:
    """Nats a token below the mean of the models, by tenths of the text."""
    means = [statistics.mean(column) for column in zip(*models.values())]
    for place, losses in enumerate(models.values()):
        gains = [mean - loss for mean, loss in zip(means, losses)]
        axes.plot(range(1, len(gains) + 1), gains, color=f"C{place}", marker="o", markersize=4)
    axes.set_xticks(range(1, len(means) + 1))
    axes.set_xlabel("tenths of the text, the rarest tokens first")
    axes.set_ylabel("nats per token below the mean of the models")
