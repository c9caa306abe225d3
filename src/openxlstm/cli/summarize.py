"""`openxlstm summarize`: a text in short."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import VerbParser
from openxlstm.cli.translate import add_writing_options, deliver, lines_of, open_translator, task_of
from openxlstm.errors import UserError


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "summarize",
        "Summarise texts with a model that was trained on texts and their summaries. Summaries go to stdout as they come,\n"
        "everything else to stderr.",
        [
            "openxlstm summarize runs/scitldr --file abstract.txt",
            "openxlstm summarize runs/scitldr --file test.jsonl --key source --out summaries.txt",
            "cat abstract.txt | openxlstm summarize runs/scitldr --beam 1",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder of scitldr, dialogsum or summaries")
    p.add_argument("text", nargs="?", metavar="TEXT", help="a text; without it and --file, all of stdin is one")
    p.add_argument("--file", metavar="FILE", help="a UTF-8 file, which is one text; of a .jsonl file, a text in each line")
    p.add_argument("--key", metavar="NAME", help="where the text stands in a line of a .jsonl file (default: as in training)")
    add_writing_options(p, "texts")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    from openxlstm.tasks.summaries import Summaries

    args = parser().parse_args(argv)
    if args.text is not None and args.file:
        raise UserError("give TEXT or --file, not both")
    if args.key and not (args.file or "").endswith(".jsonl"):
        raise UserError("--key is for a .jsonl file: give one with --file")
    task: Any = task_of(args.run, Summaries, "scitldr, dialogsum or summaries")
    texts = texts_of(args, task.source_key)
    deliver(args, open_translator(args, task), texts)
    return 0


def texts_of(args: Any, key: str) -> Iterator[str]:
    """The texts of the command line, none of them empty."""
    if (args.file or "").endswith(".jsonl"):
        return json_texts(args.file, args.key or key)
    place = "TEXT" if args.text is not None else args.file or "stdin"
    text = args.text
    if text is None:
        content = Path(args.file).read_bytes() if args.file else sys.stdin.buffer.read()
        try:
            text = content.decode("utf-8").removeprefix("\ufeff")  # a byte order mark
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise UserError(f"{place}:{line}: is not UTF-8: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise UserError(f"{place}: there is nothing to summarise: the text is empty")
    return iter([text.strip()])


def json_texts(path: str, key: str) -> Iterator[str]:
    """The text in each line of a .jsonl file: a string, or a list of sentences."""
    from openxlstm.data.utf8 import utf8

    for number, line in enumerate(lines_of(path), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or nested too deeply
            raise UserError(f"{path}:{number}: is no JSON: {error}") from None
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path}:{number}: expects an object with {key!r} (--key names another)")
        parts = found[key] if isinstance(found[key], list) else [found[key]]
        if not all(isinstance(part, str) for part in parts) or not " ".join(parts).strip():
            raise UserError(f"{path}:{number}: {key!r} must be a text that is not empty, or a list of sentences")
        for part in parts:
            utf8(part, f"{path}:{number}: {key!r}")
        yield " ".join(part.strip() for part in parts if part.strip())
