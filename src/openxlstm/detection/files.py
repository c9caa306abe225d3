"""An AnomalyDetector in a folder: detector.json, model/ (config.json + model.safetensors), stream.safetensors."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from openxlstm.detection.settings import DetectorSettings
from openxlstm.detection.surprise import Surprise
from openxlstm.errors import UserError
from openxlstm.forecasting.files import digests, is_time, read_about, step_of, step_to_json, unit_from_json, unit_to_json
from openxlstm.models.forecast import ForecastModel
from openxlstm.models.tensors import one_line, save_tensors, writing
from openxlstm.ops.state import leaves, map_state
from openxlstm.training.options import from_dict
from openxlstm.training.record import write_json

if TYPE_CHECKING:
    from openxlstm.detection.detector import AnomalyDetector

ABOUT, STREAM, FORMAT = "detector.json", "stream.safetensors", 1


def save(detector: "AnomalyDetector", folder: Path) -> None:
    """Write everything; detector.json comes last and has the digests of the rest, so that a folder that loads is whole."""
    model, unit, stream = detector.model, detector.unit, detector.stream
    assert model is not None
    assert unit is not None
    assert stream is not None
    model.save_pretrained(folder / "model")
    tensors = {f"{place}": leaf for place, leaf in enumerate(leaves(stream.state))}
    save_tensors({"ahead": stream.ahead} | tensors, folder / STREAM)
    about = {
        "format": FORMAT,
        "settings": dataclasses.asdict(detector.settings),
        "unit": unit_to_json(unit),
        "surprise": dataclasses.asdict(stream.surprise),
        "rows": stream.rows,
        "step": None if stream.step is None else step_to_json(stream.step),
        "last": str(stream.last) if is_time(stream.last) else None if stream.last is None else int(stream.last),
        "files": digests(folder, STREAM),
    }
    with writing(folder / ABOUT):
        write_json(folder / ABOUT, about)


def load(folder: Path, device: str | None) -> "AnomalyDetector":
    """The detector in a folder; device None is the one that it was saved with."""
    from openxlstm.detection.detector import AnomalyDetector, Stream

    about = read_about(folder / ABOUT, FORMAT, "AnomalyDetector.save", STREAM)
    try:
        settings = from_dict(DetectorSettings(), about["settings"], str(folder / ABOUT))
        if device is not None:
            settings = dataclasses.replace(settings, device=device)
        found = AnomalyDetector(settings)
        found.model = ForecastModel.from_pretrained(folder / "model", device=settings.device)
        found.unit = unit_from_json(about["unit"])
        tensors = load_file(folder / STREAM)
        ahead = tensors.pop("ahead")
        with torch.no_grad():  # what tensors belong where is read off a state of the same model
            _, state = found.model.read(torch.zeros(1, 1, 1, device=settings.device))
        stored = (tensors[f"{place}"].to(settings.device) for place in range(len(tensors)))
        last = np.datetime64(about["last"], "ns") if isinstance(about["last"], str) else about["last"]
        found.stream = Stream(
            state=map_state(lambda leaf: next(stored), state),
            ahead=ahead,
            surprise=Surprise(**about["surprise"]),
            rows=about["rows"],
            last=last,
            step=None if about["step"] is None else step_of(about["step"], [last]),
        )
    except (KeyError, TypeError, StopIteration, RuntimeError) as error:
        raise UserError(f"{folder}: damaged, {one_line(error)} is missing or of the wrong kind") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / STREAM}: cannot read it: {one_line(error)}") from None
    return found
