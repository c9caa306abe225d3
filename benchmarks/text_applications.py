"""Translations and summaries, in one command that goes on where it was interrupted:

    python benchmarks/text_applications.py --data FOLDER --out FOLDER [--tasks multi30k,scitldr] [--seeds 0,1,2]
        [--cells FOLDER]

FOLDER holds the folders multi30k and scitldr and, for dialogsum, dialogsum.dev.jsonl, at any depth. Every model has as many
parameters as the recipe's, to 1 %, and the recipe's settings; `slstm{bridge=state}` is another setting of a model. Reported is
what is written for the test part by beam search and greedily, and the CPU time of a training and its evaluations.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import run, some_of, spell

from openxlstm.cli.arguments import numbers
from openxlstm.errors import UserError
from openxlstm.files import write_atomic
from openxlstm.models.count import count_parameters
from openxlstm.models.patterns import split_names
from openxlstm.recipes import recipe
from openxlstm.training import RunConfig, train
from openxlstm.training.compare import slug, variant
from openxlstm.training.jobs.job import open_job
from openxlstm.training.options import override, split_arguments
from openxlstm.training.record import write_json

SOURCES = {"multi30k": "multi30k", "scitldr": "scitldr", "dialogsum": "dialogsum.dev.jsonl"}
MODELS = "slstm,slstm{bridge=state},slstm{bridge=prefix},mlstm,xlstm[1:1],lstm,transformer"


def find(folder: Path, name: str) -> Path:
    """The file or folder of this name, at any depth."""
    found = sorted(folder.rglob(SOURCES[name]))
    if not found:
        raise UserError(f"{folder}: no {SOURCES[name]} in it")
    return found[0]


def configs(base: RunConfig, models: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, int], RunConfig]:
    """The runs of a task, all with as many parameters as the recipe's model."""
    job = open_job(base)
    target = base.model.num_parameters or count_parameters(job.model_config(base.model))
    found = {}
    for model in models:
        settings = replace(variant(base.model, model), num_parameters=target)
        job.model_config(settings)  # before hours of training, not after
        found |= {(model, seed): replace(base, seed=seed, model=settings) for seed in seeds}
    return found


def cell(config: RunConfig, folder: Path, kept: Path) -> dict[str, Any]:
    """The report of a run, and the CPU seconds of all its parts; an interrupted one is resumed. kept: the file of both, which
    counts without the run's folder."""
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    report, spent = folder / "report.json", folder / "cpu_seconds.json"
    while not report.exists():
        before = json.loads(spent.read_text()) if spent.exists() else 0.0
        began = time.process_time()
        try:
            if (folder / "checkpoints" / "last.pt").exists():
                result = train(resume=folder)
            else:
                (folder / "config.json").unlink(missing_ok=True)
                result = train(config, folder)
        finally:
            if folder.exists():
                write_json(spent, before + time.process_time() - began)
        if result.interrupted is not None:
            raise KeyboardInterrupt
    found = dict(json.loads(report.read_text())) | {"cpu_seconds": json.loads(spent.read_text())}
    write_json(kept, found)
    return found


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown, a table a task: mean over the seeds, and the deviation between them."""
    lines: list[str] = []
    for task, models in results.items():
        first = next(iter(models.values()))[0]
        names = list(first["test"]["scores"])
        head = ["model", "parameters", "seeds", *(f"{name}, beam {first['test']['beam']}" for name in names)]
        head += [f"{names[0]}, greedy", "nats/token", "CPU s"]
        lines += [f"## {task}", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for model, reports in models.items():
            values = [model, f"{reports[0]['num_parameters']:,}", str(len(reports))]
            values += [spell([r["test"]["scores"][name] for r in reports], 2) for name in names]
            values += [spell([r["greedy"]["score"] for r in reports], 2), spell([r["test"]["loss"] for r in reports], 3)]
            values.append(f"{statistics.mean(r['cpu_seconds'] for r in reports):,.0f}")
            lines.append("| " + " | ".join(values) + " |")
        for name, found in first["baselines"].items():
            lines.append(f"| {name} | | | {found['score']:.2f} |" + " |" * (len(names) + 2))
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data, at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is not trained again")
    parser.add_argument("--cells", type=Path, help="folder of the trained models (default: OUT)")
    parser.add_argument("--tasks", type=some_of(SOURCES), default="multi30k", help=f"some of {','.join(SOURCES)}")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seeds", type=numbers(int, least=0), default="0,1,2")
    parser.add_argument("options", nargs="*", help="settings of the runs, after --, such as --trainer.steps=100")
    args = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task in args.tasks:
        base = recipe(task)
        base = replace(base, data=replace(base.data, source=str(find(args.data, task))))
        base = override(base, split_arguments(args.options)[1])
        for (model, seed), config in configs(base, split_names(args.models), args.seeds).items():
            name = f"{task}-{slug(model)}-{seed}-{config.digest()}"
            found = cell(config, (args.cells or args.out) / name, args.out / f"{name}.json")
            results.setdefault(task, {}).setdefault(model, []).append(found)
            write_atomic(args.out / "table.md", table(results))
    print(table(results))


if __name__ == "__main__":
    run(main)
