"""Zero-shot tasks by EleutherAI's lm-eval harness: its tasks, its metrics, our model."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openxlstm.errors import UserError, missing_extra
from openxlstm.inference.generate import reading
from openxlstm.inference.likelihood import TOKENS_AT_ONCE, likelihoods, split_text
from openxlstm.inference.load import LoadedRun
from openxlstm.inference.sampling import Sampling
from openxlstm.inference.text import TextStream

KEYS = {("context", "continuation"): "lambada_openai", ("query", "choices", "gold"): "multiple_choice"}
"""The keys of a line of a task's file, and the kind of task that has them."""
ROLLING_CHUNK = 1024


def evaluate_tasks(
    loaded: LoadedRun,
    tasks: Sequence[str],
    *,
    folder: str | Path | None = None,
    limit: int | None = None,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, as lm-eval reports them, with `METRIC_stderr` where it estimates one.

    loaded: a model and its tokenizer (`load_run`). tasks: names of lm-eval, whose data it downloads; or, with `folder`, of
        files NAME.jsonl there: lines with `context` and `continuation` (accuracy of the whole continuation, and its
        perplexity), or with `query`, `choices` and `gold`, the index of the right one (accuracy, and acc_norm by length),
        prompted as by lm-eval's LAMBADA, ARC and PIQA. limit: the first so many lines of each task.
    Raises UserError for unknown tasks, malformed files, and without lm-eval (extra `eval`).
    """
    harness = _lm_eval()
    manager = harness.tasks.TaskManager(include_defaults=folder is None)
    known: Sequence[str] = manager.all_tasks
    configs: list[Any] = []
    for name in tasks:
        if folder is not None:
            configs.append(file_task(Path(folder, f"{name}.jsonl")))
        elif name not in known:
            raise UserError(f"lm-eval has no task {name!r}: `lm-eval ls tasks` lists those it has; for a file, name its folder")
        else:
            configs.append(name)
    with contextlib.redirect_stdout(sys.stderr), one_process():  # it reports its progress with print
        found = harness.simple_evaluate(
            model=harness_model(loaded, tokens_at_once),
            tasks=configs,
            task_manager=manager,
            limit=limit,
            log_samples=False,
            bootstrap_iters=1000,
        )
    return {
        name: {metric.removesuffix(",none"): value for metric, value in values.items() if isinstance(value, float)}
        for name, values in found["results"].items()
    }


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """lm-eval estimates errors in forked processes unless told otherwise, and a fork of a process with threads may hang."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def harness_model(loaded: LoadedRun, tokens_at_once: int = TOKENS_AT_ONCE) -> Any:
    """The model as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate(model=...)`.

    A text is as long as it is: nothing is cut, since the state holds what was read. tokens_at_once: padded tokens in a batch.
    """
    from_harness = _lm_eval().api.model.LM

    class OpenXLSTM(from_harness):  # type: ignore[misc, valid-type]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [split_text(loaded.tokenizer, *request.args) for request in requests]
            return [tuple(one) for one in likelihoods(loaded.model, pairs, tokens_at_once)]  # type: ignore[misc]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [text_nats(loaded, request.args[0]) for request in requests]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [until(loaded, *request.args) for request in requests]

    return OpenXLSTM()


def text_nats(loaded: LoadedRun, text: str) -> float:
    """Log-likelihood of a whole text, read in chunks that hand on their state."""
    import torch

    context, continuation = split_text(loaded.tokenizer, "", text)
    ids = torch.tensor([(*context, *continuation)], device=next(loaded.model.parameters()).device)
    state, nats = None, 0.0
    with reading(loaded.model):
        for start in range(0, ids.shape[1] - 1, ROLLING_CHUNK):
            targets = ids[:, start + 1 : start + 1 + ROLLING_CHUNK]
            logits, state = loaded.model(ids[:, start : start + targets.shape[1]], state)
            nats += float(logits.log_softmax(-1).gather(-1, targets[..., None]).sum(dtype=torch.float64))
    return nats


def until(loaded: LoadedRun, context: str, options: dict[str, Any]) -> str:
    """What the model writes after `context`, up to the first of options["until"], greedily unless options["do_sample"]."""
    stops = options.get("until") or []
    stops = [stops] if isinstance(stops, str) else stops
    temperature = options.get("temperature", 1.0) if options.get("do_sample") else 0.0
    stream = TextStream(
        loaded.model,
        loaded.tokenizer,
        context,
        options.get("max_gen_toks", 256),
        sampling=Sampling(temperature=temperature, top_p=options.get("top_p")),
    )
    text = ""
    for piece in stream:
        text += piece
        ends = [place for place in map(text.find, filter(None, stops)) if place >= 0]
        if ends:
            return text[: min(ends)]
    return text


def file_task(path: Path) -> dict[str, Any]:
    """The lm-eval configuration of a file of samples. Raises UserError naming file and line for one that has other keys."""
    kind = check_file(path)
    common = {
        "task": path.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    if kind == "multiple_choice":
        return common | {
            "output_type": "multiple_choice",
            "doc_to_text": "{{query}}Answer:",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
        }
    return common | {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    }


def check_file(path: Path) -> str:
    """The kind of task that a file of samples holds, one of KEYS; every line is looked at."""
    if not path.is_file():
        have = sorted(one.stem for one in path.parent.glob("*.jsonl"))
        raise UserError(f"{path}: no such file" + (f"; that folder has the tasks {', '.join(have)}" if have else ""))
    kinds = set()
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):  # str.splitlines would cut inside JSON's strings
        if not line.strip():
            continue
        try:
            sample = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON in UTF-8: {error}") from None
        kind = next((kind for keys, kind in KEYS.items() if isinstance(sample, dict) and set(keys) <= set(sample)), None)
        if kind is None:
            raise UserError(f"{path}, line {number}: expected the keys {' or '.join(', '.join(keys) for keys in KEYS)}")
        if kind == "multiple_choice":
            gold, choices = sample["gold"], sample["choices"]
            if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
                raise UserError(f"{path}, line {number}: choices must be a list of texts, got {json.dumps(choices)}")
            if type(gold) is not int or not 0 <= gold < len(choices):
                raise UserError(f"{path}, line {number}: gold is {json.dumps(gold)}, and there are {len(choices)} choices")
        kinds.add(kind)
    if len(kinds) != 1:
        raise UserError(f"{path}: " + ("lines of both kinds of task in one file" if kinds else "no samples"))
    return kinds.pop()


def _lm_eval() -> Any:
    try:
        import lm_eval
        import lm_eval.api.model
        import lm_eval.tasks
    except ImportError:
        raise missing_extra("lm-eval", "eval", "--tasks") from None
    return lm_eval
