"""What a run is: frozen dataclasses that check and derive. Everything that decides the numbers of a run is in here."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openxlstm.data import TextConfig
from openxlstm.errors import UserError
from openxlstm.tasks import Task, task_class
from openxlstm.training.options import from_dict


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model to build; vocabulary and outputs come from the data. Kinds of block that a setting does not name ignore it.

    pattern: which blocks, by name: "xlstm[a:b]" (a mLSTM to b sLSTM blocks), "mlstm", "slstm", "mlstm_large", "lstm",
        "lstm_residual" (without FFN), "lstm_plain" (without norm and residual too), "transformer", "ssd" (Mamba-2), or a comma
        list such as "mlstm,slstm,attention".
    dim: width of the residual stream.
    num_blocks: how many blocks.
    num_heads: heads of every block; must divide dim.
    slstm_num_heads: heads of "slstm" blocks; none = num_heads.
    lstm_num_heads: heads of "lstm" blocks of all three kinds: 1 is the classic LSTM, more are block-diagonal.
    ssd_num_heads: heads of "ssd" blocks; none = num_heads. Mamba-2 has heads of 64, that is dim / 32 of them.
    ssd_state_dim: width of q and k in "ssd" blocks; none = 128, or the inner width if that is less.
    projection_factor: inner width of "mlstm" and "ssd" blocks over dim.
    qkv_block_size: block size of the block-diagonal q, k, v projections of "mlstm" (dim * projection_factor = dense).
    conv_width: steps that the causal convolution of "mlstm", "slstm" and "ssd" sees; 0 = no convolution.
    slstm_conv_width: the same in "slstm" blocks, where it differs; none = conv_width.
    ffn_factor: width of the feed-forward part of the other blocks over dim; none = the block's default (1.3 in "slstm" and
        "lstm", 2.667 in "mlstm_large" and "transformer").
    ffn_multiple: that width is rounded up to a multiple of this.
    qk_factor: width of all queries (and keys) of "mlstm_large" over dim.
    v_factor: width of all values of "mlstm_large" over dim.
    input_gate: input gate of the mLSTM, "exp" or "sigmoid".
    input_gate_mode: what of the input gate of "mlstm" is learned: weights and bias ("learned"), its "bias" alone, or nothing
        ("fixed", which is 1 where the gate is "exp").
    forget_gate_mode: the same of its forget gate; "fixed" biases are 3 to 6 over the heads, "one" keeps the gate at 1.
    forget_gate: forget gate of the sLSTM, "sigmoid" or "exp".
    normalize: divide what "mlstm_large" reads from its memory by the normaliser.
    gate_soft_cap: cap * tanh(gate / cap) on the mLSTM gate pre-activations; 0 = no cap, none = the block's default (15 in
        "mlstm_large", else no cap).
    logit_soft_cap: the same on the logits; none = no cap.
    rope_base: base of the rotary positions of "transformer".
    bias: biases in the linear maps and norms of "mlstm_large".
    norm: the norm before the head, "layer", "rms" or "none".
    norm_bias: a bias in that norm.
    norm_eps: eps of all norms; none = the default of each (1e-5 or 1e-6).
    cell_eps: eps of the normaliser of "mlstm_large"; none = 1e-6.
    recurrent_init: how the recurrent kernels of "slstm" blocks start: "zeros" as in the published code, or "normal" as in the
        paper's runs on formal languages, which learn many times faster for it.
    dropout: in the branches of every block.
    embedding_dropout: after the embedding or input projection.
    tie_embeddings: the output head shares the embedding matrix.
    pooling: what a classifier of whole texts makes of its steps: their "mean", their "max", "mean_max" (both) or the "last".
    bidirectional: a second stack reads the text of such a classifier backwards.
    bridge: of translations and summaries, how the decoder reads the source: by "cross_attention" to an encoder, from the
        encoder's last "state", or as a "prefix" of what it writes, without an encoder.
    encoder_blocks: of translations and summaries, blocks of the encoder, each in both directions; 0 = num_blocks, which is the
        decoder's. With a prefix the decoder has as many blocks as both together.
    checkpoint_activations: recompute blocks in backward: less memory, about a third more time.
    backend: backend of the recurrences: "auto", "reference", "torch", or another that `openxlstm doctor` lists.
    chunk_size: steps of a chunk of the mLSTM and of "ssd"; changes speed and memory, not results; none = the backend's choice.
    num_parameters: bring the model within 1 % of this many parameters by adapting widths; none = as configured.
    """

    pattern: str = "xlstm[1:1]"
    dim: int = 128
    num_blocks: int = 4
    num_heads: int = 4
    slstm_num_heads: int | None = None
    lstm_num_heads: int = 1
    ssd_num_heads: int | None = None
    ssd_state_dim: int | None = None
    projection_factor: float = 2.0
    qkv_block_size: int = 4
    conv_width: int = 4
    slstm_conv_width: int | None = None
    ffn_factor: float | None = None
    ffn_multiple: int = 64
    qk_factor: float = 0.5
    v_factor: float = 1.0
    input_gate: Literal["exp", "sigmoid"] = "exp"
    input_gate_mode: Literal["learned", "bias", "fixed"] = "learned"
    forget_gate_mode: Literal["learned", "bias", "fixed", "one"] = "learned"
    forget_gate: Literal["sigmoid", "exp"] = "sigmoid"
    normalize: bool = True
    gate_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    rope_base: float = 10000.0
    bias: bool = False
    norm: Literal["layer", "rms", "none"] = "layer"
    norm_bias: bool = False
    norm_eps: float | None = None
    cell_eps: float | None = None
    recurrent_init: Literal["zeros", "normal"] = "zeros"
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    tie_embeddings: bool = False
    pooling: Literal["mean", "max", "mean_max", "last"] = "mean"
    bidirectional: bool = False
    bridge: Literal["cross_attention", "state", "prefix"] = "cross_attention"
    encoder_blocks: int = 0
    checkpoint_activations: bool = False
    backend: str = "auto"
    chunk_size: int | None = None
    num_parameters: int | None = None

    def __post_init__(self) -> None:
        self.as_written(vocab_size=1)  # whatever the vocabulary will be: a wrong name must not wait until the text is read

    def as_written(self, vocab_size: int) -> Any:
        """The LanguageModelConfig before `num_parameters` adapts it; raises UserError for a model that cannot be built."""
        from openxlstm.models.config import LanguageModelConfig

        return _written(LanguageModelConfig, self, dict.fromkeys(CLASSIFIER_ONLY), vocab_size=vocab_size)


