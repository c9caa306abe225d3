"""Translation of aligned texts, line by line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from openxlstm.data.pairs import Pair, PairParts, aligned_parts
from openxlstm.tasks.pairs import SequencePairs
from openxlstm.tasks.task import Anchor
from openxlstm.tasks.text_scores import translation_scores, translation_signature


@dataclass(frozen=True, kw_only=True)
class Translation(SequencePairs):
    """What does a sentence mean in another language? Any two aligned files.

    Scored by BLEU and chrF (sacrebleu) of what a model writes. The baseline is the source itself, untranslated.

    source_language: what the names of the source files end in.
    target_language: what those of the target files end in.
    """

    name: ClassVar[str] = "translation"
    needs: ClassVar[str] = "a folder with train.de, train.en, val.de, ... test.en, or two aligned files as SOURCE,TARGET"
    score_names: ClassVar[tuple[str, ...]] = ("BLEU", "chrF")
    baseline: ClassVar[str] = "the source as it is"

    source_language: str = "de"
    target_language: str = "en"

    def read(self) -> PairParts:
        return aligned_parts(self.source, self.source_language, self.target_language)

    def scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        return translation_scores(written, references)

    def scored_by(self) -> str:
        return translation_signature()

    def without_model(self, pair: Pair) -> str:
        return pair.source


@dataclass(frozen=True, kw_only=True)
class Multi30k(Translation):
    """What does a German caption of a picture mean in English? 29,000 pairs.

    Elliott et al. 2016 (arXiv 1605.00459). Settings as `translation`; the test part is test_2016_flickr.
    """

    name: ClassVar[str] = "multi30k"
    needs: ClassVar[str] = "a folder with train, val and test_2016_flickr, each as .de and .en"

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """Of lowercased words, not of sacrebleu: an orientation."""
        if (self.source_language, self.target_language) != ("de", "en"):
            return ()
        where = "bentrevett/pytorch-seq2seq"
        scores = {"LSTM": 13.8, "GRU": 20.6, "GRU with attention": 28.3, "Transformer": 36.52}
        return tuple(Anchor(model, score, where) for model, score in scores.items())
