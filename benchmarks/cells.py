"""Speed of the recurrences on a CPU against the published paths and torch's own layers, all sides in one process, in turn.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/cells.py --out benchmarks/results/cells_<hardware>_<date>.json

Ours are the backends `cpu` (compiled) and `torch`. Anchors: the sLSTM cell of the package `xlstm` ("vanilla"), the mLSTM
`chunkwise--native_custbw` of `mlstm_kernels`, torch's nn.LSTM and causal scaled_dot_product_attention. Where both compute the
same function, no number is taken before they agree; the gradients of custbw are not exact (it leaves out the normaliser's), so
the distance of every side from float64 is reported. nn.LSTM and attention compute other functions of the same size: nn.LSTM
mixes all its hidden units (ours those of a head) and makes W x itself, so it is compared with the cell alone and with
openxlstm.nn.SLSTM, which makes W x too.

glibc is told to keep freed memory, for all sides. By default native_custbw maps 82,000 new pages a call at T=4096, if the
process has not happened to keep some: 150 ms instead of 73, which say nothing about its arithmetic. Ours maps none either way.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import compare, environment
from torch import Tensor, nn

import openxlstm
from openxlstm.ops import mlstm_scan, native, slstm_scan
from openxlstm.ops.mlstm.cpu import CHUNK_SIZE
from openxlstm.training.tuning import keep_freed_memory

Run = Callable[[], object]
Sides = dict[str, tuple[Callable[[], Tensor], list[Tensor]]]
OURS = ("cpu", "torch") if native.missing() is None else ("torch",)


def both_passes(what: str, sides: Sides, anchor: str, rounds: int, **more: Any) -> dict[str, Any]:
    """Forward alone without a graph, and forward + backward to every input from a fixed cotangent, for each side."""
    forward, both = {}, {}
    for name, (run, inputs) in sides.items():
        forward[name], both[name] = passes(run, inputs)
    return {
        "what": what,
        **more,
        "forward": compare(forward, anchor, rounds=rounds),
        "forward+backward": compare(both, anchor, rounds=rounds),
    }


def passes(run: Callable[[], Tensor], inputs: list[Tensor]) -> tuple[Run, Run]:
    """One side's two timed functions."""
    cotangent = torch.randn(run().shape)

    def alone() -> None:
        with torch.no_grad():
            run()

    def both() -> None:
        torch.autograd.grad(run(), inputs, cotangent)

    return alone, both


def relative(x: Tensor, truth: Tensor) -> float:
    x, truth = x.detach(), truth.detach()
    return float((x.double() - truth.double()).abs().max() / truth.double().abs().max())


def agree(what: str, sides: Sides, truth: Tensor, allowed: float) -> dict[str, float]:
    """Distances from `truth`; no time is taken of a side that computes something else."""
    found = {name: relative(run(), truth) for name, (run, _) in sides.items()}
    for name, difference in found.items():
        if not difference <= allowed:
            sys.exit(f"{what}, {name}: outputs differ by {difference:.1e}; no time was taken")
    return found


def slstm_inputs(B: int, T: int, D: int, heads: int) -> list[Tensor]:
    """Gates W x, R and b."""
    torch.manual_seed(0)
    hd = D // heads
    gates, R, b = torch.randn(B, T, 4, heads, hd), torch.randn(heads, hd, 4, hd) / hd**0.5, torch.randn(4, heads, hd)
    return [x.requires_grad_() for x in (gates, R, b)]


def our_slstm(inputs: list[Tensor]) -> Sides:
    return {f"openxlstm {name}": (lambda name=name: slstm_scan(*inputs, backend=name)[0], inputs) for name in OURS}


