"""Language modelling on small corpora, for two CPU cores and a few minutes."""

from dataclasses import replace

from openxlstm.data import TextConfig
from openxlstm.training.config import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig

SMALL = ModelSettings(pattern="mlstm", dim=128, num_blocks=3, num_heads=4, qkv_block_size=256, gate_soft_cap=15.0)
"""mLSTM blocks with dense q, k, v and capped gates: without the cap a learning rate of 3e-3 ends in NaN at this size."""


def stdlib() -> RunConfig:
    """The source of the Python standard library in 4096 byte pairs; needs no data. Minutes on two cores.

    q, k and v in blocks of 4, as in the paper: at about as many parameters 1.58 bits a byte instead of 1.65 with dense ones and
    a width of 128. Byte pairs rather than bytes: for the same time of training 1.65 instead of 1.93, with dense ones.
    """
    return RunConfig(
        name="stdlib",
        data=TextConfig(source="stdlib", tokenizer="bpe", vocab_size=4096),
        model=replace(SMALL, dim=184, qkv_block_size=4, tie_embeddings=True),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup=100, floor=0.05),
        trainer=TrainerConfig(
            steps=1000, batch_size=12, context=128, validate_every=250, validate_tokens=65_536, checkpoint_every=100
        ),
    )


def python_code() -> RunConfig:
    """`stdlib` for an editor: half of the training windows ask for their middle, so the model also fills in.

    Plain text is learned a little more slowly for that; with large models it costs nothing (arXiv 2207.14255).
    """
    base = stdlib()
    return replace(
        base,
        name="python_code",
        data=TextConfig(source="stdlib", tokenizer="bpe", vocab_size=4096, fill_in=0.5),
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


def wikitext103() -> RunConfig:
    """WikiText-103 as `wikitext2`, in 8192 byte pairs and with a larger model; hours on two cores, or a GPU.

    Published word perplexities are for fifty and more times the training: LSTM 48.7, Transformer-XL 24.0 (151M parameters).
    """
    base = wikitext2()
    return replace(
        base,
        name="wikitext103",
        data=TextConfig(tokenizer="bpe", vocab_size=8192),
        model=replace(base.model, dim=256, num_blocks=6, dropout=0.0),
        trainer=replace(base.trainer, steps=10_000, context=128, validate_every=1000, validate_context=512),
    )


def ptb() -> RunConfig:
    """Penn Treebank by words, the 10,000 of its files; a line is a sentence and `<eos>`. Tens of minutes on two cores.

    Reports word perplexity, an `<eos>` a line counted as a word: 73,760 in validation, as in published tables (LSTM 78.9 with
    13M parameters on test, AWD-LSTM 57.3). So small a text is learned by heart: much dropout, and few steps.
    """
    base = wikitext2()
    return replace(
        base,
        name="ptb",
        data=TextConfig(tokenizer="words"),
        model=replace(base.model, dim=192, num_blocks=2, dropout=0.3, embedding_dropout=0.3),
        trainer=replace(base.trainer, steps=4000, validate_every=500, validate_tokens=0),
    )


def enwik8() -> RunConfig:
    """enwik8 (the start of a dump of Wikipedia) by bytes: the first 90 % train, then 5 % validation and 5 % test.

    Reports bits per byte, on the full 100 MB comparable with published ones: Transformer-XL 1.06 (41M parameters), LSTM 1.24
    (46M). An hour or so on two cores shows the way, not the end.
    """
    base = shakespeare()
    return replace(
        base,
        name="enwik8",
        data=TextConfig(tokenizer="bytes", validation=0.05, test=0.05),
        trainer=replace(
            base.trainer, steps=5000, context=128, validate_tokens=65_536, validate_context=512, report_contexts=()
        ),
    )


def slimpajama() -> RunConfig:
    """SlimPajama in 8192 byte pairs: 100 MB of it from Hugging Face, or a folder of .jsonl files with the key `text`.

    The xLSTM paper's text, whose models have a thousand times the parameters; more of it with --data.max_bytes.
    """
    return RunConfig(
        name="slimpajama",
        data=TextConfig(
            source="hf:cerebras/SlimPajama-627B",
            streaming=True,
            tokenizer="bpe",
            vocab_size=8192,
            max_bytes=100_000_000,
            validation=0.01,
            test=0.01,
        ),
        model=replace(SMALL, pattern="xlstm[7:1]", num_blocks=8, qkv_block_size=4, tie_embeddings=True),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup=100, floor=0.1),
        trainer=TrainerConfig(
            steps=2000, batch_size=16, context=256, validate_every=500, validate_tokens=65_536, checkpoint_every=100
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
