"""Language modelling on small corpora, for two CPU cores and a few minutes."""

from dataclasses import replace

from openxlstm.data import TextConfig
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig

SMALL = ModelSettings(pattern="mlstm", dim=128, num_blocks=3, num_heads=4, qkv_block_size=256, gate_soft_cap=15.0)
"""mLSTM blocks with dense q, k, v and capped gates: without the cap a learning rate of 3e-3 ends in NaN at this size."""


def stdlib() -> RunConfig:
    """The source of the Python standard library in 4096 byte pairs; needs no data. Minutes on two cores.

    Byte pairs rather than bytes: for the same time of training 1.65 bits a byte instead of 1.93.
    """
    return RunConfig(
        name="stdlib",
        data=TextConfig(source="stdlib", tokenizer="bpe", vocab_size=4096),
        model=replace(SMALL, tie_embeddings=True),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup=100, floor=0.05),
        trainer=TrainerConfig(
            steps=1000, batch_size=12, context=128, validate_every=250, validate_tokens=65_536, checkpoint_every=100
        ),
    )


def shakespeare() -> RunConfig:
    """Characters of a play or any one text file (first 90 % train, last 10 % validation); about 1M parameters.

    The bar: validation <= 1.60 nats per character on tinyshakespeare after 2000 steps of 16 x 64 characters.
    """
    return RunConfig(
        name="shakespeare",
        data=TextConfig(tokenizer="chars", validation=0.1, test=0.0),
        model=SMALL,
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup=100, floor=0.05),
        trainer=TrainerConfig(
            steps=2000,
            batch_size=16,
            context=64,
            validate_every=500,
            validate_tokens=32_768,
            validate_context=256,
            report_contexts=(64, 256, 2048),
            checkpoint_every=200,
        ),
    )


def wikitext2() -> RunConfig:
    """WikiText-2 in 4096 byte pairs, streams with carried state; reports word perplexity. Minutes on two cores.

    Byte pairs rather than the 33 thousand words: on a CPU a softmax over those would be nine tenths of the work. The word
    perplexity is exp(nats of the whole text / words), with one end mark a line counted as a word, as in published tables.
    """
    return RunConfig(
        name="wikitext2",
        data=TextConfig(tokenizer="bpe", vocab_size=4096),
        model=ModelSettings(
            pattern="xlstm[1:1]",
            dim=128,
            num_blocks=4,
            num_heads=4,
            gate_soft_cap=15.0,
            dropout=0.05,
            tie_embeddings=True,
        ),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup=100, floor=0.05),
        trainer=TrainerConfig(
            steps=800,
            batch_size=16,
            context=64,
            tbptt=True,
            validate_every=200,
            validate_tokens=30_000,
            validate_context=256,
            checkpoint_every=100,
        ),
    )


def tiny() -> RunConfig:
    """A smoke test: seconds, on 200 kB of the standard library. Learns next to nothing."""
    return RunConfig(
        name="tiny",
        data=TextConfig(source="stdlib", tokenizer="bytes", max_bytes=200_000),
        model=ModelSettings(pattern="xlstm[1:1]", dim=32, num_blocks=2, num_heads=2),
        optimizer=OptimizerConfig(lr=3e-3),
        schedule=ScheduleConfig(kind="cosine", warmup=5, floor=0.1),
        trainer=TrainerConfig(
            steps=20, batch_size=4, context=32, validate_every=10, validate_tokens=2_000, checkpoint_every=10
        ),
    )
