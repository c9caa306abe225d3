"""The fit finds the laws that data was made from."""

import numpy as np
import pytest

from openxlstm.experiments.scaling import ScalingLaw, draw, fit

SIZES = np.geomspace(5e4, 2e6, 6)


@pytest.mark.parametrize(
    ("E", "A", "alpha"), [(1.69, 406.4, 0.34), (0.0, 20.0, 0.2), (1.2, 8.0, 0.1), (2.5, 1e6, 1.0), (0.5, 1e12, 2.3)]
)
def test_exact_data(E: float, A: float, alpha: float) -> None:
    law = fit(SIZES, ScalingLaw(E, A, alpha, 1.0)(SIZES))
    assert law.alpha == pytest.approx(alpha, rel=1e-5)
    assert tuple(law) == pytest.approx((E, A, alpha, 1), rel=1e-3, abs=1e-4)


def test_noise_moves_the_exponent_little_and_more_runs_less() -> None:
    truth = ScalingLaw(1.2, 300.0, 0.4, 1.0)
    rng = np.random.default_rng(0)

    def off(seeds: int) -> float:
        sizes = np.repeat(SIZES, seeds)
        errors = [fit(sizes, truth(sizes) + 0.01 * rng.standard_normal(len(sizes))).alpha - truth.alpha for _ in range(40)]
        return float(np.sqrt(np.mean(np.square(errors))))

    few, many = off(1), off(16)
    assert few < 0.08
    assert many < few / 2


def test_is_the_least_squared_error() -> None:
    rng = np.random.default_rng(1)
    losses = ScalingLaw(1.0, 50.0, 0.3, 1.0)(SIZES) + 0.02 * rng.standard_normal(6)
    law = fit(SIZES, losses)
    found = np.square(law(SIZES) - losses).sum()
    explained = 1 - found / np.square(losses - losses.mean()).sum()
    assert explained == pytest.approx(law.R2)
    assert explained > 0.95
    for change in (0.99, 1.01):
        for other in (law._replace(E=law.E * change), law._replace(A=law.A * change), law._replace(alpha=law.alpha * change)):
            assert np.square(other(SIZES) - losses).sum() > found


def test_the_order_and_the_unit_of_size_change_nothing() -> None:
    losses = ScalingLaw(1.0, 50.0, 0.3, 1.0)(SIZES) + 0.01 * np.cos(np.arange(6))
    law, turned, millions = fit(SIZES, losses), fit(SIZES[::-1], losses[::-1]), fit(SIZES / 1e6, losses)
    assert turned == pytest.approx(law, rel=1e-6)
    assert tuple(millions) == pytest.approx((law.E, law.A * 1e6**-law.alpha, law.alpha, law.R2), rel=1e-5)


def test_no_loss_below_zero() -> None:
    """Noise that bends the curve down at the largest size would put E below 0."""
    law = fit([1, 10, 100, 1000], [4.0, 3.0, 2.0, 0.9])
    assert law.E == 0
    assert 0 < law.R2 < 1


@pytest.mark.parametrize(
    ("params", "losses", "message"),
    [
        ([1, 2, 3], [1, 2], "one length"),
        ([1, 1, 2], [3, 3, 2], "at least three sizes, got 2"),
        ([1, 2, 3], [3, float("nan"), 2], "losses must be positive and finite"),
        ([0, 2, 3], [3, 2, 1], "params must be positive"),
        ([1, 2, 3], [1, 2, 3], "do not fall"),
        ([1, 2, 3], [2, 2, 2], "do not fall"),
    ],
)
def test_errors(params: list, losses: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(params, losses)


def test_figure(tmp_path) -> None:
    draw({"mlstm": (SIZES, 1 + SIZES**-0.1), "lstm": (SIZES, 1.1 + SIZES**-0.1)}, tmp_path / "scaling.png", "Loss over size")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
