"""Names for sequences of blocks: `xlstm[7:1]`, `transformer`, or the blocks written out."""

import re

from openxlstm.errors import UserError

BLOCK_NAMES = ("mlstm", "slstm", "mlstm_large", "lstm", "lstm_residual", "lstm_plain", "attention", "ssd")

ALIASES = {"transformer": "attention"}

PUBLISHED_PLACEMENT = {
    (7, 1, 48): (3, 5, 7, 40, 42, 44),
    (7, 1, 24): (3, 20),
}
"""Where the xLSTM paper (arXiv 2405.04517, App. B) puts the sLSTM blocks, by (a, b, number of blocks). The 24 blocks of the
125M model have two of them, so that `[7:1]` is a name there and not a ratio."""

_VARIANT = re.compile(r"([^{}]*)\{([^{}]*)\}")
_RATIO = re.compile(r"xlstm\[(\d+):(\d+)\]")


def expand(pattern: str, num_blocks: int | None = None) -> tuple[str, ...]:
    """The blocks that a pattern stands for.

    pattern: one of
        "xlstm[a:b]": a mLSTM to b sLSTM. Sizes of the paper get the paper's placement (PUBLISHED_PLACEMENT). Otherwise the
            nearest possible number of sLSTM blocks (at least one of each kind that the ratio names) is spread evenly,
            each at the end of its share: `xlstm[1:1]` of 4 is mlstm, slstm, mlstm, slstm;
        a name out of BLOCK_NAMES (or "transformer" for "attention"): the same block throughout;
        "mlstm,slstm,attention": the blocks themselves; `num_blocks` may be left out and must otherwise agree.
    num_blocks: how many blocks the stack has.

    Raises UserError for a pattern or block it does not know, or a count that cannot be met.
    """
    text = pattern.strip().lower().replace(" ", "")
    if num_blocks is not None and num_blocks < 1:
        raise UserError(f"num_blocks must be at least 1, got {num_blocks}")
    if "," in text:
        blocks = tuple(_block(name, pattern) for name in text.split(","))
        if num_blocks is not None and num_blocks != len(blocks):
            raise UserError(f"{pattern!r} names {len(blocks)} blocks, but num_blocks is {num_blocks}")
        return blocks
    ratio = _RATIO.fullmatch(text)
    if num_blocks is None:
        if ratio:
            raise UserError(f"{pattern!r} needs num_blocks")
        num_blocks = 1
    if ratio:
        positions = slstm_positions(int(ratio[1]), int(ratio[2]), num_blocks)
        return tuple("slstm" if i in positions else "mlstm" for i in range(num_blocks))
    return (_block(text, pattern),) * num_blocks


def split_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas; those inside braces part settings."""
    return tuple(name.strip() for name in re.split(r",(?![^{}]*\})", text) if name.strip())


def split_settings(name: str) -> tuple[str, dict[str, str]]:
    """The pattern and the settings of a variant: `mlstm{conv_width=0}` is ("mlstm", {"conv_width": "0"}).

    Raises UserError for braces that are not that.
    """
    if not {"{", "}"} & set(name):
        return name, {}
    found = _VARIANT.fullmatch(name.strip())
    pairs = [part.partition("=") for part in found[2].split(",")] if found else []
    settings = {key.strip(): value.strip() for key, equals, value in pairs if key.strip() and equals}
    if found is None or len(settings) != len(pairs):
        raise UserError(f"{name!r} is not of the form PATTERN{{SETTING=VALUE,...}}, each setting once")
    return found[1].strip(), settings


def slstm_positions(a: int, b: int, num_blocks: int) -> tuple[int, ...]:
    """The indices of the sLSTM blocks in `xlstm[a:b]` (the rule is in `expand`)."""
    if a + b == 0:
        raise UserError("xlstm[0:0] has no blocks; write xlstm[1:0] for mLSTM alone or xlstm[0:1] for sLSTM alone")
    if (a, b, num_blocks) in PUBLISHED_PLACEMENT:
        return PUBLISHED_PLACEMENT[a, b, num_blocks]
    if a and b and num_blocks < 2:
        raise UserError(f"xlstm[{a}:{b}] has both kinds of block and needs num_blocks >= 2, got {num_blocks}")
    fewest, most = int(b > 0), num_blocks - int(a > 0)
    count = min(max((2 * num_blocks * b + a + b) // (2 * (a + b)), fewest), most)  # rounded, half up
    return tuple(i for i in range(num_blocks) if (i + 1) * count // num_blocks > i * count // num_blocks)


def _block(name: str, pattern: str) -> str:
    name = ALIASES.get(name, name)
    if name not in BLOCK_NAMES:
        known = ", ".join((*BLOCK_NAMES, *ALIASES))
        raise UserError(f"unknown block {name!r} in {pattern!r}; have {known} and the pattern xlstm[a:b]")
    return name
