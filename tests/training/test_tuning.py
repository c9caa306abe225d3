"""`--cpu-tuning`: what it sets holds for the whole process, so each test gives it back or runs in a process of its own."""

import subprocess
import sys

import pytest
import torch

from openxlstm.training import tuning


@pytest.fixture
def precision():
    """The process-wide precision of products, put back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_products_stay_float32_products(precision):
    tuning.faster_products()
    assert tuning.product_error() <= tuning.TOLERANCE


def test_takes_back_what_loses_precision(precision, monkeypatch):
    monkeypatch.setattr(tuning, "product_error", lambda: 3e-3)
    said = tuning.faster_products()
    assert torch.get_float32_matmul_precision() == "highest"
    assert "off by 3e-03" in said


def test_a_choice_of_the_user_stands(precision):
    torch.set_float32_matmul_precision("high")
    assert "high" in tuning.faster_products()
    assert torch.get_float32_matmul_precision() == "high"


def test_tells_what_was_set():
    code = "import json; from openxlstm.training.tuning import tune_cpu; print(json.dumps(tune_cpu()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert '"allocator"' in done.stdout
    assert '"matmul"' in done.stdout
