"""The Python in README.md and docs/how-to runs as it is written, block after block, each file in one namespace."""

import re
from pathlib import Path

import pytest
import torch

from openxlstm import LanguageModel, LanguageModelConfig
from openxlstm.data import ByteTokenizer
from openxlstm.ops import native
from openxlstm.ops.mlstm import scan

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A working folder with what the pages take for granted: a text and a trained model."""
    (tmp_path / "book.txt").write_text("It was a bright cold day in April, and the clocks were striking thirteen.\n" * 200)
    model, folder = LanguageModelConfig(vocab_size=257, dim=16, num_heads=2, blocks=("mlstm",)), tmp_path / "runs/my-run/model"
    LanguageModel(model).save_pretrained(folder)
    ByteTokenizer().save(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scan, "BACKENDS", scan.BACKENDS)  # a page adds one
    torch.manual_seed(0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_python(path, reader):
    if path.stem == "generate-fast-on-a-cpu" and native.missing():
        pytest.skip(native.missing())
    if path.stem == "generate-fast-on-a-gpu":
        pytest.skip("tests/gpu/test_decode.py runs it")
    text = path.read_text(encoding="utf-8")
    namespace = {"__name__": path.stem}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(path), "exec"), namespace)  # the numbers of lines are those of the page
