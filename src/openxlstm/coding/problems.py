"""Files of programming problems (HumanEval, MBPP) and of samples: JSON lines in, checked records out."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openxlstm.errors import UserError
from openxlstm.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A function to write and what tells whether it is right.

    task_id: its name. prompt: what a model goes on from. before, after: the program is `before`, the completion, `after`.
    solution: the completion that came with it. stops: texts at which a model's completion ends.
    """

    task_id: str
    prompt: str
    before: str
    after: str
    solution: str
    stops: tuple[str, ...]

    def program(self, completion: str) -> str:
        """What is run: it ends without an exception if the completion is right."""
        return f"{self.before}{completion}\n{self.after}\n"

    def cut(self, text: str) -> str:
        """A model's text up to where it leaves the function."""
        return text[: min((place for stop in self.stops if (place := text.find(stop)) >= 0), default=len(text))]


@dataclass(frozen=True)
class Sample:
    """A completion of a problem."""

    task_id: str
    completion: str


def read_problems(path: str | Path) -> dict[str, Problem]:
    """Problems by name, from a file of HumanEval (`prompt`, `entry_point`, `canonical_solution`, `test`) or MBPP (`text`,
    `code`, `test_list`), plain, .gz or .xz. UserError, with file, line and reason, for anything else."""
    found: dict[str, Problem] = {}
    for where, record in _records(Path(path)):
        problem = _problem(record, where)
        if problem.task_id in found:
            raise UserError(f"{where}: task_id {problem.task_id!r} comes twice")
        found[problem.task_id] = problem
    if not found:
        raise UserError(f"{path}: no problem in the file")
    return found


def read_samples(path: str | Path, problems: Mapping[str, Problem]) -> list[Sample]:
    """Samples, a JSON object with `task_id` and `completion` a line, each of one of the problems."""
    found = []
    for where, record in _records(Path(path)):
        task_id = _task_id(record, where)
        if task_id not in problems:
            raise UserError(f"{where}: task_id {task_id!r} is none of the {len(problems)} problems")
        found.append(Sample(task_id, _text(record, "completion", where)))
    if not found:
        raise UserError(f"{path}: no sample in the file")
    return found


def write_samples(path: str | Path, samples: Iterable[Sample]) -> None:
    """The file that `read_samples` reads, whole or not at all."""
    lines = (json.dumps({"task_id": sample.task_id, "completion": sample.completion}) for sample in samples)
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def _problem(record: Mapping[str, Any], where: str) -> Problem:
    if "entry_point" in record:
        return _human_eval(record, where)
    if "test_list" in record:
        return _mbpp(record, where)
    raise UserError(f"{where}: has neither 'entry_point' (HumanEval) nor 'test_list' (MBPP)")


def _human_eval(record: Mapping[str, Any], where: str) -> Problem:
    """The completion goes on from the prompt, inside the function."""
    prompt, name = _text(record, "prompt", where), _text(record, "entry_point", where)
    if not name.isidentifier():
        raise UserError(f"{where}: 'entry_point' {name!r} is no name of a function")
    return Problem(
        task_id=_task_id(record, where),
        prompt=prompt,
        before=prompt,
        after=f"{_text(record, 'test', where)}\ncheck({name})",
        solution=_text(record, "canonical_solution", where),
        stops=("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\nassert", "\n@", "\nimport ", "\nfrom "),
    )


def _mbpp(record: Mapping[str, Any], where: str) -> Problem:
    """The completion is all of the code; the prompt has the task and its tests."""
    tests = record["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise UserError(f"{where}: 'test_list' must be a list of texts, one at least")
    setup = _text(record, "test_setup_code", where) if "test_setup_code" in record else ""
    listed = "\n".join(tests)
    return Problem(
        task_id=_task_id(record, where),
        prompt=f'"""\n{_text(record, "text", where)}\n{listed}\n"""\n',
        before="",
        after=f"{setup}\n{listed}",
        solution=_text(record, "code", where),
        stops=('\n"""', "\nassert", "\nif __name__", "\nprint"),
    )


def _task_id(record: Mapping[str, Any], where: str) -> str:
    """Whole numbers, as MBPP has them, are names too."""
    name = record.get("task_id")
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise UserError(f"{where}: 'task_id' is missing, or neither a text nor a whole number")
    return str(name)


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is {'missing' if value is None else 'not a text'}")
    return value


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """FILE:LINE and the object of each line that is not empty."""
    opened: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except UnicodeDecodeError:
                    raise UserError(f"{where}: not UTF-8 text") from None
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise UserError(f"{where}: not a JSON object")
                yield where, record
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged behind line {number}: {error}") from None
