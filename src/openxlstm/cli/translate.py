"""`openxlstm translate`: a line, a file or a pipe in another language."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from openxlstm.cli.arguments import VerbParser, add_device_options, device_of, number, say
from openxlstm.cli.generate import show, task_of_run
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.inference.translate import Translator, Written
    from openxlstm.tasks.pairs import SequencePairs

Pairs = TypeVar("Pairs", bound="SequencePairs")


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "translate",
        "Translate with a model that was trained on pairs of sentences, line by line. Translations go to stdout as they come,\n"
        "everything else to stderr. An empty line stays one.",
        [
            'openxlstm translate runs/multi30k "Ein Hund läuft durch den Schnee."',
            "openxlstm translate runs/multi30k --file captions.de --out captions.en",
            "openxlstm translate runs/multi30k --file test.de --reference test.en --beam 1",
            "tail -f log.de | openxlstm translate runs/multi30k --batch-size 1",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder of multi30k or translation")
    p.add_argument("text", nargs="?", metavar="TEXT", help="a sentence; without it and --file, the lines of stdin")
    p.add_argument("--file", metavar="FILE", help="translate every line of a UTF-8 file")
    p.add_argument("--reference", metavar="FILE", help="the right translations of its lines: BLEU and chrF go to stderr")
    add_writing_options(p, "lines")
    return p


def add_writing_options(p: VerbParser, what: str) -> None:
    """The options that `open_translator` and `deliver` read, besides `run`."""
    p.add_argument("--out", metavar="FILE", help="write into this file, whole or not at all, in place of stdout")
    p.add_argument("--json", action="store_true", help="a JSON object a text: what was written, its score, whether it ended")
    how = p.add_argument_group("search")
    how.add_argument(
        "--beam", type=number(int, least=1), metavar="N", help="hypotheses; 1 is greedy (default: as the run's report)"
    )
    how.add_argument(
        "--length-penalty", type=number(least=0), metavar="X",
        help="power of the length penalty; 0 favours short texts, more favours longer ones (default: as the run's report)",
    )  # fmt: skip
    how.add_argument("--max-tokens", type=number(int, least=1), metavar="N", help="longest text that is written")
    how.add_argument("--batch-size", type=number(int, least=1), default=32, metavar="N", help=f"{what} at once (default: 32)")
    how.add_argument(
        "--precision", choices=("fp64", "fp32"), default="fp64",
        help="fp64 gives every text the same answer in any batch; fp32 is faster and nearly always gives it",
    )  # fmt: skip
    add_device_options(how)


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    from openxlstm.tasks.translation import Translation

    args = parser().parse_args(argv)
    if args.text is not None and args.file:
        raise UserError("give TEXT or --file, not both")
    if args.reference and not args.file:
        raise UserError("--reference needs --file: its lines are those of the file")
    if args.text is not None and not args.text.strip():
        raise UserError("there is nothing to translate: TEXT is empty")
    task = task_of(args.run, Translation, "multi30k or translation")
    references = [*lines_of(args.reference)] if args.reference else None
    lines = iter([args.text]) if args.text is not None else lines_of(args.file)
    if references is not None:
        lines = iter(checked(args, [*lines], references))
    translator = open_translator(args, task)
    written = deliver(args, translator, lines)
    if references is not None:
        found = task.scores([one.text for one in written], [[line] for line in references])
        say(", ".join(f"{name} {score:.2f}" for name, score in found.items()) + f" on {len(references):,} lines")
    return 0


def checked(args: Any, lines: list[str], references: list[str]) -> list[str]:
    """The lines, where there are as many references and all of them say something."""
    if len(lines) != len(references):
        raise UserError(f"{args.reference}: has {len(references):,} lines and {args.file} has {len(lines):,}")
    for path, texts in ((args.file, lines), (args.reference, references)):
        for row, text in enumerate(texts, 1):
            if not text.strip():
                raise UserError(f"{path}:{row}: the line is empty, and nothing can be scored there")
    return lines


def task_of(run: str, kind: type[Pairs], names: str) -> Pairs:
    """The task of a run folder, with the tokens of its model; raises UserError where it is not of that kind."""
    from openxlstm.inference.load import model_folder

    task = task_of_run(
        run, kind, lacks="its config.json is needed, which says what the model learnt", takes=f"it takes one of {names}"
    )
    return dataclasses.replace(task, tokenizer=str(model_folder(run)))


def open_translator(args: Any, task: "SequencePairs") -> "Translator":
    """The model of the run with its tokenizer, and how the command line wants it to write."""
    import torch

    from openxlstm.data import load_tokenizer
    from openxlstm.inference.load import check_vocabulary, model_folder
    from openxlstm.inference.translate import Translator
    from openxlstm.models.translate import EncoderDecoder

    device = device_of(args)
    folder = model_folder(args.run)
    dtype = torch.float64 if args.precision == "fp64" else torch.float32
    model = EncoderDecoder.from_pretrained(folder, device=device, dtype=dtype, backend=args.backend)
    tokenizer = load_tokenizer(folder)
    check_vocabulary(model, tokenizer, folder)
    beam = args.beam or task.beam
    say(f"{model.num_parameters():,} parameters, trained on {task.name}, beam {beam}, on {device}")
    power = task.length_penalty if args.length_penalty is None else args.length_penalty
    longest = args.max_tokens or task.longest
    return Translator(model=model, tokenizer=tokenizer, beam=beam, length_penalty=power, max_tokens=longest)


def deliver(args: Any, translator: "Translator", texts: Iterator[str]) -> "list[Written]":
    """Write what becomes of each text, batch after batch, to stdout or --out; one text after the other as it comes."""
    from openxlstm.files import atomic_path
    from openxlstm.inference.translate import Written

    found: list[Written] = []
    if args.out:
        with atomic_path(args.out) as aside, open(aside, "w", encoding="utf-8") as file:
            for batch in batches(texts, args.batch_size):
                for text, one in zip(batch, answers(translator, batch, args.batch_size)):
                    found.append(one)
                    file.write(row(args, text, one))
            if not found:  # in here, so that an earlier file stays
                raise UserError("there is nothing to read: the input is empty")
        return found
    for batch in batches(texts, args.batch_size):
        if len(batch) == 1 and batch[0].strip() and not args.json:
            pieces = []
            for piece in translator.stream(batch[0]):
                pieces.append(piece.replace("\n", " "))
                show(pieces[-1])
            show("\n")
            found.append(Written("".join(pieces), 0.0, 0, True))
            continue
        for text, one in zip(batch, answers(translator, batch, args.batch_size)):
            found.append(one)
            show(row(args, text, one))
    if not found:
        raise UserError("there is nothing to read: the input is empty")
    return found


def answers(translator: "Translator", batch: Sequence[str], rows: int) -> "list[Written]":
    """What becomes of each text; of an empty one, an empty one."""
    from openxlstm.inference.translate import Written

    written = iter(translator.translate([text for text in batch if text.strip()], rows))
    return [next(written) if text.strip() else Written("", 0.0, 0, True) for text in batch]


def row(args: Any, text: str, one: "Written") -> str:
    """A text as a line of the output; line ends within it become spaces."""
    if not args.json:
        return one.text.replace("\n", " ") + "\n"
    result = {"source": text, "text": one.text, "score": round(one.score, 6), "num_tokens": one.num_tokens, "ended": one.ended}
    return json.dumps(result, ensure_ascii=False) + "\n"


def batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    """So many texts at a time."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def lines_of(path: str | None) -> Iterator[str]:
    """The lines of a file, or of stdin, without a byte order mark at the beginning; raises UserError, with file and line, for
    what is not UTF-8."""
    file = open(path, "rb") if path else sys.stdin.buffer  # noqa: SIM115 (closed below)
    try:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path or 'stdin'}:{number}: is not UTF-8: {error.reason} at byte {error.start}") from None
            yield line.removeprefix("\ufeff") if number == 1 else line
    finally:
        if path:
            file.close()
