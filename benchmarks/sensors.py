"""Benchmarks of sensors, in one command that goes on where it was interrupted:

    python benchmarks/sensors.py --data FOLDER --out FOLDER [--sets NAB,FD001,BasicMotions] [--models slstm] [--seeds 0,1,2]
        [--cells FOLDER]

FOLDER holds, at any depth, NAB's folders data/ and labels/, C-MAPSS's train_FD001.txt, test_FD001.txt and RUL_FD001.txt, and
BasicMotions_TRAIN.ts with BasicMotions_TEST.ts.
NAB: the benchmark's score in three profiles, its thresholds chosen on these very series as it has it, and the area under the
ROC curve on windows. Detectors train on the probation part of each series alone. C-MAPSS: RMSE and PHM08 score after the last
row of each test engine. BasicMotions: accuracy on the given test part.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import kept, run, some_of, spell, twin
from numpy.typing import NDArray

from openxlstm.cli.arguments import numbers
from openxlstm.data.sensors.anomalies import Labelled, read_nab
from openxlstm.detection import AnomalyDetector, DetectorSettings, baselines
from openxlstm.detection.nab import PROFILES, nab_score, probation, window_auc
from openxlstm.errors import UserError
from openxlstm.files import atomic_path, write_atomic
from openxlstm.models.count import count_parameters
from openxlstm.recipes import detection, sensors
from openxlstm.tasks.activity import Activity
from openxlstm.tasks.turbofan import Turbofan
from openxlstm.training.cells import Order, one_by_one
from openxlstm.training.config import RunConfig

Array = NDArray[np.float64]
Say = Callable[[str], None]

WINDOWS = (20, 50, 100, 288, 1000, 4000)
"""Rows of the moving z-score; the best of them on these series in the standard profile is what is shown."""
RIDGE = 10.0
"""Of the linear regression on lives, in units of a standardised channel over some 17,000 flights."""
UNTRAINED = {"NAB": ("last_value", "moving_z_score", "null"), "FD001": ("linear",), "BasicMotions": ()}
COLUMNS = {
    "NAB": (*PROFILES, "auc"),
    "FD001": ("rmse", "rmse_capped", "phm08"),
    "BasicMotions": ("accuracy",),
}


def find(folder: Path, name: str) -> Path:
    """The folder with this file, at any depth."""
    found = sorted(folder.rglob(name))
    if not found:
        raise UserError(f"{folder}: no file {name} in it")
    return found[0].parent


@lru_cache
def corpus(folder: Path) -> tuple[Labelled, ...]:
    """NAB. Some of the published series have doubled stamps and gaps, and rows are what is scored."""
    return read_nab(find(folder, "combined_windows.json").parent, irregular=True)


def detector(pattern: str, rows: int) -> DetectorSettings:
    """The recipe for so many training rows, with other blocks and as many parameters."""
    base = detection.small(steps="rows")
    return twin(base, pattern, count_parameters(base.model_config(rows)))


def detect(series: Labelled, pattern: str, seed: int, place: Path) -> Array:
    """Scores of a series by a detector that was trained on its probation part; those are NaN-free and not scored anyway."""
    if place.exists():
        return np.load(place)
    first = probation(len(series.values))
    base = detector(pattern, first)
    fitted = AnomalyDetector(replace(base, fit=replace(base.fit, seed=seed))).fit(series.values[:first])
    found = np.concatenate([fitted.training_scores, fitted.scores(series.values[first:])])
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(place) as aside, open(aside, "wb") as file:
        np.save(file, found)
    return found


def nab(folder: Path, model: str, seed: int, out: Path, say: Say) -> dict[str, Any]:
    """One detector on the whole corpus."""
    series = corpus(folder)
    if model == "moving_z_score":
        tried = {
            window: nab_result(series, [baselines.moving_z_score(one.values, window) for one in series]) for window in WINDOWS
        }
        window = max(tried, key=lambda window: tried[window]["test"]["standard"])
        return tried[window] | {"window": window, "tried": {str(key): one["test"] for key, one in tried.items()}}
    scores: list[Array] = []
    for number, one in enumerate(series, 1):
        first = probation(len(one.values))
        if model == "null":
            scores.append(baselines.null(one.values))
        elif model == "random":
            scores.append(baselines.random(one.values, 1000 * seed + number))
        elif model == "last_value":
            scores.append(baselines.last_value(one.values, first, DetectorSettings().distances))
        else:
            say(f"series {number} of {len(series)}, {one.name}")
            scores.append(detect(one, model, seed, out / "scores" / f"{model}-{seed}" / f"{one.name.replace('/', '-')}.npy"))
    if model in ("random", *UNTRAINED["NAB"]):
        return nab_result(series, scores)
    rows = min(probation(len(one.values)) for one in series)
    settings = detector(model, rows)
    about = {"settings": asdict(settings), "num_parameters": count_parameters(settings.model_config(rows))}
    return nab_result(series, scores) | about


def nab_result(series: Sequence[Labelled], scores: Sequence[Array]) -> dict[str, Any]:
    """The benchmark's scores, the mean area under the curves of series that have anomalies, and what was found."""
    windows = [one.windows for one in series]
    found = {name: nab_score(scores, windows, profile) for name, profile in PROFILES.items()}
    auc = [window_auc(one, spans) for one, spans in zip(scores, windows) if spans]
    test = {name: result.score for name, result in found.items()} | {"auc": float(np.nanmean(auc))}
    return {
        "test": test,
        "profiles": {name: asdict(result) for name, result in found.items()},
        "series": {one.name: one.oddities or "regular" for one in series},
    }


