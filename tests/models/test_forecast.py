"""The forecasting model: reading in pieces, windows, padding, missing values, covariates, and that it cannot see ahead."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from openxlstm.errors import UserError
from openxlstm.models.config import ForecastConfig
from openxlstm.models.count import count_parameters
from openxlstm.models.forecast import EPS, ForecastModel, normalise
from openxlstm.models.match import match_parameters

TOLERANCE = 1e-10  # float64
MIXED = ("mlstm", "slstm", "lstm")


def build(**changes: Any) -> ForecastModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = dict(dim=16, num_heads=2, blocks=MIXED, ffn_multiple=8, horizon=3, context=6, patch=4)
    model = ForecastModel(ForecastConfig(**settings | dict(quantiles=(0.1, 0.9)) | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a: Any, b: Any) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=TOLERANCE) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("cuts", [[1, 22], [9, 1, 13], [1] * 23, [23, 0]], ids=lambda cuts: f"{len(cuts)} pieces")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"centre": "mean", "skip": False},
        {"num_channels": 2, "missing": True},
        {"blocks": ("attention", "mlstm"), "memory": 5},
        {"memory": 4},
    ],
    ids=str,
)
def test_cutting_changes_nothing(changes: dict[str, Any], cuts: list[int]) -> None:
    model = build(**changes)
    x = noise(2, 23, changes.get("num_channels", 1))
    if model.config.missing:
        x[:, 5:8, 0] = torch.nan
    whole, _ = model(x)
    assert whole.point.shape == (2, 23, 3, x.shape[2])
    pieces, state = [], None
    for piece in x.split(cuts, 1):
        forecast, state = model(piece, state)
        pieces.append(forecast)
    assert same([torch.cat(parts, 1) for parts in zip(*pieces, strict=True)], whole)


def test_the_future_changes_no_forecast() -> None:
    model, x = build(num_covariates=1), noise(1, 12, 1)
    covariates = noise(1, 15, 1, seed=2)
    changed, later = x.clone(), covariates.clone()
    changed[:, 8:] += 100
    later[:, 11:] += 100  # beyond the horizon of the rows up to 7
    before, after = model(x, covariates=covariates)[0], model(changed, covariates=later)[0]
    assert same([part[:, :8] for part in before], [part[:, :8] for part in after])
    assert not torch.allclose(before.point[:, 8:], after.point[:, 8:])


def test_known_covariates_reach_the_row_they_belong_to() -> None:
    model, x = build(num_covariates=2), noise(1, 9, 1)
    covariates = noise(1, 12, 2, seed=2)
    changed = covariates.clone()
    changed[:, 10] += 1  # two rows after the last one
    before, after = (model(x, covariates=c)[0].point[0, -1, :, 0] for c in (covariates, changed))
    moved = (before - after).abs() > TOLERANCE
    assert moved.tolist() == [False, True, False]


def test_scale_and_offset_pass_through() -> None:
    model, x = build(centre="mean"), noise(2, 15, 1)
    before, after = model(x)[0], model(1000 + 50 * x)[0]
    assert torch.allclose(1000 + 50 * before.point[:, 3:], after.point[:, 3:], rtol=1e-5)  # EPS is not scaled
    assert torch.allclose(1000 + 50 * before.quantiles[:, 3:], after.quantiles[:, 3:], rtol=1e-5)
    assert (before.quantiles.diff(dim=-1) >= 0).all()


def test_padding_before_a_series_is_nothing() -> None:
    model, x = build(num_static=2, memory=4), noise(1, 9, 1)
    static = noise(1, 2, seed=3)
    padded = torch.cat([noise(1, 4, 1, seed=2), x], 1)
    mask = torch.arange(13)[None] >= 4
    forecast, _ = model(padded, static=static, mask=mask)
    assert same([part[:, 4:] for part in forecast], model(x, static=static)[0])
    assert not torch.allclose(model(x, static=static + 1)[0].point, forecast.point[:, 4:])


@pytest.mark.parametrize("centre", ["mean", "last"])
@pytest.mark.parametrize("gaps", [[], [1], [3, 4, 5, 6], list(range(12))], ids=str)
def test_windows(gaps: list[int], centre: str) -> None:
    history, context = noise(2, 12, 2), 4
    history[0, gaps, 1] = torch.nan
    values, seen, middle, scale = normalise(history, context, centre)
    assert values.shape == seen.shape == (2, 9, 2, 4)
    for place in itertools.product(range(2), range(9), range(2)):
        window = history[place[0], place[1] : place[1] + context, place[2]]
        known = window[~window.isnan()]
        if len(known):
            expected = known.mean() if centre == "mean" else known[-1]
            deviation = (known.var(correction=0) + EPS).sqrt()
        else:
            expected, deviation = torch.tensor(0.0), torch.tensor(1.0)
        assert middle[place].item() == pytest.approx(expected.item(), abs=TOLERANCE)
        assert scale[place].item() == pytest.approx(deviation.item(), abs=TOLERANCE)
        assert torch.allclose(values[place], ((window - expected) / deviation).nan_to_num(0.0), rtol=0, atol=1e-9)
        assert seen[place].equal(~window.isnan())


def test_missing_values_are_refused_or_told() -> None:
    x = noise(1, 8, 1)
    x[0, 4] = torch.nan
    with pytest.raises(ValueError, match="1 rows have missing values"):
        build()(x)
    model = build(missing=True)
    assert model(x)[0].point.isfinite().all()
    x[0, 4] = 0.5
    assert model(x)[0].point.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blocks": ("lstm",), "num_channels": 3, "missing": True},
        {"num_covariates": 2, "num_static": 3, "skip": False, "quantiles": ()},
    ],
    ids=str,
)
def test_parameters_are_counted_without_building(changes: dict[str, Any]) -> None:
    model = build(**changes)
    assert count_parameters(model.config) == model.num_parameters()


def test_twins() -> None:
    base = ForecastConfig(dim=64, blocks=("slstm",), horizon=24, context=48)
    target = count_parameters(base)
    for blocks in (("lstm",), ("mlstm",), ("attention",)):
        twin = match_parameters(ForecastConfig(dim=64, blocks=blocks, horizon=24, context=48), target)
        assert abs(count_parameters(twin) / target - 1) < 0.01


def test_saved_and_loaded(tmp_path: Any) -> None:
    model, x = build(), noise(1, 9, 1)
    model.save_pretrained(tmp_path)
    assert same(ForecastModel.from_pretrained(tmp_path)(x)[0], model(x)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"patch": 7}, "patch=7 is longer than context=6"),
        ({"quantiles": (0.9, 0.1)}, "rising levels"),
        ({"centre": "median"}, "centre must be one of"),
        ({"memory": -1}, "memory must be 0 or more"),
    ],
    ids=str,
)
def test_wrong_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"rows must be \[B, T, 1\]"):
        build()(noise(1, 4, 2))
    with pytest.raises(ValueError, match="covariates must be None"):
        build()(noise(1, 4, 1), covariates=noise(1, 7, 1))
    with pytest.raises(ValueError, match=r"covariates ahead must be \[1, 6, 1\]"):
        build(num_covariates=1)(noise(1, 4, 1), covariates=noise(1, 5, 1))


def test_an_answer_after_some_rows_is_that_after_all() -> None:
    model = build(num_covariates=2)
    x, known = noise(2, 11, 1), noise(2, 14, 2, seed=2)
    whole, _ = model(x, covariates=known)
    reading, _ = model.read(x, covariates=known[:, :11])
    some = model.answer(reading.at(slice(1, None, 4)), known[:, 2:13], 4)  # after rows 1, 5 and 9
    assert same((part[:, 1::4] for part in whole), some)
    with pytest.raises(ValueError, match=r"covariates ahead must be \[2, 11, 2\]"):
        model.answer(reading.at(slice(1, None, 4)), known[:, 2:], 4)
