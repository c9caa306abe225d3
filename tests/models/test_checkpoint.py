"""Folders: what is saved comes back bit by bit; what is wrong, missing or cut short ends in one line that names key or file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openxlstm import LanguageModel, LanguageModelConfig, SequenceClassifier
from openxlstm.cli.main import main
from openxlstm.errors import UserError
from openxlstm.models.patterns import expand
from openxlstm.models.tensors import TensorFiles
from openxlstm.models.weights import detect, neurips, write_huggingface

LARGE: dict[str, Any] = dict(
    vocab_size=31, dim=64, num_heads=4, blocks=("mlstm_large",) * 2, norm="rms", gate_soft_cap=15.0, logit_soft_cap=30.0
)


def build(**settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(**settings)).eval()


def error_of(folder: Path) -> str:
    """The one line that loading ends in."""
    with pytest.raises(UserError) as caught:
        LanguageModel.from_pretrained(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A transformers folder."""
    write_huggingface(build(**LARGE), tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """An xLSTMLMModel folder with a JSON config, made without that package."""
    model = build(vocab_size=31, dim=32, blocks=("mlstm", "slstm"))
    none = TensorFiles(tmp_path, {}, {}, torch.empty)
    shapes = {name: shape for entry in neurips.entries(model, none) for name, shape in entry.sources.items()}
    shapes |= {"xlstm_block_stack.blocks.1.xlstm.group_norm.weight": (32,)}
    folder = tmp_path / "paper"
    folder.mkdir()
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    settings = {
        "vocab_size": 31, "embedding_dim": 32, "num_blocks": 2, "slstm_at": [1], "context_length": 8,
        "mlstm_block": {"mlstm": {"num_heads": 4}}, "slstm_block": {"slstm": {"num_heads": 4, "backend": "cuda"}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"norm": "none"}, {"logit_soft_cap": 3.0}], ids=str)
def test_round_trip(changes: dict, tmp_path: Path) -> None:
    model = build(vocab_size=31, dim=32, blocks=expand("mlstm,slstm,mlstm_large,lstm,attention,ssd"), **changes)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = LanguageModel.from_pretrained(tmp_path)
    assert detect(tmp_path) == "openxlstm"
    assert loaded.config == model.config
    assert not loaded.training
    ids = torch.randint(31, (2, 9))
    assert torch.equal(loaded(ids)[0], model(ids)[0])
    assert all(p.requires_grad for p in loaded.parameters())
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() for t in stored.values()) == model.num_parameters()  # tied weights once


def test_dtype_device_backend(tmp_path: Path) -> None:
    model = build(vocab_size=31, dim=32, blocks=("mlstm",)).bfloat16()
    model.save_pretrained(tmp_path)
    assert LanguageModel.from_pretrained(tmp_path).lm_head.weight.dtype == torch.bfloat16
    loaded = LanguageModel.from_pretrained(str(tmp_path), dtype=torch.float32, device="cpu", backend="reference")
    assert loaded.lm_head.weight.dtype == torch.float32
    assert loaded.config.backend == "reference"


@pytest.mark.parametrize("device", ["cuda:77", "toaster"])
def test_devices_that_cannot_be_used(device: str, tmp_path: Path) -> None:
    build(**LARGE).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"device '{device}' cannot be used here"):
        LanguageModel.from_pretrained(tmp_path, device=device)


def test_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a write."""
    old = build(vocab_size=31, dim=32, blocks=("mlstm",))
    old.save_pretrained(tmp_path)

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openxlstm.models.tensors.save_file", full)
    with pytest.raises(UserError, match=r"cannot write .*model\.safetensors: .*No space left"):
        build(vocab_size=31, dim=64, blocks=("mlstm",)).save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = LanguageModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, old.lm_head.weight)


def cut(file: Path, keep: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])


def edit(file: Path, change: Callable[[dict], Any]) -> None:
    """Change tensors or settings in a file."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    else:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)


