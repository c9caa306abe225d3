import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from openxlstm.data import ByteTokenizer, write_shards
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.training import evaluate
from openxlstm.training import loss as loss_module
from openxlstm.training.evaluation.text import count_tokens
from openxlstm.training.loss import TokenLoss

DOCUMENTS = ["first document, a short one", "the second, ünïcode and more of it " * 3, "third"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_shards(DOCUMENTS, ByteTokenizer(), tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LanguageModelConfig(vocab_size=257, dim=16, num_heads=2, blocks=("mlstm", "slstm", "attention"), dropout=0.3)
    return LanguageModel(config).double()


def whole_loss(model, tokens):
    """Each document alone, token after token, from its eos on: the definition."""
    nats = 0.0
    starts = [*tokens.document_starts, tokens.num_tokens - 1]
    model.eval()
    for start, stop in itertools.pairwise(starts):
        piece = torch.from_numpy(tokens.read(start, stop + 1))
        with torch.no_grad():
            logits, _ = model(piece[None, :-1])
        nats += F.cross_entropy(logits[0], piece[1:], reduction="sum").item()
    model.train()
    return nats / (tokens.num_tokens - 1)


# The loss is computed in fp32 from fp64 logits: 1e-6 relative is a few of its roundings.
@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_long_window_is_the_loss_of_each_document_alone(model, tokens, batch_size):
    found = evaluate(model, tokens, 10_000, batch_size=batch_size)
    assert found.nats_per_token == pytest.approx(whole_loss(model, tokens), rel=1e-6)
    assert found.num_tokens == tokens.num_tokens - 1
    num_bytes = sum(len(document.encode()) for document in DOCUMENTS)
    assert found.bits_per_byte == pytest.approx(found.nats_per_token * found.num_tokens / math.log(2) / num_bytes)
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))
    assert model.training, "the mode is as it was, and dropout was off in between"


def test_a_carried_state_makes_windows_disappear(model, tokens):
    found = evaluate(model, tokens, 7, batch_size=1, carry=True)
    assert found.nats_per_token == pytest.approx(whole_loss(model, tokens), rel=1e-6)


def test_the_batch_size_does_not_matter(model, tokens):
    alone = evaluate(model, tokens, 9, batch_size=1)
    together = evaluate(model, tokens, 9, batch_size=4)
    assert alone.nats_per_token == pytest.approx(together.nats_per_token, rel=1e-6)
    assert alone.nats_per_token != pytest.approx(whole_loss(model, tokens), rel=1e-6), "short windows do cut"


def test_positions_add_up(model, tokens):
    found = evaluate(model, tokens, 16)
    assert [(start, stop) for start, stop, _, _ in found.by_position] == [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16)]
    total = sum(nats * count for _, _, nats, count in found.by_position)
    assert total == pytest.approx(found.nats_per_token * found.num_tokens)


def test_a_part_of_the_text_and_words(model, tokens):
    found = evaluate(model, tokens, 8, max_tokens=20, num_bytes=18, num_words=4)
    assert found.num_tokens == 20
    assert found.bits_per_byte == pytest.approx(20 * found.nats_per_token / math.log(2) / 18)
    assert found.word_perplexity == pytest.approx(math.exp(20 * found.nats_per_token / 4))
    assert evaluate(model, tokens, 8, max_tokens=20).bits_per_byte is None, "the size of a part is not known here"


def test_chunks_change_neither_loss_nor_gradients(model, monkeypatch):
    ids = torch.randint(257, (2, 13), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, 1).masked_fill(ids < 30, -100)
    results = []
    for at_once in (2**24, 257 * 5):  # all at once, then five tokens at a time
        monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
        model.zero_grad()
        model.eval()
        nats, _ = TokenLoss(model)(ids, targets)
        nats.sum().backward()
        results.append((nats.detach(), [p.grad.clone() for p in model.parameters()]))
    (whole, gradients), (cut, cut_gradients) = results
    torch.testing.assert_close(cut, whole)
    for a, b in zip(cut_gradients, gradients):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert torch.all(whole[targets == -100] == 0)
    model.train()


def test_by_frequency(model, tokens):
    frequencies = count_tokens(tokens, 257)
    assert frequencies.tolist() == torch.from_numpy(tokens.read(0, tokens.num_tokens)).bincount(minlength=257).tolist()
    assert count_tokens(tokens, 257, most=10).sum() == 10
    found = evaluate(model, tokens, 20, frequencies=frequencies)
    parts = found.by_frequency
    assert 5 <= len(parts) <= 10
    assert sum(count for *_, count in parts) == found.num_tokens
    assert sum(nats * count for _, _, nats, count in parts) / found.num_tokens == pytest.approx(found.nats_per_token)
    for (_, high, _, _), (low, _, _, _) in itertools.pairwise(parts):
        assert high <= low, "from the rarest to the most frequent"
    assert evaluate(model, tokens, 20).by_frequency is None


def test_the_loss_of_each_tenth_is_that_of_its_tokens(tokens):
    """A model that gives every token the same probability has the same loss everywhere."""
    flat = LanguageModel(LanguageModelConfig(vocab_size=257, dim=16, num_heads=2, blocks=("mlstm",)))
    torch.nn.init.zeros_(flat.lm_head.weight)
    found = evaluate(flat, tokens, 20, frequencies=count_tokens(tokens, 257))
    assert [nats for _, _, nats, _ in found.by_frequency] == pytest.approx([math.log(257)] * len(found.by_frequency))
