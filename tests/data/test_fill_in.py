"""Windows whose middle stands at the end."""

from dataclasses import replace
from random import Random

import pytest
import torch

from openxlstm.data import TextConfig, load_corpus, prepare
from openxlstm.data.corpus import source_fingerprint
from openxlstm.data.fill_in import FillInWindows, ask, marks_of
from openxlstm.data.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, fill_in_ids, fingerprint, load_tokenizer
from openxlstm.data.windows import IGNORE, RandomWindows
from openxlstm.errors import UserError

LINES = [f"def f{n}(x):\n    return x * {n} + {n % 7}  # é\n" for n in range(400)]


@pytest.fixture(params=["bytes psm", "bytes spm", "bpe psm", "bpe spm"])
def tokenizer(request):
    kind, order = request.param.split()
    if kind == "bytes":
        return ByteTokenizer(fill_in=order)
    pytest.importorskip("tokenizers")
    return BPETokenizer.train(LINES, 400, fill_in=order)


class Ids:
    """Documents of token ids."""

    def __init__(self, documents, tokenizer):
        self.ids, self.starts = [tokenizer.eos_id], []
        for text in documents:
            self.starts.append(len(self.ids) - 1)
            self.ids += [*tokenizer.encode(text), tokenizer.eos_id]
        self.num_tokens = len(self.ids)

    def read(self, start, stop):
        return torch.tensor(self.ids[start:stop]).numpy()

    def starts_in(self, start, stop):
        return torch.tensor([place for place in self.starts if start <= place < stop], dtype=torch.int64).numpy()


TEXT = "".join(LINES)


def windows(tokenizer, rate, documents=(TEXT,), context=48, rows=8, seed=0):
    return FillInWindows(RandomWindows(Ids(documents, tokenizer), context, rows, seed), tokenizer, rate, seed)


def parts(ids, tokenizer):
    """Prefix, suffix and middle of a row's tokens; None where it is plain text."""
    prefix, suffix, middle = marks_of(tokenizer)
    if ids[0] not in (prefix, suffix):
        return None
    b = ids.index(middle)
    first, second = sorted((ids.index(prefix), ids.index(suffix)))
    assert first == 0
    found = {ids[first]: ids[first + 1 : second], ids[second]: ids[second + 1 : b]}
    return found[prefix], found[suffix], ids[b + 1 : ids.index(tokenizer.eos_id, b)]


def test_marks_are_tokens_of_their_own(tokenizer, tmp_path):
    marks = fill_in_ids(tokenizer)
    assert len({*marks, tokenizer.eos_id}) == 4
    assert tokenizer.decode([*marks, *tokenizer.encode("x")]) == "x"
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert fill_in_ids(loaded) == marks
    assert (marks[0] < marks[1]) == (
        ask(loaded, "p", "s") == [marks[0], *loaded.encode("p"), marks[1], *loaded.encode("s"), marks[2]]
    )
    assert fingerprint(loaded) == fingerprint(tokenizer)
    plain = ByteTokenizer() if tokenizer.kind == "bytes" else BPETokenizer.train(["a b c"], 300)
    assert fill_in_ids(plain) is None
    assert fingerprint(plain) != fingerprint(tokenizer)
    plain.save(tmp_path / "plain")
    assert fill_in_ids(load_tokenizer(tmp_path / "plain")) is None


def test_parts_of_a_window_are_the_window(tokenizer):
    """Prefix, middle and suffix joined are a stretch of the text, which is of any length."""
    text = "".join(LINES)
    source = windows(tokenizer, 1.0)
    plain = source.windows
    moved, ends = 0, []
    for step in range(6):
        batch, before = source.batch(step), plain.batch(step)
        for row in range(8):
            read = int((batch.targets[row] != IGNORE).sum())
            found = parts([int(batch.inputs[row, 0]), *batch.targets[row, :read].tolist()], tokenizer)
            if found is None:  # begins or ends within a character
                assert torch.equal(batch.inputs[row], before.inputs[row])
                continue
            moved += 1
            prefix, suffix, middle = (tokenizer.decode(part).strip("\ufffd") for part in found)  # cut within a character
            assert prefix + middle + suffix in text
            whole = [*before.inputs[row].tolist(), int(before.targets[row, -1])]
            assert prefix + middle + suffix in tokenizer.decode(whole)
            ends.append(read)
            # every token is read and asked for, up to the end mark
            assert batch.targets[row, read - 1] == tokenizer.eos_id
            assert torch.equal(batch.inputs[row, 1:read], batch.targets[row, : read - 1])
            assert not batch.inputs[row, read:].any()
            assert bool((batch.targets[row, read:] == IGNORE).all())
    assert moved > 30
    assert max(ends) > 40
    assert min(ends) < 30


