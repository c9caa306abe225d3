"""Native decoding against the model itself: the same logits, states and tokens, whatever model, rows and threads."""

import copy
import ctypes
import gc
import math
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from openxlstm.errors import UserError
from openxlstm.inference import NativeDecoder, Sampling, complete, generate
from openxlstm.inference import native as decoding
from openxlstm.inference.native import refuses, refuses_unasked
from openxlstm.inference.packing import Shape, pack, strips_for
from openxlstm.inference.plan import KINDS, Matrix, Op, Place, Plan
from openxlstm.layers import HeadwiseLinear
from openxlstm.layers.attention import AttentionState
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.ops import gpu, native
from openxlstm.ops.state import leaves, select

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))

GREEDY = Sampling(temperature=0.0)
MODELS = {
    "mlstm": {},
    "slstm": {},
    "mlstm_large": {},
    "lstm": {},
    "attention": {},
    "mlstm,slstm,mlstm_large,lstm,attention": {},
    "mlstm,slstm no conv": dict(conv_width=0),
    "mlstm,slstm conv of 1": dict(conv_width=1),
    "mlstm,slstm conv of 7, untied heads of slstm": dict(conv_width=7, slstm_num_heads=3),
    "mlstm whole blocks": dict(qkv_block_size=96),
    "mlstm blocks of 24": dict(qkv_block_size=24),
    "mlstm blocks of 3": dict(qkv_block_size=3),
    "mlstm blocks of 1": dict(qkv_block_size=1),
    "mlstm fixed input gate": dict(input_gate_mode="fixed", forget_gate_mode="bias", gate_soft_cap=15.0),
    "mlstm forgets nothing": dict(input_gate_mode="bias", forget_gate_mode="one"),
    "lstm_residual": {},
    "lstm_residual,mlstm two heads": dict(lstm_num_heads=2),
    "mlstm capped, sigmoid": dict(gate_soft_cap=2.0, input_gate="sigmoid"),
    "mlstm_large sig": dict(normalize=False, input_gate="sigmoid", bias=True, gate_soft_cap=0.0, norm="rms"),
    "mlstm_large wide values": dict(qk_factor=1.0, v_factor=2.0, cell_eps=1e-3, logit_soft_cap=3.0, norm_bias=True),
    "mlstm,slstm,lstm heads of 1": dict(num_heads=48, lstm_num_heads=48, forget_gate="exp"),
    "mlstm,slstm,mlstm_large heads of 40 and 80": dict(dim=80, slstm_num_heads=1, tie_embeddings=True, norm="none"),
    "slstm,lstm odd width": dict(dim=23, num_heads=1, vocab_size=7, ffn_multiple=1, ffn_factor=1.5),
}  # fmt: skip


def make_model(name="mlstm,slstm", seed=0, **options):
    """Larger weights than at initialisation, so that what was read decides what comes."""
    torch.manual_seed(seed)
    settings = dict(vocab_size=37, dim=48, num_heads=2, blocks=tuple(name.split()[0].split(","))) | MODELS.get(name, {})
    model = LanguageModel(LanguageModelConfig(**settings | options))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


@pytest.fixture(params=MODELS)
def any_model(request):
    return make_model(request.param)


@pytest.fixture(params=native.runnable() if native.missing() is None else ["none"])
def variant(request):
    with native.using(request.param):
        if native.missing() is not None:
            pytest.skip(native.missing())
        yield request.param


@pytest.fixture
def poison(variant):
    """Temporaries filled with NaN: what was never written must not be read."""
    native.library().openxlstm_poison(1)
    yield
    native.library().openxlstm_poison(0)


@pytest.fixture
def threads(monkeypatch):
    """A function that sets how many threads share a step, however small it is."""
    monkeypatch.setattr(decoding, "BYTES_A_WAIT", 1)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def ids_for(model, *shape, seed=1):
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def assert_same_state(found, wanted, tolerance=1e-5):
    """Every number of a tensor to `tolerance` of its largest: sums cancel, so small ones are no more exact."""
    for x, y in zip(leaves(found), leaves(wanted), strict=True):
        if x.is_floating_point():
            largest = max(1.0, float(y.abs().max())) if y.numel() else 1.0
            torch.testing.assert_close(x, y.float(), rtol=0, atol=tolerance * largest)
        else:
            assert torch.equal(x, y)


