"""`openxlstm transcribe RUN FILE`: speech to text, from a file or as it comes in."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openxlstm.cli.arguments import VerbParser, add_device_options, number, say
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from openxlstm.tasks.speech import DigitSequences

PIPE = "-"


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "transcribe",
        "Write down what is said in a sound file, of any sample rate and number of channels, or in a live stream, with the\n"
        "model of a run on digit_sequences. The text goes to stdout; with --stream, word by word as it is heard.",
        [
            "openxlstm transcribe runs/digits call.wav",
            "openxlstm transcribe runs/digits call.flac --beam 8 --json",
            "arecord -f S16_LE -r 16000 -t raw | openxlstm transcribe runs/digits - --rate 16000",
            "ffmpeg -i talk.m4a -f s16le -ar 8000 -ac 1 - | openxlstm transcribe runs/digits - --rate 8000",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder of the task digit_sequences")
    p.add_argument("file", metavar="FILE", help="a sound file, or - for raw samples on stdin: 16 bit, signed, little-endian")
    p.add_argument("--stream", action="store_true", help="hear the file in pieces of --chunk-ms, and show words as they come")
    p.add_argument(
        "--chunk-ms", type=number(least=1, most=60_000), default=100.0, metavar="X", help="milliseconds of a piece of a stream"
    )
    p.add_argument("--rate", type=number(int, least=1), metavar="N", help="samples a second on stdin (default: the task's)")
    p.add_argument("--channels", type=number(int, least=1, most=64), metavar="N", help="channels on stdin (default: 1)")
    p.add_argument(
        "--beam", type=number(int, least=0, most=1000), default=0, metavar="N",
        help="prefixes that a beam search keeps; 0 takes the likeliest label of each step",
    )  # fmt: skip
    add_device_options(p)
    p.add_argument("--json", action="store_true", help="one JSON object; of a stream, one a line for every piece of text too")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    live = args.file == PIPE
    if not live and (args.rate or args.channels):
        raise UserError("--rate and --channels are for raw samples on stdin; a sound file says its own")
    from openxlstm.cli.generate import load_of_task, task_of_run
    from openxlstm.inference.transcribe import Recognizer
    from openxlstm.tasks.speech import DigitSequences

    task = task_of_run(
        args.run,
        DigitSequences,
        lacks="transcribe needs the run's config.json too, which says what it hears",
        takes=f"transcribe needs one of {DigitSequences.name}",
    )
    rate, pieces = live_pieces(args, task) if live else file_pieces(args)  # a wrong file is told before a model is loaded
    model, device = load_of_task(args)
    say(f"{model.num_parameters():,} parameters, trained on {task.name}, on {device}")
    if "attention" in model.config.blocks and (live or args.stream):
        say("note: attention remembers every step: memory and time a piece grow with the stream")
    recognizer = Recognizer(model, task.features, task.alphabet, rate=rate, beam=args.beam)
    text, code = written(recognizer, pieces, args, live or args.stream)
    latency = recognizer.latency
    if args.json:
        result = {"run": args.run, "file": args.file, "text": text, "seconds": recognizer.seconds, "beam": args.beam}
        result |= {"num_pieces": latency.num_pieces, "mean_ms": 1e3 * latency.mean, "worst_ms": 1e3 * latency.worst}
        print(json.dumps(result | {"interrupted": code != 0}))
    what = f", {latency.num_pieces} pieces, a piece took {1e3 * latency.mean:.1f} ms, at most {1e3 * latency.worst:.1f} ms"
    say(f"{recognizer.seconds:.1f} s of sound{what if live or args.stream else ''}")
    return code


def file_pieces(args: Any) -> tuple[int, Iterator["Tensor"]]:
    """The rate of a sound file, and its samples in pieces."""
    from openxlstm.data.audio import SAMPLES_AT_ONCE, SoundFile

    sound = SoundFile(args.file)
    return sound.rate, sound.blocks(chunk(args, sound.rate) if args.stream else SAMPLES_AT_ONCE)


def live_pieces(args: Any, task: "DigitSequences") -> tuple[int, Iterator["Tensor"]]:
    """The rate of what comes on stdin, and its samples in pieces, each as soon as it is there."""
    from openxlstm.data.audio import PCM_BYTES, RawSound

    rate = args.rate or task.rate
    sound = RawSound(args.channels or 1)
    size = chunk(args, rate) * sound.num_channels * PCM_BYTES

    def pieces() -> Iterator["Tensor"]:
        while content := sys.stdin.buffer.read(size):
            yield sound.feed(content)
        sound.finish()

    return rate, pieces()


def chunk(args: Any, rate: int) -> int:
    """Samples of a piece."""
    return max(round(args.chunk_ms / 1000 * rate), 1)


def written(recognizer: Any, pieces: Iterator["Tensor"], args: Any, stream: bool) -> tuple[str, int]:
    """The text, shown as it comes; and 130 where Ctrl-C ended it, which is how a live stream ends, else 0."""
    from openxlstm.cli.generate import show

    found: list[str] = []

    def take(text: str) -> None:
        if not text:
            return
        found.append(text)
        if not args.json:
            show(text)
        elif stream:
            print(json.dumps({"seconds": round(recognizer.seconds, 3), "text": text}), flush=True)

    code = 0
    try:
        try:
            for samples in pieces:
                take(recognizer.feed(samples))
        except KeyboardInterrupt:
            code = 130
        take(recognizer.finish())
    finally:
        if not args.json:
            show("\n")
    return "".join(found), code
