"""Folders of transformers' `xlstm` (xLSTMForCausalLM): config.json + model.safetensors, one file or shards; and writing them.

Scaling-law folders are the same with `embedding_dim` and `num_blocks` for width and depth and model_{n}.safetensors shards.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openxlstm.errors import UserError
from openxlstm.files import write_atomic
from openxlstm.models.language import LanguageModel
from openxlstm.models.tensors import WEIGHTS, open_tensors, save_tensors, writing
from openxlstm.models.weights.large import EMBEDDING_NAMES, LargeShape, entries, load, read_shape
from openxlstm.models.weights.settings import Settings

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read(
    folder: Path, settings: Settings, *, device: Any = None, dtype: torch.dtype | None = None, backend: str = "auto"
) -> LanguageModel:
    """Load a transformers `xlstm` folder. Raises UserError, which names the key or file."""
    return load(open_tensors(folder), read_shape(settings, ffn_factor=2.667), device=device, dtype=dtype, backend=backend)


def write(model: LanguageModel, folder: str | Path, *, token_ids: Mapping[str, Any] | None = None) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` loads.

    token_ids: bos_token_id, eos_token_id, pad_token_id for the config; None where not given.
    Raises UserError for a model that transformers' `xlstm` cannot express (the message says what), or a full disk.
    """
    settings = describe(model)
    tensors: dict[str, Tensor] = {}
    state = model.state_dict()
    for entry in entries(model, embedding=EMBEDDING_NAMES[1], fused=False):
        parts = state[entry.target].split([shape[0] for shape in entry.sources.values()])
        tensors |= {name: part.clone() for name, part in zip(entry.sources, parts, strict=True)}
    if model.config.tie_embeddings:
        tensors["lm_head.weight"] = state["embedding.weight"].clone()
    settings["dtype"] = str(tensors["lm_head.weight"].dtype).removeprefix("torch.")
    settings |= {name: (token_ids or {}).get(name) for name in TOKEN_IDS}
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, folder / WEIGHTS)
    with writing(folder / "config.json"):
        write_atomic(folder / "config.json", json.dumps(settings, indent=2) + "\n")


def describe(model: LanguageModel) -> dict[str, Any]:
    """The transformers config of a model. Raises UserError, which says what cannot be expressed."""
    c = model.config
    refusals = {
        "every block must be mlstm_large": set(c.blocks) != {"mlstm_large"},
        "the final norm must be 'rms' without a bias": c.norm != "rms" or c.norm_bias,
        "the input gate must be 'exp' and the read-out normalized": c.input_gate != "exp" or not c.normalize,
        "gates and logits must be soft-capped": c.gate_soft_cap == 0 or c.logit_soft_cap is None,
    }
    for reason, applies in refusals.items():
        if applies:
            raise UserError(f"transformers' xlstm cannot express this model: {reason}")
    block: Any = model.stack.blocks[0]
    factor, multiple = _factor(c.dim, block.ffn.hidden, block.ffn.multiple_of, c.ffn_factor)
    return {
        "architectures": ["xLSTMForCausalLM"],
        "model_type": "xlstm",
        "vocab_size": c.vocab_size,
        "hidden_size": c.dim,
        "embedding_dim": c.dim,
        "num_hidden_layers": c.num_blocks,
        "num_blocks": c.num_blocks,
        "num_heads": c.num_heads,
        "use_bias": c.bias,
        "add_out_norm": True,
        "norm_eps": c.final_norm_eps,
        "norm_reduction_force_float32": True,
        "eps": block.cell_eps,
        "qk_dim_factor": c.qk_factor,
        "v_dim_factor": c.v_factor,
        "ffn_proj_factor": factor,
        "ffn_round_up_to_multiple_of": multiple,
        "gate_soft_cap": block.gate_soft_cap,
        "output_logit_soft_cap": c.logit_soft_cap,
        "weight_mode": "single",
        "mode": "inference",
        "chunkwise_kernel": "chunkwise--native_autograd",
        "sequence_kernel": "native_sequence__native",
        "step_kernel": "native",
        "chunk_size": 64,
        "return_last_states": True,
        "autocast_kernel_dtype": "bfloat16",
        "inference_state_dtype": "float32",
        "max_inference_chunksize": 16384,
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def _factor(dim: int, width: int, multiple: int, factor: float | None) -> tuple[float, int]:
    """A factor and a multiple that transformers rounds to `width`: ours, if it rounds them like us."""
    candidates = [(factor if factor is not None else 2.667, multiple), (width / dim, multiple), ((width + 0.5) / dim, 1)]
    for candidate, step in candidates:
        if LargeShape.rounded(dim, candidate, step) == width:
            return candidate, step
    raise AssertionError(f"no factor gives {width}")