# The model, step by step.


@torch.inference_mode()
def test_logits_and_state_are_the_models(any_model, variant, poison):
    ids = ids_for(any_model, 3, 24)
    logits, state = any_model(ids[:, :9])
    decoder = NativeDecoder(any_model, batch=3)
    decoder.load_state(state)
    for t in range(9, 24):
        logits, state = any_model(ids[:, t : t + 1], state)
        torch.testing.assert_close(decoder.step(ids[:, t]), logits[:, 0], rtol=1e-5, atol=2e-5)
        assert_same_state(decoder.state(), state)


@torch.inference_mode()
def test_from_the_empty_state(any_model):
    ids = ids_for(any_model, 1, 12)
    decoder = NativeDecoder(any_model)
    logits, state = any_model(ids)
    for t in range(12):
        found = decoder.step(ids[:, t])
    torch.testing.assert_close(found, logits[:, -1], rtol=1e-5, atol=2e-5)
    assert_same_state(decoder.state(), state)


@torch.inference_mode()
def test_hard_gates():
    """Gates that are fully open or closed: nothing overflows, and m may be anything."""
    for kind in ("mlstm", "slstm"):
        model = make_model(kind)
        block = model.stack.blocks[0]
        bias = block.gates.bias if kind == "mlstm" else block.b
        for low, high in ((-200.0, 40.0), (100.0, -100.0), (-100.0, -100.0)):
            with torch.no_grad():
                half = bias.numel() // 2 if kind == "mlstm" else bias.numel() // 4
                bias.view(-1)[:half] = low
                bias.view(-1)[half : 2 * half] = high
            decoder, ids = NativeDecoder(model), ids_for(model, 1, 8)
            logits, _ = model(ids)
            for t in range(8):
                found = decoder.step(ids[:, t])
            torch.testing.assert_close(found, logits[:, -1], rtol=1e-4, atol=1e-4)
            assert all(leaf.isfinite().all() for leaf in leaves(decoder.state()))


@torch.inference_mode()
def test_nan_is_handed_on(variant):
    for storage in ("fp32", "bf16", "int8"):
        model = make_model("mlstm,slstm,mlstm_large")
        model.embedding.weight[3] = math.nan
        decoder = NativeDecoder(model, batch=2, weights=storage)
        logits = decoder.step(torch.tensor([3, 4]))
        assert logits[0].isnan().all()
        assert logits[1].isfinite().all()


# Rounded weights.


@torch.inference_mode()
@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_only_the_weights_are_rounded(any_model, variant, poison, storage):
    """The same model with its matrices rounded in torch gives the same logits: nothing is lost in activations."""
    if any_model.lm_head is None and storage == "int8":
        pytest.skip("of tied weights the embedding is kept as bf16, the head as int8")
    ids = ids_for(any_model, 2, 16)
    wanted, _ = round_matrices(copy.deepcopy(any_model), storage)(ids)
    decoder = NativeDecoder(any_model, batch=2, weights=storage)
    for t in range(16):
        found = decoder.step(ids[:, t])
    torch.testing.assert_close(found, wanted[:, -1], rtol=1e-3, atol=1e-3)


def round_matrices(model, storage):
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("gates"):
            module.weight.copy_(rounded(module.weight, storage))
        if isinstance(module, HeadwiseLinear) and module.weight.shape[-1] >= 16:
            module.weight.copy_(rounded(module.weight, storage))
        if hasattr(module, "R"):  # W and R are one matrix with one scale a row
            joined = rounded(torch.cat([module.W, module.R.permute(2, 0, 3, 1)], -1), storage)
            W, R = joined.split(module.W.shape[-1], -1)
            module.W.copy_(W)
            module.R.copy_(R.permute(1, 3, 0, 2))
    model.embedding.weight.copy_(rounded(model.embedding.weight, "bf16"))
    return model


def rounded(w, storage):
    if storage == "bf16":
        return w.bfloat16().float()
    scale = w.abs().amax(-1, keepdim=True) / 127
    return (w / scale).round() * scale


