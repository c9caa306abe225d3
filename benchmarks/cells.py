"""Speed of the recurrences in plain PyTorch against the published CPU paths, both sides in one process.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/cells.py --out benchmarks/results/cells_<hardware>_<date>.json

Anchors: the sLSTM cell of the package `xlstm` (backend "vanilla") and the mLSTM `chunkwise--native_custbw` of `mlstm_kernels`.
No number is taken before both sides agree on the outputs; the gradients of custbw are not exact (it leaves out the
normaliser's), so of those only dv is compared and the distance of both sides from float64 is reported.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import compare, environment
from torch import Tensor

from openxlstm.ops import mlstm_scan, slstm_scan

Run = Callable[[], object]


def forward_and_backward(forward: Callable[[], Tensor], inputs: list[Tensor]) -> tuple[Run, Run]:
    """Forward alone without a graph, and forward + backward to every input from a fixed cotangent."""
    cotangent = torch.randn(forward().shape)

    def alone() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), inputs, cotangent)

    return alone, both


def relative(x: Tensor, truth: Tensor) -> float:
    x, truth = x.detach(), truth.detach()
    return float((x.double() - truth.double()).abs().max() / truth.double().abs().max())


def slstm_case(B: int, T: int, D: int, heads: int, rounds: int) -> dict[str, Any]:
    """The cell alone: W x is given, R is block-diagonal."""
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    config = sLSTMCellConfig(
        hidden_size=D, num_heads=heads, backend="vanilla", dtype="float32", enable_automatic_mixed_precision=False
    )
    cell = sLSTMCell(config)
    hd = D // heads
    torch.manual_seed(0)
    Wx = torch.randn(B, T, 4, heads, hd, requires_grad=True)
    R = (torch.randn(heads, hd, 4, hd) / hd**0.5).requires_grad_()
    b = torch.randn(4, heads, hd, requires_grad=True)
    with torch.no_grad():  # vanilla keeps R as (head, gate and out, in) and b as gate, head, dim
        cell._recurrent_kernel_.copy_(R.permute(0, 2, 3, 1).reshape(cell._recurrent_kernel_.shape))
        cell._bias_.copy_(b.reshape(cell._bias_.shape))
    flat = Wx.detach().reshape(B, T, 4 * D).clone().requires_grad_()
    ours = lambda: slstm_scan(Wx, R, b, backend="torch")[0]  # noqa: E731
    theirs = lambda: cell(flat)[0]  # noqa: E731
    difference = relative(ours(), theirs().transpose(1, 2))
    if difference > 1e-4:
        sys.exit(f"sLSTM: outputs differ by {difference:.1e}; no time was taken")
    fwd, both = forward_and_backward(ours, [Wx, R, b])
    fwd_theirs, both_theirs = forward_and_backward(theirs, [flat, cell._recurrent_kernel_, cell._bias_])
    return {
        "what": f"sLSTM cell, B={B} T={T} D={D} heads={heads}, against xlstm vanilla",
        "output_difference": difference,
        "forward": compare({"openxlstm torch": fwd, "xlstm vanilla": fwd_theirs}, "openxlstm torch", rounds=rounds),
        "forward+backward": compare({"openxlstm torch": both, "xlstm vanilla": both_theirs}, "openxlstm torch", rounds=rounds),
    }


def mlstm_case(B: int, H: int, T: int, K: int, V: int, rounds: int) -> dict[str, Any]:
    """Each side gets the layout it was written for, contiguous."""
    from mlstm_kernels.torch.chunkwise.native.fwbw import mlstm_chunkwise__native_custbw

    torch.manual_seed(0)
    shapes = [(B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H), (B, T, H)]
    inputs = [torch.randn(shape) for shape in shapes]
    inputs[4] += 3
    mine = [x.clone().requires_grad_() for x in inputs]
    other = [x.transpose(1, 2).contiguous().requires_grad_() for x in inputs]
    ours = lambda: mlstm_scan(*mine, backend="torch")[0]  # noqa: E731
    theirs = lambda: mlstm_chunkwise__native_custbw(*other, chunk_size=64)  # noqa: E731
    difference = relative(ours(), theirs().transpose(1, 2))
    if difference > 1e-3:
        sys.exit(f"mLSTM: outputs differ by {difference:.1e}; no time was taken")
    fwd, both = forward_and_backward(ours, mine)
    fwd_theirs, both_theirs = forward_and_backward(theirs, other)
    return {
        "what": f"mLSTM, B={B} H={H} T={T} K={K} V={V}, against mlstm_kernels native_custbw",
        "output_difference": difference,
        "gradient_error": gradient_errors(inputs, ours, mine, theirs, other) if T <= 1024 else None,
        "forward": compare({"openxlstm torch": fwd, "native_custbw": fwd_theirs}, "openxlstm torch", rounds=rounds),
        "forward+backward": compare({"openxlstm torch": both, "native_custbw": both_theirs}, "openxlstm torch", rounds=rounds),
    }


def gradient_errors(
    inputs: list[Tensor], ours: Callable[[], Tensor], mine: list[Tensor], theirs: Callable[[], Tensor], other: list[Tensor]
) -> dict[str, dict[str, float]]:
    """Largest error over largest true value of each gradient, against the step recurrence in float64."""
    exact = [x.double().requires_grad_() for x in inputs]
    h, _ = mlstm_scan(*exact, backend="reference")
    cotangent = torch.randn(h.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = torch.autograd.grad(h, exact, cotangent)
    own = torch.autograd.grad(ours(), mine, cotangent.float())
    foreign = torch.autograd.grad(theirs(), other, cotangent.float().transpose(1, 2).contiguous())
    names = ("dq", "dk", "dv", "di", "df")
    return {
        "openxlstm torch": {n: relative(a, t) for n, a, t in zip(names, own, truth, strict=True)},
        "native_custbw": {n: relative(a.transpose(1, 2), t) for n, a, t in zip(names, foreign, truth, strict=True)},
    }


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
    """One line a case and pass."""
    lines = ["| case | pass | openxlstm ms | other ms | times faster |", "|---|---|---|---|---|"]
    for result in results:
        for part in ("forward", "forward+backward"):
            if part in result:
                own, other = result[part]["milliseconds"].values()
                (ratio,) = result[part]["times_faster"].values()
                lines.append(f"| {result['what']} | {part} | {own:.1f} | {other:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each case (default 15)")
    args = parser.parse_args()
    results = [
        slstm_case(8, 256, 256, 4, args.rounds),
        mlstm_case(4, 4, 1024, 64, 128, args.rounds),
        mlstm_case(4, 4, 4096, 64, 128, args.rounds),
    ]
    memory = memory_case((4096, 16384, 65536))
    print(as_table(results))
    for name, value in memory["grown"].items():
        print(f"{name}: {value['MiB']} MiB, {value['bytes_per_step']} bytes a step")
    if args.out:
        record = {"environment": environment(("xlstm", "mlstm_kernels")), "results": [*results, memory]}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