CLASSIFIER_ONLY = ("pooling", "bidirectional")
"""Settings of ModelSettings that mean nothing for a model with an answer at every step."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW.

    lr: peak learning rate.
    weight_decay: on matrices only (see parameter_groups).
    beta1: decay of the gradient average.
    beta2: decay of the squared-gradient average.
    eps: added to the denominator.
    decay_embeddings: decay embeddings as well.
    clip: largest norm of the gradient of all parameters together; 0 = no clipping.
    """

    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    decay_embeddings: bool = False
    clip: float = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"optimizer.lr={self.lr} must be positive and finite")
        _require(self.weight_decay >= 0, f"optimizer.weight_decay={self.weight_decay} must not be negative")
        _require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, f"optimizer betas {self.beta1}, {self.beta2} must be in [0, 1)")
        _require(0 <= self.eps < math.inf, f"optimizer.eps={self.eps} must be finite and not negative")
        _require(self.clip >= 0, f"optimizer.clip={self.clip} must not be negative")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the run.

    kind: "cosine" (warm-up, then half a cosine), "wsd" (warm-up, stable, linear decay) or "constant" (after warm-up).
    warmup: optimiser steps of linear warm-up.
    floor: where the decay ends, as a fraction of the peak.
    decay: "wsd" only: the share of the run that decays.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = 100
    floor: float = 0.1
    decay: float = 0.2

    def __post_init__(self) -> None:
        _require(self.warmup >= 0, f"schedule.warmup={self.warmup} must not be negative")
        _require(0 <= self.floor <= 1, f"schedule.floor={self.floor} must be in [0, 1]")
        _require(0 < self.decay <= 1, f"schedule.decay={self.decay} must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop. Settings from `context` on that speak of text do nothing for a task and are refused there; its lengths and
    numbers of samples are settings of the task itself (data.*).

    steps: optimiser steps.
    batch_size: sequences per optimiser step, over all processes and accumulation parts together.
    context: tokens per sequence of text.
    accumulate: compute a step's gradient in this many parts (less memory, same numbers).
    tbptt: read the corpus as `batch_size` long streams and carry the state from window to window (truncated
        backpropagation through time) instead of drawing windows at random and starting each from the empty state. An
        attention block carries the keys of the last `context` steps.
    precision: "fp32", or "bf16" for autocast with fp32 weights.
    compile: torch.compile the model.
    device: "auto", "cpu" or "cuda".
    threads: CPU threads; 0 = what torch chooses.
    cpu_tuning: settings of the whole process that make training on CPUs faster: freed memory is kept, and oneDNN does float32
        products where they stay float32 products.
    strategy: "auto" (ddp under torchrun), "ddp", or "fsdp2" (parameters, gradients and optimiser sharded).
    log_every: steps between rows of metrics.csv.
    validate_every: steps between validations; 0 = only at the end.
    validate_tokens: validation tokens used in passes during training; 0 = all. The last pass always uses all.
    validate_context: window length of validation; 0 = context.
    report_contexts: window lengths at which the finished model is evaluated besides validate_context.
    patience: stop after this many validations without a new best; 0 = never.
    checkpoint_every: steps between checkpoints, the most that an interruption can lose.
    max_bad_steps: give up after this many steps in a row whose gradient is not finite.
    """

    steps: int = 1000
    batch_size: int = 16
    context: int = 128
    accumulate: int = 1
    tbptt: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    cpu_tuning: bool = False
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    log_every: int = 1
    validate_every: int = 250
    validate_tokens: int = 100_000
    validate_context: int = 0
    report_contexts: tuple[int, ...] = ()
    patience: int = 0
    checkpoint_every: int = 100
    max_bad_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "context", "accumulate", "log_every", "checkpoint_every", "max_bad_steps"):
            _require(getattr(self, name) >= 1, f"trainer.{name}={getattr(self, name)} must be at least 1")
        for name in ("threads", "validate_every", "validate_tokens", "validate_context", "patience"):
            _require(getattr(self, name) >= 0, f"trainer.{name}={getattr(self, name)} must not be negative")
        contexts = ",".join(map(str, self.report_contexts))
        _require(all(c >= 1 for c in self.report_contexts), f"trainer.report_contexts={contexts} must each be at least 1")
        _require(
            self.batch_size % self.accumulate == 0,
            f"trainer.batch_size={self.batch_size} is not divisible by trainer.accumulate={self.accumulate}",
        )

    @property
    def validation_window(self) -> int:
        return self.validate_context or self.context


PAIRS_ONLY = ("bridge", "encoder_blocks")
"""Settings of ModelSettings that mean something for pairs of texts alone."""

TEXT_ONLY = ("context", "tbptt", "validate_tokens", "validate_context", "report_contexts")
"""Settings of TrainerConfig that mean nothing for a task."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete run.

    name: what the run folder is called.
    seed: of weights, batches and dropout; a number of 64 bits.
    data: a corpus and its tokenizer, or a task.
    model: the model.
    optimizer: the optimiser.
    schedule: the learning rate over the run.
    trainer: the loop.
    """

    name: str = "run"
    seed: int = 0
    data: TextConfig | Task = field(default_factory=TextConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        _require(-(2**63) <= self.seed < 2**63, f"seed={self.seed} is beyond 64 bits")
        _require(bool(self.name) and "/" not in self.name, f"name={self.name!r} must be a plain file name")
        if isinstance(self.data, TextConfig):
            fills = self.data.fill_in > 0 and self.trainer.tbptt
            _require(not fills, "data.fill_in needs windows that start afresh; trainer.tbptt carries the state on")
        if isinstance(self.data, Task):
            defaults = TrainerConfig()
            for name in TEXT_ONLY:
                _require(
                    getattr(self.trainer, name) == getattr(defaults, name),
                    f"trainer.{name} is about text; see the settings data.* of task {self.data.name!r}",
                )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as in config.json; a task has its name among them, as data.task."""
        values = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        if isinstance(self.data, Task):
            values["data"] = {"task": self.data.name} | values["data"]
        return values

    def digest(self) -> str:
        """Eight hex digits that change with any setting. Defaults are left out: a later version, which has more settings, finds
        what an earlier one trained."""
        told = _told(self.to_dict(), RunConfig(data=type(self.data)()).to_dict())
        if isinstance(self.data, Task):
            told["data"] = told.get("data", {}) | {"task": self.data.name}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _told(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults; of a group, those of its parts."""
    found = {}
    for name, value in values.items():
        usual = defaults[name]
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            value, usual = _told(value, usual), {}
        if value != usual:
            found[name] = value
    return found


def with_values(config: RunConfig, values: Mapping[str, Any], where: str) -> RunConfig:
    """A copy of `config` with `values` put in: all or some of what `to_dict` gives. `data.task` names a task, whose defaults
    hold where `config` is not about it already. Raises UserError, which names `where` and the key that is wrong."""
    data = values.get("data")
    if isinstance(data, Mapping) and "task" in data:
        task = task_class(str(data["task"]))
        if type(config.data) is not task:
            config = dataclasses.replace(config, data=task())
        values = {**values, "data": {name: value for name, value in data.items() if name != "task"}}
    return from_dict(config, values, where)


def build_model_config(settings: ModelSettings, vocab_size: int) -> Any:
    """The LanguageModelConfig for `settings`; raises UserError for what cannot be built or matched."""
    _refuse(settings, CLASSIFIER_ONLY, "is for classifiers of whole texts, and this is a language model")
    return _matched(settings.as_written(vocab_size), settings)


def build_pairs_config(settings: ModelSettings, vocab_size: int) -> Any:
    """The EncoderDecoderConfig for `settings`; raises UserError for what cannot be built or matched."""
    from openxlstm.models.config import EncoderDecoderConfig
    from openxlstm.models.patterns import expand

    _require(settings.logit_soft_cap is None, "model.logit_soft_cap is for language models; pairs of texts cannot have it")
    _refuse(settings, CLASSIFIER_ONLY, "is for classifiers of whole texts, and this one writes")
    _require(settings.encoder_blocks >= 0, f"model.encoder_blocks={settings.encoder_blocks} must not be negative")
    try:
        encoder = expand(settings.pattern, settings.encoder_blocks or settings.num_blocks)
        decoder = expand(settings.pattern, settings.num_blocks)
    except UserError as error:
        raise UserError(f"model: {error}") from None
    if settings.bridge == "prefix":
        encoder, decoder = (), (*encoder, *decoder)
    given = dict(blocks=decoder, encoder_blocks=encoder, bridge=settings.bridge, vocab_size=vocab_size)
    return _matched(_written(EncoderDecoderConfig, settings, dict.fromkeys(CLASSIFIER_ONLY), **given), settings)


def build_sequence_config(settings: ModelSettings, task: Task) -> Any:
    """The SequenceConfig for `settings` and what `task` reads and answers; raises UserError for what the model refuses."""
    from openxlstm.models.config import SequenceConfig

    _refuse(settings, LANGUAGE_ONLY, f"is for language models; task {task.name!r} cannot have it")
    _refuse(settings, CLASSIFIER_ONLY, f"is for classifiers of whole texts; task {task.name!r} asks at single steps")
    _refuse(settings, PAIRS_ONLY, f"is for translations and summaries; task {task.name!r} cannot have it")
    renamed = {**dict.fromkeys((*LANGUAGE_ONLY, *CLASSIFIER_ONLY)), "embedding_dropout": "input_dropout"}
    reads = task.signature
    given = dict(vocab_size=reads.vocab_size, input_dim=reads.input_dim, num_outputs=reads.num_outputs)
    return _matched(_written(SequenceConfig, settings, renamed, **given), settings)


def build_classifier_config(settings: ModelSettings, task: Task) -> Any:
    """The ClassifierConfig for `settings` and the classes of `task`; raises UserError for what the model refuses."""
    from openxlstm.models.config import ClassifierConfig

    _refuse(settings, LANGUAGE_ONLY, f"is for language models; task {task.name!r} cannot have it")
    _refuse(settings, PAIRS_ONLY, f"is for translations and summaries; task {task.name!r} cannot have it")
    renamed = {**dict.fromkeys(LANGUAGE_ONLY), "embedding_dropout": "input_dropout"}
    reads = task.signature
    given = dict(vocab_size=reads.vocab_size, input_dim=reads.input_dim, num_classes=reads.num_outputs)
    return _matched(_written(ClassifierConfig, settings, renamed, **given), settings)


LANGUAGE_ONLY = ("tie_embeddings", "logit_soft_cap")
"""Settings of ModelSettings that only language models have."""


def _refuse(settings: ModelSettings, names: tuple[str, ...], why: str) -> None:
    """Raise UserError for a setting with another value than its default."""
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    for name in names:
        _require(getattr(settings, name) == defaults[name], f"model.{name} {why}")


def _written(kind: Any, settings: ModelSettings, renamed: Mapping[str, str | None], **given: Any) -> Any:
    """A model's config from settings, before `num_parameters` adapts it; `renamed` says what a setting is called there, None
    leaves it out. Raises UserError for a model that cannot be built."""
    from openxlstm.models.patterns import expand
    from openxlstm.ops import DOORS, backends_of

    backends = {backend.name: None for door in DOORS for backend in backends_of(door)}
    if settings.backend not in ("auto", *backends):
        raise UserError(f"model: no backend {settings.backend!r}; have auto, {', '.join(backends)}")
    own = {f.name for f in dataclasses.fields(settings)} - {"pattern", "num_blocks", "num_parameters", *PAIRS_ONLY}
    names = {name: renamed.get(name, name) for name in own}
    try:
        return kind(
            **{"blocks": expand(settings.pattern, settings.num_blocks), **given},
            **{theirs: getattr(settings, ours) for ours, theirs in names.items() if theirs is not None},
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from error


def _matched(config: Any, settings: ModelSettings) -> Any:
    """The config with the widths that give it `settings.num_parameters`."""
    from openxlstm.models.match import match_parameters

    if settings.num_parameters is None:
        return config
    try:
        return match_parameters(config, settings.num_parameters)
    except UserError as error:
        raise UserError(f"model: {error}") from error
