"""Asks the questions, one after the other, and writes the report: report.md, report.html and report.json in one folder.

What is measured is kept in a folder for each question: a report that was interrupted goes on where it was, and asking again
costs nothing. What was answered in the folder before stays in the report until the question is answered again, so that a report
can grow question by question.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openxlstm.experiments.answer import Answer, answer, as_dict, read
from openxlstm.experiments.question import Question
from openxlstm.experiments.questions import QUESTIONS
from openxlstm.files import atomic_path
from openxlstm.training.record import processor, write_json


@dataclass(frozen=True)
class Report:
    """The questions that are asked and all answers in the folder. interrupted: a signal number if it was stopped before its
    end."""

    folder: Path
    scale: str
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    interrupted: int | None = None

    @property
    def data(self) -> dict[str, str | None]:
        """Of every question that is asked or answered, the files or folder that it needs."""
        named = {one.question: one.data for one in self.answers}
        named |= {question.name: question.data or named.get(question.name) for question in self.questions}
        return dict(sorted(named.items(), key=lambda item: place(item[0])))

    @property
    def command(self) -> str:
        """What asks the same questions again."""
        only = f" --only {','.join(self.data)}" if set(self.data) != set(QUESTIONS) else ""
        data = [f"{name}={path}" for name, path in self.data.items() if path is not None]
        return f"openxlstm report --scale {self.scale}{only}" + f" --data {','.join(data)}" * bool(data)

    @property
    def open(self) -> list[str]:
        """What stands of the list of questions without an answer, in a sentence each: still to come, not asked."""
        answered = {one.question for one in self.answers}
        lists = {
            "Still to come": [name for name in self.data if name not in answered],
            "Not asked": [name for name in QUESTIONS if name not in self.data],
        }
        return [f"{what}: {', '.join(those)}." for what, those in lists.items() if those]

    @property
    def cost(self) -> str:
        """How many models were trained for it, and how long that took on which machine."""
        took: dict[str, tuple[str, float]] = {}
        for one in self.answers:
            here = processor(one.environment)
            if found := one.evidence:
                took |= {name: (found.machines.get(name, here), seconds) for name, seconds in found.trainings.items()}
        sums: dict[str, float] = {}
        for machine, seconds in took.values():
            sums[machine] = sums.get(machine, 0.0) + seconds
        spelled = ", ".join(f"{seconds / 3600:.1f} hours on {machine}" for machine, seconds in sums.items())
        return f"{len(took)} trainings, one after the other {spelled}." if took else "0 trainings."

    @property
    def where(self) -> str:
        """Versions and hardware, each that there is among the answers."""
        named = (one.environment for one in self.answers)
        shown = (f"openxlstm {e['openxlstm']}, torch {e['torch']}, {processor(e)}, {e['cpus']} cores" for e in named)
        return "; ".join(dict.fromkeys(shown))


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
    report = Report(folder, scale, tuple(questions), read(folder / "report.json", scale))
    for number, question in enumerate(questions, 1):
        say(f"== question {number} of {len(questions)}: {question.name}")
        found = question.ask(scale, folder / question.name, cells or folder / "cells", say, jobs)
        if found is not None and found.interrupted is not None:
            return replace(report, interrupted=found.interrupted)
        answers = {one.question: one for one in read(folder / "report.json", scale)}  # another process may have written
        if found is not None or question.name not in answers:  # what was measured is not lost where its files are not given
            answers[question.name] = answer(question, found)
        report = replace(report, answers=tuple(sorted(answers.values(), key=lambda one: place(one.question))))
        write(report)
    return report


def place(name: str) -> int:
    """Where a question stands among all, and after them if it is none of them."""
    return list(QUESTIONS).index(name) if name in QUESTIONS else len(QUESTIONS)


def write(report: Report) -> None:
    """report.json, report.md and report.html."""
    answers = [as_dict(one) for one in report.answers]
    write_json(report.folder / "report.json", {"scale": report.scale, "answers": answers})
    markdown = as_markdown(report)
    for name, text in (("report.md", markdown), ("report.html", as_html(markdown, report.scale))):
        with atomic_path(report.folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


def summary(answers: Iterable[Answer]) -> str:
    """One line a question."""
    lines = ["| question | verdict | measured |", "|---|---|---|"]
    lines += [f"| {one.question} | {one.verdict} | {'; '.join(map(str, one.findings))} |" for one in answers]
    return "\n".join(lines)


def as_markdown(report: Report) -> str:
    """The report for people."""
    lines = [
        f"# Does xLSTM deliver? Answers at scale `{report.scale}`",
        "",
        f"{report.where}. All of it again:",
        "",
        f"```\n{report.command}\n```",
        "",
        report.cost,
        "",
        summary(report.answers),
        *(part for sentence in report.open for part in ("", sentence)),
    ]
    for one in report.answers:
        lines += ["", f"## {one.question}: {one.verdict}", "", one.claim, "", f"Published: {one.published}."]
        found = one.evidence
        if found is None:
            lines += ["", one.lacks] if one.lacks else []
            continue
        lines += ["", *(f"* {finding}" for finding in one.findings)]
        lines += ["", found.table, "", f"```\n{found.command}\n```"]
        lines += ["", *(f"Failed: {failure}" for failure in found.failures)] if found.failures else []
        if found.figure:
            lines += ["", f"![{one.question}]({one.question}/{found.figure})"]
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
