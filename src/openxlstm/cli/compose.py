"""`openxlstm compose`: a model of music writes a piece."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openxlstm.cli.arguments import VerbParser, add_device_options, number, say
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.data.music import Notation, Roll
    from openxlstm.tasks.music import PianoRoll

NATURAL = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SIGNS = {"": 0, "#": 1, "b": -1}


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "compose",
        "Let a model that was trained on a task of music write a piece: a MIDI file and a picture of its notes.",
        [
            "openxlstm compose runs/chorales --out piece.mid",
            "openxlstm compose runs/chorales --out piece.mid --prime melody.mid --key G --temperature 0.6",
            "openxlstm compose runs/tunes --out tune.mid --steps 256 --tempo 120 --seed 7",
        ],
    )
    p.add_argument("run", metavar="RUN", help="a run folder of a task of music, such as jsb_chorales or nottingham")
    p.add_argument("--out", required=True, metavar="FILE", help="the MIDI file to write")
    p.add_argument("--figure", metavar="FILE", help="the picture to write (default: beside --out, as .png)")
    p.add_argument("--prime", metavar="FILE", help="a MIDI file to go on from; without it, the model begins the piece")
    p.add_argument("--prime-steps", type=number(int, least=1), metavar="N", help="read so many steps of it (default: all)")
    p.add_argument(
        "--key", type=key, metavar="KEY",
        help="the key of --prime and of the piece: C, F#, Bb ... (major or minor); models trained in C alone (default: C)",
    )  # fmt: skip
    p.add_argument("--steps", type=number(int, least=1), default=128, metavar="N", help="steps to write, as long as the task's")
    p.add_argument(
        "--temperature", type=number(least=0), default=0.8, metavar="X",
        help="below 1 plainer, above 1 more surprising; 0 always takes the likeliest notes",
    )  # fmt: skip
    p.add_argument("--seed", type=number(int, least=0), default=0, metavar="N", help="another seed, another piece")
    p.add_argument("--tempo", type=number(least=4, most=1000), default=100.0, metavar="X", help="quarter notes a minute")
    add_device_options(p)
    p.add_argument("--json", action="store_true", help="print one JSON object in place of the names of the files")
    return p


def key(text: str) -> int:
    """Semitones from C to a key, the nearer way: from -5 (G) to 6 (F#)."""
    import argparse

    tonic, sign = text[:1].upper(), text[1:]
    if tonic not in NATURAL or sign not in SIGNS:
        raise argparse.ArgumentTypeError(f"expects a key such as C, F# or Bb, got {text!r}")
    return (NATURAL[tonic] + SIGNS[sign] + 5) % 12 - 5


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    if args.prime_steps and not args.prime:
        raise UserError("--prime-steps needs --prime")
    out, figure = outputs(args)
    from openxlstm.cli.generate import task_of_run
    from openxlstm.tasks.music import PianoRoll

    task = task_of_run(
        args.run,
        PianoRoll,  # type: ignore[type-abstract]
        lacks="compose needs the run's config.json too, which says what the keys mean",
        takes="compose needs one of jsb_chorales or nottingham",
    )
    if args.key is not None and not task.in_c:
        raise UserError(f"--key is for models of pieces in C; {args.run} was trained on {task.source} in its own keys")
    notation = task.notation.higher(args.key or 0)
    begun = read_prime(args, notation)
    steps, interrupted = written(load(args, task), args, begun)
    import numpy as np

    from openxlstm.data.music import write_midi

    roll = np.concatenate([begun, steps])
    write_midi(out, roll, notation, args.tempo)
    picture(figure, roll, len(begun), notation, f"{task.name}, seed {args.seed}, temperature {args.temperature:g}")
    notes = int((np.diff(roll.astype(np.int8), axis=0, prepend=0) == 1).sum())
    if args.json:
        result = {"run": args.run, "midi": str(out), "figure": str(figure), "num_prime_steps": len(begun)}
        result |= {"num_steps": len(steps), "num_notes": notes, "interrupted": interrupted, "seed": args.seed}
        print(json.dumps(result | {"temperature": args.temperature, "prime": args.prime, "tempo": args.tempo}))
    else:
        print(out, figure, sep="\n")
    quarters = len(roll) / notation.steps_per_quarter
    say(f"{len(begun)} steps read, {len(steps)} written{' and interrupted' if interrupted else ''}: {notes} notes, "
        f"{60 * quarters / args.tempo:.0f} s")  # fmt: skip
    return 130 if interrupted else 0


def outputs(args: Any) -> tuple[Path, Path]:
    """The files to write; raises UserError for names that no such file should have and where MIDI cannot be written, before any
    work is done."""
    from openxlstm.data.music import midi_package

    midi_package()
    out = Path(args.out)
    if out.suffix.lower() not in (".mid", ".midi") or out.is_dir():
        raise UserError(f"--out {args.out}: a MIDI file ends in .mid")
    figure = Path(args.figure) if args.figure else out.with_suffix(".png")
    if figure.suffix.lower() != ".png" or figure.is_dir():
        raise UserError(f"--figure {args.figure}: a picture ends in .png")
    return out, figure


def read_prime(args: Any, notation: "Notation") -> "Roll":
    """The steps to go on from, [T, 88]."""
    import numpy as np

    from openxlstm.data.music import KEYS, read_midi

    if not args.prime:
        return np.zeros((0, KEYS), np.uint8)
    return read_midi(args.prime, notation)[: args.prime_steps]


def load(args: Any, task: "PianoRoll") -> Any:
    """The model of the run."""
    from openxlstm.cli.generate import load_of_task

    model, device = load_of_task(args)
    say(f"{model.num_parameters():,} parameters, trained on {task.name}, on {device}")
    return model


def written(model: Any, args: Any, begun: "Roll") -> tuple["Roll", bool]:
    """What the model writes, [T, 88], and whether Ctrl-C ended it."""
    import itertools

    import numpy as np
    import torch

    from openxlstm.inference.compose import compose

    steps: list[Any] = []
    interrupted = False
    stream = compose(model, torch.from_numpy(begun), temperature=args.temperature, seed=args.seed)
    try:
        for step in itertools.islice(stream, args.steps):
            steps.append(step.numpy())
    except KeyboardInterrupt:
        interrupted = True
    return np.stack(steps) if steps else begun[:0], interrupted


def picture(path: Path, roll: "Roll", begun: int, notation: "Notation", title: str) -> None:
    """Draw the notes, pitch over time; what was read is paler than what was written."""
    import numpy as np

    from openxlstm.training.record import canvas

    sounding = np.flatnonzero(roll.any(0))
    low, high = (int(sounding[0]), int(sounding[-1])) if len(sounding) else (0, roll.shape[1] - 1)
    shade = roll.astype(float)
    shade[:begun] *= 0.45
    with canvas(path, title, (10.4, 4.2)) as figure:
        axes = figure.add_subplot()
        lowest = notation.lowest - 0.5
        end = len(roll) / notation.steps_per_quarter
        area = (0, end, lowest, lowest + roll.shape[1])
        axes.imshow(shade.T, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1, extent=area, interpolation="nearest")
        axes.set_ylim(low + lowest - 1, high + lowest + 2)
        octaves = [12 * n for n in range(1, 10) if low + lowest <= 12 * n <= high + lowest + 1]
        axes.set_yticks(octaves, [f"C{n // 12 - 1}" for n in octaves])
        axes.grid(alpha=0.25)
        axes.set_xlabel("quarter notes")
