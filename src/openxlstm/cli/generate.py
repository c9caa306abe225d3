"""`openxlstm generate`: a trained model writes text."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openxlstm.cli.arguments import VerbParser, add_device_options, device_of, number, say
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.tasks import Task

Kind = TypeVar("Kind", bound="Task")


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "generate",
        "Let a trained model continue a text. The text goes to stdout as it is written, everything else to stderr.",
        [
            'openxlstm generate --prompt "def "',
            "openxlstm generate runs/shakespeare --prompt-file start.txt --max-tokens 1000 --seed 7",
            "openxlstm generate runs/code --prefix before.py --suffix after.py --temperature 0",
            "echo 'Once upon a time' | openxlstm generate runs/stories --prompt - --temperature 0 --json",
        ],
    )
    p.add_argument(
        "run", nargs="?", metavar="RUN",
        help="a run folder, a model folder, another project's checkpoint folder, or a Hub id owner/name; "
        "without it, the newest finished run under ./runs",
    )  # fmt: skip
    text = p.add_argument_group("text")
    start = text.add_mutually_exclusive_group()
    start.add_argument(
        "--prompt", metavar="TEXT", help="text to continue; '-' reads it from stdin; without it, a new text begins"
    )
    start.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file, byte for byte")
    start.add_argument("--prefix", metavar="FILE", help="the same, for filling in")
    text.add_argument(
        "--suffix", metavar="FILE",
        help="write what is between the prompt and the text of this file; for models trained with --data.fill_in",
    )  # fmt: skip
    text.add_argument(
        "--max-tokens", type=number(int, least=0), default=256, metavar="N",
        help="stop after so many tokens; 0 goes on until the model ends the text or Ctrl-C",
    )  # fmt: skip
    text.add_argument(
        "--mid-text", action="store_true", help="the prompt is out of the middle of a text, not the beginning of one"
    )
    text.add_argument("--no-echo", action="store_true", help="print the continuation alone, without the prompt before it")
    text.add_argument("--json", action="store_true", help="print one JSON object at the end in place of text as it comes")
    draw = p.add_argument_group("sampling")
    draw.add_argument(
        "--temperature", type=number(least=0), default=0.8, metavar="X",
        help="below 1 bolder about what is likely, above 1 more surprising; 0 always takes the most likely token",
    )  # fmt: skip
    draw.add_argument(
        "--top-k", type=number(int, least=0), default=50, metavar="K", help="draw from the K most likely tokens only; 0 = all"
    )
    draw.add_argument(
        "--top-p", type=number(above=0, most=1), default=0.95, metavar="P",
        help="draw from the fewest most likely tokens whose probabilities sum to P; 1 = all",
    )  # fmt: skip
    draw.add_argument("--seed", type=number(int, least=0), default=0, metavar="N", help="another seed, another text")
    machine = add_machine_options(p)
    machine.add_argument(
        "--decode", choices=("auto", "native", "graph", "torch"), default="auto",
        help="how tokens are read: native is one compiled call a token, for CPUs; graph is one CUDA graph a token, for GPUs; "
        "auto takes what it can",
    )  # fmt: skip
    machine.add_argument(
        "--weights", choices=("fp32", "bf16", "int8"), default="fp32",
        help="native decoding with rounded weights: bf16 twice, int8 almost four times as fast for models beyond the cache",
    )  # fmt: skip
    return p


def add_machine_options(p: VerbParser) -> Any:
    """The options that `load` reads, besides `run`. Returns their group."""
    machine = p.add_argument_group("model and machine")
    machine.add_argument(
        "--tokenizer", metavar="FILE", help="tokenizer.json or a folder with one, where RUN has none of its own"
    )
    add_device_options(machine)
    return machine


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    prompt = read_prompt(args)
    suffix = None if args.suffix is None else read_text(args.suffix)
    if args.prefix is not None and suffix is None:
        raise UserError("--prefix is for filling in and goes with --suffix; a text to continue is --prompt-file")
    loaded = load(args)
    from openxlstm.inference.sampling import Sampling
    from openxlstm.inference.text import TextStream

    stream = TextStream(
        loaded.model,
        loaded.tokenizer,
        prompt,
        args.max_tokens or None,
        sampling=Sampling(
            temperature=args.temperature, top_k=args.top_k or None, top_p=None if args.top_p == 1 else args.top_p
        ),
        seed=args.seed,
        begins=not args.mid_text,
        suffix=suffix,
        decode=args.decode,
        weights=args.weights,
    )
    if stream.why_torch is not None:
        say(f"tokens are read by the model itself: {stream.why_torch}")
    if not args.json and not args.no_echo:
        show(prompt)
    pieces = []
    interrupted = False
    try:
        for piece in stream:
            if args.json:
                pieces.append(piece)
            else:
                show(piece)
    except KeyboardInterrupt:
        interrupted = True
    rate = (stream.num_tokens - 1) / stream.seconds if stream.seconds else None
    ended_by = "interrupted" if interrupted else stream.ended_by
    if args.json:
        result = {
            "run": str(loaded.folder),
            "prompt": prompt,
            **({} if suffix is None else {"suffix": suffix}),
            "text": "".join(pieces),
            "num_prompt_tokens": stream.num_prompt_tokens,
            "num_tokens": stream.num_tokens,
            "ended_by": ended_by,
            "prefill_seconds": round(stream.prefill_seconds, 4),
            "seconds": round(stream.prefill_seconds + stream.seconds, 4),
            "tokens_per_second": rate and round(rate, 1),
            "temperature": args.temperature,
            "top_k": args.top_k,
            "top_p": args.top_p,
            "seed": args.seed,
            "decode": stream.decode,
            "why_torch": stream.why_torch,
            "weights": args.weights,
        }
        print(json.dumps(result, ensure_ascii=False))
    else:
        show("\n" if suffix is None or args.no_echo else suffix)
    speed = f", {rate:.0f} tokens/s ({stream.decode})" if rate else ""
    say(
        f"{stream.num_tokens} tokens{speed}; prompt of {stream.num_prompt_tokens} tokens in {stream.prefill_seconds:.2f} s; "
        f"ended by {ended_by}"
    )
    return 130 if interrupted else 0


def load(args: Any) -> Any:
    """The LoadedRun that `run`, `tokenizer`, `backend`, `device` and `threads` of a command line ask for."""
    from openxlstm.inference.load import load_run, newest_run

    device = device_of(args)
    folder = args.run
    if folder is None:
        folder = newest_run()
        say(f"using the newest run, {folder}")
    loaded = load_run(folder, tokenizer=args.tokenizer, device=device, backend=args.backend)
    kinds = loaded.model.config.blocks
    shape = " + ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    say(f"{loaded.model.num_parameters():,} parameters, {shape} blocks, tokenizer {loaded.tokenizer.kind}, on {device}")
    return loaded


def load_of_task(args: Any) -> tuple[Any, str]:
    """The model of the run that `run`, `backend`, `device` and `threads` of a command line ask for, and its device."""
    from openxlstm.inference.load import load_task_model, model_folder

    device = device_of(args)
    return load_task_model(model_folder(args.run), device=device, backend=getattr(args, "backend", None)), device


def task_of_run(run: str, kind: type[Kind], *, lacks: str, takes: str) -> Kind:
    """The task of a run folder. Raises UserError for a folder without a run's settings, which says what it `lacks`, and for a
    run on anything but a `kind`, which says what the verb `takes`."""
    from openxlstm.inference.load import model_folder, run_settings
    from openxlstm.training.run import load_config

    model_folder(run)  # says best what is wrong with a folder that has no model
    if not run_settings(Path(run)):
        raise UserError(f"{run}: this is no run folder; {lacks}")
    task = load_config(Path(run)).data
    if not isinstance(task, kind):
        raise UserError(f"{run}: this run is about {getattr(task, 'name', 'text')}; {takes}")
    return task


def read_prompt(args: Any) -> str:
    """The prompt out of --prompt, --prompt-file, --prefix or stdin."""
    file = args.prompt_file or args.prefix or ("-" if args.prompt == "-" else None)
    return read_text(file) if file else args.prompt or ""


def read_text(file: str) -> str:
    """The text of a UTF-8 file, byte for byte; "-" is stdin."""
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        where = "stdin" if file == "-" else file
        raise UserError(f"{where}: the prompt is not UTF-8 text: {error.reason} at byte {error.start}") from None


def show(text: str) -> None:
    """Write to stdout at once; a terminal that cannot print a character gets '?'."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
