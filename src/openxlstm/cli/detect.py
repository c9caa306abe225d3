"""`openxlstm detect FILE.csv`: score each row of a series by how unusual it is, from a file or as rows come."""

import csv
import io
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from openxlstm.cli.arguments import VerbParser, add_device_options, check_figures, device_of, number, say
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.detection import AnomalyDetector

SHOWN = 20
"""Anomalies of the table; the file has all."""
TRAINING = ("train", "model", "dim", "blocks", "context", "train_steps", "lr", "seed")
"""Options that a detector of --load has no use for: it is what it was trained to be."""
COLUMNS = ("time", "value", "expected", "score", "anomaly", "training")


def parser() -> VerbParser:
    """All options."""
    found = VerbParser(
        "detect",
        "Score each row of a series: 0.5 is usual, 0.95 nine deviations above it. A CSV, a figure, a table of anomalies.\n\n"
        "The detector learns from the first rows (--train) and then reads row by row; no score depends on a later row.\n"
        "Gaps, doubled or unsorted times, text among numbers: all are refused. With - rows come from stdin, `value` or\n"
        "`time,value` a line, and each is answered at once.",
        (
            "openxlstm detect machine_temperature.csv --threshold 0.95",
            "openxlstm detect january.csv --train 1.0 --save pump",
            "openxlstm detect february.csv --load pump --save pump",
            "sensor | openxlstm detect - --load pump",
        ),
    )
    add = found.add_argument
    add("file", help="a .csv or .csv.gz with a header: times in its first column, numbers in the second; or - for stdin")
    add("--time", help="column of times (default: the first)")
    add("--value", help="column of numbers (default: the first other)")
    add("--train", type=number(float, above=0), help="rows to learn from, or a share up to 1.0 of the file (default: 0.15)")
    add("--threshold", type=number(float, above=0, most=1), default=0.95, help="scores from here on are anomalies")
    add("--irregular", action="store_true", help="take rows as they follow each other, whatever time lies between")
    add("--encoding", default="utf-8", help="of the file")
    add("--model", default="slstm", help="blocks: slstm, mlstm, xlstm[1:1], lstm, transformer, ...")
    add("--dim", type=number(int, least=1), default=32, help="width of the model")
    add("--blocks", type=number(int, least=1), default=1, help="number of blocks")
    add("--context", type=number(int, least=1), default=336, help="rows of the window; at most half of the training rows")
    add("--train-steps", type=number(int, least=1), default=300, help="optimiser steps, at most")
    add("--lr", type=number(float, above=0), default=3e-3, help="learning rate")
    add("--seed", type=number(int, least=0), default=0, help="of weights and samples")
    add("--out", default="anomalies.csv", help="where the scores go; those of stdin go to stdout")
    add("--figure", help="where the figure goes (default: beside --out, as .png)")
    add("--no-figure", action="store_true", help="draw nothing")
    add("--save", help="a folder for the detector, to go on from with --load")
    add("--load", help="a folder of --save: read the rows that follow, train nothing")
    add_device_options(found, backend=False, device="cpu")
    add("--json", action="store_true", help="print the anomalies as JSON")
    return found