def test_the_rate(tokenizer):
    shares = {}
    for rate in (0.0, 0.5, 1.0):
        source = windows(tokenizer, rate, documents=["".join(LINES).replace("é", "e")], rows=16)
        rows = [row for step in range(10) for row in source.batch(step).inputs[:, 0].tolist()]
        shares[rate] = rows.count(min(marks_of(tokenizer))) / len(rows)
    assert shares[0.0] == 0
    assert abs(shares[0.5] - 0.5) < 0.12
    assert shares[1.0] > 0.97  # the window with the first token has the border of the document


def test_a_batch_is_a_function_of_seed_step_and_rank():
    tokenizer = ByteTokenizer(fill_in="psm")
    whole = windows(tokenizer, 0.5).batch(3)
    assert torch.equal(windows(tokenizer, 0.5).batch(3).inputs, whole.inputs)
    shares = [windows(tokenizer, 0.5).batch(3, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.inputs for part in shares]), whole.inputs)
    assert torch.equal(torch.cat([part.targets for part in shares]), whole.targets)
    assert not torch.equal(windows(tokenizer, 0.5).batch(4).inputs, whole.inputs)


def test_windows_with_two_documents_stay():
    tokenizer = ByteTokenizer(fill_in="psm")
    source = windows(tokenizer, 1.0, documents=["short"] * 300, context=32)
    assert torch.equal(source.batch(0).inputs, source.windows.batch(0).inputs)


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("", ""), ("a" * 50, ""), ("", "b" * 50), ("a" * 50, "b" * 50), ("aa", "b" * 50)]
)
def test_what_is_too_long_is_cut_at_the_outer_ends(prefix, suffix):
    tokenizer = ByteTokenizer(fill_in="psm")
    ids = ask(tokenizer, prefix, suffix, 23)
    assert len(ids) == min(len(prefix) + len(suffix), 20) + 3
    at = ids.index(258)
    assert prefix.endswith(tokenizer.decode(ids[1:at]))
    assert suffix.startswith(tokenizer.decode(ids[at:]))
    assert ids[-1] == 259
    if len(prefix) == len(suffix) == 50:
        assert at == 11
    assert len(ask(tokenizer, prefix, suffix)) == len(prefix) + len(suffix) + 3


def test_a_window_that_is_too_small_for_its_marks_stays():
    tokenizer = ByteTokenizer(fill_in="psm")
    source = windows(tokenizer, 1.0, context=3)
    assert source.moved(tokenizer.encode("abcd"), Random(0)) in (None, [257, 258, 259, 256])


def test_prepared_text_has_the_marks(tmp_path):
    (tmp_path / "a.py").write_text("".join(LINES))
    config = TextConfig(source=str(tmp_path / "a.py"), fill_in=0.3)
    text = prepare(config, tmp_path / "cache")
    assert fill_in_ids(text.tokenizer) == (258, 257, 259)  # the suffix is read first
    without = TextConfig(source=str(tmp_path / "a.py"))
    assert fill_in_ids(prepare(without, tmp_path / "cache").tokenizer) is None
    assert text.train.num_tokens == prepare(without, tmp_path / "cache").train.num_tokens
    # another rate is another training of the same tokens
    assert source_fingerprint(TextConfig(source=str(tmp_path / "a.py"), fill_in=0.9)) == source_fingerprint(config)
    assert source_fingerprint(without) != source_fingerprint(config)
    other = TextConfig(source=str(tmp_path / "a.py"), fill_in=0.3, fill_in_order="psm")
    assert fill_in_ids(prepare(other, tmp_path / "cache").tokenizer) == (257, 258, 259)
    assert source_fingerprint(replace(other, fill_in=0.0)) == source_fingerprint(without)
    assert list(load_corpus(config).train) == list(load_corpus(without).train)


def test_what_cannot_be_filled_in():
    with pytest.raises(UserError, match=r"fill_in=1.5 is not a share"):
        TextConfig(fill_in=1.5)
    with pytest.raises(UserError, match=r"fill_in_order='pms' is none of"):
        TextConfig(fill_in_order="pms")
    for kind in ("chars", "words"):
        with pytest.raises(UserError, match="needs the tokenizer 'bytes' or 'bpe'"):
            TextConfig(fill_in=0.5, tokenizer=kind)
    with pytest.raises(UserError, match=r"tokenizer \(chars\) has no marks"):
        marks_of(CharTokenizer("abc", eos=True))
    with pytest.raises(UserError, match="four special tokens make 260"):
        BPETokenizer.train(["x"], 258, fill_in="psm")
