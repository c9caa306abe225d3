"""A run for every task, with settings that learn fast on one CPU core. Models and lengths are there to be changed."""

from dataclasses import replace

from openxlstm.recipes import sensors
from openxlstm.tasks import TASKS, DynamicsTask, FormalLanguage
from openxlstm.tasks.images import ImageTask, SequentialMNIST
from openxlstm.tasks.long_range_arena import ArenaTask
from openxlstm.tasks.music import PianoRoll
from openxlstm.tasks.sensors import SensorTask
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def task_recipe(name: str) -> RunConfig:
    """The run for one of `openxlstm.tasks.TASKS`, under the name of the task."""
    kind = TASKS[name]
    if issubclass(kind, FormalLanguage):
        return formal_language(name)
    if issubclass(kind, SequentialMNIST):
        return images(name)
    if issubclass(kind, ImageTask):
        return pictures(name)
    if issubclass(kind, ArenaTask):
        return arena(name)
    if issubclass(kind, PianoRoll):
        return music(name)
    if issubclass(kind, DynamicsTask):
        return chaos(name)
    if issubclass(kind, SensorTask):
        return sensors.small(name)
    return {"mqar": recall, "events": events, "event_stream": events, "listops": list_operations}.get(name, vectors)(name)


def formal_language(name: str) -> RunConfig:
    """Two sLSTM blocks without convolution, as in the paper's formal-language runs (arXiv 2405.04517, app. B), but small.

    Parity is solved at lengths 40-256 after some 300 of these steps; most others want more than 2000, and more width.
    """
    return RunConfig(
        name=name,
        data=TASKS[name](),
        model=ModelSettings(pattern="slstm", dim=32, num_blocks=2, num_heads=1, slstm_conv_width=0, recurrent_init="normal"),
        optimizer=OptimizerConfig(lr=5e-3, weight_decay=0.1, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.1),
        trainer=TrainerConfig(
            steps=500 if name in ("parity", "even_pairs") else 2000, batch_size=128, validate_every=100, checkpoint_every=100
        ),
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


def list_operations(name: str) -> RunConfig:
    """Two mLSTM blocks of width 64: some ten minutes on one core."""
    base = recall("mqar")
    return replace(
        base,
        name=name,
        data=TASKS[name](),
        model=replace(base.model, num_heads=4, qkv_block_size=4),
        trainer=replace(base.trainer, steps=2000, batch_size=32, validate_every=200),
    )


def arena(name: str) -> RunConfig:
    """The same for files of Long Range Arena; lengths of thousands take hours on two cores."""
    base = list_operations("listops")
    return replace(base, name=name, data=TASKS[name](), trainer=replace(base.trainer, batch_size=16))


def events(name: str) -> RunConfig:
    """An mLSTM and an sLSTM block: to remember what was told, and to follow changes. Minutes."""
    base = recall("mqar")
    return replace(
        base,
        name=name,
        data=TASKS[name](),
        model=replace(base.model, pattern="xlstm[1:1]"),
        trainer=replace(base.trainer, steps=1000),
    )


def vectors(name: str) -> RunConfig:
    """Two sLSTM blocks, wider than for formal languages: nearest neighbour and adding in minutes."""
    base = formal_language("parity")
    return replace(
        base,
        name=name,
        data=TASKS[name](),
        model=replace(base.model, dim=64),
        trainer=replace(base.trainer, steps=1000 if name == "nearest_neighbour" else 500),
    )


def images(name: str) -> RunConfig:
    """The same for 784 pixels: about an hour on one core, a good part of it for the 10,000 test images."""
    base = vectors(name)
    return replace(base, trainer=replace(base.trainer, steps=1000, batch_size=32, validate_every=250))


def pictures(name: str) -> RunConfig:
    """Two mLSTM blocks over 256 steps, a quarter of an hour on one core: CIFAR-10 averaged to 16 x 16 pixels, and Pathfinder
    of that size. Long Range Arena has 1,024: --data.pool=1 or --data.size=32, as lra_pathfinder, an hour on one core.
    """
    smaller = {"lra_image": {"pool": 2}, "pathfinder": {"size": 16}}
    base = list_operations("listops")
    return replace(
        base,
        name=name,
        data=TASKS[name](**smaller.get(name, {})),
        trainer=replace(base.trainer, steps=2000),
    )


def music(name: str) -> RunConfig:
    """One sLSTM block of 300,000 parameters: minutes on one core for the chorales, more for the tunes, in windows of 200 steps.

    There are few chorales, and what helps most is a weight decay twenty times the usual (docs/log.md). The tunes are many and
    want little of all that.
    """
    chorales = RunConfig(
        name=name,
        data=TASKS[name](window=200),  # type: ignore[call-arg]
        model=ModelSettings(
            pattern="slstm", dim=160, num_blocks=1, num_heads=1, dropout=0.3, embedding_dropout=0.2, num_parameters=300_000
        ),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=2.0, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.05),
        trainer=TrainerConfig(steps=500, batch_size=16, validate_every=25, checkpoint_every=100, patience=6),
    )
    if name == "jsb_chorales":
        return chorales
    return replace(
        chorales,
        model=replace(chorales.model, dropout=0.1, embedding_dropout=0.05),
        optimizer=replace(chorales.optimizer, weight_decay=0.1),
        trainer=replace(chorales.trainer, steps=1000, validate_every=100),
    )


def chaos(name: str) -> RunConfig:
    """Two sLSTM blocks without convolution. What counts is the last decimals of one step, each of which is 2.3 Lyapunov times:
    many small batches, float32, and a cosine that ends at 1e-5. Gradients become as small as AdamW's usual eps.
    """
    return RunConfig(
        name=name,
        data=TASKS[name](),
        model=ModelSettings(pattern="slstm", dim=64, num_blocks=2, num_heads=1, conv_width=0, recurrent_init="normal"),
        optimizer=OptimizerConfig(lr=6e-3, weight_decay=0.0, beta2=0.95, eps=1e-12, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=1 / 600),
        trainer=TrainerConfig(steps=8000, batch_size=8, validate_every=2000, checkpoint_every=1000),
    )
