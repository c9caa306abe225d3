"""A run for every task, with settings that learn fast on one CPU core. Models and lengths are there to be changed."""

from collections.abc import Callable
from dataclasses import replace

from openxlstm.recipes import sensors
from openxlstm.recipes.classification import classification
from openxlstm.tasks import TASKS, DynamicsTask, FormalLanguage, SequencePairs, TextClassification
from openxlstm.tasks.images import ImageTask, SequentialMNIST
from openxlstm.tasks.long_range_arena import ArenaTask
from openxlstm.tasks.music import PianoRoll
from openxlstm.tasks.sensors import SensorTask
from openxlstm.tasks.speech import SpeechTask
from openxlstm.tasks.summaries import Summaries
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig


def task_recipe(name: str) -> RunConfig:
    """The run for one of `openxlstm.tasks.TASKS`, under the name of the task."""
    kind = TASKS[name]
    families: dict[type, Callable[[str], RunConfig]] = {  # the first that fits
        FormalLanguage: formal_language,
        SequentialMNIST: images,
        ImageTask: pictures,
        ArenaTask: arena,
        PianoRoll: music,
        SpeechTask: speech,
        DynamicsTask: chaos,
        Summaries: summaries,
        SequencePairs: translation,
        TextClassification: classification,
        SensorTask: sensors.small,
    }
    own = {
        **dict.fromkeys(("parity", "even_pairs", "cycle_navigation", "modular_arithmetic"), state_tracking),
        "mqar": recall,
        "events": events,
        "event_stream": events,
        "listops": list_operations,
        "program_evaluation": programs,
    }
    family = next((make for of, make in families.items() if issubclass(kind, of)), vectors)
    return own.get(name, family)(name)


def formal_language(name: str) -> RunConfig:
    """Two sLSTM blocks without convolution, as in the paper's formal-language runs (arXiv 2405.04517, app. B), but small.
    Most want more than these 2000 steps, and more width.
    """
    return RunConfig(
        name=name,
        data=TASKS[name](),
        model=ModelSettings(pattern="slstm", dim=32, num_blocks=2, num_heads=1, slstm_conv_width=0, recurrent_init="normal"),
        optimizer=OptimizerConfig(lr=5e-3, weight_decay=0.1, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.1),
        trainer=TrainerConfig(steps=2000, batch_size=128, validate_every=100, checkpoint_every=100),
    )


def state_tracking(name: str) -> RunConfig:
    """The same for languages whose states must hold at lengths never seen: solved at 40-256 after training on lengths to 40, in
    one minute, or three (cycle navigation), or twelve (modular arithmetic). docs/log.md has what failed.

    A feed-forward network of four units cannot take the modulo of a count that runs on, as far as training went and no further:
    the cell must. Beyond parity, what is read is noisy, so that states must attract, and no weight decay lets them; counters
    also want width and many steps of small batches.
    """
    base = formal_language(name)
    small = replace(base.model, ffn_factor=0.05, ffn_multiple=4)
    if name == "parity":
        return replace(base, model=small, trainer=replace(base.trainer, steps=1000))
    steady = replace(
        base,
        model=replace(small, embedding_dropout=0.1),
        optimizer=replace(base.optimizer, weight_decay=0.0),
        schedule=replace(base.schedule, floor=0.01),
    )
    if name == "even_pairs":
        return replace(steady, trainer=replace(base.trainer, steps=500))
    counting = replace(
        steady,
        model=replace(steady.model, dim=64),
        trainer=replace(base.trainer, steps=8000, batch_size=64),
    )
    if name == "cycle_navigation":
        return replace(
            counting,
            model=replace(counting.model, num_blocks=1),
            optimizer=replace(counting.optimizer, lr=1e-2),
        )
    return counting


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


def programs(name: str) -> RunConfig:
    """Two sLSTM blocks whose cells are mixed whole, by one head (docs/log.md): minutes on one core for one operation on numbers
    of up to two digits."""
    base = recall("mqar")
    return replace(
        base,
        name=name,
        data=TASKS[name](),
        optimizer=replace(base.optimizer, lr=4e-3),
        model=replace(base.model, pattern="slstm", num_heads=2, slstm_num_heads=1, recurrent_init="normal"),
        trainer=replace(base.trainer, steps=2500, batch_size=128, validate_every=250),
    )


