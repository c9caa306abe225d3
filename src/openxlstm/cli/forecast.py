"""`openxlstm forecast FILE.csv --horizon 24`: train on a file of series, forecast what comes next."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openxlstm.cli.arguments import VerbParser, add_device_options, check_figures, device_of, number, numbers, say
from openxlstm.errors import UserError

if TYPE_CHECKING:
    from openxlstm.data.series import Panel
    from openxlstm.forecasting import Forecaster

SHOWN = 24
"""Rows of the table; the file has all."""
TRAINING = (
    *("covariates", "static", "irregular", "missing", "multivariate", "model", "dim", "blocks", "context", "centre", "levels"),
    *("season", "train_steps", "lr", "seed", "check"),
)
"""Options that a forecaster of --load has no use for: it is what it was trained to be."""


def parser() -> VerbParser:
    """All options."""
    found = VerbParser(
        "forecast",
        "Train a forecaster on the series of a CSV file and forecast what comes next: a CSV, a figure, a table.\n\n"
        "A file with the columns unique_id, ds, y is long: one row a series and time. Any other is wide: a column of times,\n"
        "by default the first, and one column a series. Gaps, doubled or unsorted times, text among numbers: all are refused.",
        (
            "openxlstm forecast ETTh1.csv --horizon 96",
            "openxlstm forecast prices.csv --horizon 5 --target CLOSE --irregular --centre last --check 20",
            "openxlstm forecast sales.csv --horizon 14 --covariates holiday --future next.csv --save shop",
            "openxlstm forecast new_rows.csv --load shop --future after.csv",
        ),
    )
    add = found.add_argument
    add("file", help="a .csv or .csv.gz; with --load the rows that follow those already read")
    add("--horizon", type=number(int, least=1), help="rows to forecast")
    add("--time", help="column of times (default: ds, or the first of a wide file)")
    add(
        "--target",
        default="",
        help="columns to forecast, parted by commas (default: y, or all others of a wide file; with --load those known)",
    )
    add("--covariates", default="", help="columns that are known in advance, parted by commas")
    add("--static", default="", help="columns that are constant within a series, parted by commas (long files)")
    add("--future", help="a CSV with times and covariates of the rows to forecast; --covariates needs one")
    add(
        "--irregular",
        action="store_true",
        help="take rows as they follow each other, whatever time lies between (trading days)",
    )
    add("--missing", action="store_true", help="allow empty cells in the targets; the model is told which")
    add("--multivariate", action="store_true", help="read all series together, row by row, instead of each by itself")
    add("--encoding", default="utf-8", help="of the file")
    add("--model", default="slstm", help="blocks: slstm, mlstm, xlstm[1:1], lstm, transformer, ...; or nlinear, linear")
    add("--dim", type=number(int, least=1), default=64, help="width of the model")
    add("--blocks", type=number(int, least=1), default=1, help="number of blocks")
    add("--context", type=number(int, least=1), help="rows of the window (default: 336, or a quarter of the shortest series)")
    add("--centre", choices=("mean", "last"), default="mean", help="subtracted from windows; last suits prices")
    add("--levels", type=numbers(int, least=1, most=99), default=(80,), help="intervals in percent, such as 80,95")
    add("--season", type=number(int, least=1), help="rows of a season for the baselines (default: by the time between rows)")
    add("--train-steps", type=number(int, least=1), default=600, help="optimiser steps, at most")
    add("--lr", type=number(float, above=0), default=4e-3, help="learning rate")
    add("--seed", type=number(int, least=0), default=0, help="of weights and samples")
    add("--check", type=number(int, least=1), help="also measure on so many windows at the end, against baselines")
    add("--out", default="forecast.csv", help="where the forecast goes")
    add("--figure", help="where the figure goes (default: beside --out, as .png)")
    add("--no-figure", action="store_true", help="draw nothing")
    add("--save", help="a folder for the forecaster, to go on from with --load")
    add("--load", help="a folder of --save: read FILE as the rows that follow, train nothing")
    add_device_options(found, backend=False, device="cpu")
    add("--json", action="store_true", help="print the forecast as JSON")
    return found


def names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def run(argv: list[str]) -> int:
    """Forecast, write the files, print the table."""
    args = parser().parse_going_on(argv, TRAINING)
    if args.load is None and args.horizon is None:
        raise UserError("give the number of rows to forecast: --horizon 24")
    from openxlstm.data.zone import import_pandas

    import_pandas()
    if not args.no_figure:
        check_figures()
    forecaster, future = loaded(args) if args.load else trained(args)
    if not args.load:  # what took long is kept, whatever comes of the rest
        keep(forecaster, args.save)
    frame = forecaster.predict(args.horizon, future=future)
    if args.load:  # but rows that were read are not, or they would come too late in a second try
        keep(forecaster, args.save)
    from openxlstm.files import atomic_path

    with atomic_path(args.out) as aside:
        frame.to_csv(aside, index=False)
    say(f"forecast: {args.out}")
    if not args.no_figure:
        figure = args.figure or str(Path(args.out).with_suffix(".png"))
        forecaster.plot(figure, frame)
        say(f"figure: {figure}")
    if args.json:
        print(json.dumps([{name: as_json(cell) for name, cell in row.items()} for row in frame.to_dict("records")], indent=2))
        return 0
    print(frame.head(SHOWN).to_string(index=False, float_format=lambda value: f"{value:.5g}"))
    if len(frame) > SHOWN:
        print(f"... and {len(frame) - SHOWN} more rows in {args.out}")
    return 0


def keep(forecaster: "Forecaster", folder: str | None) -> None:
    """Save the forecaster where there is a folder for it."""
    if folder:
        forecaster.save(folder)
        say(f"forecaster: {folder}")


def as_json(cell: Any) -> Any:
    """A cell of the forecast: times as ISO 8601, what is no number as null."""
    if hasattr(cell, "isoformat"):
        return cell.isoformat()
    return None if cell != cell else cell


def read(args: Any, path: str, **more: Any) -> "Panel":
    """A file as the options say."""
    from openxlstm.data.series import read_series

    return read_series(path, time=args.time, encoding=args.encoding, **more)


def trained(args: Any) -> "tuple[Forecaster, Panel | None]":
    """A forecaster fitted to the file, and the rows to come, which are looked at before."""
    from openxlstm.forecasting import FitConfig, Forecaster
    from openxlstm.forecasting.streams import bundles, rows_ahead

    steps = "rows" if args.irregular else "equal"
    panel = read(
        args,
        args.file,
        targets=names(args.target),
        covariates=names(args.covariates),
        static=names(args.static),
        steps=steps,
        missing=args.missing,
    )
    future = read_future(args, panel.names, panel.covariates)
    if future is not None:
        future = future.in_zone(panel.zone, args.future)
        for one in bundles(panel, args.multivariate):
            rows_ahead(future, one.names, one.times[-1], args.horizon, panel.step, steps)
    shortest = min(map(len, panel.series))
    say(f"{len(panel.series)} series of {shortest:,} rows or more, one every {panel.step}")
    forecaster = Forecaster(
        horizon=args.horizon,
        context=args.context or max(min(336, shortest // 4), 1),
        pattern=args.model,
        num_blocks=args.blocks,
        dim=args.dim,
        centre=args.centre,
        levels=args.levels,
        covariates=panel.covariates,
        static=panel.static,
        multivariate=args.multivariate,
        missing=args.missing,
        steps=steps,
        season=args.season or panel.step.season,
        device=device_of(args),
        fit=FitConfig(steps=args.train_steps, lr=args.lr, seed=args.seed),
    )
    if args.check:
        check(forecaster, panel, args.check)
    return forecaster.fit(panel, say=say), future


def check(forecaster: "Forecaster", panel: "Panel", windows: int) -> None:
    """Say how far off the forecasts of the last windows are, and those of the baselines."""
    import numpy as np

    from openxlstm.forecasting.scores import coverage

    frame = forecaster.cross_validation(panel, windows=windows, every=1)
    first = 4  # unique_id, ds, cutoff, y
    points = [name for name in frame.columns[first:] if "-lo-" not in name and "-hi-" not in name]
    unique = frame["unique_id"].nunique()
    say(f"mean absolute error over the last {windows} windows of {unique} series:")
    for name in points:
        off = np.abs(frame["y"].to_numpy() - frame[name].to_numpy())
        say(f"  {name:<16}{np.nanmean(off):.5g}")
    for level in forecaster.settings.levels:
        low, high = (frame[f"xlstm-{end}-{level}"].to_numpy() for end in ("lo", "hi"))
        say(f"  the {level} % interval covers {coverage(frame['y'].to_numpy(), low, high):.1%}")


def loaded(args: Any) -> "tuple[Forecaster, Panel | None]":
    """A saved forecaster that has read the file, and the rows to come."""
    from openxlstm.forecasting import Forecaster

    forecaster = Forecaster.load(args.load, device_of(args))
    settings = forecaster.settings
    known = [name for stream in forecaster.streams for name in stream]
    future = read_future(args, known, settings.covariates)
    panel = read(
        args,
        args.file,
        targets=names(args.target),
        covariates=settings.covariates,
        static=settings.static,
        steps=settings.steps,
        missing=settings.missing,
        known=known,
    )
    return forecaster.update(panel), future


def read_future(args: Any, series: Sequence[str], covariates: Sequence[str]) -> "Panel | None":
    """The covariates of the rows to come, None where there are none; a wide file has the same for every series."""
    from openxlstm.data.series import future_panel

    if covariates and not args.future:
        raise UserError(f"a forecast with the covariates {', '.join(covariates)} needs those of its rows: give --future")
    if args.future and not covariates:
        raise UserError("--future has covariates of the rows to forecast, but the forecaster has none: see --covariates")
    return future_panel(args.future, series, covariates, args.time, args.encoding) if args.future else None
