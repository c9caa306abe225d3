"""Tasks of pairs: tokens, batches and scores."""

from dataclasses import replace

import pytest
import torch

from openxlstm.data import ByteTokenizer
from openxlstm.errors import UserError
from openxlstm.tasks import TASKS
from wordpairs import write_summaries, write_translations

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    return TASKS["translation"](source=str(write_translations(tmp_path_factory.mktemp("pairs") / "numbers")), vocab_size=300)


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    return TASKS["summaries"](source=str(write_summaries(tmp_path_factory.mktemp("pairs") / "texts")), vocab_size=400)


def test_both_texts_have_one_vocabulary_and_an_end(translation):
    tokenizer, pair = translation.text_tokenizer, translation.token_pairs("train")[5]
    assert tokenizer.vocab_size <= 300
    assert (tokenizer.decode(pair.source), tokenizer.decode(pair.target)) == (
        translation.pairs.train[5].source,
        translation.pairs.train[5].targets[0],
    )
    assert pair.source[-1] == pair.target[-1] == tokenizer.eos_id


def test_batches(translation):
    batch = translation.train_batch(6, torch.Generator().manual_seed(0))
    inputs, end = batch.inputs, translation.text_tokenizer.eos_id
    assert inputs.shape == batch.targets.shape
    assert (inputs.target[:, 0] == end).all()
    for row in range(6):
        target = batch.targets[row][batch.scored[row]]
        assert torch.equal(inputs.target[row, 1 : len(target)], target[:-1]), "the token before is read"
        assert target[-1] == end
        source = inputs.source[row][inputs.mask[row]]
        assert source[-1] == end
        assert batch.lengths[row] == len(source) + len(target)
    assert batch.num_tokens == int(inputs.mask.sum() + batch.scored.sum())
    some = batch.rows(slice(1, 3)).to("cpu")
    assert torch.equal(some.inputs.source, inputs.source[1:3])
    assert torch.equal(some.reset, torch.zeros_like(some.targets, dtype=torch.bool))


def test_every_pair_is_evaluated_once(translation):
    rows = []
    for _, batch in translation.evaluation("test", translation.reports[0]):
        mask = torch.ones_like(batch.inputs.source).bool() if batch.inputs.mask is None else batch.inputs.mask
        rows += [row[valid].tolist() for row, valid in zip(batch.inputs.source, mask)]
    assert sorted(rows) == sorted(pair.source for pair in translation.token_pairs("test"))
    with pytest.raises(UserError, match="is scored on all lengths of the test part, "):
        next(translation.evaluation("test", "3"))


def test_long_texts(summaries):
    short = replace(summaries, max_source=6, max_target=8)
    pairs, whole = short.token_pairs("train"), summaries.token_pairs("train")
    assert {len(pair.source) for pair in pairs} == {6}
    assert all(pair.source[-1] == summaries.text_tokenizer.eos_id for pair in pairs)
    assert len(pairs) == sum(len(pair.target) <= 8 for pair in whole)
    assert short.token_pairs("test") == summaries.token_pairs("test"), "what is reported is never cut"
    with pytest.raises(UserError, match=r"data\.max_target=1 leaves no pair to train on"):
        replace(summaries, max_target=1).token_pairs("train")


def test_scores_of_translations(translation):
    pytest.importorskip("sacrebleu")
    right = [["two young men are near many bushes ."], ["a small child climbs on ropes ."]]
    assert translation.scores([texts[0] for texts in right], right) == pytest.approx({"BLEU": 100, "chrF": 100})
    # 1-grams 6/7, 2-grams 4/6, 3-grams 2/5, 4-grams 1/4; equal length: (6/7 * 4/6 * 2/5 * 1/4) ** (1/4)
    found = translation.scores(["a small kid climbs on ropes ."], [right[1]])
    assert found["BLEU"] == pytest.approx(100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    assert 0 < found["chrF"] < 100
    assert translation.scores(["b", "x"], [["a", "b"], ["x"]])["chrF"] == pytest.approx(100), "the best of several references"
    assert "tok:13a" in translation.scored_by()


def test_scores_of_summaries(summaries):
    pytest.importorskip("rouge_score")
    found = summaries.scores(["anna bought apples"], [["anna bought seven apples", "nothing"]])
    assert found["ROUGE-1"] == pytest.approx(100 * 2 * 1 * 0.75 / 1.75)
    assert found["ROUGE-2"] == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert "rouge-score" in summaries.scored_by()
    lead = [summaries.without_model(pair) for pair in summaries.pairs.test]
    assert lead[0].startswith("Anna went to the market")
    assert 30 < summaries.scores(lead, [pair.targets for pair in summaries.pairs.test])["ROUGE-1"] < 90


def test_a_tokenizer_of_ones_own(translation, tmp_path):
    ByteTokenizer().save(tmp_path)
    task = replace(translation, tokenizer=str(tmp_path))
    assert task.token_pairs("test")[0].source == [*task.pairs.test[0].source.encode(), 256]
    assert task.fingerprint != translation.fingerprint


def test_files_that_change_are_read_again(tmp_path):
    task = TASKS["translation"](source=str(write_translations(tmp_path)), vocab_size=300)
    before = task.fingerprint
    assert task.fingerprint == before
    write_translations(tmp_path, train=150)
    assert task.fingerprint != before


def test_settings_that_make_no_sense():
    for settings, message in (
        (dict(beam=0), r"data\.beam=0 must be at least 1"),
        (dict(label_smoothing=1.0), r"data\.label_smoothing=1\.0 must be in \[0, 1\)"),
        (dict(vocab_size=200), r"data\.vocab_size=200 is too small"),
        (dict(max_source=-1), r"data\.max_source=-1 must not be negative"),
        (dict(length_penalty=-1.0), r"data\.length_penalty=-1\.0 must not be negative"),
    ):
        with pytest.raises(UserError, match=message):
            TASKS["multi30k"](**settings)
    with pytest.raises(UserError, match="task multi30k needs --data: a folder with train"):
        TASKS["multi30k"]().token_pairs("train")
