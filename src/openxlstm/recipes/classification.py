"""Runs of text classification, for a CPU core and minutes."""

from dataclasses import replace
from typing import Any

from openxlstm.tasks import TASKS
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def classification(name: str) -> RunConfig:
    """One mLSTM block of width 64 and the mean and maximum of its steps: minutes on one core.

    So few texts are learned by heart at once: dropout, hidden words, and many times the usual weight decay, which the
    embeddings have too (docs/log.md). Long reviews are read from both ends.
    """
    reviews = RunConfig(
        name=name,
        data=TASKS[name](**dict[str, Any](token_dropout=0.1, label_smoothing=0.1)),
        model=ModelSettings(
            pattern="mlstm",
            dim=64,
            num_blocks=1,
            num_heads=4,
            gate_soft_cap=15.0,
            dropout=0.3,
            embedding_dropout=0.5,
            pooling="mean_max",
        ),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=2.0, beta2=0.99, decay_embeddings=True, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.05),
        trainer=TrainerConfig(steps=600, batch_size=64, validate_every=100, checkpoint_every=200),
    )
    if name == "rotten_tomatoes":
        return reviews
    if name == "sst2":  # phrases are many and short
        return replace(
            reviews,
            data=replace(reviews.data, **dict[str, Any](token_dropout=0.2)),
            optimizer=replace(reviews.optimizer, lr=1.2e-3, weight_decay=0.5),
            trainer=replace(reviews.trainer, steps=1500, batch_size=256),
        )
    return replace(
        reviews,
        data=replace(reviews.data, **dict[str, Any](token_dropout=0.3, vocab_size=20_000, window=200, max_tokens=1024)),
        model=replace(reviews.model, bidirectional=True),
        optimizer=replace(reviews.optimizer, weight_decay=1.0),
        trainer=replace(reviews.trainer, steps=700, batch_size=32),
    )
