"""The loss of CTC against all alignments, and error rates by hand."""

import itertools
import math

import pytest
import torch

from openxlstm.data.windows import IGNORE
from openxlstm.training.evaluation.speech import character_edits, guess, word_edits
from openxlstm.training.loss import transcript_loss


def nats(log_probs, labels):
    """-log of the sum over all alignments."""
    total, rows = 0.0, log_probs.tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(rows)):
        if [label for label, _ in itertools.groupby(path) if label] == labels:
            total += math.exp(sum(row[label] for row, label in zip(rows, path)))
    return -math.log(total)


def test_the_loss_is_that_of_all_alignments():
    """Rows of other lengths; what stands behind a row's steps changes nothing."""
    log_probs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    targets = torch.tensor([[5, 1, 1, 2], [4, 3, IGNORE, IGNORE], [2, 2, 1, IGNORE]])
    found = transcript_loss(log_probs, targets)
    expected = [nats(log_probs[0], [1, 1, 2]), nats(log_probs[1, :4], [3]), nats(log_probs[2, :2], [2, 1])]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert transcript_loss(log_probs[:1], torch.tensor([[3, 1, 1, 2]])).tolist() == [0.0], "four steps are needed"


def test_error_rates_by_hand():
    pytest.importorskip("jiwer")
    words = word_edits(["one two three", "four five"], ["one three", "four six five"])
    assert (words.substitutions, words.deletions, words.insertions, words.total) == (0, 1, 1, 5)
    assert words.rate == 2 / 5
    letters = character_edits(["one two"], ["one too"])
    assert (letters.substitutions, letters.total, letters.rate) == (1, 7, 1 / 7)
    assert word_edits(["one"], [""]).rate == 1.0
    texts = ["one two one", "six", "two two six one"]
    tried = [" ".join([word] * times) for word in ("one", "two", "six") for times in range(6)]
    assert guess(texts) == pytest.approx(min(word_edits(texts, [answer] * 3).rate for answer in tried))
    assert guess(["one one two", "one two two"]) == 0.5, "any text of one or two ones gets three of six words wrong"
