import pytest
import torch

from openxlstm.layers import Dropout
from openxlstm.layers.dropout import dropout


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_as_many_as_asked_and_the_mean_stays(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = dropout(torch.ones(4, 50_000, dtype=dtype), p, True)
    assert y.dtype == dtype
    values = y.unique()
    assert len(values) == 2
    assert values[0] == 0
    assert values[1].item() == pytest.approx(1 / (1 - p), rel=1e-4 if dtype != torch.bfloat16 else 1e-2)
    gone = (y == 0).double()
    four = 4 * (p * (1 - p) / 50_000) ** 0.5  # four standard deviations of the mean of 50,000
    for part in (*gone, *gone.view(-1, 4).T):  # every row, and each of the four numbers of a draw
        assert abs(part.mean().item() - p) < four
    same = (gone[:, 1:] == gone[:, :-1]).double().mean().item()  # neighbours are independent
    assert abs(same - (p * p + (1 - p) ** 2)) < 0.005


def test_gradient_passes_where_the_number_did() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 7, 5, requires_grad=True)
    y = dropout(x, 0.4, True)
    (y * torch.arange(105.0).view(3, 7, 5)).sum().backward()
    kept = y != 0
    assert kept.any()
    assert not kept.all()
    torch.testing.assert_close(x.grad, torch.where(kept, torch.arange(105.0).view(3, 7, 5) / 0.6, 0.0), rtol=1e-4, atol=0)


def test_a_seed_repeats_and_a_step_does_not() -> None:
    module = Dropout(0.5)
    x = torch.ones(101)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(first, second)


def test_ends() -> None:
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert dropout(x, 0.0, True) is x
    for p in (1.0, 1 - 1e-9):
        assert dropout(x, p, True).eq(0).all()
    assert dropout(x[:0], 0.5, True).shape == (0,)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)


def test_compiled() -> None:
    module = torch.compile(Dropout(0.25), backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    assert abs((module(torch.ones(40_000)) == 0).double().mean().item() - 0.25) < 0.01
