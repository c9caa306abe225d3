"""Triton kernels, run: on a GPU where there is one, else by Triton's interpreter on the CPU.

TRITON_INTERPRET=1 holds for a whole process and slows whatever uses Triton in it. So these files are collected only where
their kernels can run: on a machine with a GPU, or in the processes that tests/ops/test_triton.py starts for them.
"""

from collections.abc import Iterator

import pytest
import torch

from openxlstm.ops import gpu

collect_ignore_glob = [] if gpu.missing() is None else ["test_*.py"]


@pytest.fixture
def device() -> str:
    """Where the kernels run."""
    return "cpu" if gpu.interpreted() else "cuda"


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """New tensors are full of NaN, so that a kernel that leaves out an element, or reads one before it is written, is found."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
