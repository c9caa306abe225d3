"""The Triton kernels without a GPU: the tests of tests/gpu in Triton's interpreter, each file in a process of its own, because
TRITON_INTERPRET is for a whole process; and what machines without Triton or without a GPU are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openxlstm.ops import gpu, mlstm_scan

TESTS = Path(__file__).parents[1]
FILES = sorted((TESTS / "gpu").glob("test_*.py"))


@pytest.mark.skipif(not gpu.installed(), reason=str(gpu.missing()))
@pytest.mark.skipif(gpu.missing() is None, reason="they run in this process")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_interpreted(path: Path) -> None:
    done = run([sys.executable, "-m", "pytest", str(path), "-p", "no:cacheprovider", "-x"], TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def run(command: list[str], **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)


NOT_INSTALLED = "Triton is not installed; on Linux: pip install 'openxlstm[triton]'"
NO_TRITON = """
import importlib.util, sys
sys.modules["triton"] = None  # importing it is an error
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)

import torch
from openxlstm.ops import gpu, mlstm_scan, slstm_scan
assert "pip install 'openxlstm[triton]'" in gpu.missing(), gpu.missing()
assert gpu.describe() == f"none: {gpu.missing()}"
inputs = [torch.randn(1, 3, 2, 4) for _ in range(3)] + [torch.randn(1, 3, 2) for _ in range(2)]
mlstm_scan(*inputs)
mlstm_scan(*(x.double() for x in inputs))
slstm_scan(torch.randn(1, 3, 4, 2, 5), torch.randn(2, 5, 4, 5), torch.randn(4, 2, 5))
try:
    mlstm_scan(*inputs, backend="triton")
except ValueError as error:
    print(error)
"""


def test_without_triton_nothing_is_lost() -> None:
    done = run([sys.executable, "-c", NO_TRITON])
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"backend 'triton' cannot run here: {NOT_INSTALLED}\n"


ASKED = """
import sys
import openxlstm, openxlstm.nn, openxlstm.cli.doctor
from openxlstm.ops import gpu
gpu.missing(), gpu.describe()
print("triton" in sys.modules)
"""


def test_asking_what_can_run_does_not_load_triton() -> None:
    done = run([sys.executable, "-c", ASKED])
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    inputs = [torch.randn(1, 3, 2, 4) for _ in range(3)] + [torch.randn(1, 3, 2) for _ in range(2)]
    with pytest.raises(ValueError, match=r"backend 'triton' cannot run here: .*(no CUDA device|not installed)"):
        mlstm_scan(*inputs, backend="triton")
