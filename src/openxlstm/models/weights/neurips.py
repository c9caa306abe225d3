"""Folders of the `xlstm` package's xLSTMLMModel, the models of the NeurIPS paper: config.yaml as in that package's README, and
its state dict as model.safetensors or, tensors only, model.pt.

What differs from our layout: norm weights are stored minus one; the sLSTM projection called `fgate` feeds the input gate and
`igate` the forget gate; R and its bias come as the plain-torch ("vanilla") or as the CUDA cell keeps them.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openxlstm.errors import UserError
from openxlstm.layers import MLSTMBlock, SLSTMBlock
from openxlstm.layers.feedforward import hidden_size
from openxlstm.models.checkpoint import fill, on_meta
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.count import factor_of
from openxlstm.models.language import LanguageModel
from openxlstm.models.tensors import TensorFiles, open_tensors
from openxlstm.models.weights.mapping import Entry, plus_one, translate
from openxlstm.models.weights.settings import Settings

STACK = "xlstm_block_stack"
EMBEDDING = "token_embedding.weight"
TIED_HEAD = "lm_head.weight"
"""xLSTMLMModel's state dict holds a tied head a second time."""

FFN_DEFAULT = {"proj_factor": 1.3, "act_fn": "gelu"}
"""What xLSTMLMModel gives an sLSTM block whose config says nothing of its feed-forward part."""


def read(
    folder: Path, settings: Settings, *, device: Any = None, dtype: torch.dtype | None = None, backend: str = "auto"
) -> LanguageModel:
    """Load an xLSTMLMModel folder. Raises UserError, which names the key or file."""
    files = open_tensors(folder)
    config = read_config(settings, files, backend)
    if config.tie_embeddings and TIED_HEAD in files and not torch.equal(files.get(TIED_HEAD), files.get(EMBEDDING)):
        raise UserError(f"{files.files[TIED_HEAD]}: {TIED_HEAD!r} and {EMBEDDING!r} differ, but tie_weights is true")
    model = on_meta(lambda: LanguageModel(config))
    tensors = translate(entries(model, files), files, ignored=[TIED_HEAD] if config.tie_embeddings else [])
    return fill(model, tensors, device=device, dtype=dtype)


def read_config(settings: Settings, files: TensorFiles, backend: str = "auto") -> LanguageModelConfig:
    """The config.yaml as ours. Widths that their code rounds are taken from the weights. Raises UserError."""
    num_blocks, dim = settings.take("num_blocks", int), settings.take("embedding_dim", int)
    mlstm_block, slstm_block = settings.section("mlstm_block"), settings.section("slstm_block")
    blocks = _blocks(settings, num_blocks, mlstm_block, slstm_block)
    if settings.take("bias", bool, False) and mlstm_block is not None:
        raise settings.fail("bias", "is true: biases in the linear layers of mLSTM blocks are not supported")
    options: dict[str, Any] = {}
    if "mlstm" in blocks:
        options |= _mlstm_options(mlstm_block, files, f"{STACK}.blocks.{blocks.index('mlstm')}.", dim)
    if "slstm" in blocks:
        options |= _slstm_options(slstm_block, files, f"{STACK}.blocks.{blocks.index('slstm')}.", dim)
        options.setdefault("num_heads", options["slstm_num_heads"])
    dropout = settings.take("dropout", float, 0.0)
    config = LanguageModelConfig(
        vocab_size=settings.take("vocab_size", int),
        dim=dim,
        blocks=blocks,
        dropout=dropout,
        embedding_dropout=dropout if settings.take("add_embedding_dropout", bool, False) else 0.0,
        norm="layer" if settings.take("add_post_blocks_norm", bool, True) else "none",
        norm_eps=1e-5,
        tie_embeddings=settings.take("tie_weights", bool, False),
        backend=backend,
        **options,
    )
    settings.ignore("context_length", "weight_decay_on_embedding")  # a buffer and the optimiser: nothing that is stored
    settings.check_all_known()
    return config


