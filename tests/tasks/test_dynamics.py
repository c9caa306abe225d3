"""Chaotic systems as tasks: what is read, what is asked, and how free runs are scored."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from openxlstm.errors import UserError
from openxlstm.recipes import recipe
from openxlstm.tasks import TASKS, DynamicsTask
from openxlstm.tasks.free_run import normalised_error, spectrum_distance, valid_steps
from openxlstm.training.evaluation.autoregression import LinearAutoregression
from openxlstm.training.evaluation.dynamics import evaluate_dynamics, linear_runs, scores, still_runs
from openxlstm.training.jobs.job import open_job

NAMES = [name for name, kind in TASKS.items() if issubclass(kind, DynamicsTask)]
SMALL = {"train_trajectories": 4, "train_samples": 60, "train_length": 20, "validation_trajectories": 2}
SMALL |= {"test_trajectories": 3, "warmup": 10, "horizon": 0.5}


def small(name="lorenz63", **settings):
    return TASKS[name](**SMALL | settings)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_leads_to_the_next_sample(name):
    task = small(name, noise=0.0, horizon=0.05)
    batch = task.train_batch(3, rng())
    features = task.signature.input_dim
    assert batch.inputs.shape == batch.targets.shape == (3, 20, features)
    assert features == len(task.channels)
    reached = batch.inputs[:, :-1] + batch.targets[:, :-1] * torch.tensor(task.scale.step)
    assert reached == pytest.approx(batch.inputs[:, 1:].double(), abs=2e-6)
    assert task.truth("train").std((0, 1)) == pytest.approx(np.ones(features))
    everything = task.steps(torch.tensor(task.measured("train")), torch.zeros(4, 59, features))
    assert everything.targets.square().mean((0, 1)) == pytest.approx(np.ones(features), rel=1e-3)


def test_splits_have_trajectories_of_their_own():
    task = small(horizon=1.0)
    starts = np.concatenate([task.truth(split)[:, 0] for split in ("train", "validation", "test")])
    apart = np.abs(starts[:, None] - starts).max(-1) + np.eye(len(starts))
    assert apart.min() > 1e-3


def test_noise_is_taken_out_again_and_falls_to_nothing():
    task, clean = small(noise=0.1), small(noise=0.0)
    truth = clean.train_batch(500, rng(1))
    for progress, level in ((0.0, 0.1), (0.5, 0.025), (1.0, 0.0)):
        batch = task.train_batch_at(500, rng(1), progress)
        noise = batch.inputs - truth.inputs
        assert float(noise.std()) == pytest.approx(level, rel=0.03, abs=1e-7)
        # the answer still leads to the true next sample
        step = torch.tensor(task.scale.step)
        assert (batch.targets - truth.targets) * step == pytest.approx(-noise.double(), abs=1e-6)


def test_measurement_noise_is_read_but_not_the_truth():
    task = small(measurement_noise=0.2, noise=0.0, train_samples=400, horizon=4.0)
    for split in ("train", "test"):
        noise = task.measured(split) - task.truth(split)
        assert noise.std((0, 1)) == pytest.approx(0.2 * np.ones(3), rel=0.15)
    assert task.measured("test", 20) == pytest.approx(task.measured("test")[:, :20]), "longer ones are the same where they are"
    clean = small(train_samples=400, horizon=4.0)
    assert task.truth("test") == pytest.approx(clean.truth("test"))
    assert (task.scale.step > 1.5 * clean.scale.step).all(), "most of a step is noise"
    batch = task.train_batch(3, rng())
    reached = batch.inputs[:, :-1] + batch.targets[:, :-1] * torch.tensor(task.scale.step)
    assert reached == pytest.approx(batch.inputs[:, 1:].double(), abs=2e-6)


def test_of_a_partly_observed_system_the_rest_is_not_seen():
    task = small(observed=1)
    assert task.channels == ("x",)
    assert task.signature.input_dim == task.signature.num_values == 1
    assert task.truth("test") == pytest.approx(small().truth("test")[..., :1])


class Knows(nn.Module):
    """Answers as the system itself goes on, until step `forgets` of the free run, from where on everything stands still."""

    def __init__(self, task, forgets=10**9):
        super().__init__()
        self.task, self.forgets = task, forgets
        self.weight = nn.Parameter(torch.zeros(1))

    def hidden(self, x, state, reset=None):
        seen = (state or 0) + x.shape[1]
        scale = self.task.scale
        after = self.task.system.advance(scale.physical(x.double().numpy()).reshape(-1, x.shape[2]), 1)[:, 0]
        answer = (scale.normal(after).reshape(x.shape) - x.double().numpy()) / scale.step
        return torch.from_numpy(answer) * (seen < self.task.warmup + self.forgets), seen

    def head(self, h):
        return h


def test_who_knows_the_system_is_valid_to_the_end():
    task = small(horizon=6.0)
    found = evaluate_dynamics(Knows(task), task, "test")
    assert found.score == found.mean_valid_time == pytest.approx(6.0, abs=0.01)
    assert found.loss < 1e-9
    assert found.spectrum_distance < 1e-2
    assert found.guess < 0.5
    assert found.num_targets == 3


def test_who_forgets_it_is_valid_until_then():
    """Standing still is wrong within a fraction of a Lyapunov time: so it is that much later."""
    task = small(horizon=3.0)
    steps = task.lyapunov_time / task.dt
    found = evaluate_dynamics(Knows(task, forgets=101), task, "test")
    truth = task.truth("test")[:, task.warmup :]
    still = truth.copy()
    still[:, 101:] = still[:, 100:101]
    expected = valid_steps(still, truth, 0.4) / steps
    assert found.valid_times == pytest.approx(expected, abs=1e-9)
    assert found.score == pytest.approx(np.median(expected))


def test_standing_still_is_at_the_last_sample_that_was_read():
    """So the first step is wrong already, as that of everybody who does not know the system."""
    task = small(horizon=1.0, measurement_noise=0.1)
    still = still_runs(task, "test", task.horizon_steps)
    assert still.shape == task.truth("test")[:, task.warmup :].shape
    assert still[:, -1] == pytest.approx(task.measured("test")[:, task.warmup - 1])
    one_step = small(horizon=1.0, threshold=1e-3)
    assert evaluate_dynamics(Knows(one_step), one_step, "test").guess == 0, "no step is right to a thousandth"


def test_valid_steps_by_hand():
    truth = np.zeros((4, 5, 2))
    run = truth.copy()
    run[0, 3] = 0.5  # too much in both channels
    run[1, 1, 0] = 0.5  # root mean square 0.35: still valid
    run[1, 4, 0] = 0.6  # 0.42: not
    run[2, 2:] = np.nan
    assert valid_steps(run, truth, 0.4).tolist() == [3, 4, 2, 5]
    assert normalised_error(run, truth)[1, 1] == pytest.approx(0.5 / np.sqrt(2))
    run[3, 0] = np.inf
    assert valid_steps(run, truth, 0.4)[3] == 0


def test_distance_of_spectra():
    time = np.arange(400)[:, None]
    slow, fast = (np.stack([np.sin(f * time + phase) for phase in range(3)]) for f in (0.2, 0.9))
    assert spectrum_distance(slow, slow) < 1e-6
    assert spectrum_distance(3 * slow, slow) < 1e-6, "shares of the variance, not the variance"
    assert spectrum_distance(np.roll(slow, 7, 1), slow) < 0.05, "phases do not matter"
    assert spectrum_distance(fast, slow) > 0.99
    assert spectrum_distance(np.zeros_like(slow), slow) == 1, "who comes to rest has none"
    lost = slow.copy()
    lost[0, 50:] = np.inf
    assert spectrum_distance(lost, slow) == pytest.approx(1 / 3, abs=0.01)


def test_linear_autoregression_finds_a_linear_system():
    A, c = np.array([[0.9, -0.3], [0.3, 0.9]]), np.array([0.1, -0.2])
    paths = [np.random.default_rng(0).normal(size=(5, 2))]
    for _ in range(60):
        paths.append(paths[-1] @ A.T + c)
    paths = np.stack(paths, 1)
    model = LinearAutoregression.fit(paths[:, :40], 1)
    assert model.weights == pytest.approx(np.concatenate([c[None], A.T]))
    assert model.free_run(paths[:, :41], 20) == pytest.approx(paths[:, 41:])
    # of one channel alone two samples are a state
    one = LinearAutoregression.fit(paths[:, :40, :1], 2)
    assert one.free_run(paths[:, :41, :1], 20) == pytest.approx(paths[:, 41:, :1])
    with pytest.raises(ValueError, match="too short for order 8"):
        LinearAutoregression.fit(paths[:, :8], 8)
    with pytest.raises(ValueError, match="too short for order 2"):
        one.free_run(paths[:, :1, :1], 3)


def test_the_linear_baseline_is_better_than_standing_still():
    task = small(horizon=2.0, train_samples=300, warmup=20, test_trajectories=20)
    order, runs = linear_runs(task)
    truth = task.truth("test")[:, task.warmup :]
    assert order in (1, 2, 4, 8, 16)
    still = scores(task, still_runs(task, "test", truth.shape[1]), truth)
    assert scores(task, runs, truth)["more"]["mean_valid_time"] > still["more"]["mean_valid_time"]


def test_lyapunov_times_are_measured_where_settings_are_not_usual():
    assert 1 / TASKS["lorenz63"](dt=0.01).lyapunov_time == pytest.approx(0.906, rel=1e-12)
    assert 1 / TASKS["lorenz63"](rho=35.0).lyapunov_time > 0.95
    with pytest.raises(UserError, match=r"neighbours do not part .*choose settings with chaos"):
        _ = TASKS["lorenz63"](rho=14.0).lyapunov_time


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lorenz63", {"observed": 4}, "data.observed=4 must be 0 .all. to 3: x, y, z"),
        ("lorenz63", {"dt": 0.0}, "data.dt=0 must be positive"),
        ("lorenz63", {"dt": math.inf}, "data.dt=inf must be positive and finite"),
        ("lorenz63", {"horizon": math.nan}, "data.horizon=nan must be positive and finite"),
        ("lorenz63", {"noise": -1.0}, "data.noise=-1 must not be negative"),
        ("lorenz63", {"warmup": 0}, "data.warmup=0 must be at least 1"),
        ("lorenz63", {"train_samples": 100}, "data.train_samples=100 must be more than train_length=100"),
        ("lorenz96", {"places": 3}, "data.places=3 must be at least 4"),
        ("mackey_glass", {"tau": 17.01}, "tau=17.01 must be a multiple of"),
        ("kuramoto_sivashinsky", {"points": 9}, "data.points=9 must be even"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        TASKS[name](**settings)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", [{"dt": 1.0}, {"rho": math.nan}, {"rho": 1e6}])
def test_trajectories_that_leave_all_bounds_are_refused(settings):
    config = replace(recipe("lorenz63"), data=small(**settings))
    with pytest.raises(UserError, match=r"^Lorenz63\(dt=.*\): trajectories leave all bounds; choose a smaller --data\.dt, or"):
        open_job(config)


def test_lengths_are_the_warm_up_and_a_free_run():
    task = small()
    assert task.reports == (str(10 + task.horizon_steps),)
    assert evaluate_dynamics(Knows(task), task, "validation", "15").horizon == pytest.approx(5 / 55.2, rel=0.01)
    for lengths in ("10", "12-20", "x"):
        with pytest.raises(UserError, match="must be one number above the 10 samples of warm-up"):
            evaluate_dynamics(Knows(task), task, "test", lengths)
