"""A run for every task, with settings that learn fast on one CPU core. Models and lengths are there to be changed."""

from dataclasses import replace

from openxlstm.tasks import TASKS, FormalLanguage
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def task_recipe(name: str) -> RunConfig:
    """The run for one of `openxlstm.tasks.TASKS`, under the name of the task."""
    kind = TASKS[name]
    if issubclass(kind, FormalLanguage):
        return formal_language(name)
    return {"mqar": recall, "events": events, "event_stream": events}.get(name, vectors)(name)


def formal_language(name: str) -> RunConfig:
    """Two sLSTM blocks without convolution, as in the paper's formal-language runs (arXiv 2405.04517, app. B), but small.

    Parity is solved at lengths 40-256 after some 300 of these steps; harder languages want more steps and width.
    """
    return RunConfig(
        name=name,
        data=TASKS[name](),
        model=ModelSettings(pattern="slstm", dim=32, num_blocks=2, num_heads=1, conv_width=0, recurrent_init="normal"),
        optimizer=OptimizerConfig(lr=5e-3, weight_decay=0.1, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.1),
        trainer=TrainerConfig(steps=500, batch_size=128, validate_every=100, checkpoint_every=100),
    )


def recall(name: str) -> RunConfig:
    """Two mLSTM blocks with one head, whose projections are dense, and a small vocabulary.

    With the published vocabulary of 8192 the embeddings alone are most of the work: --data.vocab_size=8192.
    """
    return RunConfig(
        name=name,
        data=TASKS[name](vocab_size=512),  # type: ignore[call-arg]
        model=ModelSettings(pattern="mlstm", dim=64, num_blocks=2, num_heads=1, qkv_block_size=128, gate_soft_cap=15.0),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.1),
        trainer=TrainerConfig(steps=600, batch_size=128, validate_every=100, checkpoint_every=100),
    )


def events(name: str) -> RunConfig:
    """An mLSTM and an sLSTM block: remembering the tellings, and comparing and following them."""
    base = recall("mqar")
    return replace(
        base,
        name=name,
        data=TASKS[name](),
        model=replace(base.model, pattern="xlstm[1:1]"),
        trainer=replace(base.trainer, steps=1000),
    )


def vectors(name: str) -> RunConfig:
    """Two sLSTM blocks."""
    base = formal_language("parity")
    return replace(base, name=name, data=TASKS[name](), model=replace(base.model, dim=64))
