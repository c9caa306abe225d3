"""Which folder a path means, and whether model and tokenizer belong together."""

import os

import pytest
import torch

from openxlstm.data import ByteTokenizer, CharTokenizer
from openxlstm.errors import UserError
from openxlstm.inference import complete, load_run, newest_run
from openxlstm.inference.load import check_vocabulary, model_folder
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.models.weights import write_huggingface


def make(folder, *, vocab_size=257, blocks=("mlstm",), tokenizer=None, **options):
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocab_size=vocab_size, dim=32, num_heads=2, blocks=blocks, **options))
    model.save_pretrained(folder)
    (tokenizer or ByteTokenizer()).save(folder)
    return model.eval()


def test_run_folder_and_model_folder_are_the_same_model(tmp_path):
    model = make(tmp_path / "run" / "model")
    for path in (tmp_path / "run", tmp_path / "run" / "model", str(tmp_path / "run")):
        loaded = load_run(path)
        assert loaded.folder == tmp_path / "run" / "model"
        assert not loaded.model.training
        assert complete(loaded.model, [[1, 2]], 10) == complete(model, [[1, 2]], 10)


def test_a_checkpoint_of_transformers(tmp_path):
    ours = make(tmp_path / "ours", blocks=("mlstm_large",) * 2, norm="rms", logit_soft_cap=30.0)
    write_huggingface(ours, tmp_path / "theirs")
    ByteTokenizer().save(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"no tokenizer\.json beside the model"):
        load_run(tmp_path / "theirs")
    loaded = load_run(tmp_path / "theirs", tokenizer=tmp_path / "elsewhere")
    assert complete(loaded.model, [[1, 2]], 10) == complete(ours, [[1, 2]], 10)


def test_the_newest_finished_run(tmp_path):
    with pytest.raises(UserError, match="openxlstm train"):
        newest_run(tmp_path / "runs")
    for age, name in enumerate(("c", "a", "b")):
        make(tmp_path / "runs" / name / "model")
        os.utime(tmp_path / "runs" / name / "model", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "unfinished" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path / "runs") == tmp_path / "runs" / "c"


def test_paths_that_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/nothing", "nothing", "nothing/at/all", tmp_path / "nothing"):
        with pytest.raises(UserError, match="no such folder"):
            model_folder(path)
    with pytest.raises(UserError, match="no finished model"):
        model_folder("runs")
    assert str(model_folder("owner/name")) == "owner/name"  # left to the Hub
    (tmp_path / "runs" / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.json").write_text('{"trainer": {}, "data": {}}')
    with pytest.raises(UserError, match=r"runs/a: this run has no finished model yet; .* openxlstm train --resume runs/a"):
        model_folder("runs/a")
    make(tmp_path / "runs" / "b" / "model")
    (tmp_path / "runs" / "b" / "checkpoints").mkdir()
    for path in ("runs", "runs/b/checkpoints"):
        with pytest.raises(UserError, match=f"{path}: no finished model in this folder; there is one in 'runs/b'"):
            model_folder(path)


@pytest.mark.parametrize(("knows", "fits"), [(257, True), (320, True), (384, True), (256, False), (258, False), (1024, False)])
def test_vocabularies(knows, fits):
    model = LanguageModel(LanguageModelConfig(vocab_size=knows, dim=8, num_heads=1, blocks=("lstm",)))
    if fits:
        check_vocabulary(model, ByteTokenizer())
    else:
        with pytest.raises(UserError, match=f"the model knows {knows} tokens and the tokenizer has 257"):
            check_vocabulary(model, ByteTokenizer())


def test_a_tokenizer_of_another_model(tmp_path):
    make(tmp_path / "a")
    CharTokenizer("abc").save(tmp_path / "b")
    with pytest.raises(UserError, match="vocabulary mismatch"):
        load_run(tmp_path / "a", tokenizer=tmp_path / "b")
