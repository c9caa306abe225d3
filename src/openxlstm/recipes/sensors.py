"""Runs on sensors: remaining life of turbofans, activities."""

from openxlstm.tasks import TASKS
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def small(name: str) -> RunConfig:
    """Minutes on one core. It is what FD001 and BasicMotions are measured with."""
    return turbofan() if name == "turbofan" else activity()


def turbofan() -> RunConfig:
    """One sLSTM block that reads each engine from its first flight on.

    Against so few engines weight decay helps, and to begin anywhere in a life; dropout does not (docs/log.md).
    """
    return RunConfig(
        name="turbofan",
        data=TASKS["turbofan"](noise=0.1, skip=0.8, validation_engines=10),  # type: ignore[call-arg]
        model=ModelSettings(pattern="slstm", dim=64, num_blocks=1, num_heads=4, norm="none"),
        optimizer=OptimizerConfig(lr=5e-3, weight_decay=1.0, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=30, floor=0.05),
        trainer=TrainerConfig(steps=300, batch_size=16, validate_every=25, checkpoint_every=100),
    )


def activity() -> RunConfig:
    """Two sLSTM blocks with dropout: there are a few dozen recordings."""
    return RunConfig(
        name="activity",
        data=TASKS["activity"](noise=0.1),  # type: ignore[call-arg]
        model=ModelSettings(pattern="slstm", dim=64, num_blocks=2, num_heads=4, dropout=0.2, embedding_dropout=0.1),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=30, floor=0.05),
        trainer=TrainerConfig(steps=300, batch_size=16, validate_every=20, checkpoint_every=100),
    )
