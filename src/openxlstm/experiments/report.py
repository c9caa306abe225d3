"""Asks the questions, one after the other, and writes the report: report.md, report.html and report.json in one folder.

What is measured is kept in a folder for each question: a report that was interrupted goes on where it was, and asking again
costs nothing.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openxlstm import __version__
from openxlstm.experiments.question import Check, Evidence, Question, Rows, Verdict
from openxlstm.experiments.questions import QUESTIONS
from openxlstm.files import atomic_path
from openxlstm.training.record import environment, write_json


@dataclass(frozen=True)
class Answer:
    """A question and what came of it. values: of the checks, None where a model of it failed."""

    question: Question
    evidence: Evidence | None
    values: tuple[float | None, ...] = ()

    @property
    def verdict(self) -> Verdict:
        if self.evidence is None:
            return "not tested at this scale"
        good = [v is not None and check.holds(v) for check, v in zip(self.question.checks, self.values, strict=True)]
        return "holds" if all(good) else "does not hold here"


@dataclass(frozen=True)
class Report:
    """The questions that are asked and all answers so far. interrupted: a signal number if it was stopped before its end."""

    folder: Path
    scale: str
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    interrupted: int | None = None

    @property
    def command(self) -> str:
        """What asks the same questions again."""
        names = [question.name for question in self.questions]
        only = f" --only {','.join(names)}" if set(names) != set(QUESTIONS) else ""
        data = [f"{question.name}={question.data}" for question in self.questions if question.data is not None]
        return f"openxlstm report --scale {self.scale}{only}" + f" --data {','.join(data)}" * bool(data)

    @property
    def open(self) -> list[str]:
        """What stands of the list of questions without an answer, in a sentence each: still to come, not asked."""
        answered = {answer.question.name for answer in self.answers}
        names = [question.name for question in self.questions]
        lists = {
            "Still to come": [name for name in names if name not in answered],
            "Not asked": [name for name in QUESTIONS if name not in names],
        }
        return [f"{what}: {', '.join(those)}." for what, those in lists.items() if those]

    @property
    def cost(self) -> str:
        """How many models were trained for it, and how long that took."""
        took: dict[str, float] = {}
        for answer in self.answers:
            took |= answer.evidence.trainings if answer.evidence else {}
        return f"{len(took)} trainings, {sum(took.values()) / 3600:.1f} hours one after the other."


def answer_all(
    questions: Sequence[Question],
    scale: str,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    jobs: int = 1,
    cells: Path | None = None,
) -> Report:
    """Answer `questions` at a scale (SCALES) and write the report after each. jobs: trainings at a time. cells: the folder of
    the trained models (default: `cells` in `folder`); two questions to one model train it once."""
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder, scale, tuple(questions), ())
    for number, question in enumerate(questions, 1):
        say(f"== question {number} of {len(questions)}: {question.name}")
        found = question.ask(scale, folder / question.name, cells or folder / "cells", say, jobs)
        if found is not None and found.interrupted is not None:
            return replace(report, interrupted=found.interrupted)
        values = () if found is None else tuple(value(check, found.rows) for check in question.checks)
        report = replace(report, answers=(*report.answers, Answer(question, found, values)))
        write(report)
    return report


def value(check: Check, rows: Rows) -> float | None:
    """The measured number, or None where a model that it needs failed."""
    try:
        return check.measure(rows)
    except (KeyError, StopIteration):
        return None


def write(report: Report) -> None:
    """report.json, report.md and report.html."""
    write_json(report.folder / "report.json", as_dict(report))
    markdown = as_markdown(report)
    for name, text in (("report.md", markdown), ("report.html", as_html(markdown, report.scale))):
        with atomic_path(report.folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


def as_dict(report: Report) -> dict[str, Any]:
    """The report for machines."""
    return {
        "scale": report.scale,
        "environment": environment(),
        "answers": [
            {
                "question": answer.question.name,
                "claim": answer.question.claim,
                "published": answer.question.published,
                "verdict": answer.verdict,
                "command": answer.evidence.command if answer.evidence else None,
                "checks": [
                    {"what": check.what, "measured": found, "bar": check.bar, "at_most": check.at_most}
                    for check, found in zip(answer.question.checks, answer.values)
                ],
                "rows": answer.evidence.rows if answer.evidence else {},
            }
            for answer in report.answers
        ],
    }


def summary(answers: Sequence[Answer]) -> str:
    """One line a question."""
    lines = ["| question | verdict | measured |", "|---|---|---|"]
    for answer in answers:
        measured = "; ".join(spell(c, v) for c, v in zip(answer.question.checks, answer.values))
        lines.append(f"| {answer.question.name} | {answer.verdict} | {measured} |")
    return "\n".join(lines)


def spell(check: Check, found: float | None) -> str:
    """A check with its number and its bar."""
    shown = "nothing, a model failed" if found is None else f"{found:.3f}"
    return f"{check.what} {shown} (bar {'≤' if check.at_most else '≥'} {check.bar:g})"


def as_markdown(report: Report) -> str:
    """The report for people."""
    where = environment()
    lines = [
        f"# Does xLSTM deliver? Answers at scale `{report.scale}`",
        "",
        f"openxlstm {__version__}, torch {where['torch']}, {where['cpu']}, {where['cpus']} cores. All of it again:",
        "",
        f"```\n{report.command}\n```",
        "",
        report.cost,
        "",
        summary(report.answers),
        *(part for sentence in report.open for part in ("", sentence)),
    ]
    for answer in report.answers:
        question = answer.question
        lines += ["", f"## {question.name}: {answer.verdict}", "", question.claim, "", f"Published: {question.published}."]
        found = answer.evidence
        if found is None:
            lines += ["", question.lacks] if question.lacks else []
            continue
        lines += ["", *(f"* {spell(c, v)}" for c, v in zip(question.checks, answer.values))]
        lines += ["", found.table, "", f"```\n{found.command}\n```"]
        lines += ["", *(f"Failed: {failure}" for failure in found.failures)] if found.failures else []
        if found.figure:
            lines += ["", f"![{question.name}]({question.name}/{found.figure})"]
    return "\n".join(lines) + "\n"


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}
td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}
pre{background:#f5f5f3;padding:.7rem;overflow-x:auto;font-size:.85rem}img{max-width:100%}"""


def as_html(markdown: str, scale: str) -> str:
    """The Markdown of `as_markdown` as a page that needs nothing else: the few forms that it uses."""
    body: list[str] = []
    table: list[str] = []
    items: list[str] = []
    code: list[str] | None = None

    def flush() -> None:
        if table:
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
            head, rows = cells[0], cells[2:]
            body.append("<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>")
            body.extend("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            body.append("</table>")
            table.clear()
        if items:
            body.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>")
            items.clear()

    for line in markdown.splitlines():
        if line.startswith("```"):
            if code is not None:
                body.append("<pre>" + html.escape("\n".join(code)) + "</pre>")
            code = [] if code is None else None
        elif code is not None:
            code.append(line)
        elif line.startswith("|"):
            table.append(line)
        elif line.startswith("* "):
            items.append(line[2:])
        else:
            flush()
            if line.startswith("!["):
                title, _, target = line[2:-1].partition("](")
                body.append(f'<img src="{html.escape(target)}" alt="{html.escape(title)}">')
            elif line.startswith("#"):
                level = len(line) - len(line.lstrip("#"))
                body.append(f"<h{level}>{html.escape(line.lstrip('# '))}</h{level}>")
            elif line:
                body.append(f"<p>{html.escape(line)}</p>")
    flush()
    title = f"Does xLSTM deliver? Scale {scale}"
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n' + "\n".join(body) + "\n"
