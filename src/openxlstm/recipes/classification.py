"""Runs of text classification: for a CPU core and minutes, and larger ones for a GPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from openxlstm.tasks import TASKS
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def classification(name: str) -> RunConfig:
    """One sLSTM block of width 64 and the mean and maximum of its steps: minutes on one core.

    So few texts are learned by heart at once: much dropout, hidden tokens, little width (docs/log.md).
    """
    data: dict[str, Any] = dict(token_dropout=0.2, label_smoothing=0.1)
    short = RunConfig(
        name=name,
        data=TASKS[name](**data),
        model=ModelSettings(
            pattern="slstm", dim=64, num_blocks=1, num_heads=4, dropout=0.3, embedding_dropout=0.5, pooling="mean_max"
        ),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1, beta2=0.99, decay_embeddings=True, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.05),
        trainer=TrainerConfig(steps=600, batch_size=64, validate_every=100, checkpoint_every=200),
    )
    if name == "rotten_tomatoes":
        return short
    if name == "sst2":  # phrases are many and short
        return replace(short, trainer=replace(short.trainer, steps=1500, batch_size=256, validate_every=150))
    return replace(
        short,
        data=TASKS[name](**(data | dict(vocab_size=20_000, window=200))),
        trainer=replace(short.trainer, steps=900, batch_size=32, validate_every=150),
    )


def classification_gpu(name: str) -> RunConfig:
    """Two blocks of width 256, mLSTM and sLSTM, in both directions, in bfloat16: minutes on one GPU. A starting point, not
    tuned."""
    base = classification(name)
    return replace(
        base,
        name=f"{name}_gpu",
        model=replace(base.model, pattern="xlstm[1:1]", dim=256, num_blocks=2, bidirectional=True, gate_soft_cap=15.0),
        optimizer=replace(base.optimizer, lr=1e-3),
        schedule=replace(base.schedule, warmup=200),
        trainer=replace(base.trainer, steps=5 * base.trainer.steps, precision="bf16", device="cuda"),
    )


LARGER: dict[str, Callable[[], RunConfig]] = {
    f"{name}_gpu": lambda name=name: classification_gpu(name)  # type: ignore[misc]
    for name in ("sst2", "rotten_tomatoes", "imdb", "text_classification")
}
"""Name -> the larger run of a task, for a GPU."""
