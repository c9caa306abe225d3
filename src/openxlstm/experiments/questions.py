"""The questions. Bars and anchors: xLSTM (arXiv 2405.04517), Zoology (2312.04927), and the re-runs in `tasks.published`."""

from openxlstm.experiments.cost import Cost
from openxlstm.experiments.question import (
    Check,
    Question,
    ahead,
    ahead_everywhere,
    grown,
    growth,
    in_most,
    largest,
    less,
    of_law,
    rarest_first,
    score,
    score_at,
    share,
    steepest,
    worst,
)
from openxlstm.experiments.sweeps import Capacity, Scaling
from openxlstm.experiments.trained import Setting, Trained

FIGURE_4 = "xLSTM paper, fig. 4: scaled accuracy at lengths 40-256, trained on lengths to 40"
ONE_THREAD = {"trainer.threads": "1"}
FIRST_PICTURES = {**ONE_THREAD, "data.test_samples": "512"}
FIRST_LOOK = {**FIRST_PICTURES, "data.report_lengths": ""}
BYTES = {**ONE_THREAD, "data.tokenizer": "bytes"}
EVERY = ("mlstm", "slstm", "xlstm[1:1]", "lstm", "transformer")
"""The models that are compared where they can be afforded."""
MIXING = ("slstm", "xlstm[1:1]", "mlstm", "lstm", "transformer")
"""What is said of memory mixing; the others get as many parameters as the first."""
MATRIX = ("mlstm", "lstm", "transformer")
"""What is said of the matrix memory, beside its rivals."""
PIXEL_ABOVE = {"model.conv_width": "18"}
"""For rows of 16 pixels: a convolution that reaches the pixel above and its neighbours (docs/log.md)."""
WHOLE_ROWS = {**PIXEL_ABOVE, "data.mirror": "true", "trainer.batch_size": "64", "trainer.steps": "3000"}
LARGE_TEXT = {
    "model.dim": "512",
    "model.num_blocks": "8",
    "trainer.context": "512",
    "trainer.batch_size": "32",
    "trainer.steps": "2000",
    "trainer.precision": "bf16",
}
"""Language on a GPU: 33 million tokens for models of some 20 million parameters."""
TEXT_RATES = (1e-3, 3e-3)
LADDER = ("lstm_plain", "lstm_residual", "lstm", "slstm", "xlstm[7:1]")
"""Each with one thing more than the one before: residual branch and norm, up-projection, exponential gates, matrix memory."""
REVISION = {"model.forget_gate": "exp", "optimizer.weight_decay": "0", "schedule.floor": "0.01"}
"""What nearest neighbour wants (docs/log.md)."""
NO_CONV, FIXED_GATES = "mlstm{conv_width=0}", "mlstm{input_gate_mode=fixed,forget_gate_mode=fixed}"
PARTS = ("mlstm", NO_CONV, FIXED_GATES)


def formal(
    name: str,
    claim: str,
    published: str,
    checks: tuple[Check, ...],
    steps: int,
    *,
    first: tuple[str, ...] = ("slstm", "mlstm", "transformer"),
    models: tuple[str, ...] = MIXING,
    seeds: int = 3,
) -> Question:
    """A formal language: `first` with one seed and `steps` for a first answer, then `models` with `seeds` and the recipe's."""
    return Trained(
        name=name,
        claim=claim,
        published=f"{FIGURE_4}: {published}",
        recipe=name,
        checks=checks,
        settings={
            "minutes": Setting(
                models=first,
                options={**FIRST_LOOK, "trainer.steps": str(steps)},
            ),
            "hours": Setting(models=models, seeds=seeds, options=ONE_THREAD),
            "gpu": Setting(
                models=EVERY, seeds=5, lrs=(1e-3, 3e-3, 1e-2), options={"model.num_blocks": "2", "trainer.steps": "20000"}
            ),
        },
    )


