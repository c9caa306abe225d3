"""Every formal language against an answer key that reads the words of a sample and knows nothing of the generator."""

import itertools
from collections import Counter, deque

import pytest
import torch

from openxlstm.data.windows import IGNORE
from openxlstm.tasks import TASKS, FormalLanguage

LANGUAGES = [name for name, task in TASKS.items() if issubclass(task, FormalLanguage)]

# Vocabulary and 1 / s_rand, as the xLSTM paper's table has them.
PAPER = {
    "bucket_sort": (11, 10),
    "missing_duplicate": (11, 9),
    "odds_first": (12, 10),
    "repetition": (12, 10),
    "reverse_string": (12, 10),
    "stack_manipulation": (11, 4),
    "modular_arithmetic_brackets": (12, 5),
    "solve_equation": (14, 5),
    "cycle_navigation": (9, 5),
    "even_pairs": (3, 2),
    "parity": (3, 2),
    "modular_arithmetic": (10, 5),
    "majority": (64, 63),
    "majority_count": (64, 63),
    "set": (128, 126),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def read(task, batch, row):
    """The words of the question and of the answer of one sample; checks the layout on the way."""
    asked = batch.scored[row].nonzero()[:, 0].tolist()
    first, length = asked[0], int(batch.lengths[row])
    assert asked == list(range(first, length)), "the answer is one piece, up to the end"
    assert batch.inputs[row, first + 1 :].eq(0).all(), "padding while answering"
    assert batch.targets[row, length:].eq(IGNORE).all()
    words = [task.tokens[token] for token in batch.inputs[row, : first + 1]]
    assert "[PAD]" not in words
    return words, [task.tokens[token] for token in batch.targets[row, first:length]]


def parity(words):
    return ["ab"[words.count("b") % 2]]


def even_pairs(words):
    pairs = ["".join(pair) for pair in itertools.pairwise(words)]
    return ["ab"[(pairs.count("ab") + pairs.count("ba")) % 2]]


def cycle_navigation(words):
    ring = deque(range(5))
    for word in words:
        ring.rotate({"+": -1, "-": 1, "STAY": 0}[word])
    return [f"at{ring[0]}"]


def modular_arithmetic(words):
    assert words[-1] == "="
    return [str(eval("".join(words[:-1])) % 5)]


def solve_equation(words):
    assert words[-1] == "[ACT]"
    left, right = "".join(words[:-1]).split("=")
    (solution,) = [x for x in range(5) if eval(left, {"x": x}) % 5 == int(right)]
    return [str(solution)]


def stack_manipulation(words):
    assert words[-1] == "[ACT]"
    stack = []
    for word in words[:-1]:
        if word == "POP":
            del stack[-1:]
        else:
            stack.append(word.removeprefix("PUSH"))
    return stack[::-1]


def spoken(words):
    assert words[-1] == "[ACT]"
    return words[:-1]


def odds_first(words):
    said = spoken(words)
    return [word for place, word in enumerate(said, 1) if place % 2] + [
        word for place, word in enumerate(said, 1) if not place % 2
    ]


def missing_duplicate(words):
    half = len(words) // 2
    first, second = words[:half], words[half:]
    assert [a for a, b in zip(first, second) if b != "[MIS]"] == [b for b in second if b != "[MIS]"]
    return [first[second.index("[MIS]")]]


def majority(words):
    counts = Counter(words)
    return [min((word for word in counts if counts[word] == max(counts.values())), key=int)]


KEYS = {
    "parity": parity,
    "even_pairs": even_pairs,
    "cycle_navigation": cycle_navigation,
    "modular_arithmetic": modular_arithmetic,
    "modular_arithmetic_brackets": modular_arithmetic,
    "solve_equation": solve_equation,
    "stack_manipulation": stack_manipulation,
    "reverse_string": lambda words: spoken(words)[::-1],
    "repetition": spoken,
    "odds_first": odds_first,
    "missing_duplicate": missing_duplicate,
    "bucket_sort": lambda words: sorted(words, key=int),
    "majority": majority,
    "majority_count": lambda words: [str(max(Counter(words).values()))],
    "set": lambda words: list(dict.fromkeys(spoken(words))),
}


def test_the_suite_is_the_papers():
    assert set(LANGUAGES) == set(PAPER) == set(KEYS)
    assert len(LANGUAGES) == 15
    for name, (vocabulary, answers) in PAPER.items():
        task = TASKS[name]()
        assert len(task.tokens) == len(set(task.tokens)) == vocabulary
        assert task.signature.vocab_size == task.signature.num_classes == vocabulary
        assert task.chance(40) == 1 / answers
        assert task.metric.score(1 / answers) == pytest.approx(0, abs=1e-12)
        assert task.metric.score(1.0) == 1.0
        assert task.anchors


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("length", [2, 3, 5, 8, 17, 40, 90])
def test_answers(name, length):
    task = TASKS[name]()
    length = max(length, task.min_length)
    batch = task.sample(60, length, rng(length))
    assert length - 1 <= batch.inputs.shape[1] <= length
    assert batch.lengths.max() <= batch.inputs.shape[1]
    answers = set()
    for row in range(60):
        words, answer = read(task, batch, row)
        assert answer == KEYS[name](words), words
        answers.update(answer)
    assert len(answers) <= PAPER[name][1]


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_answer_comes_and_samples_differ(name):
    task = TASKS[name]()
    batch = task.sample(2000, 24, rng())
    seen = Counter(batch.targets[batch.scored].tolist())
    if name == "majority_count":
        assert set(seen) <= set(range(1, 13)), "of 24 letters out of 63 the most frequent comes a few times"
    else:
        assert len(seen) == PAPER[name][1]
    assert len({tuple(row) for row in batch.inputs.tolist()}) > 1900
    again = task.sample(2000, 24, rng())
    assert all(torch.equal(a, b) for a, b in zip(again, batch)), "a sample is a function of the generator"


@pytest.mark.parametrize(
    ("name", "length", "space"),
    [
        ("parity", 4, 2**4),
        ("even_pairs", 4, 2**4),
        ("cycle_navigation", 3, 3**3),
        ("modular_arithmetic", 4, 5 * 3 * 5),
        ("bucket_sort", 3, 10**2),
        ("repetition", 4, 10**2),
        ("missing_duplicate", 4, 9 * 9 * 2),
        ("majority", 1, 63),
        ("set", 2, 126),
        ("modular_arithmetic_brackets", 4, 5),  # (d) =
        ("solve_equation", 4, 5),  # x = d [ACT]
        ("stack_manipulation", 5, 4 * 5 - 4),  # a letter, then POP or PUSH; POP would leave nothing
    ],
)
def test_all_of_a_small_space_is_equally_likely(name, length, space):
    """Counts of 200 on average: five standard deviations of a binomial are 70."""
    batch = TASKS[name]().sample(200 * space, length, rng())
    counts = Counter(map(tuple, batch.inputs.tolist()))
    assert len(counts) == space
    assert 130 < min(counts.values()) <= max(counts.values()) < 270


def frequencies(tokens):
    return Counter(tokens.flatten().tolist())


def assert_even(counts, symbols):
    """Each about equally often, within six standard deviations of a binomial count."""
    total = sum(counts[symbol] for symbol in symbols)
    mean = total / len(symbols)
    assert all(abs(counts[symbol] - mean) < 6 * mean**0.5 for symbol in symbols), counts


def test_expressions():
    """Digits and operators are even; left sides of every length come; all brackets close."""
    task = TASKS["modular_arithmetic_brackets"]()
    batch = task.sample(3000, 12, rng())
    counts = {task.tokens[token]: count for token, count in frequencies(batch.inputs).items()}
    assert_even(counts, "01234")
    assert counts["("] == counts[")"]
    assert counts["*"] > 500
    lefts = Counter()
    for row in batch.inputs.tolist():
        words = [task.tokens[token] for token in row]
        depth = list(itertools.accumulate({"(": 1, ")": -1}.get(word, 0) for word in words))
        lefts[next(i for i in range(2, 12) if depth[i] == 1 and words[i] in "+-*" and words[i - 1] not in "(+-*")] += 1
    # of 11 symbols three are brackets and the operator: left sides of 1 to 7 symbols, the operator at 2 to 8
    assert_even(lefts, range(2, 9))


def test_where_x_is():
    task = TASKS["solve_equation"]()
    x = task.tokens.index("x")
    batch = task.sample(3000, 10, rng())  # expressions of seven symbols
    assert (batch.inputs == x).sum(1).eq(1).all()
    assert task.tokens.index("*") not in batch.inputs
    digits = {place for place in range(7) if (batch.inputs[:, place] == x).any()}
    assert len(digits) > 3


def test_what_is_done_to_the_stack():
    task = TASKS["stack_manipulation"]()
    batch = task.sample(4000, 30, rng())  # of 15 letters and actions at least one is an action
    last = batch.inputs[:, 14].tolist()
    assert_even(Counter(last), range(2, 7))
    letters = Counter((batch.inputs[:, :15] >= 7).sum(1).tolist())
    assert_even(letters, range(1, 15))


def test_the_gap_is_anywhere_in_the_second_half():
    batch = TASKS["missing_duplicate"]().sample(4000, 16, rng())
    places = (batch.inputs == 1).nonzero()[:, 1].tolist()
    assert len(places) == 4000
    assert_even(Counter(places), range(8, 16))


def test_counts_stop_at_the_last_letter():
    task = TASKS["majority_count"]()
    letters = torch.ones(1, 70, dtype=torch.int64)
    from openxlstm.tasks.counting import occurrences

    assert occurrences(letters, 64).max() == 70
    assert task.sample(4, 6000, rng()).targets.max() == 63
