"""Larger runs of tasks and text, for a GPU: wider, deeper and longer than what trains on a CPU core in minutes.

Where to start from: none of them was tuned.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from openxlstm.recipes import classification as texts
from openxlstm.recipes import sensors, tasks
from openxlstm.recipes.language import python_code
from openxlstm.tasks import TASKS, DynamicsTask
from openxlstm.tasks.music import PianoRoll
from openxlstm.training.config import RunConfig


def digit_sequences() -> RunConfig:
    """Sequences of spoken digits letter by letter, four blocks of width 256."""
    base = tasks.speech("digit_sequences")
    return replace(
        base,
        data=replace(base.data, **dict[str, Any](units="letters", speed=0.15, noise=0.005, mel_mask=8, train_length="1-10")),
        model=replace(base.model, pattern="xlstm[1:1]", dim=256, num_blocks=4, dropout=0.2),
        optimizer=replace(base.optimizer, lr=1e-3),
        schedule=replace(base.schedule, warmup=500),
        trainer=replace(base.trainer, steps=10_000, batch_size=128, validate_every=1000, precision="bf16"),
    )


def classification(name: str) -> RunConfig:
    """Two blocks of width 256, mLSTM and sLSTM, in both directions."""
    base = texts.classification(name)
    return replace(
        base,
        model=replace(base.model, pattern="xlstm[1:1]", dim=256, num_blocks=2, bidirectional=True),
        optimizer=replace(base.optimizer, lr=1e-3),
        schedule=replace(base.schedule, warmup=200),
        trainer=replace(base.trainer, steps=5 * base.trainer.steps, precision="bf16"),
    )


def sensor(name: str) -> RunConfig:
    """Two mLSTM and two sLSTM blocks of width 256, for FD002 and FD004 and for thousands of recordings."""
    base = sensors.small(name)
    return replace(
        base,
        model=replace(base.model, pattern="xlstm[1:1]", dim=256, num_blocks=4),
        optimizer=replace(base.optimizer, lr=1e-3),
        trainer=replace(base.trainer, steps=2000, batch_size=64, validate_every=100),
    )


def music(name: str) -> RunConfig:
    """Two sLSTM blocks of width 512 that read pieces whole, with more dropout."""
    base = tasks.music(name)
    return replace(
        base,
        data=replace(base.data, **dict[str, Any](window=0)),
        model=replace(base.model, dim=512, num_blocks=2, num_heads=4, dropout=0.5, embedding_dropout=0.3, num_parameters=None),
        optimizer=replace(base.optimizer, lr=1e-3),
        trainer=replace(base.trainer, steps=2 * base.trainer.steps, batch_size=64, precision="bf16"),
    )


def chaos(name: str) -> RunConfig:
    """Four sLSTM blocks of width 128, 30,000 steps of 32 pieces, in float32: what counts are the last decimals."""
    base = tasks.chaos(name)
    return replace(
        base,
        model=replace(base.model, dim=128, num_blocks=4),
        optimizer=replace(base.optimizer, lr=2e-3),
        schedule=replace(base.schedule, warmup=500),
        trainer=replace(base.trainer, steps=30_000, batch_size=32),
    )


def translation(name: str) -> RunConfig:
    """Two layers of width 512 to read and four blocks to write, 8192 byte pairs."""
    base = tasks.translation(name)
    return replace(
        base,
        data=replace(base.data, **dict[str, Any](vocab_size=8192, batch_tokens=8192)),
        model=replace(base.model, dim=512, num_blocks=4, encoder_blocks=2),
        optimizer=replace(base.optimizer, lr=1e-3),
        trainer=replace(base.trainer, steps=1500 if name == "multi30k" else 6000),
    )


def summaries(name: str) -> RunConfig:
    """Two layers of width 256 to read and four blocks to write, for texts of up to 2048 tokens."""
    base = tasks.summaries(name)
    return replace(
        base,
        data=replace(base.data, **dict[str, Any](max_source=2048, batch_tokens=65_536)),
        model=replace(base.model, dim=256, num_blocks=4, encoder_blocks=2, dropout=0.3, embedding_dropout=0.3),
        optimizer=replace(base.optimizer, lr=1e-3),
        trainer=replace(base.trainer, steps=3000, validate_every=300),
    )


def program_evaluation() -> RunConfig:
    """Programs of up to six digits and three operations, towards the published levels: four blocks of width 256."""
    base = tasks.programs("program_evaluation")
    return replace(
        base,
        data=replace(base.data, **dict[str, Any](max_length=6, max_nesting=3)),
        model=replace(base.model, dim=256, num_blocks=4),
        optimizer=replace(base.optimizer, lr=1e-3),
        schedule=replace(base.schedule, warmup=500),
        trainer=replace(base.trainer, steps=50_000, batch_size=256, validate_every=2500, checkpoint_every=1000),
    )


def code() -> RunConfig:
    """`python_code` with twelve blocks of width 512 and windows of 1024; --data is a folder of your own code."""
    base = python_code()
    return replace(
        base,
        model=replace(base.model, dim=512, num_blocks=12),
        optimizer=replace(base.optimizer, lr=1e-3),
        trainer=replace(
            base.trainer,
            steps=20_000,
            batch_size=32,
            context=1024,
            validate_every=2000,
            checkpoint_every=1000,
            precision="bf16",
        ),
    )


MAKERS: dict[str, Callable[[], RunConfig]] = {
    "python_code": code,
    **{name: partial(classification, name) for name in ("sst2", "rotten_tomatoes", "imdb", "text_classification")},
    **{name: partial(translation, name) for name in ("multi30k", "translation")},
    **{name: partial(summaries, name) for name in ("scitldr", "dialogsum", "summaries")},
    "digit_sequences": digit_sequences,
    "program_evaluation": program_evaluation,
    **{name: partial(sensor, name) for name in ("turbofan", "activity")},
    **{name: partial(music, name) for name, kind in TASKS.items() if issubclass(kind, PianoRoll)},
    **{name: partial(chaos, name) for name, kind in TASKS.items() if issubclass(kind, DynamicsTask)},
}
"""Task or recipe -> what makes its larger run."""


def larger(name: str) -> RunConfig:
    """The larger run of a task or recipe: on a GPU, or not at all."""
    config = MAKERS[name]()
    return replace(config, name=f"{name}_gpu", trainer=replace(config.trainer, device="cuda"))
