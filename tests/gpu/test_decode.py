"""Decoding by step kernels against the model itself: the same logits, states and tokens. Without a GPU all but the capture of
the launches in a graph is tested."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from openxlstm.data import ByteTokenizer
from openxlstm.errors import UserError
from openxlstm.inference import GraphDecoder, Sampling, complete, generate
from openxlstm.inference.graph import refuses, refuses_unasked
from openxlstm.inference.triton import logsigmoid
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.language import LanguageModel
from openxlstm.ops import gpu
from openxlstm.ops.state import leaves

GREEDY = Sampling(temperature=0.0)
MODELS = {
    "mlstm": {},
    "slstm,mlstm no conv": dict(conv_width=0),
    "slstm,mlstm conv of 1": dict(conv_width=1, forget_gate="exp", slstm_num_heads=3),
    "mlstm_large": dict(logit_soft_cap=3.0, norm="rms"),
    "mlstm_large sig": dict(normalize=False, input_gate="sigmoid", bias=True, gate_soft_cap=0.0, norm="none"),
    "mlstm_large wide values": dict(qk_factor=1.0, v_factor=2.0, cell_eps=1e-3, tie_embeddings=True),
    "mlstm whole blocks, capped": dict(qkv_block_size=48, gate_soft_cap=2.0),
    "mlstm blocks of 3": dict(qkv_block_size=3, input_gate_mode="fixed", forget_gate_mode="bias", conv_width=5),
    "slstm heads of 1": dict(slstm_num_heads=24, norm_bias=True),
}
ALL = "mlstm,slstm,mlstm_large"


def make_model(name, device, **options):
    """Larger weights than at initialisation, so that what was read decides what comes."""
    torch.manual_seed(0)
    settings = dict(vocab_size=37, dim=24, num_heads=2, blocks=tuple(name.split()[0].split(","))) | MODELS.get(name, {})
    model = LanguageModel(LanguageModelConfig(**settings | options))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval().to(device)


def ids_for(device, *shape, seed=1):
    return torch.randint(37, shape, generator=torch.Generator().manual_seed(seed)).to(device)


def assert_same(found, wanted, tolerance=1e-5):
    """To `tolerance` of the largest number: sums cancel, so small ones are no more exact."""
    for x, y in zip(leaves(found), leaves(wanted), strict=True):
        largest = max(1.0, float(y.abs().max())) if y.numel() else 1.0
        torch.testing.assert_close(x.float(), y.float(), rtol=0, atol=tolerance * largest)


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_state_are_the_models(name, device):
    model, ids = make_model(name, device), ids_for(device, 3, 8)
    _, state = model(ids[:, :5])
    decoder = GraphDecoder(model, batch=3)
    decoder.load_state(state)
    for t in range(5, 8):
        logits, state = model(ids[:, t : t + 1], state)
        assert_same(decoder.step(ids[:, t]), logits[:, 0])
        assert_same(decoder.state(), state)


@torch.inference_mode()
def test_rows_come_and_go(device):
    """Five slots, of which two to five are in use: streams begin empty or after a prompt, end, and are replaced, while others
    go on. Every stream gets what it would get alone. Five of them fill a step made for five, three do not fill one for four."""
    model, ids = make_model(ALL, device), ids_for(device, 8, 12)
    decoder, alone = GraphDecoder(model, batch=5), {}
    in_row, read = {}, {}

    def admit(stream, row, prompt):
        state = model(ids[stream : stream + 1, :prompt])[1] if prompt else None
        decoder.load_state(state, [row])
        in_row[row], read[stream], alone[stream] = stream, prompt, state

    def step(rows):
        streams = [in_row[r] for r in rows]
        tokens = torch.stack([ids[s, read[s]] for s in streams])
        for stream, logits in zip(streams, decoder.step(tokens, rows), strict=True):
            wanted, alone[stream] = model(ids[stream : stream + 1, read[stream] : read[stream] + 1], alone[stream])
            assert_same(logits, wanted[0, 0])
            read[stream] += 1

    admit(0, 3, 4)
    admit(1, 0, 0)
    step([3, 0])
    admit(2, 4, 7)
    step([4, 0, 3])
    for stream, row in ((3, 1), (4, 2), (5, 0)):  # the stream of row 0 has ended
        admit(stream, row, stream)
    step([0, 1, 2, 3, 4])
    decoder.reset([3])
    step([2])
    assert_same(decoder.state([3]), GraphDecoder(model).state())
    for row in (0, 1, 2, 4):
        assert_same(decoder.state([row]), alone[in_row[row]])
    decoder.select([2, 2])
    last = ids[:2, 11]
    expected = [model(last[r : r + 1, None], alone[in_row[2]])[0][0, 0] for r in range(2)]
    assert_same(decoder.step(last, [0, 1]), torch.stack(expected))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["mlstm", "slstm", "mlstm_large"])
def test_many_rows(kind, device):
    """As many as a server takes; fewer in the interpreter, which is as slow as there are rows (256 pass there in a minute)."""
    rows = 33 if gpu.interpreted() else 256
    model, ids = make_model(kind, device, dim=8), ids_for(device, rows, 3)
    _, state = model(ids[:, :2])
    decoder = GraphDecoder(model, batch=rows)
    decoder.load_state(state)
    logits, state = model(ids[:, 2:], state)
    assert_same(decoder.step(ids[:, 2]), logits[:, 0])
    assert_same(decoder.state(), state)


def test_inference_mode_may_change_between_steps(device):
    model, ids = make_model("mlstm", device, dim=8), ids_for(device, 1, 3)
    decoder = GraphDecoder(model)
    with torch.inference_mode():
        decoder.step(ids[:, 0])
    decoder.step(ids[:, 1])
    decoder.select([0])
    with torch.inference_mode():
        found = decoder.step(ids[:, 2])
        assert_same(found, model(ids)[0][:, -1])


@torch.inference_mode()
def test_long_streams_of_hard_gates(device):
    """Gates that are fully open or closed: nothing overflows, and m may be anything."""
    for kind in ("mlstm", "slstm"):
        model = make_model(kind, device, conv_width=0, dim=8)
        block = model.stack.blocks[0]
        bias = block.gates.bias if kind == "mlstm" else block.b
        half = bias.numel() // (2 if kind == "mlstm" else 4)
        for low, high in ((-200.0, 40.0), (100.0, -100.0)):
            bias.view(-1)[:half] = low
            bias.view(-1)[half : 2 * half] = high
            decoder, ids = GraphDecoder(model), ids_for(device, 1, 6)
            logits, _ = model(ids)
            for t in range(6):
                found = decoder.step(ids[:, t])
            assert_same(found, logits[:, -1], 1e-4)
            assert all(leaf.isfinite().all() for leaf in leaves(decoder.state()))


@torch.inference_mode()
def test_nan_stays_in_its_row(device):
    model = make_model(ALL, device)
    model.embedding.weight[3] = math.nan
    logits = GraphDecoder(model, batch=2).step(torch.tensor([3, 4], device=device))
    assert logits[0].isnan().all()
    assert logits[1].isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype, device):
    """As close to the float32 model with the same weights as the plain model in that dtype is, and a little."""
    model = make_model(ALL, device).to(dtype)
    exact, ids = copy.deepcopy(model).float(), ids_for(device, 2, 6)
    decoder = GraphDecoder(model, batch=2)
    truth, plain = exact(ids)[0][:, -1], model(ids)[0][:, -1].float()
    for t in range(6):
        found = decoder.step(ids[:, t])
    # The interpreter cuts bfloat16 off where a GPU rounds, which is twice as wrong.
    slack = 2 if gpu.interpreted() and dtype == torch.bfloat16 else 1
    assert (found - truth).abs().max() <= 2 * slack * (plain - truth).abs().max() + 1e-3
    assert found.dtype == torch.float32
    assert decoder.state()[0].conv.dtype == dtype
    assert decoder.state()[0].cell.C.dtype == torch.float32


def test_generation_writes_what_torch_writes(device):
    model = make_model(ALL, device)
    rows = [ids_for("cpu", n, seed=n).tolist() for n in (1, 6, 3)]
    whole = complete(model, rows, 6, sampling=GREEDY, decode="torch")
    eos = whole[1][2]  # a row ends and the others go on
    for options in (dict(sampling=GREEDY, eos_id=eos), dict(sampling=Sampling(temperature=1.3, top_k=10), seed=5)):
        streams = [generate(model, rows, 6, decode=d, prefill_chunk=4, **options) for d in ("graph", "torch")]
        assert list(streams[0]) == list(streams[1])
        assert_same(streams[0].state, streams[1].state)


def test_changed_weights_are_never_used_stale(device):
    model = make_model("slstm", device)
    streams = [generate(model, [[1, 2, 3]], 10, sampling=GREEDY, decode=d) for d in ("graph", "torch")]
    texts = [[next(s)[0] for _ in range(4)] for s in streams]
    with torch.no_grad():
        model.stack.blocks[0].W.add_(0.3 * torch.randn_like(model.stack.blocks[0].W))
    decoder = streams[0]._decoder
    assert decoder.stale
    rest = [[token for (token,) in s] for s in streams]
    assert texts[0] + rest[0] == texts[1] + rest[1]
    assert streams[0]._decoder is not decoder


@triton.jit
def logsigmoid_kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y + at, logsigmoid(tl.load(x + at)))


def test_gates_that_are_almost_open_lose_no_bits(device):
    """log(1 + e) would have no right digit left where e is below 1e-7."""
    x = torch.linspace(-100, 80, 1024, device=device)
    y = torch.empty_like(x)
    gpu.launch(logsigmoid_kernel, 1, x, y, N=1024)
    truth = torch.nn.functional.logsigmoid(x.double())
    assert ((y - truth) / truth).abs().max() < 5e-6  # rounding of the argument of exp at 80 is 4e-6
    near = x.abs() < 10
    assert ((y - truth) / truth)[near].abs().max() < 1e-6


def test_models_that_are_refused(device):
    model = make_model(ALL, device)
    assert refuses(model) is None
    assert refuses_unasked(model) is None
    assert "training mode" in refuses_unasked(make_model("slstm", device).train())
    assert "throughout, and embedding.weight is torch.float64" in refuses(make_model("slstm", device).double())
    mixed = make_model("mlstm", device)
    mixed.stack.blocks[0].gates.bfloat16()
    assert "gates.weight is torch.bfloat16" in refuses(mixed)
    for kind, name in (("lstm", "LSTMBlock"), ("attention", "AttentionBlock"), ("ssd", "SSDBlock")):
        other = make_model(f"mlstm,{kind}", device)
        assert refuses(other) == f"stack.blocks.1 is a {name}, which has no step on a GPU"
        with pytest.raises(UserError, match=f"cannot be decoded as a CUDA graph: stack.blocks.1 is a {name}"):
            generate(other, [[1]], 2, decode="graph")
    with pytest.raises(UserError, match="weights='int8' is for native decoding, and decode='graph'"):
        generate(model, [[1]], 2, decode="graph", weights="int8")


def test_wrong_arguments(device):
    model = make_model("slstm", device)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        GraphDecoder(model, batch=0)
    decoder = GraphDecoder(model, batch=2)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 37\), got \[0, 37\]"):
        decoder.step(torch.tensor([0, 37]))
    with pytest.raises(ValueError, match=r"ids must have shape \[2\]"):
        decoder.step(torch.tensor([0]))
    with pytest.raises(ValueError, match="every row may occur once"):
        decoder.step(torch.tensor([0, 0]), [1, 1])
    with pytest.raises(ValueError, match=r"rows must be in \[0, 2\), got \[2\]"):
        decoder.reset([2])
    assert decoder.step(torch.zeros(0, dtype=torch.int64), []).shape == (0, 37)


def test_the_page_about_it(device, tmp_path, monkeypatch):
    """The Python of docs/how-to/generate-fast-on-a-gpu.md, with a small model."""
    page = Path(__file__).parents[2] / "docs/how-to/generate-fast-on-a-gpu.md"
    folder = tmp_path / "runs/my-run/model"
    make_model("mlstm", "cpu", vocab_size=257).save_pretrained(folder)
    ByteTokenizer().save(folder)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    namespace = {}
    exec("".join(blocks).replace('device="cuda"', f"device={device!r}"), namespace)
    assert namespace["stream"].decode == "graph"
    assert namespace["logits"].shape == (2, 257)


@pytest.mark.skipif(gpu.interpreted() or gpu.missing() is not None, reason="a graph needs a GPU")
@torch.inference_mode()
def test_a_graph_does_what_its_launches_do():
    """The same bits, for steps of several numbers of rows that share working memory."""
    model, ids = make_model(ALL, "cuda"), ids_for("cuda", 6, 10)
    decoders = [GraphDecoder(model, batch=6, capture=capture) for capture in (True, False)]
    for t, rows in enumerate(([0], [1, 5, 2], [0, 1, 2, 3, 4, 5], [4], [3, 0], [2, 1, 0])):
        found = [decoder.step(ids[rows, t], rows) for decoder in decoders]
        assert torch.equal(*found)
    assert all(torch.equal(x, y) for x, y in zip(*(leaves(decoder.state()) for decoder in decoders), strict=True))
    assert generate(model, [[1, 2]], 3).decode == "graph"
