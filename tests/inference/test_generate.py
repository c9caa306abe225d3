"""Generation against the plainest possible loop: run the model over everything read so far, take the last logits."""

import gc

import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.inference import Sampling, complete, generate
from openxlstm.inference.generate import pad_left
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.ops.state import leaves

V = 19
GREEDY = Sampling(temperature=0.0)


def make_model(*blocks, seed=0, **options):
    torch.manual_seed(seed)
    model = LanguageModel(LanguageModelConfig(vocab_size=V, dim=16, num_heads=2, blocks=blocks, **options)).double()
    with torch.no_grad():  # larger weights than at initialisation, so that what was read decides what comes
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model("mlstm", "slstm")


@pytest.fixture(scope="module", params=["mlstm,slstm", "mlstm_large", "lstm", "attention", "ssd", "mlstm,slstm,attention"])
def any_model(request):
    return make_model(*request.param.split(","))


def prompts(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(V, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def plain_greedy(model, prompt, n):
    ids = list(prompt)
    for _ in range(n):
        logits, _ = model(torch.tensor([ids]))
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_the_loop_without_a_state(any_model):
    (prompt,) = prompts(7)
    assert complete(any_model, [prompt], 20, sampling=GREEDY) == [plain_greedy(any_model, prompt, 20)]


def test_what_was_read_decides_what_comes(model):  # or the tests here would compare constants
    texts = {tuple(row) for row in complete(model, prompts(5, 5, 5, 5), 8, sampling=GREEDY)}
    assert len(texts) > 1
    assert all(len(set(text)) > 1 for text in texts)


def test_unequal_prompts_together_are_each_alone(any_model):
    rows = prompts(1, 9, 4, 30)
    for sampling in (GREEDY, Sampling(temperature=1.3, top_k=10, top_p=0.9)):
        together = complete(any_model, rows, 15, sampling=sampling, seed=5, prefill_chunk=8)
        alone = [complete(any_model, [row], 15, sampling=sampling, seed=5 + r)[0] for r, row in enumerate(rows)]
        assert together == alone


def test_a_row_that_ended_leaves_the_others_alone(any_model):
    rows = prompts(3, 8, 5)
    free = complete(any_model, rows, 30, seed=3)
    eos = free[1][4]  # row 1 will end at its fifth token at the latest
    stream = generate(any_model, rows, 30, seed=3, eos_id=eos)
    columns = list(stream)
    for r, row in enumerate(free):
        expected = row[: row.index(eos) + 1] if eos in row else row
        assert [column[r] for column in columns if column[r] is not None] == expected
    # the ended row's state stands where it ended
    stop = free[1].index(eos) + 1
    short = generate(any_model, rows[1:2], stop, seed=4)
    assert [column[0] for column in short] == free[1][:stop]
    for ended, alone in zip(leaves(stream.state), leaves(short.state), strict=True):
        if ended.shape[1:] == alone.shape[1:]:  # a KV cache is as long as its longest row
            torch.testing.assert_close(ended[1:2], alone, rtol=1e-9, atol=1e-9)


def test_the_prompt_may_be_read_in_chunks(any_model):
    rows = prompts(37)
    whole = complete(any_model, rows, 10, sampling=GREEDY, prefill_chunk=1000)
    for chunk in (1, 5, 36, 37):
        assert complete(any_model, rows, 10, sampling=GREEDY, prefill_chunk=chunk) == whole


def test_a_conversation_continues_from_the_state(any_model):
    first, second = prompts(6, 4)
    stream = generate(any_model, [first], 5, sampling=GREEDY)
    said = [token for (token,) in stream]
    continued = complete(any_model, [second], 9, sampling=GREEDY, state=stream.state)
    assert continued == [plain_greedy(any_model, first + said + second, 9)]


def test_asking_for_the_state_midway_changes_nothing(model):
    (prompt,) = prompts(6)
    whole = complete(model, [prompt], 12, seed=1)[0]
    stream = generate(model, [prompt], 12, seed=1)
    seen = []
    for (token,) in stream:
        seen.append(token)
        forked = generate(model, [[0]], 3, state=stream.state)
        list(forked)  # reads on from a fork of the state
    assert seen == whole


def test_state_before_the_first_token_has_read_the_prompt(model):
    (prompt,) = prompts(6)
    _, expected = model(torch.tensor([prompt]))
    stream = generate(model, [prompt], 3)
    for found, wanted in zip(leaves(stream.state), leaves(expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_stream_stops_at_the_end_token():
    model = make_model("mlstm")
    (prompt,) = prompts(4)
    free = plain_greedy(model, prompt, 10)
    eos = free[3]
    expected = free[: free.index(eos)]
    assert [t for (t,) in generate(model, [prompt], 10, sampling=GREEDY, eos_id=eos)] == [*expected, eos]
    assert complete(model, [prompt], 10, sampling=GREEDY, eos_id=eos) == [expected]


def test_seeds(model):
    rows = prompts(4)
    assert complete(model, rows, 20, seed=1) == complete(model, rows, 20, seed=1)
    assert complete(model, rows, 20, seed=1) != complete(model, rows, 20, seed=2)
    assert complete(model, rows * 2, 20, seed=[7, 7])[0] == complete(model, rows * 2, 20, seed=[7, 7])[1]
    assert complete(model, rows, 20, seed=None) != complete(model, rows, 20, seed=None)


def test_memory_does_not_grow(model):
    """More tokens, not a tensor more, nor any other object."""
    stream = generate(model, prompts(4), None)

    def kept_after(steps):
        for _ in range(steps):
            next(stream)
        gc.collect()
        objects = gc.get_objects()
        return len(objects), sorted(tuple(o.shape) for o in objects if issubclass(type(o), torch.Tensor))

    kept_after(1)
    (before, tensors), (after, tensors_after) = kept_after(50), kept_after(200)
    assert tensors_after == tensors
    assert after - before < 200, f"{after - before} objects more after 200 steps"


def test_only_given_ids_are_drawn(model):
    drawn = complete(model, prompts(4), 200, sampling=Sampling(temperature=5.0), vocab_size=3)[0]
    assert set(drawn) == {0, 1, 2}


def test_the_models_mode_and_weights_are_left_alone():
    model = make_model("mlstm", dropout=0.5, embedding_dropout=0.5)
    model.train()
    model.stack.eval()
    modes = [m.training for m in model.modules()]
    before = [p.clone() for p in model.parameters()]
    first = complete(model, prompts(4), 10, sampling=GREEDY)
    assert first == complete(model, prompts(4), 10, sampling=GREEDY)  # no dropout
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert torch.is_grad_enabled()


def test_nothing_to_write(model):
    assert complete(model, prompts(4, 2), 0) == [[], []]
    assert list(generate(model, prompts(4), 0)) == []


def test_left_padding():
    ids, mask = pad_left([[5], [1, 2, 3]])
    assert ids.tolist() == [[0, 0, 5], [1, 2, 3]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
    assert pad_left([[1, 2], [3, 4]])[1] is None
    assert pad_left(torch.tensor([[1, 2]]))[0].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no prompt"),
        ([[1], []], "prompt 1 is empty"),
        ([1, 2], r"\[\[1, 2\]\]"),
        ([[V]], f"token {V}, and the model knows 0 to {V - 1}"),
        ([[-1]], "token -1"),
        (torch.zeros(2, 3), r"integers \[B, T\]"),
        (torch.zeros(3, dtype=torch.int64), r"integers \[B, T\]"),
    ],
)
def test_bad_prompts(model, bad, message):
    with pytest.raises(UserError, match=message):
        generate(model, bad, 3)


def test_bad_settings(model):
    with pytest.raises(UserError, match="max_new_tokens"):
        generate(model, [[1]], -1)
    with pytest.raises(UserError, match="2 prompts need one seed or 2, got 3"):
        generate(model, [[1], [2]], 1, seed=[1, 2, 3])
    _, state = model(torch.tensor([[1], [2]]))
    with pytest.raises(UserError, match="the state has 2 rows and there are 1 prompts"):
        generate(model, [[1]], 1, state=state)


def test_a_model_that_went_wrong_says_so():
    model = make_model("mlstm")
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        complete(model, [[1]], 1)
