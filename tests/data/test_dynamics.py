"""Solvers and systems, against closed forms, against scipy, and against what is conserved."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from openxlstm.data.dynamics import (
    DoublePendulum,
    Flow,
    KuramotoSivashinsky,
    Lorenz63,
    Lorenz96,
    MackeyGlass,
    Roessler,
    dormand_prince,
    largest_exponent,
    rk4,
)
from openxlstm.errors import UserError

SYSTEMS = (Lorenz63(), Lorenz96(), Roessler(), MackeyGlass(), DoublePendulum(), KuramotoSivashinsky())


def named(system):
    return type(system).__name__


def rng():
    return np.random.default_rng(0)


def scipy_solution(derivative, start, times, **options):
    """States [T, S] at `times` by scipy's DOP853, which shares no code with ours and has order 8."""
    integrate = pytest.importorskip("scipy.integrate", reason="scipy comes with the extra eval")
    found = integrate.solve_ivp(
        lambda t, x: derivative(x), (0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-13, atol=1e-13, **options
    )
    assert found.success
    return found.y.T


def turn(x):
    """x'' = -x, whose solution is a rotation."""
    return np.stack([x[..., 1], -x[..., 0]], -1)


def test_rk4_has_order_4():
    start, exact = np.array([[1.0, 0.0]]), np.array([np.cos(1), -np.sin(1)])
    errors = [np.abs(rk4(turn, start, 1.0, 1, substeps)[0, 0] - exact).max() for substeps in (10, 20, 40)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.1)


def test_dormand_prince_keeps_to_its_tolerance():
    times = 0.7 * np.arange(1, 6)
    exact = np.stack([np.cos(times), -np.sin(times)], -1)
    errors = [
        np.abs(dormand_prince(turn, np.array([[1.0, 0.0]]), 0.7, 5, tolerance, tolerance)[0] - exact).max()
        for tolerance in (1e-5, 1e-8, 1e-11)
    ]
    for tolerance, error in zip((1e-5, 1e-8, 1e-11), errors):
        assert tolerance / 100 < error < 20 * tolerance, "a bound for each step, a few of which add up"


def test_dormand_prince_finds_short_steps_and_says_where_there_are_none():
    kick = dormand_prince(lambda x: -1e3 * (x - 1), np.array([[0.0]]), 0.01, 3)[0, :, 0]
    assert kick == pytest.approx(1 - np.exp(-1e3 * 0.01 * np.arange(1, 4)), abs=1e-8)
    with pytest.raises(ValueError, match="no step is short enough"):
        dormand_prince(lambda x: x**2, np.array([[1.0]]), 1.5, 1)  # 1 / (1 - t): infinite at 1


@pytest.mark.parametrize("system", [Lorenz63(), Lorenz96(), Roessler()], ids=named)
def test_flows_agree_with_scipy(system):
    start = system.trajectories(2, 1, seed=0)[:, 0]
    times = system.dt * np.arange(1, 26)
    expected = np.stack([scipy_solution(system.derivative, row, times) for row in start])
    # fixed steps: five decimals over 25 samples; the equations themselves to twelve
    assert system.advance(start, 25) == pytest.approx(expected, abs=1e-4, rel=1e-5)
    fine = rk4(system.derivative, start, system.dt, 25, 15 * system.substeps)
    assert fine == pytest.approx(expected, abs=1e-8, rel=1e-9)
    assert dormand_prince(system.derivative, start, system.dt, 25, 1e-12, 1e-12) == pytest.approx(expected, abs=1e-8)


def test_the_double_pendulum_agrees_with_scipy_and_keeps_its_energy():
    pendulum = DoublePendulum()
    start = pendulum.initial(3, rng())
    path = pendulum.advance(start, 100)
    energies = pendulum.energy(path)
    assert pendulum.energy(start) == pytest.approx(pendulum.potential(np.full(2, pendulum.release)))
    assert np.abs(energies - energies[0, 0]).max() < 1e-6
    times = pendulum.dt * np.arange(1, 21)
    expected = np.stack([scipy_solution(pendulum.derivative, row, times) for row in start])
    assert path[:, :20] == pytest.approx(expected, abs=1e-7)


def test_the_double_pendulum_follows_hamilton():
    """(dH/dp, -dH/dq), by central differences of the energy."""
    pendulum = DoublePendulum()
    x, h = pendulum.initial(4, rng()), 1e-6
    slopes = [(pendulum.energy(x + h * unit) - pendulum.energy(x - h * unit)) / (2 * h) for unit in np.eye(4)]
    expected = np.stack([slopes[2], slopes[3], -slopes[0], -slopes[1]], -1)
    assert pendulum.derivative(x) == pytest.approx(expected, abs=1e-6)


def test_small_swings_have_the_frequencies_of_the_textbook():
    """omega^2 = (2 - sqrt 2) g with the angles 1 : sqrt 2."""
    pendulum = DoublePendulum(dt=0.1)
    omega, small = np.sqrt((2 - np.sqrt(2)) * pendulum.gravity), 1e-5
    start = np.array([[small, small * np.sqrt(2), 0.0, 0.0]])
    times = 0.1 * np.arange(1, 31)
    swing = dormand_prince(pendulum.derivative, start, 0.1, 30, 1e-10, 1e-16)[0]
    assert swing[:, 0] == pytest.approx(small * np.cos(omega * times), abs=1e-4 * small)
    seen = pendulum.observe(swing)
    assert seen[:, 0] == pytest.approx(np.sin(swing[:, 0]))
    assert seen[:, 3] == pytest.approx(np.cos(swing[:, 1]))
    assert seen[:, 4] == pytest.approx(-omega * small * np.sin(omega * times), abs=1e-3 * small)


def test_mackey_glass_is_exact_within_the_first_delay():
    """From a constant history c the equation is linear there: x' = a - gamma x."""
    system = MackeyGlass()
    start = system.initial(3, rng())
    c = start[:, :1]
    a = system.beta * c / (1 + c**system.n) / system.gamma
    times = np.arange(1, 18)
    found = system.observe(system.advance(start, 17))[..., 0]
    assert found == pytest.approx(a + (c - a) * np.exp(-system.gamma * times), abs=1e-8)


def test_mackey_glass_agrees_with_scipy():
    """By the method of steps: within a delay it is an ordinary equation driven by the delay before."""
    integrate = pytest.importorskip("scipy.integrate", reason="scipy comes with the extra eval")
    system = MackeyGlass()
    c, pieces, last = 1.2, [], 1.2

    def history(t):
        return c if t <= 0 else pieces[min(int(t / 17), len(pieces) - 1)](t)[0]

    for number in range(6):
        span = (17.0 * number, 17.0 * (number + 1))
        piece = integrate.solve_ivp(
            lambda t, x: system.slope(x, history(t - 17)), span, [last], "DOP853", rtol=1e-10, atol=1e-11, dense_output=True
        )
        pieces.append(piece.sol)
        last = piece.y[0, -1]
    found = system.advance(np.full((1, 2 * system.delay_steps + 1), c), 102)[0, :, -1]
    expected = [history(float(t)) for t in range(1, 102)]
    assert found[:101] == pytest.approx(np.array(expected), abs=2e-6)


def test_mackey_glass_has_order_4():
    """Delayed values between two steps, jumps at multiples of the delay and all."""
    ends = []
    for dt in (4.25, 2.125, 0.53125):
        system = MackeyGlass(dt=dt)
        start = np.full((1, 2 * system.delay_steps + 1), 0.9)
        ends.append(system.advance(start, round(68 / dt))[0, -1, -1])
    coarse, half = abs(ends[0] - ends[2]), abs(ends[1] - ends[2])
    assert coarse / half == pytest.approx(16, rel=0.3)


def test_kuramoto_sivashinsky_agrees_with_scipy():
    system = KuramotoSivashinsky(length=12.0, points=16)
    start = np.fft.irfft(np.fft.rfft(system.initial(1, rng())) * system.kept, 16)[0]
    k = system.wave_numbers

    def derivative(u):
        v = np.fft.rfft(u)
        return np.fft.irfft((k**2 - k**4) * v + system.nonlinear(v), 16)

    times = system.dt * np.arange(1, 9)
    expected = scipy_solution(derivative, start, times)
    assert system.advance(start[None], 8)[0] == pytest.approx(expected, abs=1e-4)
    fine = KuramotoSivashinsky(length=12.0, points=16, dt=0.01).advance(start[None], 200)[0, 24::25]
    assert fine == pytest.approx(expected, abs=1e-9)


def test_kuramoto_sivashinsky_keeps_its_mean_and_lets_long_waves_grow():
    system = KuramotoSivashinsky()
    assert np.abs(system.trajectories(2, 20, seed=0).mean(-1)).max() < 1e-12
    k = system.wave_numbers[2]
    wave = 1e-6 * np.cos(2 * 2 * np.pi * np.arange(system.points) / system.points)
    assert system.advance(wave[None], 4)[0, -1] == pytest.approx(wave * np.exp(k**2 - k**4), rel=1e-4, abs=1e-10)


@dataclass(frozen=True, kw_only=True)
class Saddle(Flow):
    """x' = A x with eigenvalues 0.02 and -1, not at right angles."""

    dt: float = 0.1
    substeps: ClassVar[int] = 2
    transient: ClassVar[float] = 0.0

    @property
    def channels(self):
        return "x", "y"

    def initial(self, rows, rng):
        return rng.normal(size=(rows, 2))

    def derivative(self, x):
        return x @ np.array([[0.02, 0.0], [2.0, -1.0]])


def test_the_exponent_of_a_linear_system_is_its_largest_eigenvalue():
    found = largest_exponent(Saddle(), rows=4, steps=400)
    assert found.value == pytest.approx(0.02, abs=1e-5)
    assert found.error < 1e-5


@pytest.mark.parametrize(
    ("system", "published", "steps"),
    [
        (Lorenz63(), 0.906, 1000),  # Viswanath 1998: 0.90566
        (Roessler(), 0.0714, 1000),  # Sprott 2003: 0.0714
        (Lorenz63(rho=14.0), None, 300),  # below the onset of chaos all trajectories end at rest
    ],
    ids=str,
)
def test_exponents_are_the_published_ones(system, published, steps):
    found = largest_exponent(system, rows=48, steps=steps)
    if published is None:
        assert found.value < -0.1
    else:
        assert abs(found.value - published) < 4 * found.error
        assert found.error < 0.08 * published


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_trajectories(system):
    path = system.trajectories(2, 6, seed=1)
    assert path.shape == (2, 6, len(system.channels))
    assert path.dtype == np.float64
    assert np.isfinite(path).all()
    assert np.array_equal(system.trajectories(2, 9, seed=1)[:, :6], path), "more samples continue those with fewer"
    assert np.abs(system.trajectories(2, 1, seed=2) - path[:, :1]).max() > 1e-3
    assert np.abs(path[0] - path[1]).max() > 1e-3


def test_a_delay_must_fit_the_steps():
    with pytest.raises(UserError, match=r"tau=17.03 must be a multiple of dt / 10 = 0.1"):
        MackeyGlass(tau=17.03)
