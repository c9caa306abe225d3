"""What came of a question: all that a report says of it, as it stands in report.json."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openxlstm.errors import UserError
from openxlstm.experiments.question import Check, Evidence, Question, Rows, Verdict
from openxlstm.training.record import environment


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check with its number: `measured` is None where a model of it failed, with one of its seeds or all."""

    what: str
    measured: float | None
    bar: float
    at_most: bool = False
    holds: bool

    def __str__(self) -> str:
        shown = "nothing, a model failed" if self.measured is None else f"{self.measured:.3f}"
        return f"{self.what} {shown} (bar {'≤' if self.at_most else '≥'} {self.bar:g})"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question and its evidence, None where the scale leaves it out or it lacks something, which `lacks` says.

    data: the file or folder that was measured on, where it does not come with Python. environment: versions and hardware.
    """

    question: str
    claim: str
    published: str
    findings: tuple[Finding, ...] = ()
    evidence: Evidence | None = None
    lacks: str = ""
    data: str | None = None
    environment: Mapping[str, Any] = dataclasses.field(default_factory=environment)

    @property
    def verdict(self) -> Verdict:
        if self.evidence is None:
            return "not tested at this scale"
        return "holds" if all(finding.holds for finding in self.findings) else "does not hold here"


def answer(question: Question, evidence: Evidence | None) -> Answer:
    """What the checks of a question find in its evidence."""
    return Answer(
        question=question.name,
        claim=question.claim,
        published=question.published,
        findings=() if evidence is None else tuple(finding(check, evidence.rows) for check in question.checks),
        evidence=evidence,
        lacks=question.lacks,
        data=question.data,
    )


def finding(check: Check, rows: Rows) -> Finding:
    """Measure a check. A model that could not be trained with every seed is not looked at: its other seeds say too much."""
    try:
        found = check.measure({model: row for model, row in rows.items() if not row.get("failed")})
    except (KeyError, StopIteration):
        found = None
    holds = found is not None and check.holds(found)
    return Finding(what=check.what, measured=found, bar=check.bar, at_most=check.at_most, holds=holds)


def as_dict(given: Answer) -> dict[str, Any]:
    """For report.json."""
    return {**dataclasses.asdict(given), "verdict": given.verdict}


def from_dict(given: Mapping[str, Any]) -> Answer:
    """The answer that `as_dict` made."""
    named = {name: value for name, value in given.items() if name != "verdict"}
    named["findings"] = tuple(Finding(**one) for one in named["findings"])
    if named["evidence"] is not None:
        named["evidence"] = Evidence(**{**named["evidence"], "failures": tuple(named["evidence"]["failures"])})
    return Answer(**named)


def read(path: Path, scale: str) -> tuple[Answer, ...]:
    """The answers of a report.json, none if there is no such file. Raises UserError for a report of another scale and for what
    is no report."""
    if not path.exists():
        return ()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found, answers = stored["scale"], tuple(from_dict(one) for one in stored["answers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a report of this version ({error!r}); move it away or choose another folder") from None
    if found != scale:
        raise UserError(f"{path}: a report of scale {found}; choose another folder for one of scale {scale}")
    return answers
