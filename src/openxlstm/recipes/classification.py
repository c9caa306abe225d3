"""Runs of text classification: for a CPU core and minutes, and larger ones for a GPU."""

from typing import Any

from openxlstm.tasks import TASKS
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def classification(name: str) -> RunConfig:
    """One sLSTM block of width 64 and the mean and maximum of its steps: minutes on one core.

    So few texts are learned by heart at once: much dropout, hidden tokens, little width.
    """
    data: dict[str, Any] = dict(token_dropout=0.1, label_smoothing=0.1)
    return RunConfig(
        name=name,
        data=TASKS[name](**data),
        model=ModelSettings(
            pattern="slstm", dim=64, num_blocks=1, num_heads=4, dropout=0.3, embedding_dropout=0.5, pooling="mean_max"
        ),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1, beta2=0.99, decay_embeddings=True, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.05),
        trainer=TrainerConfig(steps=2000, batch_size=64, validate_every=100, checkpoint_every=200),
    )
