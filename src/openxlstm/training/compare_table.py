"""What the tables of comparisons on text and on tasks have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def lines_of(head: Sequence[str], rows: Sequence[Row], values: Callable[[Row], Sequence[str]]) -> list[str]:
    """Lines of Markdown: model, parameters, seeds, `values` of its row, tokens/s where all were trained on one machine; of a
    model without a finished run how many failed. head: the names of these columns but the last."""
    timed = comparable(rows)
    head = [*head, *["tokens/s"] * timed]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        if "num_parameters" not in row:
            lines.append(f"| {row['model']} | | 0 of {row['failed']} |" + " |" * (len(head) - 3))
            continue
        seeds = str(row["seeds"]) + (f" of {row['seeds'] + row['failed']}" if row["failed"] else "")
        first = [row["model"], f"{row['num_parameters']:,}", seeds]
        lines.append("| " + " | ".join([*first, *values(row), *[f"{row['tokens_per_second']:,.0f}"] * timed]) + " |")
    return lines


def comparable(rows: Sequence[Row]) -> bool:
    """Whether speeds can stand beside each other: those of one machine."""
    return len({machine for row in rows for machine in row["machines"]}) <= 1


def with_spread(mean: float, spread: float | None) -> str:
    """A mean and the standard deviation over seeds, where there are several."""
    return f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
