"""A Forecaster in a folder: forecaster.json, model/ (config.json + model.safetensors), streams.safetensors."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from openxlstm.data.series import Step
from openxlstm.data.zone import Zone
from openxlstm.errors import UserError
from openxlstm.forecasting.linear import KINDS, LinearModel
from openxlstm.forecasting.settings import ForecasterSettings
from openxlstm.forecasting.streams import Stream, Unit
from openxlstm.models.checkpoint import CONFIG
from openxlstm.models.forecast import ForecastModel
from openxlstm.models.tensors import WEIGHTS, one_line, read_json, save_tensors, writing
from openxlstm.ops.state import leaves, map_state
from openxlstm.training.options import from_dict
from openxlstm.training.record import write_json

if TYPE_CHECKING:
    from openxlstm.forecasting.forecaster import Forecaster

ABOUT, STREAMS, FORMAT = "forecaster.json", "streams.safetensors", 1


def save(forecaster: "Forecaster", folder: Path) -> None:
    """Write everything; forecaster.json comes last and has the digests of the rest, so that a folder that loads is whole."""
    forecaster.model.save_pretrained(folder / "model")
    streams = list(forecaster.streams.values())
    tensors = {"margins": forecaster.margins}
    for i, stream in enumerate(streams):
        parts = leaves((stream.state, stream.reading))
        tensors |= {f"{i}.{j}": leaf for j, leaf in enumerate(parts)}
    save_tensors(tensors, folder / STREAMS)
    step = forecaster.step
    assert step is not None
    about = {
        "format": FORMAT,
        "settings": dataclasses.asdict(forecaster.settings),
        "step": step_to_json(step),
        "zone": None if forecaster.zone is None else dataclasses.asdict(forecaster.zone),
        "units": [{"names": names, **unit_to_json(unit)} for names, unit in forecaster.units.items()],
        "covariate_unit": unit_to_json(forecaster.covariate_unit),
        "static_unit": unit_to_json(forecaster.static_unit),
        "streams": [
            {"names": s.names, "last": int(np.int64(s.last)) if not is_time(s.last) else str(s.last)} | unit_to_json(s.unit)
            for s in streams
        ],
        "files": digests(folder, STREAMS),
    }
    with writing(folder / ABOUT):
        write_json(folder / ABOUT, about)


def load(folder: Path, device: str | None) -> "Forecaster":
    """The Forecaster in a folder; device None is the one that it was saved with."""
    from openxlstm.forecasting.forecaster import Forecaster

    about = read_about(folder / ABOUT, FORMAT, "Forecaster.save", STREAMS)
    try:
        settings = from_dict(ForecasterSettings(horizon=1, context=1), about["settings"], str(folder / ABOUT))
        if device is not None:
            settings = dataclasses.replace(settings, device=device)
        found = Forecaster(settings)
        kind = LinearModel if settings.pattern in KINDS else ForecastModel
        found.model = kind.from_pretrained(folder / "model", device=settings.device)
        found.step = step_of(about["step"], [one["last"] for one in about["streams"]])
        found.zone = Zone(**about["zone"]) if about.get("zone") else None
        found.units = {tuple(one["names"]): unit_from_json(one) for one in about["units"]}
        found.covariate_unit, found.static_unit = (unit_from_json(about[name]) for name in ("covariate_unit", "static_unit"))
        tensors = load_file(folder / STREAMS)
        found.margins = tensors.pop("margins")
        found.streams = {tuple(one["names"]): stream_of(i, one, tensors, found) for i, one in enumerate(about["streams"])}
    except (KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{folder}: damaged, {one_line(error)} is missing or of the wrong kind") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / STREAMS}: cannot read it: {one_line(error)}") from None
    return found


def digests(folder: Path, tensors: str) -> dict[str, str]:
    """File -> SHA-256, of the model and of the tensors beside it; a file that is not there has none."""
    found = {}
    for name in (f"model/{CONFIG}", f"model/{WEIGHTS}", tensors):
        if (folder / name).is_file():
            with open(folder / name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_about(path: Path, expected: int, writer: str, tensors: str) -> dict[str, Any]:
    """What a folder says of itself. Raises UserError where it does not, in another format, or of other files than are there:
    one of two that were saved over each other. Folders that were written before there were digests are taken as they are."""
    if not path.is_file():
        raise UserError(f"{path.parent}: no {path.name} here; {writer} writes one")
    about = read_json(path)
    if about.get("format") != expected:
        raise UserError(f"{path}: format {about.get('format')!r}, expected {expected}")
    found, written = digests(path.parent, tensors), about.get("files", {})
    for name in found:
        if name in written and found[name] != written[name]:
            raise UserError(
                f"{path.parent / name}: is not the file that {path.name} was written with: saving was interrupted, or it is "
                f"damaged; {writer} writes the folder anew"
            )
    return about


def is_time(value: Any) -> bool:
    return isinstance(value, np.datetime64)


def unit_to_json(unit: Unit) -> dict[str, list[float]]:
    return {"offset": unit.offset.tolist(), "scale": unit.scale.tolist()}


def unit_from_json(values: dict[str, Any]) -> Unit:
    return Unit(np.asarray(values["offset"], dtype=np.float64), np.asarray(values["scale"], dtype=np.float64))


def step_to_json(step: Step) -> dict[str, int | bool]:
    duration = isinstance(step.size, np.timedelta64)
    size = step.size.astype("timedelta64[ns]").astype(np.int64) if duration else step.size
    return {"size": int(size), "duration": duration, "months": step.months, "weekdays": step.weekdays, "day": step.day}


def step_of(values: dict[str, Any], last: Sequence[Any]) -> Step:
    """The step that `step_to_json` wrote. last: the newest times, which say whether months end with their last day where a
    folder is older than `Step.day`."""
    size = np.timedelta64(values["size"], "ns") if values["duration"] else values["size"]
    dates = [np.datetime64(one, "D") for one in last] if values["months"] else []
    ends = values["months"] and all((date + 1).astype("M8[M]") > date.astype("M8[M]") for date in dates)
    return Step(size, months=values["months"], weekdays=values["weekdays"], day=values.get("day", 31 if ends else 0))


def stream_of(index: int, about: dict[str, Any], tensors: dict[str, Tensor], forecaster: "Forecaster") -> Stream:
    """One stream. What tensors belong where is read off a state of the same model."""
    settings, config = forecaster.settings, forecaster.model.config
    row = torch.zeros(1, 1, config.num_channels, device=settings.device)
    known = row.new_zeros(1, 1, len(settings.covariates)) if settings.covariates else None
    static = row.new_zeros(1, len(settings.static)) if settings.static else None
    with torch.no_grad():
        reading, state = forecaster.model.read(row, covariates=known, static=static)
    stored = (tensors[f"{index}.{j}"].to(settings.device) for j in range(len(tensors)))
    state, reading = map_state(lambda leaf: next(stored), (state, reading))
    last = about["last"]
    return Stream(
        tuple(about["names"]),
        unit_from_json(about),
        np.datetime64(last, "ns") if isinstance(last, str) else last,
        state,
        reading,
    )
