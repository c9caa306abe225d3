"""Speech benchmarks, in one command that goes on where it was interrupted:

    python benchmarks/speech.py --data FOLDER --out FOLDER [--parts digits,speakers,sequences,stream] [--seeds 0,1,2]
        [--cells FOLDER]

FOLDER holds the recordings of the Free Spoken Digit Dataset, or .tar.gz files of them.
digits: spoken digits, official split. speakers: the same with each speaker left out in turn (--speakers george for some).
sequences: word and character error rates of sequences of digits, official split. All with LSTM and Transformer twins of equal
parameters. stream: an hour of test recordings in pieces of 100 ms: is the text that of larger pieces, what does a piece take,
and does memory grow (Linux)?
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import kept, run, some_of, spell
from torch import Tensor

from openxlstm.cli.arguments import numbers
from openxlstm.data.spoken_digits import read_recordings
from openxlstm.files import write_atomic
from openxlstm.inference.load import model_folder
from openxlstm.inference.transcribe import Recognizer
from openxlstm.models.sequence import SequenceModel
from openxlstm.recipes import recipe
from openxlstm.tasks.speech import DIGITS, DigitSequences, by_speaker, uniform
from openxlstm.training import RunConfig
from openxlstm.training.compare import Comparison, compare
from openxlstm.training.evaluation.speech import word_edits

PARTS = ("digits", "speakers", "sequences", "stream")
PIECE = 0.1  # seconds, of a live stream
LONG_PIECE = 60.0
LONGEST_PAUSE = 2.0
WARM = 60.0  # seconds of the stream after which memory must not grow
SHARES = 6  # of the stream, each with an error rate: a model must not get worse with time


def configuration(task: str, args: argparse.Namespace, split: str = "official") -> RunConfig:
    """The task's recipe on these files."""
    base = recipe(task)
    trainer = replace(base.trainer, threads=args.threads, steps=args.steps or base.trainer.steps)
    return replace(base, data=replace(base.data, source=str(args.data), split=split), trainer=trainer)  # type: ignore[type-var]


def twins(config: RunConfig, folder: Path, args: argparse.Namespace) -> Comparison:
    """Train the twins, but for what is there."""
    models, seeds = args.models.split(","), args.seeds
    return compare(config, models, seeds, folder, say=print, cells=args.cells)


