"""Published models by name. Their parameter counts are tested against the published ones (docs/math, papers' tables)."""

from dataclasses import replace
from typing import Any

from openxlstm.errors import UserError
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.patterns import expand

VOCAB_SIZE = 50304
"""GPT-NeoX-20b's vocabulary, padded to a multiple of 64: what all published xLSTM language models use."""

PAPER_SIZES = {"125M": (768, 24), "350M": (1024, 48), "760M": (1536, 48), "1.3B": (2048, 48), "2.7B": (2560, 64)}
"""Name -> (dim, number of blocks) of the xLSTM paper (arXiv 2405.04517)."""

LARGE_SIZES = {
    "84M": (512, 10, 4),
    "164M": (768, 12, 6),
    "407M": (1024, 24, 4),
    "842M": (1536, 24, 4),
    "1.4B": (2048, 24, 4),
    "2.8B": (2560, 32, 5),
    "7B": (4096, 32, 8),
}
"""Name -> (dim, number of blocks, heads) of the xLSTM Large family (arXiv 2503.13427, 2510.02228)."""


def _paper(dim: int, num_blocks: int, pattern: str) -> LanguageModelConfig:
    """Untied head, no caps, four heads; the counts say that the published sLSTM blocks have an FFN factor of 1.3, not 4/3."""
    return LanguageModelConfig(vocab_size=VOCAB_SIZE, dim=dim, num_heads=4, blocks=expand(pattern, num_blocks), ffn_factor=1.3)


def _large(dim: int, num_blocks: int, num_heads: int) -> LanguageModelConfig:
    return LanguageModelConfig(
        vocab_size=VOCAB_SIZE,
        dim=dim,
        num_heads=num_heads,
        blocks=expand("mlstm_large", num_blocks),
        ffn_factor=2.667,
        gate_soft_cap=15.0,
        logit_soft_cap=30.0,
        norm="rms",
    )


PRESETS: dict[str, LanguageModelConfig] = {
    **{f"xlstm[1:0]-{size}": _paper(*shape, "xlstm[1:0]") for size, shape in PAPER_SIZES.items()},
    **{f"xlstm[7:1]-{size}": _paper(*shape, "xlstm[7:1]") for size, shape in PAPER_SIZES.items() if size != "2.7B"},
    **{f"large-{size}": _large(*shape) for size, shape in LARGE_SIZES.items()},
}
"""Name -> config, such as "xlstm[7:1]-350M" or "large-7B"."""


def preset(name: str, **changes: Any) -> LanguageModelConfig:
    """The config of a published model, with `changes` (vocab_size=..., dropout=...). Raises UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; have {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