def pictures(
    name: str,
    claim: str,
    published: str,
    *,
    recipe: str,
    model: str,
    bar: float,
    options: dict[str, str],
    published_size: dict[str, str],
) -> Question:
    """Pictures read pixel by pixel, at the recipe's size; on a GPU at the published one."""
    return Trained(
        name=name,
        claim=claim,
        published=f"xLSTM paper, table 6, {published}",
        recipe=recipe,
        checks=(Check(what=f"accuracy of {model}", measure=score(model), bar=bar),),
        settings={
            "minutes": Setting(models=(model, "lstm"), options={**FIRST_PICTURES, "trainer.steps": "300"}),
            "hours": Setting(models=(model, "lstm", "transformer"), seeds=3, options={**ONE_THREAD, **options}),
            "gpu": Setting(
                models=EVERY,
                seeds=3,
                lrs=(1e-4, 6e-4, 1e-3),
                options={"model.dim": "256", "model.num_blocks": "6", **published_size},
            ),
        },
    )


def pairs(context: int, number: int) -> dict[str, str]:
    """So many pairs of key and value in so many tokens, tested also at twice and four times the context."""
    longer = f"{2 * context},{4 * context}"
    return {
        "data.num_pairs": str(number),
        "data.train_length": str(context),
        "data.eval_length": str(context),
        "data.report_lengths": longer,
    }


def recall(
    name: str,
    claim: str,
    context: int,
    number: int,
    steps: int,
    batch: int,
    models: tuple[str, ...],
    *,
    first: int | None = None,
) -> Question:
    """Multi-query associative recall at one context and number of pairs. first: steps for a first answer; none = `steps`."""
    options = {**pairs(context, number), "trainer.steps": str(steps), "trainer.batch_size": str(batch)}
    return Trained(
        name=name,
        claim=claim,
        published="xLSTM paper, fig. 5: xLSTM[1:0] and [1:1] solve 64/4, 128/8, 256/16; Zoology, fig. 2: attention 1.00. Both "
        "after many more steps (Zoology: 64 epochs of 100,000 samples); those here, equal for all, say who learns it first",
        recipe="mqar",
        checks=(
            Check(what="accuracy of mlstm", measure=score("mlstm"), bar=0.99),
            Check(what="accuracy of lstm", measure=score("lstm"), bar=0.60, at_most=True),
        ),
        settings={
            "minutes": Setting(
                models=("mlstm", "lstm"),
                options={**FIRST_PICTURES, **options, "trainer.steps": str(first or steps)},
            ),
            "hours": Setting(models=models, seeds=3, options={**ONE_THREAD, **options}),
            "gpu": Setting(
                models=(*EVERY, "ssd"),
                seeds=3,
                lrs=(1e-3, 3e-3, 1e-2),
                options={**pairs(context, number), "data.vocab_size": "8192", "trainer.steps": "10000"},
            ),
        },
    )


def rare(name: str, claim: str, published: str, recipe: str, models: tuple[str, ...]) -> Question:
    """Where among the tokens, from rare to frequent, a model gains on another."""
    return Trained(
        name=name,
        claim=claim,
        published=f"xLSTM paper, fig. 2 (right): {published}",
        recipe=recipe,
        checks=(
            Check(
                what="nats gained by mlstm over lstm in the rarest tenth, beyond those in any other",
                measure=rarest_first("mlstm", "lstm"),
                bar=0.0,
            ),
        ),
        settings={
            "minutes": Setting(models=("mlstm", "lstm"), options={**ONE_THREAD, "trainer.steps": "300"}),
            "hours": Setting(models=models, seeds=3, options=ONE_THREAD),
            "gpu": Setting(models=MATRIX, seeds=3, lrs=TEXT_RATES, options=LARGE_TEXT),
        },
    )


def stress(name: str, claim: str, published: str, *, recipe: str, model: str, what: str, published_length: str) -> Question:
    """A test of long memory whose error goes to 0; on a GPU at the published length."""
    return Trained(
        name=name,
        claim=claim,
        published=f"Bai et al. (arXiv 1803.01271), {published}",
        recipe=recipe,
        checks=(Check(what=f"{what} of {model}", measure=score(model), bar=0.01, at_most=True),),
        settings={
            "minutes": Setting(models=(model, "lstm"), options={**FIRST_LOOK, "trainer.steps": "300"}),
            "hours": Setting(models=("slstm", "mlstm", "lstm"), seeds=3, options=ONE_THREAD),
            "gpu": Setting(
                models=EVERY, seeds=3, options={"data.train_length": published_length, "data.eval_length": published_length}
            ),
        },
    )


QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        formal(
            "parity",
            "Memory mixing tracks a state over any length: sLSTM solves parity, which mLSTM and attention cannot.",
            "sLSTM 1.00, xLSTM[1:1] 1.00, LSTM 1.00, mLSTM 0.04, Llama 0.03",
            (
                Check(what="score of slstm, the worst seed in five left aside", measure=in_most("slstm"), bar=0.99),
                Check(what="score of xlstm[1:1]", measure=score("xlstm[1:1]"), bar=0.99),
                Check(what="score of mlstm", measure=score("mlstm"), bar=0.10, at_most=True),
                Check(what="score of transformer", measure=score("transformer"), bar=0.10, at_most=True),
            ),
            500,
            first=("slstm", "xlstm[1:1]", "mlstm", "transformer"),
            seeds=5,
        ),
        formal(
            "cycle_navigation",
            "sLSTM keeps count modulo five over lengths that it never saw.",
            "sLSTM 1.00, LSTM 0.93, mLSTM 0.86, Llama 0.04",
            (Check(what="score of slstm", measure=score("slstm"), bar=0.95),),
            8000,
            first=("slstm", "lstm"),
            models=("slstm", "lstm"),
            seeds=5,
        ),
        formal(
            "even_pairs",
            "Every recurrent cell compares the ends of a sequence.",
            "1.00 for all",
            (Check(what="score of slstm", measure=score("slstm"), bar=0.99),),
            300,
        ),
        formal(
            "modular_arithmetic",
            "sLSTM evaluates expressions.",
            "sLSTM 1.00 (re-run by others 0.79), LSTM 1.00, mLSTM 0.04, Llama 0.03",
            (Check(what="score of slstm", measure=score("slstm"), bar=0.80),),
            2000,
            first=("slstm", "lstm"),
            models=("slstm", "lstm"),
        ),
        recall(
            "recall",
            "Matrix memory stores more: mLSTM recalls pairs that an LSTM of equal size cannot.",
            64,
            4,
            600,
            128,
            EVERY,
        ),
        recall("recall_longer", "So it does with twice as many pairs in twice the context.", 128, 8, 1000, 128, MATRIX),
        recall("recall_many", "Even 64 pairs fit into the matrices.", 256, 64, 3000, 64, ("mlstm", "lstm"), first=700),
        Capacity(
            name="recall_capacity",
            claim="Of equal size, mLSTM has a hundred times the state of an LSTM and recalls more; more state holds more.",
            published="Zoology, recall over memory: with a state of 65,536 Gated DeltaNet 0.99, GLA 0.95, Mamba-2 0.83",
            recipe="mqar",
            checks=(
                Check(what="accuracy of mlstm at its largest state", measure=score("mlstm"), bar=0.99),
                Check(what="accuracy of lstm at its largest", measure=score("lstm"), bar=0.60, at_most=True),
            ),
            widths={"minutes": (32, 64), "hours": (24, 40, 64), "gpu": (64, 128, 256, 512)},
            dense=True,
            settings={
                "minutes": Setting(models=("mlstm", "lstm"), options={**FIRST_LOOK, **pairs(128, 16), "trainer.steps": "400"}),
                "hours": Setting(
                    models=("mlstm", "lstm", "ssd"),
                    options={**ONE_THREAD, **pairs(128, 16), "trainer.batch_size": "64", "trainer.steps": "1000"},
                ),
                "gpu": Setting(
                    models=(*EVERY, "ssd"),
                    seeds=3,
                    lrs=(1e-3, 3e-3, 1e-2),
                    options={
                        **pairs(1024, 96),
                        "data.vocab_size": "8192",
                        "trainer.batch_size": "32",
                        "trainer.steps": "20000",
                    },
                ),
            },
        ),
        Trained(
            name="nearest_neighbour",
            claim="Exponential gating revises what is stored: sLSTM finds the nearest vector so far, LSTM does not.",
            published="xLSTM paper, fig. 2 (left): test error of LSTM well above xLSTM[0:1]",
            recipe="nearest_neighbour",
            checks=(
                Check(what="squared error of slstm", measure=score("slstm"), bar=0.02, at_most=True),
                Check(what="error of slstm over that of lstm", measure=share("slstm", "lstm"), bar=0.5, at_most=True),
            ),
            settings={
                "minutes": Setting(
                    models=("slstm", "lstm"),
                    options={**FIRST_LOOK, "model.forget_gate": "exp"},
                ),
                "hours": Setting(
                    models=("slstm", "lstm"),
                    seeds=3,
                    lrs=(3e-3, 1e-2),
                    options={**ONE_THREAD, **REVISION, "trainer.steps": "4000"},
                ),
                "gpu": Setting(
                    models=EVERY,
                    seeds=5,
                    lrs=(1e-3, 3e-3, 1e-2),
                    options={**REVISION, "trainer.steps": "20000"},
                ),
            },
        ),
        Trained(
            name="narratives",
            claim="xLSTM says which of two events came first, however they were told, also in stories of thousands of tokens.",
            published="not published; a task of this project",
            recipe="events",
            checks=(
                Check(what="accuracy of xlstm[1:1] at 32 tokens", measure=score("xlstm[1:1]"), bar=0.9),
                Check(what="the same at 4096", measure=score_at("xlstm[1:1]", "4096"), bar=0.8),
                Check(what="accuracy of lstm minus xlstm[1:1]", measure=ahead("lstm", "xlstm[1:1]"), bar=0.0, at_most=True),
            ),
            settings={
                "minutes": Setting(
                    models=("xlstm[1:1]", "lstm"),
                    options={**FIRST_PICTURES, "trainer.steps": "400", "data.report_lengths": "4096"},
                ),
                "hours": Setting(
                    models=("xlstm[1:1]", "lstm", "transformer"),
                    seeds=3,
                    options={
                        **ONE_THREAD,
                        "data.train_length": "32-128",
                        "data.report_lengths": "256,1024,4096",
                        "trainer.steps": "800",
                    },
                ),
                "gpu": Setting(
                    models=EVERY, seeds=3, lrs=(1e-3, 3e-3), options={"data.num_events": "8", "data.report_lengths": "4096"}
                ),
            },
        ),
        stress(
            "adding",
            "xLSTM adds two marked numbers out of hundreds.",
            "600 steps: LSTM 0.164, GRU 0.000053",
            recipe="adding",
            model="slstm",
            what="squared error",
            published_length="600",
        ),
        stress(
            "copying",
            "xLSTM repeats ten digits after a hundred blanks.",
            "1,000 blanks: LSTM 0.0204, TCN 0.000035 nats",
            recipe="copy",
            model="mlstm",
            what="nats",
            published_length="1020",
        ),
        Trained(
            name="listops",
            claim="xLSTM parses nested lists over hundreds of symbols at least as well as a Transformer.",
            published="xLSTM paper, table 6, at lengths 500-2000: xLSTM 0.411, LSTM (Block) 0.495, Llama 0.379, Mamba 0.325",
            recipe="listops",
            checks=(
                Check(what="accuracy of mlstm", measure=score("mlstm"), bar=0.40),
                Check(what="accuracy of transformer minus mlstm", measure=ahead("transformer", "mlstm"), bar=0.0, at_most=True),
            ),
            settings={
                "minutes": Setting(
                    models=("mlstm", "transformer"),
                    options={
                        **FIRST_LOOK,
                        "trainer.steps": "300",
                        "data.train_length": "20-100",
                        "data.eval_length": "20-100",
                    },
                ),
                "hours": Setting(models=MATRIX, seeds=3, options={**ONE_THREAD, "trainer.steps": "6000"}),
                "gpu": Setting(
                    models=EVERY,
                    seeds=3,
                    lrs=(1e-4, 6e-4, 1e-3),
                    options={
                        "data.train_length": "500-2000",
                        "data.eval_length": "500-2000",
                        "data.report_lengths": "",
                        "model.dim": "128",
                        "model.num_blocks": "8",
                        "trainer.steps": "80000",
                    },
                ),
            },
        ),
        Trained(
            name="program_evaluation",
            claim="xLSTM learns what small programs print, and is ahead of an LSTM at every level of the curriculum.",
            published="Zaremba and Sutskever (arXiv 1410.4615): an LSTM learns it from characters, by a curriculum that mixes",
            recipe="program_evaluation",
            checks=(
                Check(what="accuracy of slstm at its worst level", measure=worst("slstm"), bar=0.95),
                Check(
                    what="accuracy of slstm minus lstm at the level where that is least",
                    measure=ahead_everywhere("slstm", "lstm"),
                    bar=0.0,
                ),
            ),
            settings={
                "minutes": Setting(models=("slstm", "lstm"), options=ONE_THREAD),
                "hours": Setting(
                    models=("slstm", "lstm", "transformer"), seeds=3, options={**ONE_THREAD, "trainer.steps": "5000"}
                ),
                "gpu": Setting(
                    models=EVERY,
                    seeds=3,
                    lrs=(1e-3, 3e-3),
                    options={
                        "data.max_length": "4",
                        "data.max_nesting": "3",
                        "model.dim": "256",
                        "model.num_blocks": "4",
                        "trainer.steps": "50000",
                        "trainer.batch_size": "256",
                    },
                ),
            },
        ),
        pictures(
            "pixels",
            "xLSTM classifies images read pixel by pixel.",
            "1,024 grey pixels: xLSTM 0.695, LSTM 0.675, Llama 0.541, Mamba 0.689",
            recipe="lra_image",
            model="xlstm[1:1]",
            bar=0.45,
            options=WHOLE_ROWS,
            published_size={"data.pool": "1", "trainer.steps": "15000"},
        ),
        pictures(
            "pathfinder",
            "xLSTM sees whether two dots in a picture are joined, read pixel by pixel.",
            "1,024 pixels: xLSTM 0.919, LSTM fails, Llama 0.887, Mamba 0.992",
            recipe="pathfinder",
            model="mlstm",
            bar=0.60,
            options={**PIXEL_ABOVE, "trainer.steps": "2000"},
            published_size={"data.size": "32", "model.conv_width": "34", "trainer.steps": "30000"},
        ),
        Trained(
            name="extrapolation",
            claim="Long contexts cost no quality: read in windows 32 times as long as in training, the loss does not rise.",
            published="xLSTM paper, fig. 7: perplexity flat from 2,048 to 16,384; Llama's rises steeply",
            recipe="stdlib",
            checks=(
                Check(what="mlstm, nats at 2048 minus at 64", measure=grown("mlstm", 2048), bar=0.0, at_most=True),
                Check(what="transformer, nats at 2048 minus at 64", measure=grown("transformer", 2048), bar=0.0),
            ),
            settings={
                "minutes": Setting(
                    models=("mlstm", "transformer"),
                    options={
                        **BYTES,
                        "trainer.context": "64",
                        "trainer.batch_size": "16",
                        "trainer.steps": "400",
                        "trainer.report_contexts": "2048",
                    },
                ),
                "hours": Setting(
                    models=EVERY,
                    seeds=3,
                    options={
                        **BYTES,
                        "trainer.context": "64",
                        "trainer.batch_size": "16",
                        "trainer.steps": "1000",
                        "trainer.report_contexts": "256,2048",
                    },
                ),
                "gpu": Setting(
                    models=EVERY,
                    seeds=3,
                    lrs=TEXT_RATES,
                    options={
                        **LARGE_TEXT,
                        "trainer.context": "64",
                        "trainer.batch_size": "256",
                        "trainer.report_contexts": "256,2048,16384",
                    },
                ),
            },
        ),
        rare(
            "rare_tokens",
            "Matrix memory helps most where a token is rare: there the gain over an LSTM is largest.",
            "mLSTM's perplexity on rare tokens of WikiText-103 well below LSTM's",
            "stdlib",
            MATRIX,
        ),
        rare(
            "rare_words",
            "The same on WikiText-2: the gain over an LSTM is largest in the rarest tenth.",
            "on WikiText-103",
            "wikitext2",
            ("mlstm", "lstm"),
        ),
        Trained(
            name="language",
            claim="On language xLSTM is better than LSTM and level with a Transformer of equal parameters.",
            published="xLSTM paper, table 1 (SlimPajama 15B): xLSTM[7:1] 13.43, Llama 14.25, Mamba 13.70",
            recipe="stdlib",
            checks=(
                Check(what="nats of xlstm[1:1] minus lstm", measure=less("xlstm[1:1]", "lstm"), bar=0.0, at_most=True),
                Check(
                    what="nats of xlstm[1:1] minus transformer",
                    measure=less("xlstm[1:1]", "transformer"),
                    bar=0.02,
                    at_most=True,
                ),
            ),
            settings={
                "minutes": Setting(
                    models=("xlstm[1:1]", "lstm", "transformer"), options={**ONE_THREAD, "trainer.steps": "200"}
                ),
                "hours": Setting(models=EVERY, seeds=3, options=ONE_THREAD),
                "gpu": Setting(models=EVERY, seeds=3, lrs=TEXT_RATES, options=LARGE_TEXT),
            },
        ),
        Scaling(
            name="scaling",
            claim="The loss falls with the number of parameters by a power law, and xLSTM stays ahead of a Transformer.",
            published="xLSTM scaling laws (arXiv 2510.02228), 8k tokens of context, 1e20 FLOP: xLSTM 2.685, Llama 2.776 nats",
            recipe="stdlib",
            checks=(
                Check(what="R² of the law of mlstm", measure=of_law("mlstm", "R2"), bar=0.95),
                Check(
                    what="nats of mlstm minus transformer at the largest size",
                    measure=largest("mlstm", "transformer"),
                    bar=0.0,
                    at_most=True,
                ),
            ),
            widths={"minutes": (48, 64, 96), "hours": (48, 72, 112, 160), "gpu": (128, 256, 384, 512)},
            settings={
                "minutes": Setting(models=("mlstm", "transformer"), options={**BYTES, "trainer.steps": "200"}),
                "hours": Setting(models=("mlstm", "transformer"), seeds=3, options=BYTES),
                "gpu": Setting(
                    models=EVERY,
                    seeds=3,
                    lrs=(1e-3, 3e-3),
                    options={"model.num_blocks": "8", "trainer.context": "1024", "trainer.steps": "4000"},
                ),
            },
        ),
        Trained(
            name="ladder",
            claim="From LSTM to xLSTM each step helps: residual branch, up-projection, exponential gates, matrix memory.",
            published="xLSTM paper, table 2 (SlimPajama 15B): 2417.86, 35.46, 26.01, 17.70, 13.48",
            recipe="stdlib",
            checks=(
                Check(what="largest rise of the nats from one to the next", measure=steepest(*LADDER), bar=0.0, at_most=True),
            ),
            settings={
                "minutes": Setting(models=LADDER, options={**ONE_THREAD, "trainer.steps": "150"}),
                "hours": Setting(models=LADDER, seeds=3, options=ONE_THREAD),
                "gpu": Setting(models=LADDER, seeds=3, lrs=TEXT_RATES, options=LARGE_TEXT),
            },
        ),
        Trained(
            name="parts_of_mlstm",
            claim="The convolution and gates that are learned each make an mLSTM better.",
            published="xLSTM paper, table 2: 13.43; without convolution 15.41; gates of which nothing is learned 13.95",
            recipe="stdlib",
            checks=(
                Check(what="nats without convolution minus with", measure=less(NO_CONV, "mlstm"), bar=0.02),
                Check(what="nats with fixed gates minus learned", measure=less(FIXED_GATES, "mlstm"), bar=0.0),
            ),
            settings={
                "minutes": Setting(models=PARTS, options={**ONE_THREAD, "trainer.steps": "150"}),
                "hours": Setting(models=PARTS, seeds=3, options=ONE_THREAD),
                "gpu": Setting(models=PARTS, seeds=3, lrs=TEXT_RATES, options=LARGE_TEXT),
            },
        ),
        Cost(
            name="cost",
            claim="A token costs the same time and memory at any position; with attention both grow.",
            published="xLSTM 7B, fig. 4: time and memory of generation constant over the prefix, Llama's grow",
            checks=(
                Check(
                    what="mlstm, step at the longest context over the shortest",
                    measure=growth("mlstm", "step"),
                    bar=1.1,
                    at_most=True,
                ),
                Check(what="mlstm, the same of its state", measure=growth("mlstm", "state"), bar=1.0, at_most=True),
                Check(what="transformer, the same of its step", measure=growth("transformer", "step"), bar=1.5),
                Check(what="transformer, the same of its state", measure=growth("transformer", "state"), bar=2.0),
            ),
        ),
    )
}
"""Every question by its name, in the order of the report."""
