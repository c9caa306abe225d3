"""Small models of other projects' packages with every parameter random, written to folders as those projects write them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

VOCAB = 61
README_CONFIG = """
vocab_size: {vocab}
mlstm_block:
  mlstm:
    conv1d_kernel_size: 4
    qkv_proj_blocksize: 4
    num_heads: 4
slstm_block:
  slstm:
    backend: vanilla
    num_heads: 4
    conv1d_kernel_size: 4
    bias_init: powerlaw_blockdependent
  feedforward:
    proj_factor: 1.3
    act_fn: gelu
context_length: 64
num_blocks: {num_blocks}
embedding_dim: 32
slstm_at: {slstm_at}
"""


def package(name: str) -> Any:
    """Import another project's package, or skip the test and say so."""
    return pytest.importorskip(name, reason=f"the package {name!r} is not installed (extra `parity`): nothing was compared")


def randomize(model: nn.Module, seed: int = 0) -> None:
    """No parameter stays where it started: matrices become normal numbers, vectors (norms, biases, skips) move by 0.5.

    The gate biases of xLSTM Large, which only transformers starts, become 0 (input: from -10 the memory would have no part in
    the output) and 4 (forget: as trained; from 0 the sum of log gates passes -30 and costs their float32 the sixth digit).
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=rng)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            elif "gate_preact.bias" in name and "ogate" not in name:
                centre = {"i": torch.tensor(0.0), "f": torch.tensor(4.0)}
                kinds = name.split(".")[-2].removesuffix("gate_preact")  # "i", "f", or "if" where they are fused
                parts = [centre[kind].expand(len(parameter) // len(kinds)) for kind in kinds]
                parameter.copy_(torch.cat(parts) + 0.5 * noise)
            else:
                parameter.add_(0.5 * noise)


def neurips_model(num_blocks: int, slstm_at: Any, **changes: Any) -> nn.Module:
    """An xLSTMLMModel from the README's YAML."""
    xlstm = package("xlstm")
    yaml = package("yaml")
    text = README_CONFIG.format(vocab=VOCAB, num_blocks=num_blocks, slstm_at=slstm_at)
    settings = yaml.safe_load(text) | changes
    mlstm, slstm = settings["mlstm_block"], settings["slstm_block"]
    config = xlstm.xLSTMLMModelConfig(
        **settings
        | dict(
            mlstm_block=mlstm and xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(**mlstm["mlstm"])),
            slstm_block=xlstm.sLSTMBlockConfig(
                slstm=xlstm.sLSTMLayerConfig(**slstm["slstm"]), feedforward=xlstm.FeedForwardConfig(**slstm["feedforward"])
            ),
        )
    )
    torch.manual_seed(0)
    model = xlstm.xLSTMLMModel(config)
    randomize(model)
    model.settings = settings
    return model.eval()


def save_neurips(model: Any, folder: Path, *, pickled: bool = False, tensors: dict[str, Tensor] | None = None) -> Path:
    """config.yaml + model.safetensors (or model.pt)."""
    yaml = package("yaml")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(model.settings))
    tensors = dict(model.state_dict()) if tensors is None else tensors
    if pickled:
        torch.save(tensors, folder / "model.pt")
    else:
        save_file({name: t.clone().contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    return folder


LARGE_SETTINGS = dict(
    vocab_size=VOCAB,
    embedding_dim=64,
    num_heads=4,
    num_blocks=2,
    chunkwise_kernel="chunkwise--native_autograd",
    sequence_kernel="native_sequence__native",
    step_kernel="native",
    mode="inference",
    return_last_states=True,
    autocast_kernel_dtype="float32",
    chunk_size=16,
)


def large_model(**changes: Any) -> Any:
    """An xLSTMLarge with the package's plain-torch kernels."""
    package("mlstm_kernels")
    package("xlstm")
    from xlstm.xlstm_large.model import xLSTMLarge, xLSTMLargeConfig

    settings = LARGE_SETTINGS | changes
    torch.manual_seed(0)
    model = xLSTMLarge(xLSTMLargeConfig(**settings))
    randomize(model)
    model.settings = settings
    return model.eval()


def save_large(model: Any, folder: Path, *, shards: int = 1, as_json: bool = False) -> Path:
    """config.yaml (or .json) + model.safetensors or model_0.safetensors, model_1..."""
    yaml = package("yaml")
    folder.mkdir(parents=True, exist_ok=True)
    if as_json:
        (folder / "config.json").write_text(json.dumps(model.settings))
    else:
        (folder / "config.yaml").write_text(yaml.safe_dump(model.settings))
    tensors = {name: t.clone() for name, t in model.state_dict().items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        names = list(tensors)
        for n in range(shards):
            save_file({name: tensors[name] for name in names[n::shards]}, folder / f"model_{n}.safetensors")
    return folder


def huggingface_model(**changes: Any) -> Any:
    """A transformers xLSTMForCausalLM. (Its cache has the right shape only where q and v are multiples of 64 wide.)"""
    transformers = package("transformers")
    settings = dict(
        vocab_size=VOCAB, hidden_size=128, num_hidden_layers=2, num_heads=4, chunk_size=16, autocast_kernel_dtype="float32"
    )
    torch.manual_seed(0)
    model = transformers.xLSTMForCausalLM(transformers.xLSTMConfig(**settings | changes))
    randomize(model)
    return model.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest of their numbers."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    """Random ids."""
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
