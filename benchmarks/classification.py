"""Text classification against twins of equal parameters, in one command that goes on where it was interrupted:

    python benchmarks/classification.py --data sst2=FOLDER,rotten_tomatoes=FOLDER,imdb=FOLDER --out FOLDER
        [--cells FOLDER] [--models mlstm,slstm,lstm,transformer] [--seeds 0,1,2] [--jobs 2] [--variants]

sst2: FOLDER holds sentences/stsa.binary.{train,dev,test} and glue/train.tsv. rotten_tomatoes: rt-polarity.{pos,neg}. imdb:
aclImdb/{train,test}. The settings are those of the recipes, which validation chose; every model has as many parameters, to
1 %. Accuracy and expected calibration error are those of the test part, mean and standard deviation over the seeds.
--variants also reads IMDB in byte pairs and in bytes.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bars import ACCURACY
from measure import run, spell

from openxlstm.cli.arguments import numbers
from openxlstm.errors import UserError
from openxlstm.files import write_atomic
from openxlstm.recipes import recipe
from openxlstm.training.compare import Comparison, compare
from openxlstm.training.config import RunConfig
from openxlstm.training.options import override

LARGEST_ERROR = 0.05
VARIANTS = {
    "imdb, byte pairs": ("imdb", {"data.tokenizer": "bpe", "data.vocab_size": "8192"}),
    "imdb, bytes": ("imdb", {"data.tokenizer": "bytes", "data.max_tokens": "2048", "data.window": "800"}),
}


def configs(places: dict[str, str], variants: bool) -> dict[str, RunConfig]:
    """Name -> the run of a set, with its files."""
    found = {name: override(recipe(name), {"data.source": place}) for name, place in places.items()}
    for title, (name, options) in VARIANTS.items():
        if variants and name in places:
            found[title] = override(found[name], options)
    return found


def row(name: str, model: str, reports: Sequence[dict[str, Any]]) -> list[str]:
    """One model on one set, over its seeds."""
    tests = [report["test"] for report in reports]
    accuracy, error = ([test[key] for test in tests] for key in ("score", "calibration_error"))
    bar = ACCURACY.get(name)
    met = (
        "" if bar is None else ("yes" if statistics.mean(accuracy) >= bar and statistics.mean(error) <= LARGEST_ERROR else "no")
    )
    return [
        name,
        model,
        f"{reports[0]['num_parameters']:,}",
        str(len(reports)),
        spell([report["validation"]["score"] for report in reports]),
        spell(accuracy),
        spell(error),
        f"{statistics.mean(report['calibration_error_before']['test'] for report in reports):.4f}",
        "" if bar is None else f"{bar} and {LARGEST_ERROR}: {met}",
    ]


def table(found: dict[str, Comparison]) -> str:
    """Markdown."""
    head = ["set", "model", "parameters", "seeds", "validation", "test accuracy", "calibration error", "uncalibrated", "bar"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for name, comparison in found.items():
        for model in dict.fromkeys(cell.model for cell in comparison.cells):
            reports = [cell.report for cell in comparison.cells if cell.model == model and cell.report is not None]
            if reports:
                lines.append("| " + " | ".join(row(name, model, reports)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="SET=FOLDER,SET=FOLDER")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the results; what is finished there is not trained again"
    )
    parser.add_argument("--cells", type=Path, help="folder of the trained models (default: beside the results)")
    parser.add_argument("--models", default="mlstm,slstm,lstm,transformer")
    parser.add_argument("--seeds", type=numbers(int, least=0), default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--variants", action="store_true", help="IMDB in byte pairs and in bytes too")
    args = parser.parse_args()
    places = dict(part.split("=", 1) for part in args.data.split(",") if "=" in part)
    if unknown := sorted(set(places) - set(ACCURACY)) or (["nothing"] if not places else []):
        raise UserError(f"--data names {unknown[0]}; have {', '.join(ACCURACY)}")
    found: dict[str, Comparison] = {}
    for name, config in configs(places, args.variants).items():
        config = replace(config, trainer=replace(config.trainer, threads=args.threads))
        folder = args.out / name.replace(", ", "-").replace(" ", "-")
        say = lambda line, what=name: print(f"{what}: {line}", flush=True)  # noqa: E731
        found[name] = compare(config, args.models.split(","), args.seeds, folder, say, jobs=args.jobs, cells=args.cells)
        write_atomic(args.out / "table.md", table(found))
        if found[name].interrupted is not None:
            break
    print(table(found))


if __name__ == "__main__":
    run(main)
