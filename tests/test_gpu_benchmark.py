"""benchmarks/gpu.py without a GPU: what it says, its rehearsal, and how it judges."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openxlstm.ops import gpu

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run(str(BENCHMARKS / "gpu.py"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu.py: there is no CUDA device to measure; --rehearse goes through the program without one\n"


def test_a_rehearsal_is_not_kept(tmp_path: Path) -> None:
    done = run(str(BENCHMARKS / "gpu.py"), "--rehearse", "--out", str(tmp_path / "results"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(not gpu.installed(), reason=str(gpu.missing()))
def test_rehearsal() -> None:
    """Ours goes through its gate and both passes; what fails or is not installed is a line, and the run goes on."""
    sides = ["openxlstm sLSTM", "SDPA cuDNN", "FlashRNN Triton"]
    done = run(str(BENCHMARKS / "gpu.py"), "--rehearse", "--only", *sides)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("A REHEARSAL")
    ours = [line for line in lines if line.startswith("| openxlstm sLSTM")]
    assert [line.split("|")[3].strip() for line in ours] == ["errors", "forward", "forward+backward"]
    assert all(any(line.startswith(f"| {side} |") for line in lines) for side in sides)
    assert not any(line.endswith(("| met |", "| missed |")) for line in lines)


NO_TRITON = """
import json, sys
sys.modules["triton"] = None  # importing it is an error
sys.path.insert(0, "benchmarks")
import gpu as benchmark, gpu_sides

def row(side, case, part, milliseconds):
    return {"side": side, "case": case, "part": part, "milliseconds": milliseconds}

large, both = "8 heads 256/512, B=8 T=8192", "forward+backward"
found = [
    row("openxlstm mLSTM", large, "forward", 1.9),
    row("openxlstm mLSTM", large, both, 8.0),
    row("openxlstm mLSTM", large + " again", both, 5.0),
    row("mlstm_kernels as shipped", large, both, 28.0),
    row("mlstm_kernels 8 warps 2 stages", large, both, 24.0),
    row("SDPA flash", "32 heads 128, B=8 T=8192", both, 96.0),
    row("SDPA cuDNN", "32 heads 128, B=8 T=8192", both, 56.0),
    {"side": "fla simple_gla", "case": "-", "reason": "not measured: pip install fla-core"},
]
floors = gpu_sides.mlstm_floors(gpu_sides.Shape(8, 8192, 8, 256, 512), {"tflops": 790.0, "gbs": 4300.0})
print(json.dumps([benchmark.bars_table(benchmark.wishes(found)), benchmark.rows_table(found), floors]))
"""


def test_bars_tables_and_floors_without_triton() -> None:
    done = subprocess.run([sys.executable, "-c", NO_TRITON], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bars, table, floors = json.loads(done.stdout)
    verdicts = {cells[1].strip(): (cells[2].strip(), cells[4].strip()) for cells in (x.split("|") for x in bars.splitlines())}
    assert verdicts["mLSTM 8 heads 256/512, T=8192, forward, ms"] == ("1.90", "met")
    assert verdicts["mLSTM 8 heads 256/512, T=8192, forward+backward, ms"] == ("8.00", "missed")
    assert verdicts["mLSTM 8 heads 256/512, forward+backward, against the best mlstm_kernels"] == ("3.00", "met")
    assert verdicts["mLSTM against the best SDPA, T=8192, forward+backward"] == ("7.00", "met")
    assert verdicts["mLSTM against the best SDPA, T=32768, forward+backward"] == ("-", "not measured")
    assert verdicts["training 164M against the model with mlstm_kernels"] == ("-", "not measured")
    assert "not measured: pip install fla-core" in table.splitlines()[-1]
    assert floors == pytest.approx([0.41, 1.43], abs=0.01)  # bound by products