@torch.inference_mode()
def test_integers_are_exact_in_every_instruction_set():
    """Three ways to multiply bytes, one result: a model whose first vectors are the same in all, since norms are left out."""
    dim, ids = 48, torch.tensor([1, 2, 3])
    model = make_model(norm="none", dim=dim)
    for block in model.stack.blocks:  # every block writes nothing
        for out in (block.down,) if hasattr(block, "down") else (block.ffn.down, block.head_norm):
            out.weight.zero_()
    found = []
    for name in native.runnable():
        with native.using(name):
            found.append(NativeDecoder(model, batch=3, weights="int8").step(ids))
    assert found[0].abs().max() > 0.1
    assert all(torch.equal(other, found[0]) for other in found)


def test_packed_words():
    """One small matrix, spelled out."""
    w = torch.arange(12.0).view(1, 3, 4) - 5
    for storage, in_word in (("fp32", 1), ("bf16", 2), ("int8", 4)):
        shape = Shape(groups=1, outer=3, inner=4, parts=1, lanes=2, strips=1, storage=storage)
        assert (shape.count, shape.depth, shape.rows) == (2, 4 // in_word, 4)
        panels = torch.zeros(shape.bytes, dtype=torch.uint8)
        scale = pack(shape, [w], panels)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}[storage]
        words = panels.view(dtype).view(2, 4 // in_word, 2, in_word).float()  # [panel, depth, row, in word]
        rows = words.transpose(1, 2).reshape(4, 4)
        if scale is not None:
            rows = (rows - 128) * scale[:, None]
        torch.testing.assert_close(rows[:3], w[0], rtol=0, atol=0.04 if storage == "int8" else 0)
        assert not rows[3].any()


def test_panels_are_narrow_where_threads_would_have_nothing_to_do():
    assert strips_for(100, 1, 1, 2) == 4
    assert strips_for(4, 1, 1, 4) == 1
    assert strips_for(4, 2, 1, 4) == 2
    assert strips_for(1, 4, 3, 8) == 4


# Rows.


@torch.inference_mode()
@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["mlstm,slstm,mlstm_large,lstm,attention", "mlstm blocks of 24", "mlstm blocks of 3"])
def test_a_row_gives_the_same_bits_in_any_company(variant, poison, threads, name, storage):
    """Alone or with others, with any number of threads, run after run."""
    model = make_model(name)
    ids = ids_for(model, 13, 6)

    def run(rows, count):
        threads(count)
        decoder = NativeDecoder(model, batch=len(rows), weights=storage)
        return torch.stack([decoder.step(ids[rows, t]) for t in range(6)], 1), decoder.state()

    truth, truth_state = run(list(range(13)), 1)
    for rows, count in (([4], 1), ([4], 2), ([4], 5), ([2, 9], 2), ([1, 2, 3, 5, 7], 3), (list(range(13)), 2), ([4], 2)):
        logits, state = run(rows, count)
        assert torch.equal(logits, truth[rows])
        for x, y in zip(leaves(state), leaves(select(truth_state, rows)), strict=True):
            assert torch.equal(x, y)


@torch.inference_mode()
def test_rows_that_are_left_out_stay_as_they_are(any_model):
    ids = ids_for(any_model, 4, 10)
    decoder = NativeDecoder(any_model, batch=4)
    lengths = [10, 3, 7, 1]
    for t in range(10):
        rows = [r for r in (2, 0, 3, 1) if t < lengths[r]]
        logits = decoder.step(ids[rows, t], rows)
        assert logits.shape == (len(rows), any_model.config.vocab_size)
    for r, length in enumerate(lengths):
        _, alone = any_model(ids[r : r + 1, :length])
        assert_same_state(decoder.state([r]), alone)


@torch.inference_mode()
def test_rows_can_be_emptied_replaced_and_exchanged(any_model):
    ids = ids_for(any_model, 3, 9)
    decoder = NativeDecoder(any_model, batch=3)
    for t in range(5):
        decoder.step(ids[:, t])
    decoder.reset([1])
    _, other = any_model(ids[:1, 5:9])
    decoder.load_state(other, [2])
    decoder.select([2, 2, 0])
    _, first = any_model(ids[:1, :5])
    last = ids[:, 8]
    found = decoder.step(last)
    expected = [any_model(last[r : r + 1, None], s)[0][0, 0] for r, s in enumerate((other, other, first))]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=2e-5)
    decoder.load_state(None, [0])
    torch.testing.assert_close(decoder.step(last[:1], [0])[0], any_model(last[:1, None])[0][0, 0], rtol=1e-5, atol=2e-5)