def slstm_case(B: int, T: int, D: int, heads: int, rounds: int) -> dict[str, Any]:
    """The cell alone: W x is given, R is block-diagonal."""
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    config = sLSTMCellConfig(
        hidden_size=D, num_heads=heads, backend="vanilla", dtype="float32", enable_automatic_mixed_precision=False
    )
    cell = sLSTMCell(config)
    gates, R, b = inputs = slstm_inputs(B, T, D, heads)
    with torch.no_grad():  # vanilla keeps R as (head, gate and out, in) and b as gate, head, dim
        cell._recurrent_kernel_.copy_(R.permute(0, 2, 3, 1).reshape(cell._recurrent_kernel_.shape))
        cell._bias_.copy_(b.reshape(cell._bias_.shape))
    flat = gates.detach().reshape(B, T, 4 * D).clone().requires_grad_()
    sides = our_slstm(inputs) | {
        "xlstm vanilla": (lambda: cell(flat)[0].transpose(1, 2), [flat, cell._recurrent_kernel_, cell._bias_])
    }
    what = f"sLSTM cell, B={B} T={T} D={D} heads={heads}"
    truth = slstm_scan(*(x.detach().double() for x in inputs), backend="reference")[0]
    errors = agree(what, sides, truth, 1e-4)
    return both_passes(what, sides, "xlstm vanilla", rounds, output_error=errors)


def lstm_case(B: int, T: int, D: int, heads: int, rounds: int) -> dict[str, Any]:
    """Against nn.LSTM of the same hidden size: the cell alone, and the module that makes W x as nn.LSTM does."""
    inputs = slstm_inputs(B, T, D, heads)
    lstm, ours = nn.LSTM(D, D, batch_first=True), openxlstm.nn.SLSTM(D, D, batch_first=True, num_heads=heads)
    x = torch.randn(B, T, D, requires_grad=True)
    sides = our_slstm(inputs) | {
        "openxlstm.nn.SLSTM": (lambda: ours(x)[0], [x, *ours.parameters()]),
        "nn.LSTM": (lambda: lstm(x)[0], [x, *lstm.parameters()]),
    }
    return both_passes(f"sLSTM and nn.LSTM, B={B} T={T} D={D} heads={heads}", sides, "nn.LSTM", rounds)


def mlstm_case(B: int, H: int, T: int, K: int, V: int, rounds: int) -> dict[str, Any]:
    """Each side gets the layout it was written for, contiguous."""
    from mlstm_kernels.torch.chunkwise.native.fwbw import mlstm_chunkwise__native_custbw

    inputs = mlstm_inputs(B, H, T, K, V)
    mine = [x.clone().requires_grad_() for x in inputs]
    other = [x.transpose(1, 2).contiguous().requires_grad_() for x in inputs]
    sides: Sides = {f"openxlstm {name}": (lambda name=name: mlstm_scan(*mine, backend=name)[0], mine) for name in OURS}
    sides["native_custbw"] = (lambda: mlstm_chunkwise__native_custbw(*other, chunk_size=64).transpose(1, 2), other)
    what = f"mLSTM, B={B} H={H} T={T} K={K} V={V}"
    exact = [x.double().requires_grad_() for x in inputs]
    truth = mlstm_scan(*exact, backend="reference" if T <= 1024 else "torch")[0]
    errors = agree(what, sides, truth, 1e-3)
    gradients = gradient_errors(truth, exact, sides)
    del truth, exact
    return both_passes(what, sides, "native_custbw", rounds, output_error=errors, gradient_error=gradients)


