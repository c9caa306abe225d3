"""Scores of texts that were written: BLEU and chrF by sacrebleu, ROUGE by rouge-score."""

from collections.abc import Sequence
from typing import Any

from openxlstm.errors import missing_extra


def translation_scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU and chrF of a whole corpus, 0 to 100, with sacrebleu's defaults (tokenizer 13a, mixed case, exponential smoothing).

    references: for each text one or more that are right. Texts with fewer references than others are scored against those.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise missing_extra("sacrebleu", "text", "scoring translations") from None
    most = max(map(len, references))
    columns: Any = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
    return {
        "BLEU": float(BLEU().corpus_score(list(written), columns).score),
        "chrF": float(CHRF().corpus_score(list(written), columns).score),
    }


def translation_signature() -> str:
    """sacrebleu's signature of the BLEU above: what makes scores comparable."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])  # it has none before
    return str(metric.get_signature())


def summary_signature() -> str:
    """The same of the ROUGE below."""
    from importlib.metadata import version

    return f"rouge-score {version('rouge-score')}, F1, stemmed, best of several references"


def summary_scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 100, with stemming; of several references the best, for each."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise missing_extra("rouge-score", "text", "scoring summaries") from None
    names = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
    scorer: Any = RougeScorer(list(names.values()), use_stemmer=True)
    found = [scorer.score_multi(list(right), text) for text, right in zip(written, references, strict=True)]
    return {name: 100 * sum(one[key].fmeasure for one in found) / len(found) for name, key in names.items()}
