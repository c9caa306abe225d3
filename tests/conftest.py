"""One thread: the tests are small, and results must not depend on how many cores there are. And run folders as training
leaves them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from openxlstm.data import ByteTokenizer, TextConfig
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel

torch.set_num_threads(1)


def _write_run(folder: Path, *, tokenizer=None, vocab_size=None, blocks=("mlstm", "slstm"), data=None) -> Path:
    """An untrained model in a run folder; with `data` also the run's settings."""
    tokenizer = tokenizer or ByteTokenizer()
    torch.manual_seed(0)
    config = LanguageModelConfig(vocab_size=vocab_size or tokenizer.vocab_size, dim=16, num_heads=2, blocks=blocks)
    LanguageModel(config).save_pretrained(folder / "model")
    tokenizer.save(folder / "model")
    if data is not None:
        settings = {"data": dataclasses.asdict(TextConfig(source=str(data))), "trainer": {"context": 16, "validate_context": 0}}
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENXLSTM_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def write_run():
    """A function that writes an untrained model, with its tokenizer, as a run folder."""
    return _write_run