def mlstm_inputs(B: int, H: int, T: int, K: int, V: int) -> list[Tensor]:
    """q, k, v, i_pre, f_pre; forget gates mostly open."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in [(B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H), (B, T, H)]]
    inputs[4] += 3
    return inputs


def gradient_errors(truth: Tensor, exact: list[Tensor], sides: Sides) -> dict[str, dict[str, float]]:
    """Largest error over largest true value of each gradient, against float64. Steps at the kink of max(|n q|, exp(-m)), where
    rounding decides which of two gradients is right, have no say: their h has no part in the loss."""
    cotangent = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cotangent.masked_fill_(at_kink(exact)[..., None], 0.0)
    true = torch.autograd.grad(truth, exact, cotangent)
    found: dict[str, dict[str, float]] = {}
    for name, (run, inputs) in sides.items():
        grads = torch.autograd.grad(run(), inputs, cotangent.float())
        grads = tuple(g if g.shape == t.shape else g.transpose(1, 2) for g, t in zip(grads, true, strict=True))
        found[name] = {n: relative(g, t) for n, g, t in zip(("dq", "dk", "dv", "di", "df"), grads, true, strict=True)}
    return found


def at_kink(exact: list[Tensor], distance: float = 1e-5) -> Tensor:
    """[B, T, H] bool: where |n q| is within `distance` of exp(-m). With values of 1, h is n q / max(|n q|, exp(-m))."""
    q, k, v, i, f = (x.detach() for x in exact)
    ones = torch.ones_like(v[..., :1])
    with torch.no_grad():
        sizes = [mlstm_scan(q * (1 + d), k, ones, i, f, eps=0.0)[0].abs().squeeze(-1) for d in (-distance, distance)]
    below, above = (size > 1 - 1e-9 for size in sizes)
    return below != above


def attention_case(B: int, H: int, T: int, K: int, V: int, rounds: int) -> dict[str, Any]:
    """Against causal attention with heads of the same value width."""
    mine = [x.requires_grad_() for x in mlstm_inputs(B, H, T, K, V)]
    qkv = [torch.randn(B, H, T, V, requires_grad=True) for _ in range(3)]
    sides: Sides = {f"openxlstm {name}": (lambda name=name: mlstm_scan(*mine, backend=name)[0], mine) for name in OURS}
    sides["SDPA"] = (lambda: F.scaled_dot_product_attention(*qkv, is_causal=True), qkv)
    return both_passes(f"mLSTM and causal attention, B={B} H={H} T={T} K={K} V={V}", sides, "SDPA", rounds)


def peak_case(B: int, H: int, T: int, K: int, V: int, rounds: int) -> dict[str, Any]:
    """The mLSTM's rate of arithmetic in chunks as long as the kernel's, causal halves counted whole as is usual for attention,
    against oneDNN's float32 product."""
    inputs = mlstm_inputs(B, H, T, K, V)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)

    def product() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")  # this is how torch hands float32 products to oneDNN
        torch.mm(a, b)
        torch.set_float32_matmul_precision(before)

    def cell() -> None:
        with torch.no_grad():
            mlstm_scan(*inputs, backend=OURS[0])

    found = compare({"cell": cell, "product": product}, "product", rounds=2 * rounds)
    L = CHUNK_SIZE
    flops = {"cell": 2.0 * B * H * T * (L * K + L * V + 2 * K * V), "product": 2.0 * 1024**3}
    rates = {name: flops[name] / ms / 1e6 for name, ms in found["milliseconds"].items()}
    share = flops["cell"] / flops["product"] * found["times_faster"]["cell"]
    return {
        "what": f"mLSTM forward, share of oneDNN's float32 peak, B={B} H={H} T={T} K={K} V={V}",
        "gflops": rates,
        "share": share,
        "foreign_cpus": found["foreign_cpus"],
    }


def variants_case(rounds: int) -> dict[str, Any]:
    """The compiled kernels built for narrower vectors, against the widest that runs here."""
    mine = [x.requires_grad_() for x in mlstm_inputs(4, 4, 1024, 64, 128)]
    cells = slstm_inputs(8, 256, 256, 4)

    def within(name: str, run: Run) -> Run:
        def timed() -> None:
            with native.using(name):
                run()

        return timed

    found = {}
    for what, run, inputs in (
        ("mLSTM", lambda: mlstm_scan(*mine, backend="cpu")[0], mine),
        ("sLSTM", lambda: slstm_scan(*cells, backend="cpu")[0], cells),
    ):
        both = passes(run, inputs)[1]
        sides = {name: within(name, both) for name in native.runnable()}
        found[what] = compare(sides, native.runnable()[0], rounds=rounds)
    return {"what": "instruction sets, forward + backward", "found": found}


