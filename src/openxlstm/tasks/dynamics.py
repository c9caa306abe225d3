"""Chaotic systems: to predict the next sample so well that a model can go on alone."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openxlstm.data import dynamics
from openxlstm.data.dynamics import System, largest_exponent
from openxlstm.data.windows import mix
from openxlstm.errors import UserError
from openxlstm.tasks.task import SQUARED_ERROR, Batch, Metric, Signature, Split, Task

STEPS_AT_ONCE = 65_536  # in a batch for evaluation


class Scale(NamedTuple):
    """Of the training trajectories, for each of F channels: what models read is (x - mean) / std, and what they answer is the
    difference to the next sample over `step`, in units of std."""

    mean: NDArray[Any]
    std: NDArray[Any]
    step: NDArray[Any]

    def normal(self, x: NDArray[Any]) -> NDArray[Any]:
        """Values [..., F] of the system as models read them."""
        return (x - self.mean) / self.std

    def physical(self, x: NDArray[Any]) -> NDArray[Any]:
        """The reverse."""
        return x * self.std + self.mean


@dataclass(frozen=True, kw_only=True)
class DynamicsTask(Task):
    """The next sample of a chaotic system, at every step; scored by how long a model follows the system alone.

    Trained is one step: read a sample, answer the difference to the next. Trajectories for training, validation and test start
    from different states. A model is tested by a free run: it reads `warmup` samples and goes on with its own answers.

    dt: time between two samples.
    observed: channels that are seen and predicted, the first ones; 0 = all.
    measurement_noise: standard deviation, over that of the channel, of noise on all that models read and learn from, the
        samples before a free run among it. What a free run is held against is without.
    noise: the same of further noise on what models read in training, which they learn to take out again; it falls to 0, as the
        square of what is left of the run.
    train_length: samples of a training sequence.
    warmup: samples that a model reads before a free run.
    horizon: length of a free run, in Lyapunov times.
    threshold: a free run is valid as long as its root mean squared error, over the system's standard deviation, is below this.
    train_trajectories: number of trajectories to train on.
    train_samples: samples of each.
    validation_trajectories: free runs in a validation.
    test_trajectories: free runs in the test.
    """

    dt: float
    observed: int = 0
    measurement_noise: float = 0.0
    noise: float = 1e-3
    train_length: int = 100
    warmup: int = 100
    horizon: float = 12.0
    threshold: float = 0.4
    train_trajectories: int = 64
    train_samples: int = 1000
    validation_trajectories: int = 32
    test_trajectories: int = 100

    standard: ClassVar[System]
    """The system with its usual settings."""
    exponent: ClassVar[float]
    """Its largest Lyapunov exponent, per unit of time."""
    shown: ClassVar[tuple[int, int]]
    """The two channels in which figures show the attractor."""

    def __post_init__(self) -> None:
        for name in ("train_length", "warmup", "train_trajectories", "validation_trajectories", "test_trajectories"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)} must be at least 1")
        for name in ("dt", "horizon", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"data.{name}={getattr(self, name):g} must be positive and finite")
        for name in ("noise", "measurement_noise"):
            if not getattr(self, name) >= 0:
                raise UserError(f"data.{name}={getattr(self, name):g} must not be negative")
        if self.train_samples <= self.train_length:
            raise UserError(f"data.train_samples={self.train_samples} must be more than train_length={self.train_length}")
        channels = self.system.channels  # refuses settings that the system does not have
        if not 0 <= self.observed <= len(channels):
            raise UserError(f"data.observed={self.observed} must be 0 (all) to {len(channels)}: {', '.join(channels)}")

    @property
    @abstractmethod
    def system(self) -> System:
        """The system with the settings of this task."""

    @property
    def channels(self) -> tuple[str, ...]:
        """What models see."""
        return self.system.channels[: self.observed or None]

    @property
    def lyapunov_time(self) -> float:
        """One over the largest Lyapunov exponent, which is measured where the system does not have its default settings."""
        usual = asdict(self.system) | {"dt": self.standard.dt} == asdict(self.standard)
        return 1 / (self.exponent if usual else measured_exponent(self.system))

    @property
    def horizon_steps(self) -> int:
        """Samples of a free run."""
        return max(round(self.horizon * self.lyapunov_time / self.dt), 1)

    @property
    def signature(self) -> Signature:
        return Signature(input_dim=len(self.channels), num_values=len(self.channels))

    @property
    def metric(self) -> Metric:
        """Of one step. The score of a run is that of free runs."""
        return SQUARED_ERROR

    def chance(self, length: int) -> float:
        """Always 0: the system stays where it is. Differences are scaled to mean square 1."""
        return 1.0

    @property
    def trained(self) -> str:
        return str(self.train_length)

    @property
    def reports(self) -> tuple[str, ...]:
        return (str(self.warmup + self.horizon_steps),)

    @property
    def description(self) -> str:
        seen = f"{len(self.channels)} of {len(self.system.channels)} channels"
        return (
            f"task {self.name}: {self.train_trajectories} trajectories of {self.train_samples} samples to train on, {seen}, "
            f"a Lyapunov time is {self.lyapunov_time / self.dt:.1f} steps"
        )

    @property
    def scale(self) -> Scale:
        """Of the training trajectories; the steps are those of what is measured."""
        return prepared(self, "train", self.train_samples).scale

    def truth(self, split: Split, samples: int | None = None) -> NDArray[Any]:
        """The trajectories of a split without noise, normalised, float64 [N, T, F]; `samples` makes them longer or shorter."""
        return prepared(self, split, samples or self.size(split)[1]).truth

    def measured(self, split: Split, samples: int | None = None) -> NDArray[Any]:
        """The same with measurement noise."""
        return prepared(self, split, samples or self.size(split)[1]).measured

    def size(self, split: Split) -> tuple[int, int]:
        """Number of trajectories and samples of each."""
        if split == "train":
            return self.train_trajectories, self.train_samples
        rows = self.validation_trajectories if split == "validation" else self.test_trajectories
        return rows, self.warmup + self.horizon_steps

    def train_batch(self, batch: int, rng: torch.Generator) -> Batch:
        return self.train_batch_at(batch, rng, 0.0)

    def train_batch_at(self, batch: int, rng: torch.Generator, progress: float) -> Batch:
        paths = self.measured("train")
        rows = torch.randint(len(paths), (batch,), generator=rng)
        starts = torch.randint(self.train_samples - self.train_length, (batch,), generator=rng)
        columns = starts[:, None] + torch.arange(self.train_length + 1)
        windows = torch.from_numpy(paths[rows[:, None].numpy(), columns.numpy()])  # [B, T + 1, F]
        level = self.noise * (1 - progress) ** 2
        return self.steps(windows, level * torch.randn(batch, self.train_length, paths.shape[2], generator=rng))

    def evaluation(self, split: Split, lengths: str) -> Iterator[tuple[str, Batch]]:
        self.horizon_of(lengths)
        paths = torch.tensor(self.measured(split, int(lengths)))
        for rows in paths.split(max(STEPS_AT_ONCE // paths.shape[1], 1)):
            yield lengths, self.steps(rows, torch.zeros(rows[:, 1:].shape))

    def horizon_of(self, lengths: str) -> int:
        """Samples of the free run in a trajectory of this length; UserError where it leaves none."""
        if not lengths.isdigit() or int(lengths) <= self.warmup:
            raise UserError(f"length {lengths!r} must be one number above the {self.warmup} samples of warm-up")
        return int(lengths) - self.warmup

    def steps(self, paths: Tensor, noise: Tensor) -> Batch:
        """All but the last of samples [B, T + 1, F] with noise [B, T, F], and the difference from there to the next sample."""
        inputs = (paths[:, :-1] + noise).float()
        # from what is read, rounded and with its noise: so a model learns to take errors back that it made a step before
        targets = (paths[:, 1:] - inputs) / torch.from_numpy(self.scale.step)
        return Batch(inputs, targets.float(), torch.full((len(paths),), inputs.shape[1]))


LOST = "trajectories leave all bounds; choose a smaller --data.dt, or other settings of the system"


class Prepared(NamedTuple):
    """Trajectories, normalised [N, T, F], without and with measurement noise."""

    truth: NDArray[Any]
    measured: NDArray[Any]
    scale: Scale


@lru_cache(maxsize=8)
def prepared(task: DynamicsTask, split: Split, samples: int) -> Prepared:
    """The trajectories of a split, made once. Raises UserError where they leave all bounds."""
    seed = mix(task.name, split)
    with np.errstate(over="ignore", invalid="ignore"):  # found out below
        path = task.system.trajectories(task.size(split)[0], samples, seed)[..., : len(task.channels)]
    if not np.isfinite(path).all():
        raise UserError(f"{task.system}: {LOST}")
    noise = np.zeros(path.shape)
    if task.measurement_noise:
        # a generator for each trajectory, so that a longer one has the same noise where the shorter one has it
        rngs = (np.random.Generator(np.random.PCG64([seed, row])) for row in range(len(path)))
        noise = task.measurement_noise * np.stack([rng.normal(size=path.shape[1:]) for rng in rngs])
    if split == "train":
        mean, std = path.mean((0, 1)), path.std((0, 1))
        steps = np.diff((path - mean) / std + noise, axis=1)
        scale = Scale(mean, std, np.sqrt(np.square(steps).mean((0, 1))))
    else:
        scale = task.scale
    truth = scale.normal(path)
    found = Prepared(truth, truth + noise, scale)
    for array in (found.truth, found.measured):
        array.setflags(write=False)  # everybody has the same
    return found


@lru_cache(maxsize=8)
def measured_exponent(system: System) -> float:
    """The largest Lyapunov exponent of a system with settings of its own; UserError where there is no chaos."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = largest_exponent(system)
    if not math.isfinite(found.value):
        raise UserError(f"{system}: {LOST}")
    if not found.value > max(3 * found.error, 0):
        raise UserError(
            f"{system}: neighbours do not part (largest Lyapunov exponent {found.value:.3g} +- {found.error:.2g}), so there is "
            "no Lyapunov time; choose settings with chaos"
        )
    return found.value


