"""The text between two others."""

from typing import Any

from openxlstm.inference.load import LoadedRun
from openxlstm.inference.sampling import Sampling
from openxlstm.inference.text import TextStream


def fill_in(
    run: LoadedRun,
    prefix: str,
    suffix: str,
    max_new_tokens: int = 128,
    *,
    sampling: Sampling | None = None,
    seed: int | None = 0,
    **options: Any,
) -> str:
    """What a model puts between `prefix` and `suffix`, until it ends the middle or for `max_new_tokens`.

    run: of `load_run`, trained with `data.fill_in` above 0. sampling: None = always the likeliest token. options: as of a
    TextStream. Raises UserError for a model whose tokenizer has no marks for filling in.
    """
    sampling = sampling or Sampling(temperature=0)
    return "".join(
        TextStream(run.model, run.tokenizer, prefix, max_new_tokens, suffix=suffix, sampling=sampling, seed=seed, **options)
    )