@torch.inference_mode()
def test_the_state_is_a_copy(any_model):
    decoder = NativeDecoder(any_model, batch=2)
    ids = ids_for(any_model, 2, 4)
    decoder.step(ids[:, 0])
    state = decoder.state()
    before = [leaf.clone() for leaf in leaves(state)]
    decoder.step(ids[:, 1])
    assert all(torch.equal(x, y) for x, y in zip(leaves(state), before, strict=True))


def test_wrong_arguments():
    model = make_model()
    with pytest.raises(ValueError, match="fp32, bf16, int8, got 'int4'"):
        NativeDecoder(model, weights="int4")
    with pytest.raises(ValueError, match="batch must be at least 1"):
        NativeDecoder(model, batch=0)
    decoder = NativeDecoder(model, batch=2)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 37\)"):
        decoder.step(torch.tensor([0, 37]))
    with pytest.raises(ValueError, match=r"ids must have shape \[2\]"):
        decoder.step(torch.tensor([0]))
    with pytest.raises(ValueError, match="every row may occur once"):
        decoder.step(torch.tensor([0, 0]), [1, 1])
    with pytest.raises(ValueError, match=r"rows must be in \[0, 2\), got \[2\]"):
        decoder.reset([2])
    with pytest.raises(ValueError, match="1 entries, the model 2 blocks"):
        decoder.load_state(decoder.state()[:1])
    assert decoder.step(torch.zeros(0, dtype=torch.int64), []).shape == (0, 37)


# What the library must survive.


def test_the_structs_are_those_of_the_library():
    size = native.library().openxlstm_decoder_sizeof
    size.restype = ctypes.c_int64
    for kind in KINDS:
        assert size(kind.number) == ctypes.sizeof(kind.args), kind
    for number, struct in ((100, Plan), (101, Matrix), (102, Place), (103, Op)):
        assert size(number) == ctypes.sizeof(struct)


@torch.inference_mode()
def test_two_decoders_in_two_threads(threads):
    threads(2)
    models = [make_model("mlstm,slstm", seed=1), make_model("mlstm_large", seed=2)]
    ids = ids_for(models[0], 60)
    wanted = [torch.cat([d.step(i[None]) for i in ids]) for d in map(NativeDecoder, models)]
    found = [None, None]

    def run(which):
        decoder = NativeDecoder(models[which])
        found[which] = torch.cat([decoder.step(i[None]) for i in ids])

    workers = [threading.Thread(target=run, args=(which,)) for which in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(x, y) for x, y in zip(found, wanted))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_a_fork(threads):
    """The child has the parent's decoder and its state, and goes on with one thread."""
    threads(2)
    model = make_model()
    decoder, ids = NativeDecoder(model), ids_for(model, 3)
    decoder.step(ids[:1])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, decoder.step(ids[1:2]).numpy().tobytes())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    wanted = decoder.step(ids[1:2]).numpy().tobytes()
    assert os.read(read, 1 << 16) == wanted
    os.close(read)
    os.close(write)


def test_a_decoder_can_be_thrown_away_and_the_model_too():
    model = make_model()
    decoder = NativeDecoder(model)
    del model
    gc.collect()
    assert decoder.step(torch.tensor([1])).isfinite().all()
    for _ in range(20):
        decoder = NativeDecoder(make_model("mlstm"))


@torch.inference_mode()
def test_a_step_costs_no_memory(any_model):
    decoder = NativeDecoder(any_model, batch=2)
    before = decoder.state_bytes
    for t in range(40):
        decoder.step(torch.tensor([t % 7, 1]))
    if not any(kind == "attention" for kind in any_model.config.blocks):
        assert decoder.state_bytes == before
    assert decoder.weight_bytes < 6 * sum(p.numel() for p in any_model.parameters()) + 200_000


# Which models.


