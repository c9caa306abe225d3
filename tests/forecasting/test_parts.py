"""Pieces, walks, losses, baselines, calibration, scores."""

from typing import Any

import numpy as np
import pytest
import torch

from openxlstm.errors import UserError
from openxlstm.forecasting.baselines import drift, naive, naive2, season_factors, seasonal_naive
from openxlstm.forecasting.calibration import calibrate, calibrated, margin
from openxlstm.forecasting.fit import FitConfig, Pieces, fit_model, losses, train_rows, train_step
from openxlstm.forecasting.linear import LinearConfig, LinearModel
from openxlstm.forecasting.rows import Ahead, Rows, walk
from openxlstm.forecasting.scores import coverage, mase, smape
from openxlstm.forecasting.streams import unit_of
from openxlstm.models.config import ForecastConfig
from openxlstm.models.forecast import Forecast, ForecastModel


def counting(*lengths: int) -> list[Rows]:
    """Series s holds 1000 s + 0, 1, 2, ..."""
    return [Rows(torch.arange(n, dtype=torch.float32)[:, None] + 1000 * s) for s, n in enumerate(lengths)]


def test_pieces_are_what_they_say_and_stay_in_the_training_rows() -> None:
    H, L, length, held = 3, 5, 4, 6
    pieces = Pieces(counting(40, 11, 30), held, L, H, length)
    state, batch, truth = pieces.sample(500, torch.Generator().manual_seed(0))
    series = (truth[:, -1, 0, 0] // 1000).long()  # the end of a piece is never padding
    last = torch.tensor([40, 11, 30])[series] - held
    assert batch.mask is not None
    valid = batch.mask
    x = batch.values[..., 0]
    assert torch.equal(truth[..., 0][valid], (x[..., None] + torch.arange(1, H + 1))[valid])
    assert (truth[..., 0].nan_to_num(-1e9).amax((1, 2)) - 1000 * series < last).all()
    assert set(series.tolist()) == {0, 1, 2}
    assert (truth[:, -1, -1, 0] - 1000 * series == last - 1).any()  # the last row of the training part is used
    before = torch.cat([state.rows[..., 0], x], 1)
    steps = before.diff(dim=1)
    assert (steps[~steps.isnan()] == 1).all()  # nothing of another series
    assert before[series == 1].isnan().any()  # the short one is padded
    assert torch.equal(valid, ~x.isnan())


def test_walking_sees_each_window_once_and_nothing_later() -> None:
    torch.manual_seed(0)
    model = ForecastModel(ForecastConfig(dim=8, num_heads=2, blocks=("slstm",), horizon=3, context=5, patch=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    series = [Rows(torch.randn(n, 1, generator=torch.Generator().manual_seed(n))) for n in (30, 22)]
    found = {}
    for part in walk(model, series, 7):
        for place, index in enumerate(part.series):
            found[index] = (part.forecast.point[place], part.truth[place])
    for index, one in enumerate(series):
        T = len(one)
        assert found[index][0].shape == (5, 3, 1)  # 7 rows, 3 ahead
        for k in range(5):
            alone, _ = model(one.values[None, : T - 7 + k])
            assert torch.allclose(found[index][0][k], alone.point[0, -1], atol=1e-6)
            assert torch.equal(found[index][1][k], one.values[T - 7 + k :][:3])
    thinned = torch.cat([part.forecast.point[0] for part in walk(model, series[:1], 7, every=2)])
    assert torch.allclose(thinned, found[0][0][::2], atol=1e-6)


def test_a_linear_model_learns_a_line() -> None:
    series = [Rows(torch.linspace(-1, 1, 120)[:, None])]
    model = LinearModel(LinearConfig(horizon=4, context=8))
    fitted = fit_model(model, series, 20, FitConfig(steps=200, lr=1e-2, length=16, batch_size=8))
    assert fitted.best < 1e-3 < 0.2 * fitted.history[0][2] or fitted.best < 1e-4
    with pytest.raises(UserError, match="validation needs at least the horizon of 4 rows"):
        fit_model(model, series, 3, FitConfig())
    with pytest.raises(ValueError, match="takes no covariates"):
        model(torch.zeros(1, 4, 1), covariates=torch.zeros(1, 4, 1))


def test_rows_that_are_trained_on() -> None:
    rng = torch.Generator().manual_seed(0)
    assert {train_rows(FitConfig(), 64, 191, rng) for _ in range(20)} == {(0, 1)}
    assert {train_rows(FitConfig(), 64, 720, rng) for _ in range(200)} == {(first, 7) for first in range(7)}
    assert {train_rows(FitConfig(train_rows=9), 4, 1, rng)[1] for _ in range(20)} == {4}  # one row of a piece at least
    with pytest.raises(UserError, match="train_rows must be at least 0, got -1"):
        FitConfig(train_rows=-1)


def test_the_loss_of_a_step_is_that_of_the_rows_trained_on() -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = dict(horizon=5, context=6, patch=4, num_covariates=2, quantiles=(0.1, 0.9))
    model = ForecastModel(ForecastConfig(dim=8, num_heads=2, blocks=("slstm",), **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    known = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    series = [Rows(one.values.sin(), known) for one in counting(30, 12)]  # of the second, pieces are padded
    pieces, still = Pieces(series, 2, 6, 5, 8), torch.optim.SGD(model.parameters(), lr=0.0)
    for seed in range(4):
        found = train_step(model, pieces, still, FitConfig(train_rows=3), torch.Generator().manual_seed(seed), None)
        rng = torch.Generator().manual_seed(seed)
        state, batch, truth = pieces.sample(64, rng)
        first = int(torch.randint(3, (), generator=rng))
        whole, _ = model(batch.values, state, covariates=batch.covariates, mask=batch.mask)
        every = losses(whole, truth, (0.1, 0.9), "mse")[:, first::3]
        assert batch.mask is not None
        assert found == pytest.approx(every[batch.mask[:, first::3]].mean().item(), rel=1e-5)


def test_padding_sends_no_gradient_into_nlinear() -> None:
    model = LinearModel(LinearConfig(horizon=2, context=4))
    values = torch.tensor([[torch.nan, torch.nan, 1.0, 2.0]])[..., None]
    forecast, _ = model(values)
    valid = ~values.isnan().any(-1)
    torch.where(valid[..., None, None], (forecast.point - 3.0).square(), 0.0).sum().backward()
    assert model.map.weight.grad is not None
    assert model.map.weight.grad.isfinite().all()
    assert torch.equal(forecast.point[0, 2:, 0, 0], torch.tensor([1.0, 2.0]))


def test_units_of_small_numbers() -> None:
    x = np.array([[1.0, 0.0, 5.0, 1e5], [3.0, 0.0, 5.0, 1e5 + 1e-8]])
    for size in (1.0, 1e-13, 1e-100):
        offset, scale = unit_of(size * x)
        assert scale / [size, 1.0, 1.0, 1.0] == pytest.approx([1.0, 1.0, 1.0, 1.0])
        assert offset[0] == pytest.approx(2 * size)


def test_losses() -> None:
    forecast = Forecast(torch.zeros(1, 1, 1, 1), torch.tensor([-1.0, 1.0]).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1))
    truth = torch.full((1, 1, 1, 1), 3.0)
    pinball = (0.1 * 4 + 0.9 * 2) / 2
    assert losses(forecast, truth, (0.1, 0.9), "mse").item() == pytest.approx(9 + pinball)
    assert losses(forecast, truth, (0.1, 0.9), "mae").item() == pytest.approx(3 + pinball)


def test_baselines() -> None:
    x = np.array([1.0, 2.0, 4.0, 7.0])
    assert naive(x, 2).tolist() == [7, 7]
    assert drift(x, 2).tolist() == [9, 11]
    assert seasonal_naive(x, 5, 3).tolist() == [2, 4, 7, 2, 4]
    assert seasonal_naive(x, 2, 9).tolist() == [7, 7]
    factors = np.array([0.5, 1.0, 1.5, 1.0])
    seasonal = np.tile(factors, 10) * 100
    assert np.allclose(season_factors(seasonal, 4), factors)
    assert np.allclose(naive2(seasonal, 4, 4), 100 * factors)
    walk_ = np.cumsum(np.random.default_rng(0).normal(size=40)) + 100
    assert naive2(walk_[:10], 2, 4).tolist() == [walk_[9]] * 2


def test_scores() -> None:
    truth, forecast = np.array([100.0, 200.0]), np.array([110.0, 180.0])
    assert smape(truth, forecast) == pytest.approx(100 * (20 / 210 + 40 / 380) / 2)
    assert mase(truth, forecast, np.array([1.0, 2.0, 4.0]), 1) == pytest.approx(15 / 1.5)
    assert smape(np.zeros(1), np.zeros(1)) == 0
    assert coverage(np.array([1.0, 5.0, np.nan]), np.zeros(3), np.full(3, 2.0)) == 0.5


def test_margins_are_order_statistics() -> None:
    scores = torch.arange(1.0, 100.0)[:, None, None].expand(99, 2, 1) * torch.tensor([[[1.0], [10.0]]])
    assert margin(scores, 0.9).flatten().tolist() == [90, 900]  # the 90th of 99: ceil(100 * 0.9)
    assert margin(scores, 0.1).flatten().tolist() == [10, 100]
    few = margin(scores[:20], 0.9)  # too few a step: both steps share one
    assert few[0] == few[1]
    scores = scores.clone()
    scores[5] = torch.nan
    assert margin(scores, 0.9).isfinite().all()


def test_calibrated_intervals_cover_what_they_should() -> None:
    rng = torch.Generator().manual_seed(0)

    def forecasts(n: int, wide: float) -> Ahead:
        """Intervals of windows with different deviations."""
        scale = torch.rand(n, 1, 1, generator=rng) * 9 + 1
        truth = torch.randn(n, 1, 4, 1, generator=rng) * scale[:, :, None]
        quantiles = torch.tensor([-wide, wide]).expand(n, 1, 4, 1, 2) * scale[:, :, None, :, None]
        return Ahead(list(range(n)), 0, Forecast(torch.zeros(n, 1, 4, 1), quantiles, scale), truth)

    def covered(wide: float, held: int) -> torch.Tensor:
        """After margins from rows held out, at each step ahead."""
        margins = calibrate([forecasts(2000, wide)], (0.1, 0.9), held)
        new = forecasts(4000, wide)
        quantiles = calibrated(new.forecast, margins).quantiles
        return ((new.truth >= quantiles[..., 0]) & (new.truth <= quantiles[..., 1])).float().mean((0, 1, 3))

    for wide, held in ((0.1, 4), (0.1, 10**6), (3.0, 10**6)):
        assert (covered(wide, held) - 0.8).abs().max() < 0.03
    # that an interval is too wide, 20 windows apart say half: from 3 to between 3 and 1.28 deviations
    halfway = covered(3.0, 80)
    assert halfway[3].item() == pytest.approx(2 * torch.special.ndtr(torch.tensor((3 + 1.2816) / 2)).item() - 1, abs=0.01)
    assert (halfway.diff() > 0).all()  # the farther ahead, the fewer are apart
    assert (covered(3.0, 4) > 0.98).all()
