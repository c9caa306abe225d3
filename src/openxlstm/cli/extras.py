"""Which optional package comes with which extra, and what it gives: said by `doctor` and by a failing import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Optional:
    """An optional package: the name it is imported by, the extra that brings it, and what works only with it."""

    module: str
    extra: str
    gives: str


OPTIONAL = (
    Optional("lightning", "train", "training"),
    Optional("yaml", "train", "config.yaml of other projects' checkpoints"),
    Optional("tensorboard", "train", "TensorBoard curves"),
    Optional("tokenizers", "train", "BPE tokenizers and any tokenizer.json"),
    Optional("matplotlib", "plot", "figures"),
    Optional("pandas", "series", "reading series"),
    Optional("PIL", "images", "reading PNG and JPEG images"),
    Optional("triton", "triton", "GPU kernels; comes with PyTorch for CUDA on Linux"),
    Optional("symusic", "music", "reading and writing MIDI"),
    Optional("soundfile", "speech", "reading sound files"),
    Optional("jiwer", "speech", "word error rates"),
    Optional("sacrebleu", "text", "BLEU and chrF of translations"),
    Optional("rouge_score", "text", "ROUGE of summaries"),
    Optional("transformers", "hf", "Hugging Face models and tokenizers"),
    Optional("datasets", "hf", "Hugging Face data sets"),
    Optional("huggingface_hub", "hf", "checkpoints from the Hugging Face hub"),
)


def extra_of(module: str) -> Optional | None:
    """The entry for an import name such as "lightning.pytorch", or None if it is not one of ours."""
    top = module.partition(".")[0]
    return next((entry for entry in OPTIONAL if entry.module == top), None)