@pytest.mark.parametrize("keep", [0.5, 0.01, 0.0])
@pytest.mark.parametrize("kind", ["own", "large", "paper"])
def test_truncated_weights(kind: str, keep: float, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "own":
        folder = tmp_path / "own"
        build(**LARGE).save_pretrained(folder)
    else:
        folder = request.getfixturevalue(kind)
    LanguageModel.from_pretrained(folder)
    cut(folder / "model.safetensors", keep)
    assert f"{folder / 'model.safetensors'}: not a safetensors file, or cut short" in error_of(folder)


def test_truncated_config(large: Path) -> None:
    cut(large / "config.json")
    assert f"{large / 'config.json'}: not readable as JSON" in error_of(large)
    (large / "config.json").write_text("[1]")
    assert "expected a JSON object, got list" in error_of(large)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("large", "backbone.blocks.1.mlstm_layer.igate_preact.bias"),
        ("large", "backbone.embeddings.weight"),
        ("large", "lm_head.weight"),
        ("paper", "xlstm_block_stack.blocks.1.xlstm.slstm_cell._recurrent_kernel_"),
        ("paper", "xlstm_block_stack.blocks.0.xlstm.learnable_skip"),
    ],
)
def test_keys(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    """Missing, misshapen and unexpected tensors are named as the file names them."""
    folder = request.getfixturevalue(kind)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    edit(file, lambda tensors: tensors.pop(name))
    text = error_of(folder)
    assert "the weights do not fit the config; missing: " in text
    assert (name if name != "backbone.embeddings.weight" else "embedding.weight") in text
    assert str(file) in text
    file.write_bytes(whole)
    edit(file, lambda tensors: tensors.update({name: torch.zeros(3, 5, 7)}))
    assert f"wrong shape: {name} is [3, 5, 7], expected [" in error_of(folder)
    file.write_bytes(whole)
    edit(file, lambda tensors: tensors.update({"strange.weight": torch.zeros(1)}))
    assert "unexpected: strange.weight" in error_of(folder)


def test_many_missing_keys_are_counted(large: Path) -> None:
    edit(large / "config.json", lambda c: c.update(num_blocks=3, num_hidden_layers=3))
    assert "missing: backbone.blocks.2." in error_of(large)
    assert "more" in error_of(large)


def test_shards(large: Path) -> None:
    tensors = load_file(large / "model.safetensors")
    (large / "model.safetensors").unlink()
    names = sorted(tensors)
    for n in range(3):
        save_file({name: tensors[name] for name in names[n::3]}, large / f"model_{n}.safetensors")
    loaded = LanguageModel.from_pretrained(large)
    assert torch.equal(loaded.lm_head.weight, tensors["lm_head.weight"])
    (large / "model_1.safetensors").rename(large / "aside")
    assert f"{large / 'model_1.safetensors'}: missing, but other shards are there" in error_of(large)
    (large / "aside").rename(large / "model_1.safetensors")
    (large / "model_2.safetensors").unlink()  # the last one: only the keys can tell
    assert "missing: backbone." in error_of(large)


def test_indexed_shards(large: Path) -> None:
    tensors = load_file(large / "model.safetensors")
    (large / "model.safetensors").unlink()
    names = sorted(tensors)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for n, file in enumerate(files):
        save_file({name: tensors[name] for name in names[n::2]}, large / file)
    LanguageModel.from_pretrained(large)  # without an index the numbers say what is there
    index = large / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: files[n % 2] for n, name in enumerate(names)}}))
    LanguageModel.from_pretrained(large)
    edit(index, lambda i: i["weight_map"].update({"lm_head.weight": files[names.index("lm_head.weight") % 2 - 1]}))
    assert "no tensor 'lm_head.weight', but model.safetensors.index.json says it is there" in error_of(large)
    index.write_text("{}")
    assert f"{index}: no 'weight_map'" in error_of(large)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}))
    assert "missing, but" in error_of(large)
    index.unlink()
    (large / files[1]).unlink()
    assert f"{large / files[1]}: missing, but other shards are there" in error_of(large)


