"""What the formal languages share: one vocabulary for questions and answers, the layout, the score.

The suite is that of Delétang et al. 2023 ("Neural Networks and the Chomsky Hierarchy") as the xLSTM paper (arXiv 2405.04517,
fig. 4 and 12, app. B) runs it: larger alphabets, one vocabulary whose first token is padding, answers after the question, and
the model does not see its answers. So

    step      1  2  3  4      5      6
    reads     d  a  c  [ACT]  [PAD]  [PAD]
    answers            d      a      c

with [ACT] only in the tasks whose vocabulary has one; in the others the first answer is due at the last token of the question.
A length counts all these steps. Sizes of vocabularies and chance levels are those of the paper's table.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from openxlstm.data.windows import IGNORE
from openxlstm.tasks.generated import GeneratedTask
from openxlstm.tasks.published import formal_language_anchors
from openxlstm.tasks.task import ACCURACY, Anchor, Batch, Metric, Signature

PAD = 0


@dataclass(frozen=True, kw_only=True)
class FormalLanguage(GeneratedTask):
    """A task of the suite. Scaled accuracy (accuracy - s_rand) / (1 - s_rand) on the answers, s_rand = 1 / num_answers."""

    tokens: ClassVar[tuple[str, ...]]
    """The vocabulary, by number; the first is padding."""
    num_answers: ClassVar[int]
    """Tokens that can be answers, as the paper counts them."""

    @property
    def signature(self) -> Signature:
        return Signature(vocab_size=len(self.tokens), num_classes=len(self.tokens))

    @property
    def metric(self) -> Metric:
        return replace(ACCURACY, name="scaled accuracy", floor=1 / self.num_answers)

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return formal_language_anchors(self.name)

    def chance(self, length: int) -> float:
        """s_rand of the paper."""
        return 1 / self.num_answers


def numbered(prefix: str, count: int) -> tuple[str, ...]:
    """Names of the letters of an alphabet."""
    return tuple(f"{prefix}{number}" for number in range(count))


def layout(question: Tensor, answer: Tensor, answer_length: Tensor | None = None) -> Batch:
    """The samples in which `answer` [B, A] follows `question` [B, Q], whose last token asks for it.

    answer_length: [B], where the answers are of different lengths, at least 1; what is beyond it in `answer` does not count.
    """
    batch, asked = question.shape
    given = answer.shape[1]
    lengths = torch.full((batch,), given) if answer_length is None else answer_length
    inputs = torch.cat([question, torch.full((batch, given - 1), PAD)], 1)
    targets = torch.cat([torch.full((batch, asked - 1), IGNORE), answer], 1)
    beyond = torch.arange(given) >= lengths[:, None]  # [B, A]
    targets[:, asked - 1 :].masked_fill_(beyond, IGNORE)
    return Batch(inputs, targets, asked - 1 + lengths)
