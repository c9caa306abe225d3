"""Beam search: what it finds, that company changes nothing, and what is shown on the way."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from openxlstm import EncoderDecoder, EncoderDecoderConfig
from openxlstm.data import ByteTokenizer
from openxlstm.errors import UserError
from openxlstm.inference import complete
from openxlstm.inference.beam import UNITS, BeamSearch, beam_search, length_penalty
from openxlstm.inference.sampling import GREEDY
from openxlstm.inference.translate import Translator
from openxlstm.ops.state import leaves, select

END = 256


def untrained(bridge="cross_attention", kinds=("mlstm", "slstm"), seed=0):
    """A model with opinions: logits of several nats, and an end now and then."""
    torch.manual_seed(seed)
    config = EncoderDecoderConfig(
        vocab_size=257, dim=16, num_heads=2, blocks=kinds, encoder_blocks=() if bridge == "prefix" else kinds, bridge=bridge
    )
    model = EncoderDecoder(config).double().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(6)
        model.lm_head.weight[END].mul_(2)
    return model


TEXTS = ["hello", "a", "a longer text", "xyz " * 7, "bb", "öä", "again", "a"]


@pytest.mark.parametrize(
    ("bridge", "kinds"),
    [
        ("cross_attention", ("mlstm", "slstm")),
        ("state", ("mlstm", "slstm")),
        ("prefix", ("mlstm", "slstm")),
        ("cross_attention", ("attention", "lstm")),
    ],
)
@pytest.mark.parametrize("beam", [1, 4])
def test_a_text_is_written_alone_as_in_any_company(bridge, kinds, beam):
    """Tokens and scores are equal, not only close."""
    how = Translator(model=untrained(bridge, kinds), tokenizer=ByteTokenizer(), beam=beam, max_tokens=12, chunk=5)
    alone = [how.translate([text])[0] for text in TEXTS]
    assert how.translate(TEXTS) == alone
    assert how.translate(TEXTS[::-1], rows=3) == alone[::-1]
    assert len({one.text for one in alone}) > 3
    assert any(one.ended for one in alone)


def test_one_hypothesis_is_greedy():
    model = untrained()
    state = model.encode(torch.tensor([[1, 2, 3]]))
    ids, expected, log_probability = torch.tensor([[END]]), [], 0.0
    for _ in range(10):
        logits, state = model(ids, state)
        ids = logits[:, -1:].argmax(-1)
        log_probability += float(logits[0, -1].detach().log_softmax(-1).max())
        if int(ids) == END:
            break
        expected.append(int(ids))
    ((found,),) = beam_search(model, model.encode(torch.tensor([[1, 2, 3]])), eos_id=END, longest=[10])
    assert list(found.tokens) == expected
    assert found.log_probability == pytest.approx(log_probability, abs=20 / UNITS)


@pytest.mark.parametrize("bridge", ["cross_attention", "state", "prefix"])
def test_what_generates_text_writes_targets_too(bridge):
    """`complete` takes what `encode` returns as the state to start from, and the end token as the prompt."""
    model = untrained(bridge).float()
    sources = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = beam_search(model, model.encode(sources), eos_id=END, longest=[8, 8])
    options = dict(eos_id=END, sampling=GREEDY, state=model.encode(sources))
    assert complete(model, [[END]] * 2, 8, **options) == [list(one[0].tokens) for one in found]


class TableState(NamedTuple):
    written: torch.Tensor  # [B, T]

    def reorder(self, rows):
        return select(self, rows)


class Table(nn.Module):
    """A language of three letters and an end, whose probabilities depend on the last two letters: small enough to list."""

    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(1.5 * torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(seed)).double())

    def forward(self, ids, state):
        written = torch.cat([state.written, ids], 1)
        return self.weight[written[:, -2], written[:, -1]][:, None], TableState(written)

    def start(self, texts):
        return TableState(torch.zeros(texts, 1, dtype=torch.int64))


def every_text(model, longest, power):
    """Score -> text, of all texts that end within `longest` tokens."""
    found = {}
    for length in range(longest):
        for letters in itertools.product(range(3), repeat=length):
            path, total = [0, 3, *letters, 3], 0.0
            for a, b, c in zip(path, path[1:], path[2:]):
                total += float(model.weight[a, b].detach().log_softmax(-1)[c])
            found[total / length_penalty(length + 1, power)] = letters
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_texts(seed, power):
    model = Table(seed)
    listed = every_text(model, 5, power)
    (found,) = beam_search(model, model.start(1), eos_id=3, longest=[5], beam=300, power=power)
    assert found[0].tokens == listed[max(listed)]
    assert found[0].score == pytest.approx(max(listed), abs=20 / UNITS)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_more_hypotheses_find_what_one_does_not():
    better = 0
    for seed in range(20):
        model = Table(seed)
        one, four = (
            beam_search(model, model.start(1), eos_id=3, longest=[8], beam=beam, power=0.0)[0][0].score for beam in (1, 4)
        )
        better += four > one + 1e-3
    assert better >= 3


def test_the_penalty_prefers_longer_texts():
    assert length_penalty(1, 1.0) == 1
    assert length_penalty(7, 2.0) == 4
    lengths = dict.fromkeys((0.0, 3.0), 0)
    for seed, power in itertools.product(range(10), lengths):
        model = Table(seed)
        lengths[power] += len(beam_search(model, model.start(1), eos_id=3, longest=[8], beam=6, power=power)[0][0].tokens)
    assert lengths[3.0] > lengths[0.0]


def test_what_was_shown_stays():
    """The tokens that all hypotheses share grow, and end as the best of them."""
    model = untrained(seed=3)
    search = BeamSearch(model, model.encode(torch.tensor([[1, 2], [3, 4]])), eos_id=END, longest=[9, 5], beam=3)
    shown = [(), ()]
    for agreed in search:
        for text in range(2):
            assert agreed[text][: len(shown[text])] == shown[text]
        shown = agreed
    assert shown == [hypotheses[0].tokens for hypotheses in search.found]
    assert len(search.found[1][0].tokens) <= 5


@pytest.mark.parametrize("beam", [1, 4])
def test_streams_join_to_the_text(beam):
    how = Translator(model=untrained(seed=1), tokenizer=ByteTokenizer(), beam=beam, max_tokens=20)
    pieces = list(how.stream("öffne"))
    assert "".join(pieces) == how.translate(["öffne"])[0].text
    assert len(pieces) > 1 or beam > 1, "one hypothesis agrees with itself"


def test_a_cut_off_text_says_so_and_the_state_is_left_alone():
    model = untrained()
    with torch.no_grad():
        model.lm_head.weight[END] = 0
        model.decoder.norm.weight[0] = 0
        model.decoder.norm.bias = nn.Parameter(torch.eye(16, dtype=torch.float64)[0])
        model.lm_head.weight[END, 0] = -100  # the first hidden unit is always 1: this is a bias
    state = model.encode(torch.tensor([[1, 2, 3]]))
    before = [leaf.clone() for leaf in leaves(state)]
    (found,) = beam_search(model, state, eos_id=END, longest=[3], beam=2)
    assert {(len(one.tokens), one.ended) for one in found} == {(3, False)}
    assert all(torch.equal(a, b) for a, b in zip(before, leaves(state)))


def test_a_long_source_costs_one_state():
    """With the bridge "prefix" a source is read in pieces, and nothing grows with its length."""
    how = Translator(model=untrained("prefix"), tokenizer=ByteTokenizer(), chunk=16)
    short, long = (how.encode([how.source("word " * count)]) for count in (2, 400))
    assert [leaf.shape for leaf in leaves(short)] == [leaf.shape for leaf in leaves(long)]
    seen = []
    encode = how.model.encode
    how.model.encode = lambda ids, mask=None, state=None: seen.append(ids.shape[1]) or encode(ids, mask, state)
    how.encode([how.source("word " * 400)])
    assert max(seen) == 16


def test_tokens_beyond_the_tokenizer_are_never_written():
    model = untrained()
    (found,) = beam_search(model, model.encode(torch.tensor([[1]])), eos_id=2, longest=[6], beam=4, vocab_size=5)
    assert all(token < 5 for one in found for token in one.tokens)


def test_what_makes_no_sense_is_refused():
    model = untrained()
    state = model.encode(torch.tensor([[1]]))
    for options, message in (
        (dict(beam=0), "beam must be at least 1, got 0"),
        (dict(power=-1.0), "the length penalty must be 0 or above"),
        (dict(power=math.nan), "the length penalty must be 0 or above"),
        (dict(longest=[0]), "the longest length must be at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=message):
            beam_search(model, state, **{"eos_id": END, "longest": [3], **options})
    with pytest.raises(UserError, match="the text is empty"):
        Translator(model=model, tokenizer=ByteTokenizer()).translate(["a", " "])
    with pytest.raises(UserError, match="beam must be at least 1"):
        Translator(model=model, tokenizer=ByteTokenizer(), beam=0)
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        beam_search(model, model.encode(torch.tensor([[1]])), eos_id=END, longest=[3])