def test_models_that_are_refused():
    model = make_model()
    assert refuses(model) is None
    assert refuses_unasked(model) is None
    assert "float64" in refuses(make_model().double())
    assert refuses(make_model().bfloat16()) is None
    assert "bfloat16" in refuses_unasked(make_model().bfloat16())
    assert "training mode" in refuses_unasked(make_model().train())
    assert "'reference'" in refuses_unasked(make_model(backend="reference"))
    assert "LanguageModel, not Linear" in refuses(nn.Linear(2, 2))
    with torch.autocast("cpu"):
        assert "autocast" in refuses_unasked(model)
    adapted = make_model()
    adapted.stack.blocks[0].up = nn.Sequential(adapted.stack.blocks[0].up)
    assert refuses(adapted) == "stack.blocks.0.up is a Sequential, which has no native step"
    watched = make_model()
    watched.stack.blocks[1].register_forward_hook(lambda *_: None)
    assert "forward hooks" in refuses(watched)
    assert refuses(make_model(blocks=("mlstm", "ssd"))) == "stack.blocks.1 is a SSDBlock, which has no native step"
    with pytest.raises(ValueError, match=r"cannot be decoded natively: stack\.blocks\.0\.up is a Sequential"):
        NativeDecoder(adapted)


def test_a_bfloat16_model_is_served_when_asked():
    model = make_model()
    low = copy.deepcopy(model).bfloat16()
    exact = copy.deepcopy(low).float()
    ids = ids_for(model, 5)
    found = [NativeDecoder(m, weights=w) for m, w in ((low, "fp32"), (exact, "fp32"), (low, "bf16"))]
    for i in ids:
        a, b, c = (d.step(i[None]) for d in found)
        assert torch.equal(a, b)
    torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-5)


# Generation.


def prompts(model, *lengths):
    return [ids_for(model, n, seed=n).tolist() for n in lengths]


def test_generation_is_native_and_writes_what_torch_writes(any_model):
    rows = prompts(any_model, 1, 9, 4, 30)
    for sampling in (GREEDY, Sampling(temperature=1.3, top_k=10, top_p=0.9)):
        options = dict(sampling=sampling, seed=5, prefill_chunk=8)
        assert generate(any_model, rows, 20, **options).decode == "native"
        assert complete(any_model, rows, 20, **options) == complete(any_model, rows, 20, decode="torch", **options)


def test_a_row_that_ended_does_not_advance(any_model):
    rows = prompts(any_model, 3, 8, 5)
    eos = complete(any_model, rows, 30, sampling=GREEDY)[1][4]
    streams = [generate(any_model, rows, 30, sampling=GREEDY, eos_id=eos, decode=d) for d in ("native", "torch")]
    assert list(streams[0]) == list(streams[1])
    for found, wanted in zip(streams[0].state, streams[1].state, strict=True):
        if not isinstance(found, AttentionState):  # whose native cache holds no padding
            assert_same_state(found, wanted)


def test_a_conversation_goes_on_from_either_state(any_model):
    first, second = prompts(any_model, 6, 4)
    for one in ("native", "torch"):
        for other in ("native", "torch"):
            stream = generate(any_model, [first], 5, sampling=GREEDY, decode=one)
            said = [token for (token,) in stream]
            continued = complete(any_model, [second], 9, sampling=GREEDY, state=stream.state, decode=other)
            whole = complete(any_model, [first + said + second], 9, sampling=GREEDY, decode="torch")
            assert continued == whole


@torch.inference_mode()
def test_the_state_midway():
    model = make_model()
    (prompt,) = prompts(model, 6)
    whole = complete(model, [prompt], 12, sampling=GREEDY)[0]
    stream = generate(model, [prompt], 12, sampling=GREEDY)
    seen = []
    for (token,) in stream:
        seen.append(token)
        _, state = model(torch.tensor([prompt + seen]))
        assert_same_state(stream.state, state)
    assert seen == whole


def test_changed_weights_are_never_used_stale():
    model, (prompt,) = make_model(), prompts(make_model(), 6)

    def train():
        optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
        model.train()
        logits, _ = model(torch.tensor([prompt]))
        logits.logsumexp(-1).mean().backward()
        optimizer.step()
        model.eval()

    def load():
        model.load_state_dict({k: v + 0.3 * torch.randn_like(v) for k, v in model.state_dict().items()})

    def replace():
        for p in model.parameters():
            p.data = p.data + 0.3 * torch.randn_like(p)

    before = complete(model, [prompt], 12, sampling=GREEDY)
    for change in (train, load, replace):
        streams = [generate(model, [prompt], 24, sampling=GREEDY, decode=d) for d in ("native", "torch")]
        texts = [[next(s)[0] for _ in range(12)] for s in streams]
        assert texts[0] == texts[1]
        decoder = NativeDecoder(model)
        assert not decoder.stale
        change()
        assert decoder.stale
        texts = [[token for (token,) in s] for s in streams]  # in the middle of a stream
        assert texts[0] == texts[1]
        after = complete(model, [prompt], 12, sampling=GREEDY)  # a new one
        assert after == complete(model, [prompt], 12, sampling=GREEDY, decode="torch")
        assert after != before
        before = after


