"""The model that answers at every step, for tokens and for vectors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from openxlstm import SequenceClassifier, SequenceConfig, SequenceModel
from openxlstm.errors import UserError
from openxlstm.models.count import count_parameters
from openxlstm.models.match import match_parameters

TOLERANCE = 1e-10  # float64
MIXED = ("mlstm", "slstm", "lstm", "attention")


def build(**changes: Any) -> SequenceModel:
    torch.manual_seed(0)
    settings = dict(dim=16, num_heads=2, blocks=MIXED, num_outputs=3, input_dim=5, ffn_multiple=8)
    model = SequenceModel(SequenceConfig(**settings | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def series(B: int, T: int, seed: int = 1) -> Tensor:
    return torch.randn(B, T, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("cuts", [[1, 12], [7, 1, 5], [1] * 13, [13, 0]], ids=str)
def test_cutting_changes_nothing(cuts: list[int]) -> None:
    model, x = build(), series(2, 13)
    whole, _ = model(x)
    assert whole.shape == (2, 13, 3)
    pieces, state = [], None
    for piece in x.split(cuts, 1):
        outputs, state = model(piece, state)
        pieces.append(outputs)
    assert torch.allclose(torch.cat(pieces, 1), whole, rtol=0, atol=TOLERANCE)


def test_padding_at_the_end_needs_no_mask() -> None:
    model, x = build(), series(1, 9)
    padded = torch.cat([x[:, :6], torch.zeros(1, 3, 5, dtype=torch.float64)], 1)
    assert torch.allclose(model(padded)[0][:, :6], model(x)[0][:, :6], rtol=0, atol=TOLERANCE)


def test_mask_and_reset() -> None:
    model, x = build(), series(1, 9)
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, 4] = True
    assert torch.allclose(model(x, reset=reset)[0][:, 4:], model(x[:, 4:])[0], rtol=0, atol=TOLERANCE)
    filler = torch.cat([series(1, 2, seed=2), x], 1)
    mask = torch.tensor([[False] * 2 + [True] * 9])
    assert torch.allclose(model(filler, mask=mask)[0][:, 2:], model(x)[0], rtol=0, atol=TOLERANCE)


def test_tokens_and_errors() -> None:
    model = build(input_dim=None, vocab_size=11)
    assert model(torch.zeros(2, 4, dtype=torch.long))[0].shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 11\)"):
        model(torch.full((2, 4), 11))
    with pytest.raises(ValueError, match=r"x must be \[B, T, 5\]"):
        build()(torch.zeros(2, 4, 6, dtype=torch.float64))
    with pytest.raises(UserError, match="num_outputs must be at least 1"):
        SequenceConfig(dim=16, blocks=MIXED, vocab_size=3, num_outputs=0)
    with pytest.raises(UserError, match="either vocab_size"):
        SequenceConfig(dim=16, blocks=MIXED, num_outputs=2)


@pytest.mark.parametrize("changes", [{}, dict(input_dim=None, vocab_size=11)], ids=str)
def test_counted_parameters_are_the_models(changes: dict[str, Any]) -> None:
    model = build(**changes)
    assert count_parameters(model.config) == model.num_parameters()


@pytest.mark.parametrize("block", ["mlstm", "slstm", "lstm", "attention", "ssd"])
def test_small_twins(block: str) -> None:
    """Widths in multiples of 8 jump by 6 % from one to the next at this size."""
    config = SequenceConfig(dim=32, num_heads=1, blocks=(block,) * 2, num_outputs=3, vocab_size=3)
    for target in (29_347, 15_000, 51_111):
        assert count_parameters(match_parameters(config, target)) == pytest.approx(target, rel=0.01)


def test_save_and_load(tmp_path: Any) -> None:
    model, x = build(), series(2, 5)
    model.save_pretrained(tmp_path)
    loaded = SequenceModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(x)[0], model(x)[0])
    with pytest.raises(UserError, match="this is a 'SequenceModel', not a 'SequenceClassifier'"):
        SequenceClassifier.from_pretrained(tmp_path)