def test_model_pt(paper: Path) -> None:
    tensors = load_file(paper / "model.safetensors")
    expected = LanguageModel.from_pretrained(paper)
    (paper / "model.safetensors").unlink()
    file = paper / "model.pt"
    for content in (tensors, {"state_dict": tensors}):
        torch.save(content, file)
        assert torch.equal(LanguageModel.from_pretrained(paper).lm_head.weight, expected.lm_head.weight)
    cut(file)
    assert f"{file}: not a tensors-only checkpoint, or cut short" in error_of(paper)
    file.write_bytes(b"")
    assert f"{file}: not a tensors-only checkpoint" in error_of(paper)
    torch.save([tensors], file)
    assert f"{file}: expected a dictionary of tensors" in error_of(paper)
    file.unlink()
    assert f"{paper}: no weights here" in error_of(paper)


RAN = []


class Payload:
    """What a pickle could do to the one who loads it."""

    def __reduce__(self) -> tuple:
        return RAN.append, (1,)


def test_pickled_code_does_not_run(paper: Path) -> None:
    (paper / "model.safetensors").unlink()
    torch.save({"weight": Payload()}, paper / "model.pt")
    assert "not a tensors-only checkpoint" in error_of(paper)
    assert not RAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(slstm_at=[2]), "slstm_at must be 'all' or a list of block indices below 2, got [2]"),
        (lambda c: c.update(slstm_at="none"), "slstm_at must be"),
        (lambda c: c.update(bias=True), "bias is true: biases in the linear layers of mLSTM blocks are not supported"),
        (lambda c: c.update(embedding_dim="wide"), "embedding_dim must be int, got 'wide'"),
        (lambda c: c.pop("vocab_size"), "vocab_size is missing"),
        (lambda c: c.update(position="sin"), "position is not a setting that this format has"),
        (lambda c: c["mlstm_block"].update(mlstm=3), "mlstm_block.mlstm must be a mapping, got 3"),
        (lambda c: c["slstm_block"].update(feedforward=None), "slstm_block.feedforward is null"),
        (lambda c: c["slstm_block"].update(feedforward={"act_fn": "relu"}), "slstm_block.feedforward.act_fn is 'relu'"),
        (lambda c: c["slstm_block"]["slstm"].update(function="lstm"), "slstm_block.slstm.function is 'lstm'"),
        (lambda c: c.pop("slstm_block"), "slstm_at is [1], but there is no slstm_block"),
    ],
)
def test_paper_settings(change: Callable, message: str, paper: Path) -> None:
    edit(paper / "config.json", change)
    text = error_of(paper)
    assert message in text
    assert str(paper / "config.json") in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(embedding_dim=128), "hidden_size is 64, but embedding_dim is 128"),
        (lambda c: (c.pop("hidden_size"), c.pop("embedding_dim")), "hidden_size (or embedding_dim) is missing"),
        (lambda c: c.update(num_heads=5), "dim=64 is not divisible by num_heads=5"),
        (lambda c: c.update(num_heads=-4), "num_heads must not be negative"),
        (lambda c: c.update(model_type="llama"), "model_type is 'llama'"),
        (lambda c: c.clear(), "not a config of openxlstm, of transformers' xlstm"),
    ],
)
def test_large_settings(change: Callable, message: str, large: Path) -> None:
    edit(large / "config.json", change)
    assert message in error_of(large)


def test_folders(tmp_path: Path) -> None:
    assert error_of(tmp_path).startswith(f"{tmp_path}: no config here")
    assert "no such folder" in error_of(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "a checkpoint is a folder, this is a file" in error_of(tmp_path / "file")
    build(**LARGE).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="this is a 'LanguageModel', not a 'SequenceClassifier'"):
        SequenceClassifier.from_pretrained(tmp_path)
    edit(tmp_path / "config.json", lambda c: c.update(widht=3))
    assert "unknown setting 'widht'" in error_of(tmp_path)


def test_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'openxlstm\[hf\]'"):
        LanguageModel.from_pretrained("nobody/nothing-here")