def _blocks(settings: Settings, num_blocks: int, mlstm: Settings | None, slstm: Settings | None) -> tuple[str, ...]:
    """Kinds by position: `slstm_at` is a list of indices or "all"; without an mLSTM config every block is an sLSTM."""
    positions = settings.values.get("slstm_at") or []
    settings.ignore("slstm_at")
    if positions == "all" or mlstm is None:
        positions = list(range(num_blocks))
    if not isinstance(positions, list) or not all(type(i) is int and 0 <= i < num_blocks for i in positions):
        raise settings.fail("slstm_at", f"must be 'all' or a list of block indices below {num_blocks}, got {positions!r}")
    if positions and slstm is None:
        raise settings.fail("slstm_at", f"is {positions}, but there is no slstm_block")
    return tuple("slstm" if i in positions else "mlstm" for i in range(num_blocks))


def _mlstm_options(block: Settings | None, files: TensorFiles, prefix: str, dim: int) -> dict[str, Any]:
    assert block is not None
    layer = block.section("mlstm") or Settings({}, block.source, f"{block.prefix}mlstm.")
    block.check_all_known()
    options = dict(
        num_heads=layer.take("num_heads", int, 4),
        conv_width=layer.take("conv1d_kernel_size", int, 4),
        qkv_block_size=layer.take("qkv_proj_blocksize", int, 4),
        projection_factor=layer.take("proj_factor", float, 2.0),
    )
    layer.ignore("round_proj_up_dim_up", "round_proj_up_to_multiple_of")  # the weights have the rounded width
    layer.ignore("embedding_dim", "bias", "dropout", "context_length")  # the top level overrides them
    layer.check_all_known()
    up = f"{prefix}xlstm.proj_up.weight"
    if up in files and round(options["projection_factor"] * dim) != files.shapes[up][0] // 2:
        options["projection_factor"] = files.shapes[up][0] // 2 / dim
    return options


