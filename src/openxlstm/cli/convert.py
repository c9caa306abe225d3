"""`openxlstm convert SRC DST`: read a checkpoint of any known format and write ours, or transformers'."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import VerbParser, say
from openxlstm.errors import UserError
from openxlstm.files import write_atomic

COMPANIONS = (
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"
)  # fmt: skip
"""Files that say how to use a model and hold no weights; they are copied along."""


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "convert",
        "Read a checkpoint folder and write it in another format. The source's format is recognised: openxlstm, the xlstm\n"
        "package's xLSTMLMModel and xLSTMLarge, transformers' xlstm. Nothing is written unless every tensor was understood.",
        [
            "openxlstm convert NX-AI/xLSTM-7b xlstm-7b",
            "openxlstm convert old-xlstm-run my-model",
            "openxlstm convert runs/my-run my-model --dtype bfloat16",
            "openxlstm convert my-model my-model-hf --to huggingface",
        ],
    )
    p.add_argument("source", metavar="SRC", help="checkpoint folder, run folder, or a Hugging Face Hub id (owner/name)")
    p.add_argument("target", metavar="DST", help="folder to write; made if it is not there")
    p.add_argument(
        "--to",
        choices=("openxlstm", "huggingface"),
        default="openxlstm",
        help="format to write: ours, or the one that transformers.AutoModelForCausalLM loads (mlstm_large models only)",
    )
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="store the weights as this; default: as they are"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is already in DST")
    p.add_argument("--json", action="store_true", help="print the result as a JSON object")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    result = convert(args.source, Path(args.target), to=args.to, dtype=args.dtype, overwrite=args.overwrite)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{result['target']}: {result['parameters']:,} parameters, {result['from']} -> {result['to']}")
    return 0


def convert(
    source: str, target: Path, *, to: str = "openxlstm", dtype: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Read `source` (a folder or Hub id) and write `target`. Raises UserError before anything is written."""
    import torch

    from openxlstm.inference.load import model_folder
    from openxlstm.models.checkpoint import resolve
    from openxlstm.models.tensors import WEIGHTS
    from openxlstm.models.weights import detect, load_checkpoint, write_huggingface
    from openxlstm.models.weights.settings import CONFIG_FILES

    folder = resolve(model_folder(source))
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: this is a file, not a folder")
    if target.exists() and target.resolve() == folder.resolve():
        raise UserError(f"{target}: source and target are the same folder")
    if any((target / name).exists() for name in (*CONFIG_FILES, WEIGHTS)) and not overwrite:
        raise UserError(f"{target}: there is a checkpoint already; --overwrite replaces it")
    found = detect(folder)
    say(f"reading {folder} ({found})")
    model = load_checkpoint(folder, dtype=getattr(torch, dtype) if dtype else None)
    companions = {name: (folder / name).read_bytes() for name in COMPANIONS if (folder / name).is_file()}
    if to == "huggingface":
        write_huggingface(model, target, token_ids=_token_ids(folder))
    else:
        model.save_pretrained(target)
    for name in COMPANIONS:
        if name in companions:
            write_atomic(target / name, companions[name])
        elif overwrite:  # that of the model that was here before
            (target / name).unlink(missing_ok=True)
    return {"source": str(folder), "from": found, "target": str(target), "to": to, "parameters": model.num_parameters()}


def _token_ids(folder: Path) -> dict[str, Any]:
    """Special tokens that the source's config.json names."""
    from openxlstm.models.tensors import read_json
    from openxlstm.models.weights.huggingface import TOKEN_IDS

    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return {name: settings[name] for name in TOKEN_IDS if settings.get(name) is not None}