def memory_case(lengths: tuple[int, ...]) -> dict[str, Any]:
    """Growth of the peak memory of one forward + backward with T (Linux), each length in a process of its own."""
    code = (
        "import re, sys, torch\n"
        "from openxlstm.ops import mlstm_scan, slstm_scan\n"
        "torch.set_num_threads(1)\n"
        "kind, T = sys.argv[1], int(sys.argv[2])\n"
        "def inputs(T):\n"
        "    if kind == 'mlstm':\n"
        "        return [torch.randn(1, T, 2, d, requires_grad=True) for d in (32, 32, 64)] + "
        "[torch.randn(1, T, 2, requires_grad=True) for _ in range(2)]\n"
        "    return [torch.randn(1, T, 4, 2, 32, requires_grad=True), torch.randn(2, 32, 4, 32, requires_grad=True) / 8, "
        "torch.randn(4, 2, 32, requires_grad=True)]\n"
        "scan = mlstm_scan if kind == 'mlstm' else slstm_scan\n"
        "scan(*inputs(128))[0].sum().backward()\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "scan(*inputs(T))[0].sum().backward()\n"
        "print(peak() - before)\n"
    )
    grown = {}
    for kind in ("mlstm", "slstm"):
        for T in lengths:
            done = subprocess.run([sys.executable, "-c", code, kind, str(T)], capture_output=True, text=True, check=True)
            grown[f"{kind} T={T}"] = {"MiB": round(int(done.stdout) / 1024, 1), "bytes_per_step": int(done.stdout) * 1024 // T}
    return {"what": "peak memory of forward + backward above that at T=128, B=1, 2 heads of 32 / 64", "grown": grown}


def as_table(results: list[dict[str, Any]]) -> str:
    """One line a case, pass and side."""
    lines = ["| case | pass | side | ms | anchor | ms | times faster |", "|---|---|---|---:|---|---:|---:|"]
    for result in results:
        for part in ("forward", "forward+backward"):
            if part not in result:
                continue
            found = result[part]
            anchor, times = found["anchor"], found["milliseconds"]
            for side, ratio in found["times_faster"].items():
                cells = (result["what"], part, side, f"{times[side]:.2f}", anchor, f"{times[anchor]:.1f}", f"{ratio:.2f}")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_lines(result: dict[str, Any]) -> list[str]:
    """What does not fit into the table."""
    if "share" in result:
        return [f"{result['what']}: {result['share']:.2f} ({result['gflops']['cell']:.0f} GFLOP/s)"]
    if "found" in result:
        return [
            f"{result['what']}, {what}: {name} at {ratio:.2f} of the speed of {found['anchor']}"
            for what, found in result["found"].items()
            for name, ratio in found["times_faster"].items()
        ]
    return [f"{name}: {v['MiB']} MiB, {v['bytes_per_step']} bytes a step" for name, v in result.get("grown", {}).items()]


def measure(rounds: int) -> list[dict[str, Any]]:
    """All cases, in the order of the report."""
    results = [
        slstm_case(8, 256, 256, 4, rounds),
        *(lstm_case(8, 256, D, 4, rounds) for D in (256, 512, 1024)),
        mlstm_case(4, 4, 1024, 64, 128, rounds),
        mlstm_case(4, 4, 4096, 64, 128, rounds),
        attention_case(4, 4, 1024, 64, 128, rounds),
        attention_case(4, 4, 4096, 64, 128, max(rounds // 3, 3)),
    ]
    if OURS[0] == "cpu":
        results += [peak_case(4, 4, 1024, 64, 128, rounds), variants_case(rounds)]
    return [*results, memory_case((4096, 16384, 65536))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each case (default 15)")
    args = parser.parse_args()
    allocator = keep_freed_memory()
    results = measure(args.rounds)
    print(as_table(results))
    for result in results:
        print(*as_lines(result), sep="\n", end="\n" if as_lines(result) else "")
    if args.out:
        where = environment(("xlstm", "mlstm_kernels")) | {"kernels": native.describe(), "allocator": allocator}
        record = {"environment": where, "results": results}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
