"""Speed of decoding on a CPU, one native call a token, against memory, against plain PyTorch and against transformers.

    pip install -c constraints.txt -e '.[train,hf]'
    python benchmarks/decode.py --text input.txt --out benchmarks/results/decode_<hardware>_<date>.json

The bound: a token reads every weight once, and reads and writes its memory once, at the rate at which this process can read a
buffer far larger than the caches (`read`) or copy one (`copy`, bytes read and written). A model that fits into the last cache
can beat both; `own bytes` therefore reads the packed weights themselves, from wherever they are. Everything takes turns, and
best and median are recorded. With one thread (`--threads 1`) times are CPU time of that thread, which stays meaningful on a
machine that others use; with more they are wall-clock time, and there the rivals' OpenMP barriers suffer most from company.

`--text` trains two small models of characters (a minute each) and reports how much rounding the weights costs.
"""

import argparse
import ctypes
import importlib.util
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import BusyElsewhere, alternate, environment
from torch import Tensor, nn

from openxlstm.inference import NativeDecoder
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.ops import native

Run = Callable[[], object]


def turns(sides: dict[str, Run], *, rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """`alternate` by the clock that suits the number of threads."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    return alternate(sides, rounds=rounds, warmup=warmup, clock=clock)


STORAGES = ("fp32", "bf16", "int8")
LARGE: dict[str, Any] = dict(num_heads=4, norm="rms", tie_embeddings=True, logit_soft_cap=30.0)
MODELS = {
    "7M large": LanguageModelConfig(vocab_size=8192, dim=256, blocks=("mlstm_large",) * 6, **LARGE),
    "85M large": LanguageModelConfig(vocab_size=16384, dim=768, blocks=("mlstm_large",) * 10, **LARGE),
    "8M xlstm[7:1]": LanguageModelConfig(vocab_size=8192, dim=256, blocks=("mlstm",) * 7 + ("slstm",)),
    "83M xlstm[7:1]": LanguageModelConfig(vocab_size=16384, dim=768, blocks=(("mlstm",) * 7 + ("slstm",)) * 2),
}


def make_model(config: LanguageModelConfig) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(config).eval()


class Memory:
    """Rates of this process: `read` and `copy` of slices of a buffer that is far larger than any cache."""

    def __init__(self, mebibytes: int = 1024, slice_mebibytes: int = 64) -> None:
        self.library = native.library()
        self.library.openxlstm_read.restype = ctypes.c_float
        self.slice = slice_mebibytes * 2**18
        self.buffer, self.target = self._floats(mebibytes * 2**18), self._floats(self.slice)
        self.at = 0

    def _floats(self, n: int) -> Tensor:
        """In large pages, as packed weights are: a bound in small ones would be too easy."""
        x = torch.empty(n)
        self.library.openxlstm_large_pages(ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(n * 4))
        return x.fill_(1.0)

    def _next(self) -> Tensor:
        self.at = (self.at + self.slice) % self.buffer.numel()
        return self.buffer[self.at : self.at + self.slice]

    def read(self, x: Tensor | None = None) -> None:
        x = self._next() if x is None else x
        self.library.openxlstm_read(ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(x.numel() // 16 * 16), native.threads())

    def copy(self) -> None:
        x = self._next()
        self.library.openxlstm_copy(
            ctypes.c_void_p(self.target.data_ptr()), ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(x.numel()), native.threads()
        )


def packed_weights(decoder: NativeDecoder) -> Tensor:
    """The decoder's own panels, as floats to be read."""
    arena = max((x for x in decoder._kept if isinstance(x, Tensor) and x.dtype == torch.uint8), key=Tensor.numel)
    return arena[: arena.numel() // 64 * 64].view(torch.float32)


def best_and_median(times: list[float]) -> dict[str, float]:
    return {"best": min(times), "median": statistics.median(times)}


def transformers_step(model: LanguageModel, ids: Tensor) -> Run | None:
    """One cached token of transformers' `xlstm` with the same weights, or None where it is not installed or cannot."""
    if importlib.util.find_spec("transformers") is None or set(model.config.blocks) != {"mlstm_large"}:
        return None
    import transformers

    from openxlstm.models.weights.huggingface import write

    with tempfile.TemporaryDirectory() as folder:
        write(model, folder)
        other = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    out = other(input_ids=ids, use_cache=True)
    difference = float((out.logits[:, -1] - model(ids)[0][:, -1]).abs().max())
    if difference > 1e-3:
        sys.exit(f"transformers: logits differ by {difference:.1e}; no time was taken")
    cache = out.cache_params
    return lambda: other(input_ids=ids, cache_params=cache, use_cache=True)


def speed_case(name: str, memory: Memory, rounds: int) -> dict[str, Any]:
    """Milliseconds a token at batch 1, and the share of the bounds."""
    model, ids = make_model(MODELS[name]), torch.zeros(1, dtype=torch.int64)
    decoders = {storage: NativeDecoder(model, weights=storage) for storage in STORAGES}
    logits, state = model(ids[:, None])
    difference = float((decoders["fp32"].step(ids) - logits[:, -1]).abs().max())
    if difference > 1e-4:
        sys.exit(f"{name}: logits differ by {difference:.1e}; no time was taken")
    others: dict[str, Run] = {"torch eager": lambda: model(ids[:, None], state)}
    theirs = transformers_step(model, ids[:, None])
    if theirs is not None:
        others["transformers"] = theirs
    busy = BusyElsewhere()
    results: dict[str, Any] = {}
    for storage, decoder in decoders.items():  # one at a time, or they would push each other out of the cache
        own = packed_weights(decoder)
        sides: dict[str, Run] = {
            "step": lambda d=decoder: d.step(ids),
            "own bytes": lambda x=own: memory.read(x),
            "read": memory.read,
            "copy": memory.copy,
        }
        # Reading a gigabyte piece by piece empties the caches, so steps get a turn of their own to warm up again.
        times: dict[str, list[float]] = {key: [] for key in sides}
        for _ in range(rounds):
            for key, run in sides.items():
                repeat = 6 if key in ("step", "own bytes") else 1
                found = turns({key: run}, rounds=repeat, warmup=2 if repeat > 1 else 0)[key]
                times[key] += found
        token = decoder.weight_bytes + 2 * decoder.state_bytes
        bytes_of = {"step": token, "own bytes": own.numel() * 4, "read": memory.slice * 4, "copy": 2 * memory.slice * 4}
        milliseconds = {key: best_and_median(series) for key, series in times.items()}
        rate = {which: {key: bytes_of[key] / milliseconds[key][which] / 1e6 for key in sides} for which in ("best", "median")}
        results[storage] = {
            "megabytes_a_token": round(token / 1e6, 1),
            "milliseconds": milliseconds["step"],
            "gigabytes_a_second": rate,
            "share_of_bound": {
                which: {key: round(rate[which]["step"] / rate[which][key], 3) for key in ("read", "copy", "own bytes")}
                for which in rate
            },
        }
    anchors = turns(others, rounds=max(6, rounds // 2), warmup=2)
    return {
        "what": f"{name}, {model.num_parameters():,} parameters, batch 1",
        "logit_difference_to_torch": difference,
        "native": results,
        "others_milliseconds": {key: best_and_median(series) for key, series in anchors.items()},
        "int8_times_faster_than_fp32": {
            which: round(results["fp32"]["milliseconds"][which] / results["int8"]["milliseconds"][which], 2)
            for which in ("best", "median")
        },
        "foreign_cpus": busy.read(),
    }


def batch_case(name: str, batches: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Tokens a second over the batch, best of the rounds."""
    model = make_model(MODELS[name])
    found: dict[str, dict[str, float]] = {}
    for batch in batches:
        ids = torch.zeros(batch, dtype=torch.int64)
        _, state = model(ids[:, None])
        sides: dict[str, Run] = {"torch eager": lambda i=ids, s=state: model(i[:, None], s)}
        for storage in STORAGES:
            decoder = NativeDecoder(model, weights=storage, batch=batch)
            sides[storage] = lambda d=decoder, i=ids: d.step(i)
        times = turns(sides, rounds=rounds, warmup=1)
        found[str(batch)] = {key: round(batch / min(series) * 1e3) for key, series in times.items()}
    return {"what": f"{name}, tokens a second by batch", "tokens_a_second": found}


def resident() -> int:
    """Memory of this process in kB (Linux)."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def length_case(name: str, length: int, rounds: int) -> dict[str, Any]:
    """A token at position 64 and one at `length`: two rows of one decoder, in turn. And what `length` tokens did to memory."""
    decoder = NativeDecoder(make_model(MODELS[name]), batch=2)
    ids, near, far = torch.zeros(1, dtype=torch.int64), torch.tensor([0]), torch.tensor([1])
    for _ in range(64):
        decoder.step(ids, near)
        decoder.step(ids, far)
    before = resident()
    for _ in range(length - 64):
        decoder.step(ids, far)
    grown = resident() - before
    times = turns({"64": lambda: decoder.step(ids, near), str(length): lambda: decoder.step(ids, far)}, rounds=rounds)
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    return {
        "what": f"{name}, fp32, position {length} against 64",
        "milliseconds": {key: best_and_median(series) for key, series in times.items()},
        "time_ratio": {
            "median of rounds": round(statistics.median(ratios), 4),
            "best": round(min(times[str(length)]) / min(times["64"]), 4),
        },
        "resident_kilobytes_grown": grown,
        "state_bytes": decoder.state_bytes,
    }


def perplexity_case(blocks: tuple[str, ...], text: str, seconds: float) -> dict[str, Any]:
    """A model of characters, trained for a while on the first nine tenths, read natively over the rest."""
    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([alphabet[c] for c in text])
    train, rest = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    torch.manual_seed(0)
    model = LanguageModel(
        LanguageModelConfig(vocab_size=len(alphabet), dim=128, num_heads=4, blocks=blocks, gate_soft_cap=15.0)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    start, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, steps / 50, 0.05 + 1.05 * (1 - passed / seconds))
        at = torch.randint(len(train) - 65, (16, 1)) + torch.arange(65)
        batch = train[at]
        loss = nn.functional.cross_entropy(model(batch[:, :-1])[0].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    model.eval()
    rows = rest[: 64 * 513].view(64, 513)
    losses = {storage: native_loss(model, rows, storage) for storage in STORAGES}
    with torch.inference_mode():
        logits = model(rows[:, :-1])[0]
        losses["torch"] = float(nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    return {
        "what": f"{' + '.join(blocks)}, {model.num_parameters():,} parameters, {steps} steps, 64 windows of 512 characters",
        "nats_a_character": {key: round(value, 5) for key, value in losses.items()},
        "perplexity_over_fp32": {key: round(math.exp(losses[key] - losses["fp32"]), 5) for key in ("bf16", "int8")},
    }


def native_loss(model: LanguageModel, rows: Tensor, storage: str) -> float:
    decoder, total = NativeDecoder(model, batch=len(rows), weights=storage), 0.0
    for t in range(rows.shape[1] - 1):
        total += float(nn.functional.cross_entropy(decoder.step(rows[:, t].contiguous()), rows[:, t + 1]))
    return total / (rows.shape[1] - 1)


def as_table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| model | weights | ms best / median | GB/s | of read | of copy | of own bytes | torch eager | transformers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        others = result["others_milliseconds"]
        torch_ms, hf = (others[key]["best"] if key in others else None for key in ("torch eager", "transformers"))
        for storage, case in result["native"].items():
            ms, share = case["milliseconds"], case["share_of_bound"]["best"]
            times = [f"{other / ms['best']:.1f}x" if other else "-" for other in (torch_ms, hf)]
            lines.append(
                f"| {result['what'].split(',')[0]} | {storage} | {ms['best']:.3f} / {ms['median']:.3f} | "
                f"{case['gigabytes_a_second']['best']['step']:.1f} | {share['read']:.2f} | {share['copy']:.2f} | "
                f"{share['own bytes']:.2f} | {times[0]} | {times[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds of each case (default 20)")
    parser.add_argument("--threads", type=int, help="CPU threads; without it, what torch chooses")
    parser.add_argument("--text", type=Path, help="a text file to train on, for the cost of rounding")
    parser.add_argument("--seconds", type=float, default=60, help="how long each of those models is trained (default 60)")
    parser.add_argument("--length", type=int, default=65536, help="the far position (default 65536)")
    parser.add_argument("--models", default=",".join(MODELS), help="which of the models to time")
    args = parser.parse_args()
    if native.missing() is not None:
        sys.exit(str(native.missing()))
    if args.threads:
        torch.set_num_threads(args.threads)
    memory = Memory()
    names = args.models.split(",")
    with torch.inference_mode():
        speed = [speed_case(name, memory, args.rounds) for name in names]
        print(as_table(speed), flush=True)
        batches = [batch_case(name, (1, 2, 4, 8, 16, 32, 64), max(4, args.rounds // 3)) for name in names[:2]]
        length = length_case(names[0], args.length, 2000)
    for case in speed:
        print(f"{case['what']}: int8 {case['int8_times_faster_than_fp32']} times faster than fp32")
    for case in batches:
        print(case["what"], json.dumps(case["tokens_a_second"]))
    print(length["what"], length["time_ratio"], f"resident memory grew by {length['resident_kilobytes_grown']} kB")
    quality = []
    if args.text:
        text = args.text.read_text()
        quality = [perplexity_case(b, text, args.seconds) for b in (("mlstm", "slstm", "mlstm"), ("mlstm_large",) * 3)]
        for case in quality:
            print(case["what"], case["nats_a_character"], "perplexity over fp32", case["perplexity_over_fp32"])
    if args.out:
        packages = ("transformers",) if importlib.util.find_spec("transformers") else ()
        record = {
            "environment": environment(packages)
            | {"kernels": native.describe(), "clock": "thread CPU" if torch.get_num_threads() == 1 else "wall"},
            "results": [*speed, *batches, length, *quality],
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