def trained(config: RunConfig, seed: int, model: str, place: Path, say: Say) -> dict[str, Any]:
    """The report of a run, which is trained, resumed, or there already."""
    order = Order(model, config.optimizer.lr, seed, config, place, place.name)
    for _, cell, stopped in one_by_one({0: order}, say):
        if cell.report is None:
            raise UserError(cell.failure or "the training failed")
        if stopped is not None:
            raise KeyboardInterrupt
        return cell.report
    raise AssertionError("a training yields its cell")


def configured(config: RunConfig, pattern: str, seed: int, threads: int) -> RunConfig:
    """The recipe with another kind of block and as many parameters, and a seed."""
    from openxlstm.training.config import build_sequence_config

    size = count_parameters(build_sequence_config(config.model, config.data))  # type: ignore[arg-type]
    model = twin(config.model, pattern, size)
    return replace(config, seed=seed, model=model, trainer=replace(config.trainer, threads=threads, device="cpu"))


def fd001(folder: Path, model: str, seed: int, out: Path, say: Say) -> dict[str, Any]:
    """Remaining life."""
    base = sensors.turbofan()
    task = replace(base.data, source=str(find(folder, "train_FD001.txt")))  # type: ignore[type-var]
    assert isinstance(task, Turbofan)
    if model == "linear":
        return linear_lives(task)
    config = configured(replace(base, data=task), model, seed, torch.get_num_threads())
    report = trained(config, seed, model, out / "runs" / f"FD001-{model}-{seed}", say)
    others = report["test"]["others"]
    test = {"rmse": report["test"]["score"], "rmse_capped": others["RMSE of the capped life"], "phm08": others["PHM08 score"]}
    return {"test": test, "validation": report["validation"]["score"], "num_parameters": report["num_parameters"]}


def linear_lives(task: Turbofan) -> dict[str, Any]:
    """Ridge regression on what the models read and its squares, in closed form."""
    gram: Any = 0.0
    wanted: Any = 0.0
    for _, batch in task.evaluation("train", task.trained):
        for row, size in enumerate(batch.lengths.tolist()):
            x = features(batch.inputs[row, :size])
            gram, wanted = gram + x.T @ x, wanted + x.T @ batch.targets[row, :size].double()
    weights = torch.linalg.solve(gram + RIDGE * torch.eye(len(gram), dtype=torch.float64), wanted)
    outputs, targets = [], []
    for _, batch in task.evaluation("test", task.reports[0]):
        last = batch.lengths - 1
        rows = torch.arange(len(last))
        outputs.append((features(batch.inputs[rows, last]) @ weights).clamp(0.0, 1.0))
        targets.append(batch.targets[rows, last].double())
    answers, truths = torch.cat(outputs), torch.cat(targets)
    count = len(truths)
    found = [
        metric.score(float(metric.points(answers, truths).double().mean()), count)
        for metric in (task.metric, *task.other_metrics)
    ]
    return {"test": dict(zip(COLUMNS["FD001"], found)), "num_parameters": len(weights)}


def features(x: torch.Tensor) -> torch.Tensor:
    """Inputs [N, F], their squares and a constant, float64."""
    x = x.double()
    return torch.cat([x, x * x, torch.ones_like(x[:, :1])], 1)


def basic_motions(folder: Path, model: str, seed: int, out: Path, say: Say) -> dict[str, Any]:
    """Activities."""
    base = sensors.activity()
    task = replace(base.data, source=str(find(folder, "BasicMotions_TRAIN.ts") / "BasicMotions_TRAIN.ts"))  # type: ignore[type-var]
    assert isinstance(task, Activity)
    config = configured(replace(base, data=task), model, seed, torch.get_num_threads())
    report = trained(config, seed, model, out / "runs" / f"BasicMotions-{model}-{seed}", say)
    validation = report["validation"]["score"]
    return {
        "test": {"accuracy": report["test"]["score"]},
        "validation": validation,
        "num_parameters": report["num_parameters"],
    }


SETS = {"NAB": nab, "FD001": fd001, "BasicMotions": basic_motions}


def table(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Markdown: mean over the seeds, and the deviation between them."""
    lines: list[str] = []
    before = ""
    for (name, model), cells in results.items():
        if name != before:
            head = ["set", "model", "parameters", "seeds", *COLUMNS[name]]
            lines += [""] * bool(lines) + ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
            before = name
        shown = f"{model} of {cells[0]['window']} rows" if "window" in cells[0] else model
        size = cells[0].get("num_parameters")
        values = [name, shown, f"{size:,}" if size else "", str(len(cells))]
        for score in COLUMNS[name]:
            found = [one["test"][score] for one in cells]
            digits = 3 if score in ("auc", "accuracy") else 2
            values.append(spell(found, digits))
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the files, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is not measured again")
    parser.add_argument("--cells", type=Path, help="folder of the trained models (default: OUT)")
    parser.add_argument("--sets", type=some_of(SETS), default=",".join(SETS), help="some of %(default)s")
    parser.add_argument("--models", default="slstm", help="slstm, mlstm, xlstm[1:1], lstm, ...; baselines are always there")
    parser.add_argument("--seeds", type=numbers(int, least=0), default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in args.sets:
        models = [*args.models.split(","), *UNTRAINED[name], *(["random"] if name == "NAB" else [])]
        for model in models:
            for seed in [0] if model in UNTRAINED[name] else args.seeds:
                path = args.out / f"{name}-{model}-{seed}.json"
                say = lambda line, what=path.stem: print(f"{what}: {line}", flush=True)  # noqa: E731
                measure = partial(SETS[name], args.data, model, seed, args.cells or args.out, say)
                results.setdefault((name, model), []).append(kept(path, measure))
            write_atomic(args.out / "table.md", table(results))
    print(table(results))


if __name__ == "__main__":
    run(main)
