"""Summaries of texts in .jsonl files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from openxlstm.data.pairs import Pair, PairParts, json_parts
from openxlstm.tasks.pairs import SequencePairs
from openxlstm.tasks.text_scores import summary_scores, summary_signature


@dataclass(frozen=True, kw_only=True)
class Summaries(SequencePairs):
    """What does a text say, in short? Any .jsonl with a text and its summary in each line.

    Scored by ROUGE (rouge-score, F1 with stemming; the best of several references) of what a model writes. The baseline is the
    first sentence.

    source_key: where the text stands: a string, or a list of sentences.
    target_key: where the summary stands: a string, or a list of several that are all right.
    """

    name: ClassVar[str] = "summaries"
    needs: ClassVar[str] = "a .jsonl file with a text and its summary in each line, or a folder with train, val and test.jsonl"
    score_names: ClassVar[tuple[str, ...]] = ("ROUGE-1", "ROUGE-2", "ROUGE-L")
    baseline: ClassVar[str] = "the first sentence"
    shorter: ClassVar[bool] = True

    source_key: str = "source"
    target_key: str = "target"

    def read(self) -> PairParts:
        return json_parts(self.source, self.source_key, self.target_key)

    def scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        return summary_scores(written, references)

    def scored_by(self) -> str:
        return summary_signature()

    def without_model(self, pair: Pair) -> str:
        return pair.lead


@dataclass(frozen=True, kw_only=True)
class SciTLDR(Summaries):
    """What does a paper say, in one sentence? 1,992 abstracts of computer science.

    Cachola et al. 2020 (arXiv 2004.15011). Settings as `summaries`.
    """

    name: ClassVar[str] = "scitldr"
    needs: ClassVar[str] = "the folder SciTLDR-A with train.jsonl, dev.jsonl and test.jsonl"


@dataclass(frozen=True, kw_only=True)
class DialogSum(Summaries):
    """What was a conversation about? Dialogues of daily life.

    Chen et al. 2021 (arXiv 2105.06762). Settings as `summaries`.
    """

    name: ClassVar[str] = "dialogsum"
    needs: ClassVar[str] = "dialogsum.dev.jsonl, or a folder with train.jsonl, dev.jsonl and test.jsonl"

    source_key: str = "dialogue"
    target_key: str = "summary"