def run(argv: list[str]) -> int:
    """Score, write the files, print the table."""
    args = parser().parse_going_on(argv, TRAINING)
    if args.file == "-":
        return stream(args)
    if not args.no_figure:
        check_figures()
    import numpy as np

    from openxlstm.data.sensors.anomalies import read_stamped
    from openxlstm.data.series import spell_all
    from openxlstm.data.zone import UTC
    from openxlstm.detection.detector import check_near, scale_of
    from openxlstm.files import write_atomic

    detector = loaded(args) if args.load else new_detector(args)
    times, zone, values, oddities = read_stamped(
        args.file, time=args.time, value=args.value, irregular=not ordered(detector), encoding=args.encoding
    )
    if oddities:
        say(f"note: irregular stamps: {oddities}")
    training = 0 if args.load else rows_to_train(args.train, len(values))
    # The detector has all times in UTC, as numpy reads those of stdin; what is written are those of the file.
    utc = times if zone is None else UTC.strip(zone.add(times))
    stamps = utc if ordered(detector) else None
    if not args.load:
        say(f"{len(values):,} rows, {training:,} of them to learn from")
        check_near(values, scale_of(values[:training]), 0)  # before the training, not after it
        detector.fit(values[:training], None if stamps is None else stamps[:training], say=say)
    later, forecasts = detector.scores_and_forecasts(values[training:], None if stamps is None else stamps[training:])
    if args.save:  # first, so that no figure or full disk is in its way
        detector.save(args.save)
        say(f"detector: {args.save}")
    expected = np.concatenate([np.full(training, np.nan), forecasts])
    scores = np.concatenate([detector.training_scores, later])
    spelled = [time + (zone.offset if zone else "") for time in spell_all(times)]
    write_atomic(args.out, as_csv(spelled, values, expected, scores, args.threshold, training))
    say(f"scores: {args.out}")
    if not args.no_figure:
        from openxlstm.detection.figure import draw

        figure = Path(args.figure or Path(args.out).with_suffix(".png"))
        draw(figure, Path(args.file).name, times, values, scores, args.threshold, training)
        say(f"figure: {figure}")
    events = anomalies(spelled, scores, args.threshold, training)
    if args.json:
        print(json.dumps(events, indent=2))
        return 0
    print(f"{len(events)} anomalies after the training rows, with scores of {args.threshold:g} or more")
    for one in events[:SHOWN]:
        print(f"  {one['first']} to {one['last']}: {one['rows']} rows, highest score {one['score']:.4f}")
    if len(events) > SHOWN:
        print(f"  ... and {len(events) - SHOWN} more in {args.out}")
    return 0


def rows_to_train(train: float | None, rows: int) -> int:
    """Rows that --train means: a share up to 1, or a whole number."""
    train = 0.15 if train is None else train
    if train > 1 and train != int(train):
        raise UserError(f"--train {train:g}: give a whole number of rows, or a share up to 1.0")
    return min(round(train * rows) if train <= 1 else int(train), rows)


def new_detector(args: Any) -> "AnomalyDetector":
    """The untrained detector that the options ask for."""
    from dataclasses import replace

    from openxlstm.detection import AnomalyDetector
    from openxlstm.recipes.detection import small

    base = small(
        context=args.context,
        patch=min(24, args.context),
        pattern=args.model,
        num_blocks=args.blocks,
        dim=args.dim,
        steps="rows" if args.irregular else "equal",
        device=device_of(args),
    )
    return AnomalyDetector(replace(base, fit=replace(base.fit, steps=args.train_steps, lr=args.lr, seed=args.seed)))


def ordered(detector: "AnomalyDetector") -> bool:
    """Whether times have to follow each other. With --irregular they are the names of rows, and the detector sees none."""
    return detector.settings.steps == "equal"


def loaded(args: Any) -> "AnomalyDetector":
    """The detector of --load."""
    from openxlstm.detection import AnomalyDetector

    found = AnomalyDetector.load(args.load, device_of(args))
    if args.irregular and ordered(found):
        raise UserError(f"{args.load}: was trained on rows at equal steps; --irregular is for training")
    return found


