"""xLSTMLarge folders of the `xlstm` package, and the tensor names that transformers' `xlstm` shares with it.

config.yaml (or .json) + model.safetensors or model_0.safetensors, model_1.safetensors ...; weights "single" or "fused".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openxlstm.layers import MLSTMLargeBlock
from openxlstm.layers.feedforward import hidden_size
from openxlstm.models.checkpoint import fill, on_meta
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.count import factor_of
from openxlstm.models.language import LanguageModel
from openxlstm.models.patterns import expand
from openxlstm.models.tensors import TensorFiles, open_tensors
from openxlstm.models.weights.mapping import Entry, translate
from openxlstm.models.weights.settings import Settings

EMBEDDING_NAMES = ("embedding.weight", "backbone.embeddings.weight")
"""xLSTMLarge's, transformers'."""

RUN_TIME_SETTINGS = (
    "norm_reduction_force_float32", "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size",
    "return_last_states", "autocast_kernel_dtype", "inference_state_dtype", "max_inference_chunksize",
)  # fmt: skip
"""How to compute, not what."""


@dataclass(frozen=True)
class LargeShape:
    """What the config file says, in its words."""

    vocab_size: int
    dim: int
    num_blocks: int
    num_heads: int
    use_bias: bool
    norm_eps: float
    cell_eps: float
    qk_factor: float
    v_factor: float
    ffn_factor: float
    ffn_multiple: int
    gate_soft_cap: float
    logit_soft_cap: float
    tied: bool

    def ffn_width(self) -> int:
        """Width of the feed-forward part, as their code makes it."""
        return self.rounded(self.dim, self.ffn_factor, self.ffn_multiple)

    @staticmethod
    def rounded(dim: int, factor: float, multiple: int) -> int:
        """The width as xLSTMLarge and transformers round it. (Up to 1 above a multiple they round down, while the training
        code in JAX rounds up: 2048 against 2112 at dim 768 and factor 2.667.)"""
        return int((dim * factor + multiple - 1) // multiple) * multiple


def read(
    folder: Path, settings: Settings, *, device: Any = None, dtype: torch.dtype | None = None, backend: str = "auto"
) -> LanguageModel:
    """Load an xLSTMLarge folder. Raises UserError, which names the key or file."""
    shape = read_shape(settings, ffn_factor=2.6667)
    if settings.source.suffix != ".json":  # JSON comes with whatever transformers adds to it
        settings.check_all_known()
    return load(open_tensors(folder), shape, device=device, dtype=dtype, backend=backend)


def read_shape(settings: Settings, *, ffn_factor: float) -> LargeShape:
    """The settings of an xLSTMLarge or transformers config; both spellings of width and depth are understood."""
    vocab_size = settings.take("vocab_size", int)
    dim = _either(settings, "hidden_size", "embedding_dim")
    num_blocks = _either(settings, "num_hidden_layers", "num_blocks")
    settings.ignore("weight_mode", "add_out_norm", *RUN_TIME_SETTINGS)  # the first two show in the weights
    return LargeShape(
        vocab_size=vocab_size,
        dim=dim,
        num_blocks=num_blocks,
        num_heads=settings.take("num_heads", int),
        use_bias=settings.take("use_bias", bool, False),
        norm_eps=settings.take("norm_eps", float, 1e-6),
        cell_eps=settings.take("eps", float, 1e-6),
        qk_factor=settings.take("qk_dim_factor", float, 0.5),
        v_factor=settings.take("v_dim_factor", float, 1.0),
        ffn_factor=settings.take("ffn_proj_factor", float, ffn_factor),
        ffn_multiple=settings.take("ffn_round_up_to_multiple_of", int, 64),
        gate_soft_cap=_cap(settings, "gate_soft_cap", 15.0),
        logit_soft_cap=_cap(settings, "output_logit_soft_cap", 30.0),
        tied=settings.take("tie_word_embeddings", bool, False),
    )


def load(
    files: TensorFiles, shape: LargeShape, *, device: Any = None, dtype: torch.dtype | None = None, backend: str = "auto"
) -> LanguageModel:
    """Build the model that fits config and weights, and fill it."""
    fused = "backbone.blocks.0.mlstm_layer.qkv_opreact.weight" in files
    embedding = next((name for name in EMBEDDING_NAMES if name in files), EMBEDDING_NAMES[0])
    tied = shape.tied and "lm_head.weight" not in files
    ffn_factor, ffn_multiple = factor_for(stored_ffn_width(files, shape, fused), shape)
    config = LanguageModelConfig(
        vocab_size=shape.vocab_size,
        dim=shape.dim,
        blocks=expand("mlstm_large", shape.num_blocks),
        num_heads=shape.num_heads,
        qk_factor=shape.qk_factor,
        v_factor=shape.v_factor,
        ffn_factor=ffn_factor,
        ffn_multiple=ffn_multiple,
        gate_soft_cap=shape.gate_soft_cap,
        logit_soft_cap=shape.logit_soft_cap or None,
        bias=shape.use_bias,
        norm_eps=shape.norm_eps,
        cell_eps=shape.cell_eps,
        norm="rms" if "backbone.out_norm.weight" in files else "none",
        norm_bias="backbone.out_norm.bias" in files,
        tie_embeddings=tied,
        backend=backend,
    )
    model = on_meta(lambda: LanguageModel(config))
    tensors = translate(entries(model, embedding=embedding, fused=fused), files)
    return fill(model, tensors, device=device, dtype=dtype)


def stored_ffn_width(files: TensorFiles, shape: LargeShape, fused: bool) -> int:
    """The width in the weights, which is the truth: the projects round the same factor differently."""
    name = f"backbone.blocks.0.ffn.proj_up_gate{'_z' if fused else ''}.weight"
    if name not in files:
        return shape.ffn_width()
    return files.shapes[name][0] // (2 if fused else 1)


def factor_for(width: int, shape: LargeShape) -> tuple[float, int]:
    """The factor and the multiple that give `width` when rounded up: the config's own, if they do."""
    if hidden_size(shape.dim, shape.ffn_factor, shape.ffn_multiple) == width:
        return shape.ffn_factor, shape.ffn_multiple
    multiple = shape.ffn_multiple if width % shape.ffn_multiple == 0 else 1
    return factor_of(width, shape.dim, multiple), multiple