@dataclass(frozen=True, kw_only=True)
class Lorenz63(DynamicsTask):
    """The Lorenz system of 1963, three numbers: how long does a model follow it alone?

    sigma: Prandtl number.
    rho: Rayleigh number over its critical value.
    beta: shape of the rolls.
    """

    name: ClassVar[str] = "lorenz63"
    standard: ClassVar[System] = dynamics.Lorenz63(dt=1.0)
    exponent: ClassVar[float] = 0.906
    shown: ClassVar[tuple[int, int]] = (0, 2)

    dt: float = 0.02
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3

    @property
    def system(self) -> System:
        return dynamics.Lorenz63(dt=self.dt, sigma=self.sigma, rho=self.rho, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class Lorenz96(DynamicsTask):
    """The Lorenz system of 1996, a ring of places: how long does a model follow it alone?

    places: numbers on the ring; 40 in most papers.
    forcing: what drives each of them.
    """

    name: ClassVar[str] = "lorenz96"
    standard: ClassVar[System] = dynamics.Lorenz96(dt=1.0)
    exponent: ClassVar[float] = 1.60
    shown: ClassVar[tuple[int, int]] = (0, 1)

    dt: float = 0.02
    places: int = 8
    forcing: float = 8.0

    def __post_init__(self) -> None:
        if self.places < 4:
            raise UserError(f"data.places={self.places} must be at least 4: a place looks at three others")
        super().__post_init__()

    @property
    def system(self) -> System:
        return dynamics.Lorenz96(dt=self.dt, places=self.places, forcing=self.forcing)


@dataclass(frozen=True, kw_only=True)
class Roessler(DynamicsTask):
    """The Roessler system, a spiral that folds back: how long does a model follow it alone?

    a: growth of the spiral.
    b: what lifts it.
    c: where it folds.
    """

    name: ClassVar[str] = "rossler"
    standard: ClassVar[System] = dynamics.Roessler(dt=1.0)
    exponent: ClassVar[float] = 0.0714
    shown: ClassVar[tuple[int, int]] = (0, 1)

    dt: float = 0.1
    horizon: float = 8.0
    a: float = 0.2
    b: float = 0.2
    c: float = 5.7

    @property
    def system(self) -> System:
        return dynamics.Roessler(dt=self.dt, a=self.a, b=self.b, c=self.c)


@dataclass(frozen=True, kw_only=True)
class MackeyGlass(DynamicsTask):
    """The Mackey-Glass equation, whose state is all of its delay: how long does a model follow it alone?

    tau: the delay; 17 and 30 are usual.
    beta: production.
    gamma: decay.
    n: how sharply production stops.
    """

    name: ClassVar[str] = "mackey_glass"
    standard: ClassVar[System] = dynamics.MackeyGlass(dt=1.0)
    exponent: ClassVar[float] = 0.0052
    shown: ClassVar[tuple[int, int]] = (0, 0)

    dt: float = 1.0
    horizon: float = 6.0
    tau: float = 17.0
    beta: float = 0.2
    gamma: float = 0.1
    n: float = 10.0

    @property
    def system(self) -> System:
        return dynamics.MackeyGlass(dt=self.dt, tau=self.tau, beta=self.beta, gamma=self.gamma, n=self.n)


@dataclass(frozen=True, kw_only=True)
class DoublePendulum(DynamicsTask):
    """A double pendulum without friction: how long does a model follow it alone?

    release: angle from below, in radians, whose energy at rest all trajectories have.
    gravity: in units of the length of a rod.
    """

    name: ClassVar[str] = "double_pendulum"
    standard: ClassVar[System] = dynamics.DoublePendulum(dt=1.0)
    exponent: ClassVar[float] = 1.43
    shown: ClassVar[tuple[int, int]] = (2, 3)

    dt: float = 0.05
    release: float = 2 * np.pi / 3
    gravity: float = 9.81

    @property
    def system(self) -> System:
        return dynamics.DoublePendulum(dt=self.dt, release=self.release, gravity=self.gravity)


@dataclass(frozen=True, kw_only=True)
class KuramotoSivashinsky(DynamicsTask):
    """The Kuramoto-Sivashinsky equation, waves on a ring: how long does a model follow it alone?

    length: circumference of the ring; more is more chaotic.
    points: places at which it is seen; some 3 on two units of length are needed.
    """

    name: ClassVar[str] = "kuramoto_sivashinsky"
    standard: ClassVar[System] = dynamics.KuramotoSivashinsky(dt=1.0)
    exponent: ClassVar[float] = 0.049
    shown: ClassVar[tuple[int, int]] = (0, 1)

    dt: float = 0.25
    horizon: float = 8.0
    length: float = 22.0
    points: int = 32

    def __post_init__(self) -> None:
        if self.points < 8 or self.points % 2:
            raise UserError(f"data.points={self.points} must be even and at least 8")
        super().__post_init__()

    @property
    def system(self) -> System:
        return dynamics.KuramotoSivashinsky(dt=self.dt, length=self.length, points=self.points)
