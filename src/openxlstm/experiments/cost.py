"""What a token costs at the end of a context: training, reading a prompt, one step, and the memory that a model carries."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from openxlstm.errors import out_of_memory
from openxlstm.experiments.question import Evidence, Question, Rows
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.models.match import match_parameters
from openxlstm.models.patterns import expand
from openxlstm.training.cells import available_cpus
from openxlstm.training.record import canvas, write_json
from openxlstm.training.tuning import threads

Found = TypeVar("Found")

MODELS = ("mlstm", "slstm", "lstm", "transformer")
VOCAB = 256
CONTEXTS = {"minutes": (256, 1024, 4096), "hours": (256, 1024, 4096, 16384), "gpu": (1024, 4096, 16384, 32768)}
SIZES = {"minutes": (128, 4), "hours": (256, 6), "gpu": (1024, 12)}
"""Scale -> width and number of blocks; the models have as many parameters as mlstm at that size."""
MEASURED = {"training": "training, tokens/s", "prefill": "prompt, s", "step": "one token, ms", "state": "state, MiB"}
UNITS = {"prefill": 1.0, "step": 1e3, "state": 2**-20}
ENOUGH = 10.0
"""Seconds of repeated calls after which a median is of as many as there are."""

Numbers = list[float | None]
"""A cost over the contexts; None where the GPU's memory did not suffice."""


@dataclass(frozen=True, kw_only=True)
class Cost(Question):
    """Times of the models without `openxlstm.inference`, on one sequence: medians of three, of a token of fifty, of fewer where
    a call takes seconds. On a CPU in float32, with a thread for every core that the process may use, whatever was set before;
    on a GPU by autocast in bfloat16, as models are trained there."""

    def ask(self, scale: str, folder: Path, cells: Path, say: Callable[[str], None], jobs: int = 1) -> Evidence | None:
        found = measured_before(folder / "cost.json", scale)
        if found is not None:
            say("  measured before")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with threads(available_cpus()):
                found = measure(scale, say)
            write_json(folder / "cost.json", {"scale": scale, "threads": available_cpus(), "models": found})
            draw(found, folder / "cost.png", scale)
        return Evidence(
            rows=found,
            table=as_table(found),
            command=f"openxlstm report --scale {scale} --only {self.name}",
            figure="cost.png" if (folder / "cost.png").exists() else None,
        )


def measured_before(path: Path, scale: str) -> dict[str, Any] | None:
    """What `measure` found at this scale; None where nothing can be read, or it is of another scale."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if "scale" in stored:
            return dict(stored["models"]) if stored["scale"] == scale else None
        contexts = [columns["context"] for columns in stored.values()]  # an earlier version wrote the models alone
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(stored) if contexts == [list(CONTEXTS[scale])] * len(MODELS) else None


def measure(scale: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Model -> context, training, prefill and step in seconds, state in bytes, each a list over the contexts (see Numbers)."""
    dim, blocks = SIZES[scale]
    device = "cuda" if scale == "gpu" and torch.cuda.is_available() else "cpu"
    base = LanguageModelConfig(vocab_size=VOCAB, dim=dim, num_heads=4, blocks=expand("mlstm", blocks))
    target = LanguageModel(base).num_parameters()
    found: dict[str, Any] = {}
    for name in MODELS:
        torch.manual_seed(0)
        config = LanguageModelConfig(vocab_size=VOCAB, dim=dim, num_heads=4, blocks=expand(name, blocks))
        model = LanguageModel(match_parameters(config, target)).to(device)
        columns: dict[str, Numbers] = {"context": [], **{what: [] for what in MEASURED}}
        for context in CONTEXTS[scale]:
            say(f"  {name}, context {context}")
            for what, number in {"context": context, **at(model, context, device)}.items():
                columns[what].append(number)
        found[name] = columns
    return found


def at(model: LanguageModel, context: int, device: str) -> dict[str, float | None]:
    """The costs of one model at the end of one context."""
    ids = torch.randint(VOCAB, (1, context + 1), generator=torch.Generator().manual_seed(0)).to(device)

    def train() -> None:
        logits, _ = model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits[0].float(), ids[0, 1:]).backward()
        model.zero_grad(set_to_none=True)

    def read() -> dict[str, float | None]:
        with torch.inference_mode():
            _, state = model(ids[:, :-1])
            prefill = seconds(lambda: model(ids[:, :-1]), device, 3)
            step = seconds(lambda: model(ids[:, -1:], state), device, 50, untimed=10)
        return {"prefill": prefill, "step": step, "state": float(state_bytes(state))}

    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        costs = if_it_fits(read) or dict.fromkeys(("prefill", "step", "state"))
        return {"training": if_it_fits(lambda: seconds(train, device, 3)), **costs}