def _either(settings: Settings, name: str, other: str) -> int:
    """One setting under two names; both may be given if they agree."""
    value, second = settings.take(name, int, None), settings.take(other, int, None)
    if value is not None and second is not None and value != second:
        raise settings.fail(name, f"is {value}, but {other} is {second}")
    value = second if value is None else value
    if value is None:
        raise settings.fail(f"{name} (or {other})", "is missing")
    return value


def _cap(settings: Settings, name: str, default: float) -> float:
    """A soft cap; an explicit null is 0, no cap."""
    return settings.take(name, float, 0.0 if name in settings.values else default)


def entries(model: LanguageModel, *, embedding: str, fused: bool) -> list[Entry]:
    """Every parameter of a model of mlstm_large blocks, in their names. What we keep as one they keep as rows of several,
    unless their weights are "fused", which has the same order as ours."""
    config = model.config
    V, D, H = config.vocab_size, config.dim, config.num_heads
    found = [Entry("embedding.weight", {embedding: (V, D)})]
    for i, block in enumerate(model.stack.blocks):
        assert isinstance(block, MLSTMLargeBlock)
        ours, theirs = f"stack.blocks.{i}.", f"backbone.blocks.{i}."
        Q, W, U = block.qk_dim, block.v_dim, block.ffn.hidden
        linears: list[tuple[str, dict[str, int], int, bool]] = [  # ours, theirs and their rows, columns, with bias
            ("norm", {"norm_mlstm": D}, 0, config.bias),
            ("head_norm", {"mlstm_layer.multihead_norm": W}, 0, config.bias),
            ("out", {"mlstm_layer.out_proj": D}, W, config.bias),
            ("ffn_norm", {"norm_ffn": D}, 0, config.bias),
            ("ffn.down", {"ffn.proj_down": D}, U, config.bias),
        ]
        if fused:
            linears += [
                ("qkvo", {"mlstm_layer.qkv_opreact": 2 * Q + 2 * W}, D, config.bias),
                ("gates", {"mlstm_layer.ifgate_preact": 2 * H}, D, True),
                ("ffn.up", {"ffn.proj_up_gate_z": 2 * U}, D, config.bias),
            ]
        else:
            layer = "mlstm_layer."
            linears += [
                ("qkvo", {layer + "q": Q, layer + "k": Q, layer + "v": W, layer + "ogate_preact": W}, D, config.bias),
                ("gates", {layer + "igate_preact": H, layer + "fgate_preact": H}, D, True),
                ("ffn.up", {"ffn.proj_up_gate": U, "ffn.proj_up": U}, D, config.bias),
            ]
        for name, parts, columns, bias in linears:
            shape = (columns,) if columns else ()
            found.append(Entry(f"{ours}{name}.weight", {f"{theirs}{part}.weight": (n, *shape) for part, n in parts.items()}))
            if bias:
                found.append(Entry(f"{ours}{name}.bias", {f"{theirs}{part}.bias": (n,) for part, n in parts.items()}))
    if config.norm != "none":
        found.append(Entry("stack.norm.weight", {"backbone.out_norm.weight": (D,)}))
    if config.norm_bias:
        found.append(Entry("stack.norm.bias", {"backbone.out_norm.bias": (D,)}))
    if not config.tie_embeddings:
        found.append(Entry("lm_head.weight", {"lm_head.weight": (V, D)}))
    return found