def _slstm_options(block: Settings | None, files: TensorFiles, prefix: str, dim: int) -> dict[str, Any]:
    assert block is not None
    layer = block.section("slstm") or Settings({}, block.source, f"{block.prefix}slstm.")
    if "feedforward" in block.values and block.values["feedforward"] is None:
        raise block.fail("feedforward", "is null: sLSTM blocks without a feed-forward part are not supported")
    ffn = block.section("feedforward") or Settings(FFN_DEFAULT, block.source, f"{block.prefix}feedforward.")
    block.check_all_known()
    if (function := layer.take("function", str, "slstm")) != "slstm":
        raise layer.fail("function", f"is {function!r}, supported is 'slstm'")
    options: dict[str, Any] = dict(
        slstm_num_heads=layer.take("num_heads", int, 4),
        slstm_conv_width=layer.take("conv1d_kernel_size", int, 4),
        ffn_factor=ffn.take("proj_factor", float, 1.3),
    )
    if (act := ffn.take("act_fn", str, "gelu")) != "gelu":
        raise ffn.fail("act_fn", f"is {act!r}, supported is 'gelu'")
    if ffn.take("bias", bool, False):
        raise ffn.fail("bias", "is true: biases in the feed-forward part are not supported")
    if (kind := ffn.take("ff_type", str, "ffn_gated")) != "ffn_gated":
        raise ffn.fail("ff_type", f"is {kind!r}, supported is 'ffn_gated'")
    multiple = ffn.take("round_proj_up_to_multiple_of", int, 64)
    ffn.ignore("round_proj_up_dim_up", "dropout", "embedding_dim")
    ffn.check_all_known()
    up = f"{prefix}ffn.proj_up.weight"
    options["ffn_multiple"] = multiple
    if up in files and hidden_size(dim, options["ffn_factor"], multiple) != (width := files.shapes[up][0] // 2):
        options |= dict(ffn_factor=factor_of(width, dim, 1), ffn_multiple=1)
    return options  # what else stands in `slstm` says how to compute (backend, dtypes, shapes) or to start, not what


def entries(model: LanguageModel, files: TensorFiles) -> list[Entry]:
    """Every parameter of a model of mlstm and slstm blocks, in their names and layouts."""
    config = model.config
    V, D = config.vocab_size, config.dim
    found = [Entry("embedding.weight", {EMBEDDING: (V, D)})]
    for i, block in enumerate(model.stack.blocks):
        ours, theirs = f"stack.blocks.{i}.", f"{STACK}.blocks.{i}."
        found.append(Entry(ours + "norm.weight", {theirs + "xlstm_norm.weight": (D,)}, plus_one))
        if isinstance(block, MLSTMBlock):
            found += _mlstm_entries(block, ours, theirs + "xlstm.")
        else:
            assert isinstance(block, SLSTMBlock)
            U = block.ffn.hidden
            found += _slstm_entries(block, ours, theirs + "xlstm.", files)
            found += [
                Entry(ours + "ffn_norm.weight", {theirs + "ffn_norm.weight": (D,)}, plus_one),
                Entry(ours + "ffn.up.weight", {theirs + "ffn.proj_up.weight": (2 * U, D)}),
                Entry(ours + "ffn.down.weight", {theirs + "ffn.proj_down.weight": (D, U)}),
            ]
    if config.norm != "none":
        found.append(Entry("stack.norm.weight", {f"{STACK}.post_blocks_norm.weight": (D,)}, plus_one))
    if not config.tie_embeddings:
        found.append(Entry("lm_head.weight", {TIED_HEAD: (V, D)}))
    return found


def _conv_entries(ours: str, theirs: str, dim: int, width: int) -> list[Entry]:
    return [
        Entry(ours + "conv.weight", {theirs + "conv1d.conv.weight": (dim, 1, width)}, lambda w: w.squeeze(1)),
        Entry(ours + "conv.bias", {theirs + "conv1d.conv.bias": (dim,)}),
    ]


def _mlstm_entries(block: MLSTMBlock, ours: str, theirs: str) -> list[Entry]:
    D, E, H = block.dim, block.inner, block.num_heads
    cell = theirs + "mlstm_cell."
    found = [
        Entry(ours + "up.weight", {theirs + "proj_up.weight": (2 * E, D)}),
        Entry(ours + "gates.weight", {cell + "igate.weight": (H, 3 * E), cell + "fgate.weight": (H, 3 * E)}),
        Entry(ours + "gates.bias", {cell + "igate.bias": (H,), cell + "fgate.bias": (H,)}),
        Entry(ours + "head_norm.weight", {cell + "outnorm.weight": (E,)}, plus_one),
        Entry(ours + "skip", {theirs + "learnable_skip": (E,)}),
        Entry(ours + "down.weight", {theirs + "proj_down.weight": (D, E)}),
    ]
    found += [Entry(f"{ours}{x}.weight", {f"{theirs}{x}_proj.weight": tuple(block.q.weight.shape)}) for x in "qkv"]
    if block.conv is not None:
        found += _conv_entries(ours, theirs, *block.conv.weight.shape)
    return found


def _slstm_entries(block: SLSTMBlock, ours: str, theirs: str, files: TensorFiles) -> list[Entry]:
    H = block.num_heads
    D = block.dim // H
    kernel, bias, norm = theirs + "slstm_cell._recurrent_kernel_", theirs + "slstm_cell._bias_", theirs + "group_norm.weight"
    vanilla = files.shapes.get(kernel) == (H, 4 * D, D)  # the CUDA cell's is (H, D, 4 D); the biases have the same shape

    def read_R(R: Tensor) -> Tensor:
        """-> [H, from, gate, to]"""
        return R.view(H, 4, D, D).permute(0, 3, 1, 2) if vanilla else R.view(H, D, 4, D)

    def read_b(b: Tensor) -> Tensor:
        """-> [gate, H, D]"""
        return b.view(4, H, D) if vanilla else b.view(H, 4, D).transpose(0, 1)

    gates = {f"{theirs}{name}.weight": (H, D, D) for name in ("fgate", "igate", "zgate", "ogate")}  # into i, f, z, o
    found = [
        Entry(ours + "W", gates, lambda *w: torch.stack(w)),
        Entry(ours + "R", {kernel: (H, 4 * D, D) if vanilla else (H, D, 4 * D)}, read_R),
        Entry(ours + "b", {bias: (4 * H * D,)}, read_b),
    ]
    if norm in files:
        found.append(Entry(ours + "head_norm.weight", {norm: (H * D,)}, plus_one))
    else:  # group_norm_weight: false
        found.append(Entry(ours + "head_norm.weight", {}, lambda: torch.ones(H * D)))
    if block.conv is not None:
        found += _conv_entries(ours, theirs, *block.conv.weight.shape)
    return found