def events(name: str) -> RunConfig:
    """An mLSTM and an sLSTM block: to remember what was told, and to follow changes. Minutes on one core.

    A question names two events. With four heads both are looked up at once; with one a model stays for thousands of steps with
    what the time of one of them tells (docs/log.md).
    """
    base = recall("mqar")
    return replace(
        base,
        name=name,
        data=TASKS[name](),
        model=replace(base.model, pattern="xlstm[1:1]", num_heads=4),
        trainer=replace(base.trainer, steps=1000 if name == "events" else 2000),
    )


def vectors(name: str) -> RunConfig:
    """Two sLSTM blocks, wider than for formal languages: nearest neighbour and adding in minutes."""
    base = formal_language(name)
    return replace(
        base,
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
    want half of it, five times the steps and four times the learning rate.
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
        model=replace(chorales.model, dropout=0.4),
        optimizer=replace(chorales.optimizer, lr=1.2e-2, weight_decay=1.0),
        trainer=replace(chorales.trainer, steps=2500, validate_every=250),
    )


def speech(name: str) -> RunConfig:
    """Two sLSTM blocks: one or two minutes of CPU time for spoken digits, some more for sequences of them."""
    single = name == "spoken_digits"
    return RunConfig(
        name=name,
        data=TASKS[name](),
        model=ModelSettings(
            pattern="slstm", dim=64 if single else 96, num_blocks=2, num_heads=4, dropout=0.1, recurrent_init="normal"
        ),
        optimizer=OptimizerConfig(lr=5e-3 if single else 2.5e-3, weight_decay=0.1, beta2=0.99, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=0.01),
        trainer=TrainerConfig(
            steps=1500 if single else 3000, batch_size=32 if single else 16, validate_every=250, checkpoint_every=250
        ),
    )


def chaos(name: str) -> RunConfig:
    """Two sLSTM blocks without convolution. What counts is the last decimals of one step, each of which is 2.3 Lyapunov times:
    many small batches, float32, and a cosine that ends at 1e-5. Gradients become as small as AdamW's usual eps.
    """
    return RunConfig(
        name=name,
        data=TASKS[name](),
        model=ModelSettings(pattern="slstm", dim=64, num_blocks=2, num_heads=1, conv_width=0, recurrent_init="normal"),
        optimizer=OptimizerConfig(lr=4e-3, weight_decay=0.0, beta2=0.95, eps=1e-12, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=50, floor=1 / 400),
        trainer=TrainerConfig(steps=20_000, batch_size=8, validate_every=5000, checkpoint_every=1000),
    )


def translation(name: str) -> RunConfig:
    """Two layers of sLSTM blocks of width 256 to read and two to write, with cross-attention: for the 29,000 pairs of multi30k
    ten epochs, some 2,500 CPU seconds of training steps."""
    return RunConfig(
        name=name,
        data=TASKS[name](vocab_size=4000, max_target=100, batch_tokens=2048),  # type: ignore[call-arg]
        model=ModelSettings(
            pattern="slstm",
            dim=256,
            num_blocks=2,
            dropout=0.2,
            embedding_dropout=0.2,
            gate_soft_cap=15.0,
            tie_embeddings=True,
        ),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1, beta2=0.98, clip=1.0),
        schedule=ScheduleConfig(kind="cosine", warmup=200, floor=0.02),
        trainer=TrainerConfig(steps=5000, precision="bf16", validate_every=500, checkpoint_every=100),
    )


def summaries(name: str) -> RunConfig:
    """The same for long texts and few pairs: half as wide, sources cut to 512 tokens. Not tuned."""
    base = translation("translation")
    return replace(
        base,
        name=name,
        data=TASKS[name](max_source=512, batch_tokens=8192),  # type: ignore[call-arg]
        model=replace(base.model, dim=128),
        trainer=replace(base.trainer, steps=600, validate_every=100),
    )
