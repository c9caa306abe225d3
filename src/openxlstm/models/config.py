"""What a model is made of, as frozen dataclasses that check themselves."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from openxlstm.errors import UserError
from openxlstm.layers.gates import FORGET_GATE_MODES, GATE_MODES
from openxlstm.models.patterns import BLOCK_NAMES

NORMS = ("layer", "rms", "none")
POOLINGS = ("mean", "max", "mean_max", "last")
CENTRES = ("last", "mean")
BRIDGES = ("cross_attention", "state", "prefix")
GATES = ("exp", "sigmoid")
RECURRENT_INITS = ("zeros", "normal")
HEAD_COUNTS = ("num_heads", "slstm_num_heads", "lstm_num_heads", "ssd_num_heads")
SINGLE_WIDTH = frozenset({"lstm_residual", "lstm_plain"})
"""Blocks without an inner width: only `dim` can bring them to a number of parameters, so nothing that is not theirs may hold
it to multiples."""


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A stack of residual blocks. A knob that a kind of block does not have is ignored by it; None is the block's default."""

    dim: int
    """Model width D."""
    blocks: tuple[str, ...]
    """Kinds of the blocks, first to last (`patterns.expand` writes them)."""
    num_heads: int = 4
    """Heads of every block; must divide `dim` (but for stacks of SINGLE_WIDTH blocks, which have lstm_num_heads alone)."""
    slstm_num_heads: int | None = None
    """Heads of the `slstm` blocks, where they differ."""
    lstm_num_heads: int = 1
    """Heads of the `lstm`, `lstm_residual` and `lstm_plain` blocks: 1 is the classic LSTM, more are block-diagonal."""
    ssd_num_heads: int | None = None
    """Heads of the `ssd` blocks, where they differ; Mamba-2 has heads of 64, that is `dim` / 32 of them."""
    ssd_state_dim: int | None = None
    """Width of q and k in the `ssd` blocks. Default: 128, or the inner width if that is less."""
    projection_factor: float = 2.0
    """Inner width of `mlstm` and `ssd` blocks over `dim`."""
    qkv_block_size: int = 4
    """Size of the diagonal blocks of the q, k and v projections of `mlstm`."""
    conv_width: int = 4
    """Width of the causal convolution of `mlstm`, `slstm` and `ssd`; 0 is no convolution."""
    slstm_conv_width: int | None = None
    """Width in the `slstm` blocks, where it differs."""
    ffn_factor: float | None = None
    """Width of the feed-forward part over `dim`: slstm, lstm (default 1.3), mlstm_large, attention (default 2.667)."""
    ffn_multiple: int = 64
    """That width is rounded up to a multiple of this."""
    qk_factor: float = 0.5
    """Width of q and k over `dim` in `mlstm_large`."""
    v_factor: float = 1.0
    """Width of v over `dim` in `mlstm_large`."""
    gate_soft_cap: float | None = None
    """Soft cap of the mLSTM gates; 0 is no cap. Default: none in `mlstm`, 15 in `mlstm_large`."""
    input_gate: str = "exp"
    """Input gate of the mLSTM blocks: "exp" or "sigmoid"."""
    input_gate_mode: str = "learned"
    """What of the input gate of `mlstm` is learned: weights and bias ("learned"), its "bias", or nothing ("fixed")."""
    forget_gate_mode: str = "learned"
    """The same of its forget gate; "one" keeps it at 1."""
    normalize: bool = True
    """Divide the read-out of `mlstm_large` by its normaliser."""
    forget_gate: str = "sigmoid"
    """Forget gate of the sLSTM blocks: "sigmoid" or "exp"."""
    recurrent_init: str = "zeros"
    """Start values of the recurrent kernels of the sLSTM blocks: "zeros" or "normal"."""
    bias: bool = False
    """Biases in the linear layers and norms of `mlstm_large`."""
    rope_base: float = 10000.0
    """Base of the rotary position embedding of `attention`."""
    dropout: float = 0.0
    """Dropout of every block's branches."""
    norm_eps: float | None = None
    """Eps of all norms. Default: the block's own (1e-5 or 1e-6); final norm 1e-5 for "layer", 1e-6 for "rms"."""
    cell_eps: float | None = None
    """Eps of the read-out's denominator in `mlstm_large`. Default 1e-6."""
    norm: str = "layer"
    """The final norm: "layer", "rms" or "none"."""
    norm_bias: bool = False
    """A bias in the final norm."""
    checkpoint_activations: bool = False
    """Keep only the inputs of each block in training and compute the rest again for the backward pass."""
    backend: str = "auto"
    """Backend of the scans."""
    chunk_size: int | None = None
    """Steps of an mLSTM chunk; None lets the backend choose."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", (self.blocks,) if isinstance(self.blocks, str) else tuple(self.blocks))
        if self.dim < 1:
            raise UserError(f"dim must be at least 1, got {self.dim}")
        if not self.blocks:
            raise UserError("blocks must name at least one block")
        for name in self.blocks:
            if name not in BLOCK_NAMES:
                raise UserError(f"unknown block {name!r} in blocks; have {', '.join(BLOCK_NAMES)}")
        for name, heads in self.head_counts.items():
            if heads < 1 or self.dim % heads:
                raise UserError(f"dim={self.dim} is not divisible by {name}={heads}")
        if "attention" in self.blocks and (self.dim // self.num_heads) % 2:
            raise UserError(f"attention rotates pairs: dim/num_heads = {self.dim // self.num_heads} must be even")
        for name in ("projection_factor", "ffn_factor", "qk_factor", "v_factor", "rope_base", "norm_eps", "cell_eps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} must be positive and finite, got {value}")
        inner = round(self.projection_factor * self.dim)
        ssd_heads = "num_heads" if self.ssd_num_heads is None else "ssd_num_heads"
        for block, name in (("mlstm", "num_heads"), ("mlstm", "qkv_block_size"), ("ssd", ssd_heads)):
            if block in self.blocks and (getattr(self, name) < 1 or inner % getattr(self, name)):
                raise UserError(f"projection_factor * dim = {inner} is not divisible by {name}={getattr(self, name)}")
        if self.ssd_state_dim is not None and self.ssd_state_dim < 1:
            raise UserError(f"ssd_state_dim must be at least 1, got {self.ssd_state_dim}")
        for name in ("qk_factor", "v_factor") if "mlstm_large" in self.blocks else ():
            width = int(getattr(self, name) * self.dim)
            if width < 1 or width % self.num_heads:
                raise UserError(f"{name} * dim = {width} is not divisible by num_heads={self.num_heads}")
        for name in ("conv_width", "slstm_conv_width"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"{name} must be 0 (no convolution) or more, got {getattr(self, name)}")
        if self.gate_soft_cap is not None and self.gate_soft_cap < 0:
            raise UserError(f"gate_soft_cap must be 0 (none) or positive, got {self.gate_soft_cap}")
        for name in ("input_gate", "forget_gate"):
            if getattr(self, name) not in GATES:
                raise UserError(f"{name} must be one of {', '.join(GATES)}, got {getattr(self, name)!r}")
        for name, modes in (("input_gate_mode", GATE_MODES), ("forget_gate_mode", FORGET_GATE_MODES)):
            if getattr(self, name) not in modes:
                raise UserError(f"{name} must be one of {', '.join(modes)}, got {getattr(self, name)!r}")
        if self.recurrent_init not in RECURRENT_INITS:
            raise UserError(f"recurrent_init must be one of {', '.join(RECURRENT_INITS)}, got {self.recurrent_init!r}")
        _check_probability("dropout", self.dropout)
        if self.norm not in NORMS:
            raise UserError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise UserError(f"chunk_size must be at least 1, got {self.chunk_size}")
        if self.ffn_multiple < 1:
            raise UserError(f"ffn_multiple must be at least 1, got {self.ffn_multiple}")

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def head_counts(self) -> dict[str, int]:
        """Setting -> number of heads, for those that must divide `dim`."""
        names = ("lstm_num_heads",) if SINGLE_WIDTH.issuperset(self.blocks) else HEAD_COUNTS
        return {name: heads for name in names if (heads := getattr(self, name)) is not None}

    @property
    def final_norm_eps(self) -> float:
        """Eps of the norm after the last block."""
        return self.norm_eps if self.norm_eps is not None else (1e-5 if self.norm == "layer" else 1e-6)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> Self:
        """The config with these values. Raises UserError, which names `source`, for unknown, missing or wrongly typed ones."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise UserError(f"{source}: unknown setting {unknown[0]!r}; have {', '.join(fields)}")
        required = [n for n, f in fields.items() if f.default is dataclasses.MISSING]
        if missing := [n for n in required if n not in values]:
            raise UserError(f"{source}: missing setting {missing[0]!r}")
        hints = typing.get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[name]):
                raise UserError(f"{source}: {name} must be {_spell(hints[name])}, got {value!r}")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig(StackConfig):
    """A language model: embedding, stack, head."""

    vocab_size: int
    """Number of tokens V."""
    tie_embeddings: bool = False
    """The head is the transposed embedding."""
    logit_soft_cap: float | None = None
    """cap * tanh(logits / cap); None is no cap."""
    embedding_dropout: float = 0.0
    """Dropout after the embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocab_size < 1:
            raise UserError(f"vocab_size must be at least 1, got {self.vocab_size}")
        if self.logit_soft_cap is not None and self.logit_soft_cap <= 0:
            raise UserError(f"logit_soft_cap must be positive or None, got {self.logit_soft_cap}")
        _check_probability("embedding_dropout", self.embedding_dropout)


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(LanguageModelConfig):
    """A text becomes another: an encoder that reads both ways, and a decoder that writes. `blocks` are those of the decoder;
    both share the embedding."""

    bridge: str = "cross_attention"
    """How the decoder reads the source: by "cross_attention" behind each of its blocks; from its first "state", which is the
    encoder's last; or as a "prefix" of what it writes, without an encoder."""
    encoder_blocks: tuple[str, ...] = ()
    """Kinds of the encoder's blocks, first to last. Each stands for two, one that reads forwards and one that reads backwards,
    but `attention`, which sees both sides. None of them for "prefix"; for "state" the same as `blocks`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "encoder_blocks", tuple(self.encoder_blocks))
        if self.bridge not in BRIDGES:
            raise UserError(f"bridge must be one of {', '.join(BRIDGES)}, got {self.bridge!r}")
        if (self.bridge == "prefix") == bool(self.encoder_blocks):
            raise UserError(f"bridge={self.bridge} {'has no' if self.encoder_blocks else 'needs'} encoder_blocks")
        if self.bridge == "state" and self.encoder_blocks != self.blocks:
            raise UserError("bridge=state hands states on block by block: encoder_blocks must be the same as blocks")
        if "lstm_plain" in self.encoder_blocks:
            raise UserError("an encoder adds up what residual blocks write in both directions, and lstm_plain is not residual")
        if self.checkpoint_activations:
            raise UserError("checkpoint_activations is not there for encoder and decoder")
        if self.bridge == "cross_attention" and self.dim % self.num_heads:
            raise UserError(f"dim={self.dim} is not divisible by num_heads={self.num_heads}, the heads of the cross-attention")
        _ = self.encoder  # making it refuses what no stack can have

    @property
    def encoder(self) -> StackConfig | None:
        """The configuration of one direction of the encoder."""
        if not self.encoder_blocks:
            return None
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(StackConfig)}
        return StackConfig(**values | {"blocks": self.encoder_blocks})


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(StackConfig):
    """A stack that reads tokens (`vocab_size`) or vectors (`input_dim`)."""

    vocab_size: int | None = None
    """The input is token ids [B, T]."""
    input_dim: int | None = None
    """The input is vectors [B, T, input_dim]."""
    input_dropout: float = 0.0
    """Dropout after the embedding or input projection."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.vocab_size is None) == (self.input_dim is None):
            raise UserError("give either vocab_size (token ids) or input_dim (vectors)")
        for name in ("vocab_size", "input_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        _check_probability("input_dropout", self.input_dropout)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(EncoderConfig):
    """A classifier of sequences of tokens or of vectors."""

    num_classes: int
    """Number of outputs."""
    pooling: str = "mean"
    """"mean" or "max" over the steps that are not padding, "mean_max" (both, side by side), or the "last" of them."""
    bidirectional: bool = False
    """A second stack reads the sequence backwards. Such a model has no state to hand on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 1:
            raise UserError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")

    @property
    def num_features(self) -> int:
        """What the last layer reads."""
        return self.dim * (2 if self.pooling == "mean_max" else 1) * (2 if self.bidirectional else 1)


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(EncoderConfig):
    """A model that answers at every step, with class scores or real values."""

    num_outputs: int
    """Classes, or values, of an answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_outputs < 1:
            raise UserError(f"num_outputs must be at least 1, got {self.num_outputs}")


@dataclass(frozen=True, kw_only=True)
class ForecastConfig(StackConfig):
    """A forecaster of series: after every row, the next `horizon` rows."""

    horizon: int
    """Rows that are forecast, H."""
    context: int = 336
    """Rows L of the sliding window that normalises, and that the linear path reads."""
    patch: int = 24
    """The last rows of the window that the stack is shown at each step; at most `context`."""
    num_channels: int = 1
    """Values in a row, C, that are read and forecast together; 1 is a model for one series at a time."""
    num_covariates: int = 0
    """Covariates in a row, K, that are known in advance."""
    num_static: int = 0
    """Covariates of a series that do not change, S."""
    quantiles: tuple[float, ...] = ()
    """Levels of the quantiles that are forecast beside the mean, rising."""
    centre: str = "last"
    """What is subtracted from the window and added to the forecast: its "last" value or its "mean"."""
    skip: bool = True
    """A linear path from the window to the forecast, beside the stack."""
    missing: bool = False
    """Rows may lack values (NaN); the stack is told which."""
    memory: int = 0
    """The stack's state is emptied after every so many rows of a stream; 0 is never. What bounds the cost of `attention`."""
    input_dropout: float = 0.0
    """Dropout after the input projection and before the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "quantiles", tuple(self.quantiles))
        for name in ("horizon", "context", "patch", "num_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_covariates", "num_static", "memory"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.patch > self.context:
            raise UserError(f"patch={self.patch} is longer than context={self.context}")
        rising = all(a < b for a, b in zip(self.quantiles, self.quantiles[1:]))
        if not rising or any(not 0 < q < 1 for q in self.quantiles):
            raise UserError(f"quantiles must be rising levels between 0 and 1, got {list(self.quantiles)}")
        if self.centre not in CENTRES:
            raise UserError(f"centre must be one of {', '.join(CENTRES)}, got {self.centre!r}")
        _check_probability("input_dropout", self.input_dropout)


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name} must be in [0, 1), got {value}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type of a field."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(item, options[0]) for item in value)
    if options:
        return any(_fits(value, option) for option in options)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return "a list of block names" if typing.get_args(hint)[0] is str else "a list of numbers"
    return str(getattr(hint, "__name__", hint))