def test_the_model_is_left_alone():
    model = make_model(dropout=0.5)
    before = copy.deepcopy(model.state_dict())
    complete(model, prompts(model, 4), 10)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(not x.is_inference() for x in model.parameters())


def test_choices():
    model, rows = make_model(), [[1, 2]]
    assert generate(model, rows, 3).decode == "native"
    assert generate(model, rows, 3, decode="torch").decode == "torch"
    trained = make_model().train()
    stream = generate(trained, rows, 3)
    assert (stream.decode, stream.why_torch) == ("torch", "the model is in training mode")
    assert complete(trained, rows, 9, sampling=GREEDY, decode="native") == complete(model, rows, 9, sampling=GREEDY)
    assert generate(trained, rows, 3, weights="int8").decode == "native"
    for options, message in (
        (dict(decode="fast"), "decode must be one of auto, native, graph, torch, got 'fast'"),
        (dict(weights="int4"), "weights must be one of fp32, bf16, int8, got 'int4'"),
        (dict(decode="torch", weights="int8"), "weights='int8' is for native decoding"),
    ):
        with pytest.raises(UserError, match=message):
            generate(model, rows, 3, **options)
    if gpu.missing() is not None:
        with pytest.raises(UserError, match=r"cannot be decoded as a CUDA graph: .*(Triton is not|no CUDA device|ROCm)"):
            generate(model, rows, 3, decode="graph")
    for options in (dict(decode="native"), dict(weights="bf16")):
        with pytest.raises(UserError, match="cannot be decoded natively: it computes in float32"):
            generate(make_model().double(), rows, 3, **options)


def test_a_layer_without_a_residual_branch_is_decoded_by_torch():
    model = make_model("lstm_plain,lstm")
    assert refuses(model) == "stack.blocks.0 is a LSTMPlainBlock, which has no native step"
    stream = generate(model, [[1, 2]], 3)
    assert stream.decode == "torch"
    assert len(list(stream)) == 3


def test_a_changed_gate_that_is_no_parameter_is_seen():
    model = make_model("mlstm", forget_gate_mode="fixed")
    decoder = NativeDecoder(model)
    assert not decoder.stale
    with torch.no_grad():
        model.stack.blocks[0].gates.b_f.add_(1)
    assert decoder.stale


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(native, "missing", lambda: "the kernels were not compiled")
    stream = generate(make_model(), [[1, 2]], 3)
    assert (stream.decode, stream.why_torch) == ("torch", "the kernels were not compiled")
    assert len(list(stream)) == 3


@pytest.mark.slow
def test_rounded_weights_keep_the_perplexity():
    """A model that has learned something: the source of this repository's tests, character by character."""
    text = "".join(path.read_text() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
    alphabet = sorted(set(text))
    data = torch.tensor([alphabet.index(c) for c in text])
    train, held_out = data[: -64 * 200], data[-64 * 200 :].view(64, 200)
    for blocks in (("mlstm", "slstm"), ("mlstm_large", "lstm")):
        torch.manual_seed(0)
        model = LanguageModel(LanguageModelConfig(vocab_size=len(alphabet), dim=64, num_heads=2, blocks=blocks))
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(150):
            starts = torch.randint(len(train) - 65, (16,))
            batch = torch.stack([train[s : s + 65] for s in starts])
            loss = nn.functional.cross_entropy(model(batch[:, :-1])[0].flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        losses = {w: native_loss(model, held_out, w) for w in ("fp32", "bf16", "int8")}
        assert losses["fp32"] < 0.75 * math.log(len(alphabet))
        for w in ("bf16", "int8"):
            assert abs(math.exp(losses[w] - losses["fp32"]) - 1) < 0.01, losses


def native_loss(model, text, weights):
    decoder = NativeDecoder(model, batch=len(text), weights=weights)
    steps = [nn.functional.cross_entropy(decoder.step(text[:, t]), text[:, t + 1]) for t in range(text.shape[1] - 1)]
    return float(torch.stack(steps).mean())
