"""`openxlstm data prepare|inspect`: text into token shards, and a look at what is in them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import VerbParser, did_you_mean, number, say
from openxlstm.data.corpus import SPLITS, TOKENIZERS, TextConfig, load_corpus
from openxlstm.data.tokens import PREPARED, PreparedText, open_prepared, prepare_folder
from openxlstm.errors import UserError

_HELP = """usage: openxlstm data prepare SOURCE --out DIR [options]   text into tokens, once, for any number of trainings
       openxlstm data inspect PATH [options]             what is in a prepared folder, or in a source of text

openxlstm data prepare --help and openxlstm data inspect --help explain every option."""

_SOURCE = (
    "'stdlib' (source of this Python's standard library), a text, .jsonl or .parquet file (.gz and .xz are unpacked on the "
    "way), a folder, or hf:NAME[:CONFIG] for a Hugging Face dataset"
)


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    action, rest = argv[0], list(argv[1:])
    actions = {"prepare": _prepare, "inspect": _inspect}
    if action not in actions:
        raise UserError(f"openxlstm data {action}: no such action{did_you_mean(action, actions)} (see: openxlstm data --help)")
    return actions[action](rest)


def prepare_parser() -> VerbParser:
    """The options of `data prepare`."""
    p = VerbParser(
        "data prepare",
        "Tokenise text once into memory-mapped shards. `openxlstm train --data DIR` then starts at once.\n"
        "An interrupted call that is repeated goes on where it was; a finished one is found again.",
        [
            "openxlstm data prepare stdlib --out data/stdlib",
            "openxlstm data prepare book.txt --out data/book --tokenizer bpe --vocab-size 4096",
            "openxlstm data prepare articles.jsonl --out data/articles --text-key body",
            "openxlstm data prepare hf:cerebras/SlimPajama-627B --out data/slim --streaming --max-bytes 10000000000",
        ],
    )
    p.add_argument("source", metavar="SOURCE", help=_SOURCE)
    p.add_argument("--out", required=True, metavar="DIR", help="folder to write; new, empty, or of an earlier call like this")
    p.add_argument("--force", action="store_true", help="replace what was prepared there with other settings")
    _source_options(p)
    p.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return p


def inspect_parser() -> VerbParser:
    """The options of `data inspect`."""
    p = VerbParser(
        "data inspect",
        "Show sizes, splits, vocabulary and beginning of a prepared folder (checksums are compared), or of a source of text.",
        ["openxlstm data inspect data/book", "openxlstm data inspect stdlib --json"],
    )
    p.add_argument("path", metavar="PATH", help=f"a prepared folder, or a source: {_SOURCE}")
    p.add_argument("--tokens", type=number(int, least=0), default=16, metavar="N", help="tokens of the first document to show")
    _source_options(p)
    p.add_argument("--json", action="store_true", help="print everything as one JSON object")
    return p


def _source_options(p: VerbParser) -> None:
    default = TextConfig()
    share = number(float, least=0.0, most=0.99)
    p.add_argument(
        "--tokenizer",
        default=default.tokenizer,
        metavar="NAME|PATH",
        help=f"one of {', '.join(TOKENIZERS)}, or the path of a tokenizer.json or of a folder with one",
    )
    p.add_argument(
        "--vocab-size",
        type=number(int, least=1),
        metavar="N",
        help="size of the vocabulary to build: bpe (default: 8192) and words (default: all words)",
    )
    p.add_argument("--validation", type=share, default=default.validation, metavar="SHARE", help="share for validation")
    p.add_argument("--test", type=share, default=default.test, metavar="SHARE", help="share for testing")
    p.add_argument("--validation-path", metavar="FILE", help="file with the validation text, in place of a share")
    p.add_argument("--test-path", metavar="FILE", help="file with the test text, in place of a share")
    p.add_argument("--text-key", default=default.text_key, metavar="KEY", help="key or column that holds the text")
    p.add_argument("--separator", metavar="STRING", help="parts the documents of a text file, such as '<|endoftext|>'")
    p.add_argument(
        "--rows",
        choices=("auto", "documents", "lines"),
        default=default.rows,
        help="what a row of a Hugging Face dataset is; auto: a line for WikiText, else a document",
    )
    p.add_argument("--encoding", default=default.encoding, metavar="NAME", help="character encoding of text files")
    p.add_argument("--seed", type=number(int), default=default.seed, metavar="N", help="chooses the documents of each part")
    p.add_argument("--max-bytes", type=number(int, least=1), metavar="N", help="stop after about this many bytes of text")
    p.add_argument(
        "--fill-in",
        type=number(float, least=0.0, most=1.0),
        default=default.fill_in,
        metavar="SHARE",
        help="above 0 the vocabulary gets marks for filling in; the share is that of training windows (train --data.fill_in)",
    )
    p.add_argument(
        "--fill-in-order",
        choices=("spm", "psm"),
        default=default.fill_in_order,
        help="whether a suffix is read before its prefix or after it",
    )
    p.add_argument("--streaming", action="store_true", help="read documents when needed, for text larger than memory")


def _config(args: Any, source: str) -> TextConfig:
    names = TextConfig.__dataclass_fields__.keys() - {"source"}
    return TextConfig(source=source, **{name: getattr(args, name) for name in names})


def _prepare(argv: list[str]) -> int:
    args = prepare_parser().parse_args(argv)
    prepared = prepare_folder(_config(args, args.source), args.out, force=args.force, report=say)
    summary = {"folder": str(prepared.folder)} | _summary(prepared)
    print(json.dumps(summary, indent=2) if args.json else _as_text(summary))
    return 0


def _inspect(argv: list[str]) -> int:
    args = inspect_parser().parse_args(argv)
    if (Path(args.path) / PREPARED).is_file():
        prepared = open_prepared(args.path)
        for split in SPLITS:
            if getattr(prepared, split) is not None:
                prepared.split(split).verify()
        summary = _summary(prepared)
        ids = prepared.train.document(0)[: max(200, args.tokens)].tolist()
        summary["first_document"] = prepared.tokenizer.decode(ids)[:300]
        summary["first_tokens"] = [[token, prepared.tokenizer.decode([token])] for token in ids[: args.tokens]]
    else:
        corpus = load_corpus(_config(args, args.path))
        texts = {split: [(len(text.encode()), text) for text in corpus.split(split)] for split in SPLITS}
        if not texts["train"]:  # a stream, which nobody has read yet
            raise UserError(f"{args.path}: no text to train on")
        summary = {
            "description": corpus.description,
            "splits": {
                split: {"num_documents": len(found), "num_bytes": sum(size for size, _ in found)}
                for split, found in texts.items()
                if found
            },
            "first_document": texts["train"][0][1][:300],
        }
    print(json.dumps(summary, indent=2, ensure_ascii=False) if args.json else _as_text(summary))
    return 0


def _summary(prepared: PreparedText) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        data = getattr(prepared, split)
        if data is not None:
            splits[split] = {
                "num_documents": data.num_documents,
                "num_bytes": data.num_bytes,
                "num_tokens": data.num_tokens,
                "bytes_per_token": round(data.num_bytes / max(1, data.num_tokens), 3),
            }
    return {
        "description": prepared.description,
        "tokenizer": {
            "kind": prepared.tokenizer.kind,
            "vocab_size": prepared.tokenizer.vocab_size,
            "eos_id": prepared.tokenizer.eos_id,
        },
        "splits": splits,
    }


def _as_text(summary: dict[str, Any]) -> str:
    lines = [summary["description"]]
    if "folder" in summary:
        lines.append(f"prepared in {summary['folder']}")
    if "tokenizer" in summary:
        about = summary["tokenizer"]
        eos = "no end token" if about["eos_id"] is None else f"end token {about['eos_id']}"
        lines.append(f"tokenizer {about['kind']}: {about['vocab_size']:,} ids, {eos}")
    columns = ["num_documents", "num_bytes", "num_tokens", "bytes_per_token"]
    columns = [name for name in columns if name in summary["splits"]["train"]]
    lines.append(f"{'':<12}" + "".join(f"{name.removeprefix('num_').replace('_', ' '):>16}" for name in columns))
    for split, sizes in summary["splits"].items():
        lines.append(f"{split:<12}" + "".join(f"{sizes[name]:>16,}" for name in columns))
    if "first_tokens" in summary:
        lines.append("first tokens: " + " ".join(f"{token}:{text!r}" for token, text in summary["first_tokens"]))
    if "first_document" in summary:
        lines += ["first document begins:", summary["first_document"]]
    return "\n".join(lines)
