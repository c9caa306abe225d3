"""`openxlstm eval`: how well a trained model predicts a text, or does its task."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import VerbParser, number, numbers, say
from openxlstm.cli.eval_task import is_about_task, run_task
from openxlstm.cli.eval_zero_shot import run_zero_shot
from openxlstm.cli.generate import add_machine_options, load
from openxlstm.errors import UserError

CONTEXT = 256


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "eval",
        "Measure how well a model predicts text: every token once, the sums over all of them. The table goes to stdout.\n"
        "bits per byte compare across tokenizers; perplexity and nats are per token and do not.\n"
        "A run that is about a task (openxlstm tasks) is scored on the task's samples, by length.",
        [
            "openxlstm eval",
            "openxlstm eval runs/shakespeare --context 64,256,2048 --by-position",
            "openxlstm eval runs/shakespeare --data other.txt --carry --json",
            "openxlstm eval runs/parity --lengths 40-256,512,4096",
            "openxlstm eval runs/wikitext2 --tasks lambada_openai,piqa,arc_easy",
        ],
    )
    p.add_argument(
        "run", nargs="?", metavar="RUN",
        help="a run folder, a model folder, another project's checkpoint folder, or a Hub id owner/name; "
        "without it, the newest finished language model under ./runs",
    )  # fmt: skip
    text = p.add_argument_group("text")
    text.add_argument(
        "--data", metavar="SOURCE",
        help="a .txt, .jsonl or .parquet file, which is read whole; or a folder, 'stdlib' or hf:NAME, of which the validation "
        "part is; without it, the validation text of the run",
    )  # fmt: skip
    text.add_argument(
        "--split", choices=("train", "validation", "test"), help="another part of the text; a file is then split as in training"
    )
    text.add_argument("--max-tokens", type=number(int, least=1), metavar="N", help="read the first N tokens only")
    task = p.add_argument_group("task")
    task.add_argument(
        "--lengths", metavar="L,L...",
        help="lengths N or ranges N-M of the sequences; without it, those of the run's report. --split (default: test) and "
        "--precision are for tasks too",
    )  # fmt: skip
    zero_shot = p.add_argument_group("zero-shot tasks")
    zero_shot.add_argument(
        "--tasks", metavar="NAME,NAME",
        help="tasks of EleutherAI's lm-eval (extra 'eval'), which downloads their data; with --data FOLDER, files NAME.jsonl "
        "there: lines with context and continuation, or with query, choices and gold",
    )  # fmt: skip
    zero_shot.add_argument("--limit", type=number(int, least=1), metavar="N", help="only the first N samples of each task")
    how = p.add_argument_group("measurement")
    how.add_argument(
        "--context", type=numbers(int, least=1), metavar="N,N...",
        help="lengths of the windows in which the text is read, each from an empty state: one line for each; without it, the "
        "length that the run was validated with",
    )  # fmt: skip
    how.add_argument(
        "--stride", type=number(int, least=1), metavar="N",
        help="overlapping windows, N tokens apart: every token has at least context - N tokens before it",
    )  # fmt: skip
    how.add_argument("--carry", action="store_true", help="carry the state from window to window: nothing is forgotten")
    how.add_argument("--by-position", action="store_true", help="also the loss by the number of tokens seen before")
    how.add_argument(
        "--by-frequency", action="store_true", help="also the loss by how often a token stands in the training text"
    )
    how.add_argument(
        "--batch-size", type=number(int, least=1), metavar="N", help="windows at once; without it, about 8192 tokens"
    )
    how.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of matrix products")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    add_machine_options(p)
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    if args.carry and args.stride:
        raise UserError("--carry and --stride exclude each other: a carried state needs windows that do not overlap")
    if is_about_task(args.run):
        return run_task(args)
    if args.limit and not args.tasks:
        raise UserError("--limit is about --tasks; of a text, the first tokens are --max-tokens")
    if args.tasks:
        return run_zero_shot(args)
    if args.lengths:
        raise UserError("--lengths is about tasks; the windows in which text is read are --context")
    loaded = load(args)

    from openxlstm.inference.load import run_settings
    from openxlstm.training.evaluation.text import count_tokens, evaluate

    trained = run_settings(loaded.folder.parent)
    text, part, about = open_text(args, loaded, trained)

    contexts = args.context or (trained_context(trained),)
    words = None if args.max_tokens else num_words(text, part)
    frequencies = count_tokens(text.train, text.tokenizer.vocab_size) if args.by_frequency else None
    found = []
    for context in contexts:
        if args.stride and args.stride > context:
            raise UserError(f"--stride {args.stride} is longer than --context {context}: tokens between windows would be lost")
        start = time.perf_counter()
        found.append(
            evaluate(
                loaded.model,
                text.split(part),
                context,
                stride=args.stride,
                carry=args.carry,
                batch_size=args.batch_size,
                max_tokens=args.max_tokens,
                num_words=words,
                frequencies=frequencies,
                precision=args.precision,
            )
        )
        seconds = time.perf_counter() - start
        say(f"context {found[-1].context}: {found[-1].num_tokens:,} tokens in {seconds:.1f} s")
    if args.json:
        result = {"run": str(loaded.folder), "text": about, "carry": args.carry, "stride": args.stride}
        print(json.dumps(result | {"results": [evaluation.to_dict() for evaluation in found]}, indent=2))
    else:
        print(about)
        print(table(found))
        if args.by_position:
            print("\n" + position_table(found))
        if args.by_frequency:
            print("\n" + frequency_table(found))
    return 0


def trained_context(trained: dict[str, Any]) -> int:
    """The window that the run was validated with."""
    trainer = trained.get("trainer", {})
    return trainer.get("validate_context") or trainer.get("context") or CONTEXT


def open_text(args: Any, loaded: Any, trained: dict[str, Any]) -> tuple[Any, str, str]:
    """The tokens to predict (a PreparedText), the part of it, and a line about both."""
    from openxlstm.data import TextConfig, prepare
    from openxlstm.training.options import from_dict
    from openxlstm.training.run import cache_dir

    tokenizer = str(args.tokenizer or loaded.folder)
    part = args.split or "validation"
    if args.data is None:
        if not trained:
            raise UserError(f"{loaded.folder} does not say what text it was trained on: name one with --data")
        config = from_dict(TextConfig(), trained["data"], "the run's config.json: data")
    else:
        config = TextConfig(source=args.data)
        same = Path(args.data).resolve() == Path(trained.get("data", {}).get("source", "")).resolve()
        if Path(args.data).is_file() and same and not args.split:
            say("note: the run was trained on this file; its validation part is used (--split chooses another)")
        if same and trained:
            config = from_dict(TextConfig(), trained["data"], "the run's config.json: data")
        elif Path(args.data).is_file() and not args.split:
            config, part = TextConfig(source=args.data, validation=0.0, test=0.0), "train"  # the whole file
    text = prepare(dataclasses.replace(config, tokenizer=tokenizer), cache_dir(), report=say)
    check_same_tokenizer(text.tokenizer, loaded.tokenizer, config.source)
    whole = part == "train" and config.validation == config.test == 0.0
    tokens = text.split(part)
    if tokens.num_tokens < 2:
        raise UserError(f"{text.description}: the {part} part is too short, {tokens.num_tokens} tokens")
    first = f", the first {args.max_tokens:,} of" if (args.max_tokens or tokens.num_tokens) < tokens.num_tokens - 1 else ":"
    about = f"{text.description}{'' if whole else f', {part} part'}{first} {tokens.num_tokens - 1:,} tokens"
    return text, part, about + (f", {tokens.num_bytes:,} bytes" if tokens.num_bytes else "")


def check_same_tokenizer(text: Any, model: Any, source: str) -> None:
    """Raise where a text that was prepared before numbers its tokens in another way than the model."""
    from openxlstm.data.tokenizer import fingerprint

    if fingerprint(text) != fingerprint(model):
        raise UserError(
            f"vocabulary mismatch: {source!r} was prepared with another tokenizer ({text.kind}, {text.vocab_size} tokens) than "
            f"the model's ({model.kind}, {model.vocab_size} tokens)"
        )


def num_words(text: Any, part: str) -> int | None:
    """Words and line ends of the part, where tokens are words or pieces of them and word perplexity means something."""
    from openxlstm.training.evaluation.baselines import word_count

    tokens, tokenizer = text.split(part), text.tokenizer
    if tokenizer.kind not in ("words", "bpe"):
        return None
    return word_count([tokenizer.decode(tokens.document(number).tolist()) for number in range(tokens.num_documents)])


def table(found: Sequence[Any]) -> str:
    """One line for each context."""
    rows = [["context", "bits/byte", "nats/token", "perplexity", "word perpl.", "tokens"]]
    for e in found:
        rows.append([str(e.context), shown(e.bits_per_byte, 4), f"{e.nats_per_token:.4f}", shown(e.perplexity, 2),
                     shown(e.word_perplexity, 1), f"{e.num_tokens:,}"])  # fmt: skip
    return columns(rows)


def position_table(found: Sequence[Any]) -> str:
    """Nats per token by the number of tokens seen before; one column for each context."""
    ranges = sorted({(start, stop) for e in found for start, stop, _, _ in e.by_position})
    rows = [["tokens before", *(f"nats at {e.context}" for e in found)]]
    for start, stop in ranges:
        values = [{(a, b): nats for a, b, nats, _ in e.by_position}.get((start, stop)) for e in found]
        rows.append([f"{start}" if stop == start + 1 else f"{start}-{stop - 1}", *(shown(value, 4) for value in values)])
    return columns(rows)


def frequency_table(found: Sequence[Any]) -> str:
    """Nats per token for tenths of the tokens, the rarest in the training text first; one column for each context."""
    rows = [["times in training", "tokens", *(f"nats at {e.context}" for e in found)]]
    for parts in zip(*(e.by_frequency for e in found)):
        low, high, _, count = parts[0]
        rows.append([f"{low:,}-{high:,}", f"{count:,}", *(f"{part[2]:.4f}" for part in parts)])
    return columns(rows)


def shown(value: float | None, digits: int) -> str:
    """A number, or - where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns; a column of which no row has a value is left out."""
    keep = [i for i in range(len(rows[0])) if any(row[i] != "-" for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in keep}
    return "\n".join("  ".join(row[i].rjust(widths[i]) for i in keep) for row in rows)