def compared(config: RunConfig, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a model."""
    found = twins(config, folder, args)
    if found.interrupted is not None:
        raise KeyboardInterrupt
    rows = []
    for model in args.models.split(","):
        reports = [cell.report for cell in found.chosen(model) if cell.report is not None]
        if not reports:
            raise SystemExit(f"{model}: no run finished; see {folder}")
        row: dict[str, Any] = {"model": model, "seeds": len(reports), "num_parameters": reports[0]["num_parameters"]}
        row |= {"metric": reports[0]["test"]["metric"], "scores": [one["test"]["score"] for one in reports]}
        row |= {"validation": [one["validation"]["score"] for one in reports], "guess": reports[0]["test"]["guess"]}
        if "beam" in reports[0]:
            row["characters"] = [one["test"]["character_error_rate"] for one in reports]
            row["beam"] = [one["beam"]["score"] for one in reports]
            row["longer"] = [one["other_lengths"][0]["score"] for one in reports]
        rows.append(row)
    return rows


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown."""
    lines = []
    for what, rows in found.items():
        more = {"characters": "character error rate", "beam": "words, beam of 8", "longer": "words, 15 digits"}
        shown = {key: title for key, title in more.items() if key in rows[0]}
        head = ["model", "parameters", "seeds", "validation", f"test: {rows[0]['metric']}", *shown.values()]
        lines += [f"{what}:", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for row in rows:
            values = [row["model"], f"{row['num_parameters']:,}", str(row["seeds"]), spell(row["validation"])]
            values += [spell(row["scores"]), *(spell(row[key]) for key in shown)]
            lines.append("| " + " | ".join(values) + " |")
        lines += [f"| guessing | | | | {rows[0]['guess']:.4f} |" + " |" * len(shown), ""]
    return "\n".join(lines)


def stream(task: DigitSequences, seconds: float) -> Iterator[tuple[Tensor, str]]:
    """Test recordings, speaker after speaker, with pauses, each with its word, until so much has been said."""
    rng = torch.Generator().manual_seed(0)
    pools, said = by_speaker(task.recordings("test")), 0
    while said < seconds * task.rate:
        pool = pools[int(torch.randint(len(pools), (), generator=rng))]
        for number in torch.randint(len(pool), (20,), generator=rng).tolist():
            pause = torch.zeros(round(uniform(rng, 0.05, LONGEST_PAUSE) * task.rate))
            sound = torch.cat([pause, task.louder(pool[number].samples, rng)])
            said += len(sound)
            yield sound, DIGITS[pool[number].digit]


def pieces(sounds: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """The same sound in pieces of equal size."""
    held = torch.zeros(0)
    for sound in sounds:
        held = torch.cat([held, sound])
        whole = len(held) - len(held) % size
        yield from held[:whole].split(size)
        held = held[whole:]
    yield held


def resident() -> float:
    """Memory of this process now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def heard(folder: Path, task: DigitSequences, hours: float, piece: float) -> dict[str, Any]:
    """The text of the stream, what pieces took (process time, so that other processes do not count) and the memory."""
    model = SequenceModel.from_pretrained(model_folder(folder))
    recognizer = Recognizer(model, task.features, task.alphabet)
    text, spent = [], []
    warm = most = 0.0
    for part in pieces((sound for sound, _ in stream(task, hours * 3600)), round(piece * task.rate)):
        begin = time.process_time()
        text.append(recognizer.feed(part))
        spent.append(time.process_time() - begin)
        most = max(most, resident())
        if recognizer.seconds <= WARM:
            warm = most
    text.append(recognizer.finish())
    ordered, latency = sorted(spent), recognizer.latency
    return {
        "text": "".join(text),
        "seconds": recognizer.seconds,
        "pieces": len(spent),
        "median_ms": 1e3 * ordered[len(ordered) // 2],
        "p999_ms": 1e3 * ordered[int(len(ordered) * 0.999)],
        "worst_ms": 1e3 * ordered[-1],
        "worst_wall_ms": 1e3 * latency.worst,
        "warm_mb": warm,
        "most_mb": most,
    }


def streamed(folder: Path, task: DigitSequences, hours: float) -> dict[str, Any]:
    """A live stream of a finished run, against the same sound in long pieces and against what was said."""
    live = heard(folder, task, hours, PIECE)
    whole = heard(folder, task, hours, LONG_PIECE)
    said = [word for _, word in stream(task, hours * 3600)]
    edits = word_edits([" ".join(said)], [live["text"]])
    words, rates = live["text"].split(), []
    for share in range(SHARES):  # where few words are lost, the shares of both texts are about the same words
        cut = lambda text, k=share: " ".join(text[len(text) * k // SHARES : len(text) * (k + 1) // SHARES])  # noqa: E731
        rates.append(word_edits([cut(said)], [cut(words)]).rate)
    same = live.pop("text") == whole.pop("text")
    return live | {"same_text": same, "words": edits.total, "word_error_rate": edits.rate, "by_share": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the recordings, or .tar.gz files of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is not measured again")
    parser.add_argument("--cells", type=Path, help="folder of the trained models (default: beside the results)")
    parser.add_argument("--parts", type=some_of(PARTS), default=",".join(PARTS))
    parser.add_argument("--models", default="slstm,lstm,transformer")
    parser.add_argument("--seeds", type=numbers(int, least=0), default="0,1,2")
    parser.add_argument("--speakers", help="to leave out, some of them (default: each in turn)")
    parser.add_argument("--hours", type=float, default=1.0, help="of the stream")
    parser.add_argument("--steps", type=int, help="of every training (default: those of the recipes)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, list[dict[str, Any]]] = {}
    speakers = args.speakers.split(",") if args.speakers else sorted({r.speaker for r in read_recordings(str(args.data), 8000)})
    cells = [("digits", "spoken_digits", "official"), *(("speakers", "spoken_digits", name) for name in speakers)]
    for part, task, split in [*cells, ("sequences", "digit_sequences", "official")]:
        if part in args.parts:
            what = f"{task}, {'official split' if split == 'official' else f'{split} left out'}"
            found[what] = compared(configuration(task, args, split), args.out / f"{task}-{split}", args)
            write_atomic(args.out / "table.md", table(found))
    print(table(found))
    if "stream" in args.parts:
        folder = args.out / "digit_sequences-official"
        config = configuration("digit_sequences", args)
        result = twins(config, folder, args)
        assert isinstance(config.data, DigitSequences)
        for cell in result.cells:
            if cell.report is not None and cell.seed == result.cells[0].seed and "transformer" not in cell.model:
                one = kept(args.out / f"stream-{cell.model}.json", lambda c=cell: streamed(c.folder, config.data, args.hours))
                print(cell.model, json.dumps(one, indent=2))


if __name__ == "__main__":
    run(main)