def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(name: str, **_: Any) -> str:
        raise OSError("offline\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"nobody/nothing-here: no such folder here, and the Hub did not give it: offline$"):
        LanguageModel.from_pretrained("nobody/nothing-here")


def test_yaml_needs_its_package(paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (paper / "config.json").rename(paper / "config.yaml")  # JSON is YAML
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    assert "pyyaml" in error_of(paper)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(blocks=("mlstm_large", "slstm")), "every block must be mlstm_large"),
        (dict(norm="layer"), "the final norm must be 'rms'"),
        (dict(logit_soft_cap=None), "must be soft-capped"),
        (dict(gate_soft_cap=0.0), "must be soft-capped"),
        (dict(input_gate="sigmoid"), "input gate must be 'exp'"),
    ],
    ids=str,
)
def test_what_transformers_cannot_express(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_huggingface(build(**LARGE | changes), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_config_of_a_whole_run(paper: Path) -> None:
    """The model's settings one level down, beside the training's."""
    expected = LanguageModel.from_pretrained(paper)
    settings = json.loads((paper / "config.json").read_text())
    (paper / "config.json").write_text(json.dumps({"training": {"lr": 1e-3}, "model": settings}))
    assert LanguageModel.from_pretrained(paper).config == expected.config


def test_tied_heads_that_differ(paper: Path) -> None:
    edit(paper / "config.json", lambda c: c.update(tie_weights=True))
    assert "'lm_head.weight' and 'token_embedding.weight' differ, but tie_weights is true" in error_of(paper)
    edit(paper / "model.safetensors", lambda t: t.update({"lm_head.weight": t["token_embedding.weight"].clone()}))
    assert LanguageModel.from_pretrained(paper).lm_head is None


def test_own_huggingface_round_trip(tmp_path: Path) -> None:
    """Ours -> transformers' folder -> ours: every tensor bit for bit, tied heads included."""
    for tied in (False, True):
        model = build(**LARGE, tie_embeddings=tied)
        write_huggingface(model, tmp_path)
        loaded = LanguageModel.from_pretrained(tmp_path)
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        ids = torch.randint(31, (1, 5))
        assert torch.equal(loaded(ids)[0], model(ids)[0])


def test_convert_a_run(tmp_path: Path) -> None:
    """The model in it, with its tokenizer."""
    build(**LARGE).save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "run" / "config.json").write_text('{"trainer": {}, "data": {}}')
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "copy")]) == 0
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    with pytest.raises(UserError, match=r"run/config\.json: not the config of a model; did you mean .*run/model"):
        LanguageModel.from_pretrained(tmp_path / "run")


def test_convert(large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(large / "config.json", lambda c: c.update(bos_token_id=0, eos_token_id=[2, 3]))
    (large / "tokenizer.json").write_text("{}")
    assert main(["convert", str(large), str(tmp_path / "a")]) == 0
    assert "parameters, huggingface -> openxlstm" in capsys.readouterr().out
    assert (tmp_path / "a" / "tokenizer.json").exists()
    assert detect(tmp_path / "a") == "openxlstm"
    assert main(["convert", str(large), str(tmp_path / "b"), "--to", "huggingface", "--dtype", "bfloat16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "huggingface"
    settings = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (settings["bos_token_id"], settings["eos_token_id"], settings["pad_token_id"]) == (0, [2, 3], None)
    assert settings["dtype"] == "bfloat16"
    assert load_file(tmp_path / "b" / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def test_convert_leaves_no_tokenizer_of_another_model(large: Path, tmp_path: Path) -> None:
    (large / "tokenizer.json").write_text("{}")
    assert main(["convert", str(large), str(tmp_path / "a")]) == 0
    (large / "tokenizer.json").unlink()
    assert main(["convert", str(large), str(tmp_path / "a"), "--overwrite"]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["HF", "HF"], "source and target are the same folder"),
        (["HF", "DONE"], "there is a checkpoint already; --overwrite replaces it"),
        (["NOWHERE", "NEW"], "no such folder"),
        (["HF", "NEW", "--to", "onnx"], "invalid choice: 'onnx'"),
        (["HF"], "required: DST"),
    ],
)
def test_convert_errors(arguments: list[str], message: str, large: Path, tmp_path: Path, capsys: Any) -> None:
    build(**LARGE).save_pretrained(tmp_path / "DONE")
    paths = {name: str(tmp_path / name) for name in ("DONE", "NOWHERE", "NEW")} | {"HF": str(large)}
    assert main(["convert", *(paths.get(word, word) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert not out
    assert err.strip().splitlines()[-1].startswith("openxlstm: error: ")
    assert main(["convert", str(large), str(tmp_path / "DONE"), "--overwrite"]) == 0