def if_it_fits(run: Callable[[], Found]) -> Found | None:
    """What a call returns, or None where the GPU's memory does not suffice for it."""
    try:
        return run()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    # Only here is let go of what the traceback held.
    torch.cuda.empty_cache()
    return None


def seconds(run: Callable[[], object], device: str, rounds: int, *, untimed: int = 1) -> float:
    """Median time of a call, after some that are not counted."""
    times: list[float] = []
    while len(times) < untimed + rounds and (len(times) <= untimed or sum(times) < ENOUGH):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[untimed:])


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in nested states."""
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(map(state_bytes, state)) if isinstance(state, (tuple, list)) else 0


def shown(columns: Mapping[str, Numbers], what: str) -> Numbers:
    """A column in the unit of MEASURED."""
    if what == "training":
        return [None if time is None else context / time for context, time in zip(columns["context"], columns["training"])]  # type: ignore[operator]
    return [None if number is None else UNITS[what] * number for number in columns[what]]


def as_table(found: Rows) -> str:
    """One line a model and context; then from which context on attention costs more."""
    lines = ["| model | context | " + " | ".join(MEASURED.values()) + " |", "|---|---:|" + "---:|" * len(MEASURED)]
    for model, columns in found.items():
        units = [shown(columns, what) for what in MEASURED]
        for i, context in enumerate(columns["context"]):
            values = (written(column[i], ",.0f" if what == "training" else ".3f") for what, column in zip(MEASURED, units))
            lines.append(f"| {model} | {context:,} | {' | '.join(values)} |")
    names = (label.partition(",")[0] for label in MEASURED.values())
    lines += ["", "| transformer costs more than | " + " | ".join(names) + " |", "|---|" + "---:|" * len(MEASURED)]
    attention = found["transformer"]
    for model, columns in found.items():
        if model != "transformer":
            crossings = (crossing(columns["context"], columns[what], attention[what]) for what in MEASURED)
            lines.append(f"| {model} | {' | '.join(crossings)} |")
    return "\n".join(lines)


def written(value: float | None, spelling: str) -> str:
    return "out of memory" if value is None else format(value, spelling)


def crossing(contexts: Sequence[float], ours: Numbers, theirs: Numbers) -> str:
    """From which context on `theirs` costs more than `ours`, to two digits: between two that were measured the logarithm of the
    ratio is taken to be a line over the logarithm of the context."""
    both = [(c, math.log(b / a)) for c, a, b in zip(contexts, ours, theirs) if a is not None and b is not None]
    below = [i for i, (_, ratio) in enumerate(both) if ratio <= 0]
    if not both:
        return "not measured"
    if not below:
        return f"at {both[0][0]:,} and on"
    if below[-1] == len(both) - 1:
        return f"not up to {both[-1][0]:,}"
    (here, ratio), (there, next_ratio) = both[below[-1]], both[below[-1] + 1]
    where = here * (there / here) ** (-ratio / (next_ratio - ratio))
    return f"from {float(f'{where:.2g}'):,.0f} on"


def draw(found: Rows, path: Path, scale: str) -> None:
    """The four costs over the context; what spans powers of ten on a logarithmic axis."""
    dim, blocks = SIZES[scale]
    try:
        with canvas(
            path, f"Cost at the end of a context, {blocks} blocks of width {dim}, equal parameters", (11.0, 3.4)
        ) as paper:
            panels = dict(zip(MEASURED, paper.subplots(1, len(MEASURED)), strict=True))
            for what, axes in panels.items():
                for model, columns in found.items():
                    values = [math.nan if value is None else value for value in shown(columns, what)]
                    axes.loglog(columns["context"], values, marker="o", markersize=3, label=model)
                if what in ("training", "step"):
                    axes.set_yscale("linear")
                    axes.set_ylim(bottom=0)
                axes.set_xticks(CONTEXTS[scale], [f"{context:,}" for context in CONTEXTS[scale]])
                axes.set_xticks([], minor=True)
                axes.set_title(MEASURED[what], fontsize=9)
                axes.set_xlabel("context")
                axes.grid(alpha=0.25)
            panels["step"].legend(frameon=False, fontsize=8, loc="upper left")
    except ImportError:
        return
