"""The language model: one call for training, prompts and steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from openxlstm import LanguageModel, LanguageModelConfig
from openxlstm.models.patterns import expand
from openxlstm.ops.state import leaves, map_state

MIXED = expand("mlstm,slstm,mlstm_large,lstm,attention,ssd")
TOLERANCE = 1e-10  # float64: rounding of a few thousand operations


def build(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> LanguageModel:
    torch.manual_seed(seed)
    config = LanguageModelConfig(**dict(vocab_size=23, dim=16, num_heads=2, blocks=MIXED, ffn_multiple=8) | changes)
    model = LanguageModel(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tokens(B: int, T: int) -> Tensor:
    return torch.randint(23, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cuts", [[1, 12], [7, 1, 5], [1] * 13, [13, 0]], ids=str)
def test_cutting_changes_nothing(cuts: list[int]) -> None:
    model, ids = build(), tokens(2, 13)
    whole, last = model(ids)
    pieces, state = [], None
    for piece in ids.split(cuts, 1):
        logits, state = model(piece, state)
        pieces.append(logits)
    assert torch.allclose(torch.cat(pieces, 1), whole, rtol=0, atol=TOLERANCE)
    assert len(state) == len(MIXED)
    assert all(x.shape == y.shape for x, y in zip(leaves(state), leaves(last), strict=True))


def test_padding_and_reset() -> None:
    """A padded batch of two texts, and both texts packed into one row, give what each gives alone."""
    model, a, b = build(), tokens(1, 9), tokens(2, 9)[1:, :5]
    alone_a, alone_b = model(a)[0], model(b)[0]
    padded = torch.cat([a, torch.cat([b, torch.zeros(1, 4, dtype=torch.long)], 1)])
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    logits, state = model(padded, mask=mask)
    assert torch.allclose(logits[0], alone_a[0], rtol=0, atol=TOLERANCE)
    assert torch.allclose(logits[1, :5], alone_b[0], rtol=0, atol=TOLERANCE)
    assert logits.isfinite().all()
    after, _ = model(tokens(2, 1), state)
    assert torch.allclose(after[1:], model(tokens(2, 1)[1:], model(b)[1])[0], rtol=0, atol=TOLERANCE)
    reset = torch.zeros(1, 14, dtype=torch.bool)
    reset[0, 9] = True
    packed, _ = model(torch.cat([a, b], 1), reset=reset)
    assert torch.allclose(packed[:, 9:], alone_b, rtol=0, atol=TOLERANCE)


def test_hidden_and_head_are_the_model() -> None:
    model, ids = build(logit_soft_cap=2.0), tokens(2, 5)
    h, _ = model.hidden(ids)
    assert h.shape == (2, 5, 16)
    logits, _ = model(ids)
    assert torch.equal(model.head(h), logits)
    assert logits.abs().max() < 2.0
    assert torch.allclose(logits, 2 * torch.tanh(h @ model.lm_head.weight.T / 2), rtol=0, atol=TOLERANCE)


def test_tied_head_is_the_embedding() -> None:
    tied, untied = build(tie_embeddings=True), build()
    assert untied.num_parameters() - tied.num_parameters() == 23 * 16
    assert not any("lm_head" in name for name in tied.state_dict())
    tied(tokens(1, 3))[0].sum().backward()
    h = tied.hidden(tokens(1, 3))[0]
    assert torch.allclose(tied.head(h), h @ tied.embedding.weight.T, rtol=0, atol=TOLERANCE)
    assert tied.embedding.weight.grad.abs().sum(1).gt(0).all()  # every row: through the head


def test_logits_are_float32_in_a_bfloat16_model() -> None:
    model = build(dtype=torch.bfloat16)
    assert model(tokens(1, 4))[0].dtype == torch.float32
    assert model.hidden(tokens(1, 4))[0].dtype == torch.bfloat16


def test_checkpointed_activations_change_nothing() -> None:
    """Gradients through weights and the initial state, with dropout, reset and mask."""
    ids = tokens(2, 9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 4] = True
    results = []
    for checkpointed in (False, True):
        model = build(checkpoint_activations=checkpointed, dropout=0.3).train()
        state = map_state(lambda x: x.detach().clone().requires_grad_(x.is_floating_point()), build()(tokens(2, 3))[1])
        torch.manual_seed(5)
        logits, last = model(ids, state, reset=reset, mask=mask)
        (logits.square().mean() + sum(x.sum() for x in leaves(last) if x.requires_grad)).backward()
        grads = [p.grad for p in model.parameters()] + [x.grad for x in leaves(state) if x.grad is not None]
        results.append([logits.detach(), *grads])
    assert len(results[0]) == len(results[1]) > len(list(model.parameters())) + 5
    for plain, again in zip(*results, strict=True):
        assert torch.allclose(plain, again, rtol=0, atol=TOLERANCE)


def test_checkpointed_activations_keep_less() -> None:
    def kept(checkpointed: bool) -> int:
        total = 0

        def pack(x: Tensor) -> Tensor:
            nonlocal total
            total += x.numel()
            return x

        model = build(checkpoint_activations=checkpointed, blocks=("mlstm",) * 3).train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(tokens(2, 32))
        return total

    assert kept(True) < 0.5 * kept(False)


def test_start_values() -> None:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocab_size=2000, dim=64, blocks=("mlstm",)))
    for weight in (model.embedding.weight, model.lm_head.weight):
        assert weight.std().item() == pytest.approx((2 / (5 * 64)) ** 0.5, rel=0.02)  # 128000 samples: 0.2 % standard error


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"ids must be \[B, T\], got \[3\]"),
        (torch.zeros(1, 3), "ids must be int64 or int32, got torch.float32"),
        (torch.tensor([[1, 23]]), r"ids must be in \[0, 23\), got 23"),
        (torch.tensor([[1, -1]]), r"ids must be in \[0, 23\), got -1"),
    ],
)
def test_bad_ids(ids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(ids)


def test_state_of_another_model() -> None:
    _, state = build()(tokens(1, 2))
    with pytest.raises(ValueError, match="the state has 4 entries, the stack 6 blocks"):
        build()(tokens(1, 2), state[:4])


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, openxlstm; assert 'openxlstm.models' not in sys.modules;"
        "openxlstm.LanguageModel; openxlstm.nn; openxlstm.ops;"
        "bad = {'lightning', 'transformers', 'yaml', 'huggingface_hub', 'tokenizers', 'matplotlib', 'rich'} & set(sys.modules);"
        "assert not bad, bad; assert 'LanguageModel' in dir(openxlstm)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_compiled_is_eager(checkpoint: bool) -> None:
    """One graph without a break, forward and gradients."""
    torch._dynamo.reset()
    model, ids = build(blocks=("mlstm", "slstm"), checkpoint_activations=checkpoint).train(), tokens(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def run(model: torch.nn.Module) -> tuple[Tensor, ...]:
        logits, _ = model(ids)
        return logits, *torch.autograd.grad(logits.square().mean(), [*model.parameters()])

    torch.testing.assert_close(run(compiled), run(model), rtol=1e-9, atol=TOLERANCE)
