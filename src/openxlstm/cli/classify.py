"""`openxlstm classify RUN INPUT`: the class of a text, how sure that is, and where in the text the answer turned."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from openxlstm.cli.arguments import VerbParser, add_device_options, device_of, number, say
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.inference.classify import Reading, TextClassifier

AT_ONCE = 256  # texts of a file
FILES = (".txt", ".csv", ".tsv")


class Input(NamedTuple):
    """A text and where it stands, "" for one on the command line."""

    text: str
    where: str


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "classify",
        "Say what class a text is, by a run on a task of text classification (sst2, rotten_tomatoes, imdb,\n"
        "text_classification). One line a text: class, calibrated probability, text. For one on the command line also\n"
        "where in it the answer turned: the model's state holds all it has read, so its opinion after every word is free.",
        [
            'openxlstm classify runs/sst2 "a charming start , but the rest is dull ."',
            "openxlstm classify runs/sst2 reviews.txt --json",
            "openxlstm classify runs/sst2 reviews.csv --text-column review",
            "tail -f comments.log | openxlstm classify runs/sst2 -",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder, or the model folder in it")
    p.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="a text; a file: .csv or .tsv with a header, else a text a line; or -, a pipe with a text a line",
    )  # fmt: skip
    p.add_argument("--whole", action="store_true", help="a file is one text, whatever lines it has")
    p.add_argument("--text-column", default="text", metavar="NAME", help="column with the texts of a .csv or .tsv")
    explain = p.add_mutually_exclusive_group()
    explain.add_argument("--explain", action="store_true", help="where the answer turned, for texts of files and pipes too")
    explain.add_argument("--no-explain", action="store_true", help="only class and probability")
    p.add_argument(
        "--strongest", type=number(int, least=0), default=3, metavar="N", help="name the N tokens that changed the answer most"
    )
    add_device_options(p)
    p.add_argument("--json", action="store_true", help="print one JSON object a text")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    from openxlstm.inference.classify import TextClassifier

    device = device_of(args)
    classifier = TextClassifier.load(args.run, device=device, backend=args.backend)
    limit, longer, told = classifier.format.max_tokens, 0, False
    for texts in sources(args):
        explained = [one for one in texts if args.explain or (not one.where and not args.no_explain)]
        if explained and classifier.bidirectional and not told:
            say("note: this model reads in both directions and has no running score; every beginning of a text is read anew")
            told = True
        found = classifier.probabilities([one.text for one in texts]).tolist()
        for one, probabilities in zip(texts, found):
            longer += 0 < limit < len(classifier.format.tokens(one.text))
            reading = classifier.read(one.text) if one in explained else None
            show(classifier, one, probabilities, reading, args)
    if longer:
        say(f"note: of {longer} texts only the first {limit} tokens were read, as in training")
    return 0


def sources(args: Any) -> Iterator[list[Input]]:
    """The texts of the command line, of files and pipes, some at a time; from a pipe each as it comes."""
    for word in args.inputs:
        path = Path(word)
        if word == "-":
            yield from ([one] for one in pipe())
        elif is_file(word):
            texts = file_texts(path, args)
            while some := list(islice(texts, AT_ONCE)):
                yield some
        elif path.suffix.lower() in FILES and len(word.split()) == 1:
            raise UserError(f"{word}: no such file")
        else:
            yield [Input(checked(word, "the text"), "")]


def is_file(word: str) -> bool:
    """Whether a word of the command line names a file. Most texts are too long for a name, which is no error."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def file_texts(path: Path, args: Any) -> Iterator[Input]:
    """The texts of a file. Raises UserError, with line and reason, for what is none."""
    from openxlstm.data.labelled import DELIMITERS, read_lines, read_rows, read_text

    if args.whole:
        yield Input(checked(read_text(path), str(path)), str(path))
    elif path.suffix.lower() in DELIMITERS:
        for (text,), where in read_rows(path, (args.text_column,)):
            yield Input(checked(text, where), where)
    else:
        for text, where in read_lines(path):
            yield Input(checked(text, where), where)


def pipe() -> Iterator[Input]:
    """Lines of stdin, as they come."""
    for line, content in enumerate(sys.stdin.buffer, 1):
        where = f"stdin, line {line}"
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: byte {content[error.start]:#04x} is not UTF-8") from None
        text = (text.removeprefix("\ufeff") if line == 1 else text).strip()  # a byte order mark
        yield Input(checked(text, where), where)


def checked(text: str, where: str) -> str:
    """The text; raises UserError for one without a word, or a word of the command line that is not UTF-8."""
    from openxlstm.data.text_format import words_of
    from openxlstm.data.utf8 import utf8

    if not words_of(text):
        raise UserError(f"{where}: there is no word in it")
    utf8(text, f"{where}:")
    return text


def show(
    classifier: "TextClassifier", one: Input, probabilities: Sequence[float], reading: "Reading | None", args: Any
) -> None:
    """Print what came out for one text."""
    classes = classifier.format.classes
    likeliest = max(range(len(classes)), key=lambda place: probabilities[place])
    if args.json:
        content: dict[str, Any] = {"text": one.text, "label": classes[likeliest], "probability": probabilities[likeliest]}
        content |= {"probabilities": dict(zip(classes, probabilities)), "where": one.where or None}
        if reading is not None:
            content |= explanation(one.text, classes, reading, args.strongest)
        print(json.dumps(content, ensure_ascii=False), flush=True)
        return
    print(classes[likeliest], f"{probabilities[likeliest]:.4f}", " ".join(one.text.split()), sep="\t", flush=True)
    if reading is not None:
        for line in explained_lines(one.text, classes, reading, args.strongest):
            print(f"  {line}", flush=True)


def explanation(text: str, classes: Sequence[str], reading: "Reading", strongest: int) -> dict[str, Any]:
    """The running probabilities and where they turned, for programs."""
    return {
        "classes": list(classes),
        "tokens": [
            {"text": text[slice(*span)], "start": span[0], "stop": span[1], "probabilities": after}
            for span, after in zip(reading.spans, reading.probabilities[1:].tolist())
        ],
        "turns": [
            {"token": turn.token, "start": turn.span[0], "stop": turn.span[1]}
            | {"from": classes[turn.before], "to": classes[turn.after]}
            for turn in reading.turns
        ],
        "strongest": [
            {"token": token, "start": span[0], "stop": span[1], "change": change}
            for token, span, change in reading.strongest(strongest)
        ],
        "read_anew": reading.anew,
    }


def explained_lines(text: str, classes: Sequence[str], reading: "Reading", strongest: int) -> Iterator[str]:
    """The same for people."""
    turns = reading.turns
    for turn in turns:
        place = turn.token
        before, after = reading.probabilities[place, turn.before], reading.probabilities[place + 1, turn.after]
        yield (
            f"turned at {text[slice(*turn.span)]!r} (token {place + 1} of {len(reading.spans)}, character {turn.span[0] + 1}): "
            f"{classes[turn.before]} {before:.2f} -> {classes[turn.after]} {after:.2f}"
        )
    if not turns:
        yield f"did not turn: {classes[int(reading.probabilities[-1].argmax())]} from the beginning"
    if strongest:
        changes = ", ".join(f"{text[slice(*span)]!r} {change:+.2f}" for _, span, change in reading.strongest(strongest))
        yield f"strongest for or against it: {changes}"