def as_csv(times: Sequence[str], values: Any, expected: Any, scores: Any, threshold: float, training: int) -> str:
    """All rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in range(len(values)):
        writer.writerow(line_of(times[row], values[row], expected[row], scores[row], threshold, row < training))
    return text.getvalue()


def line_of(time: str, value: float, expected: float, score: float, threshold: float, training: bool) -> list[str]:
    """The cells of a row."""
    forecast = "" if expected != expected else f"{expected:.6g}"
    fired = score >= threshold and not training
    return [time, f"{value:.10g}", forecast, f"{score:.6f}", str(int(fired)), str(int(training))]


def anomalies(times: Sequence[str], scores: Any, threshold: float, training: int) -> list[dict[str, Any]]:
    """Rows that fired after the training rows; those that follow each other are one."""
    found: list[dict[str, Any]] = []
    before = -2
    for row in range(training, len(scores)):
        if scores[row] < threshold:
            continue
        if row > before + 1:
            found.append({"first": times[row], "last": "", "rows": 0, "score": 0.0})
        one = found[-1]
        found[-1] = one | {
            "last": times[row],
            "rows": one["rows"] + 1,
            "score": round(max(one["score"], float(scores[row])), 6),
        }
        before = row
    return found


def stream(args: Any) -> int:
    """Answer the rows of stdin one by one; without --load the first --train of them are learnt from."""
    if args.json or args.figure or args.time or args.value:
        raise UserError("--json, --figure, --time and --value are for files; stdin has lines `value` or `time,value`")
    import numpy as np

    rows = lines_of(sys.stdin)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if args.load:
        detector = loaded(args)
        writer.writerow(COLUMNS)
    else:
        if args.train is None or args.train < 2 or args.train != int(args.train):
            raise UserError("stdin has no end: give --train as a number of rows, or a trained detector with --load")
        first = [row for _, row in zip(range(int(args.train)), rows)]
        times, detector = [row.time for row in first], new_detector(args)
        stamps = np.asarray(times) if times and times[0] is not None and ordered(detector) else None
        detector.fit([row.value for row in first], stamps, say=say)
        writer.writerow(COLUMNS)
        for row, score in zip(first, detector.training_scores):
            writer.writerow(line_of(row.text, row.value, float("nan"), score, args.threshold, True))
    sys.stdout.flush()
    for row in rows:
        expected = detector.expected
        score = detector.score(row.value, row.time if ordered(detector) else None)
        writer.writerow(line_of(row.text, row.value, expected, score, args.threshold, False))
        sys.stdout.flush()
    if args.save:
        detector.save(args.save)
        say(f"detector: {args.save}")
    return 0


class Row(NamedTuple):
    """A line of stdin."""

    text: str  # of the time, which is written as it came: a column that has no end has no finest unit
    time: Any  # datetime64, a whole number, or None
    value: float


def lines_of(lines: TextIO) -> Iterator[Row]:
    """The rows; a first line of two words is a header, empty lines are none. Raises UserError, which names the line, also where
    some rows have a time, or one of another kind, and others not."""
    from openxlstm.data.sensors.text import finite, numbered

    first: Any = None
    for count, line in numbered(lines):
        cells = [cell.strip() for cell in line.split(",")]
        place = f"stdin, line {count}"
        if len(cells) > 2:
            raise UserError(f"{place}: {len(cells)} cells, expected `value` or `time,value`")
        if count == 1 and cells[-1].isidentifier() and cells[-1].lower() not in ("nan", "inf", "infinity"):
            say(f"note: {place} is taken as a header: {line.strip()}")
            continue
        text = cells[0] if len(cells) == 2 else ""
        row = Row(text, time_of(text, place), finite(cells[-1], place, "the value"))
        first = first or row
        if type(row.time) is not type(first.time):
            raise UserError(f"{place}: the time is {text or 'missing'}; in the rows before it was {first.text or 'missing'}")
        yield row


def time_of(text: str, place: str) -> Any:
    """A date, a whole number, or None of an empty text."""
    import numpy as np

    if not text:
        return None
    try:
        return int(text)
    except ValueError:  # then it is a date
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's, where it takes a time with a zone to UTC, as it should
            return np.datetime64(text.replace(" ", "T"), "ns")
    except ValueError:
        raise UserError(f"{place}: {text!r} is not a time like 2024-01-31 23:55:00, nor a whole number") from None
