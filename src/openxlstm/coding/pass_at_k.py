"""pass@k: how likely one of k samples solves a problem (Chen et al. 2021, arXiv 2107.03374, section 2.1)."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from openxlstm.coding.problems import Problem, Sample
from openxlstm.coding.sandbox import Limits, Outcome, run_program, sandbox_locks
from openxlstm.errors import UserError


@dataclass(frozen=True)
class Scores:
    """What running the samples gave.

    pass_at: k -> the mean over problems. counts: problem -> (samples, those that passed). outcomes: of each sample, in order.
    locks: what held while they ran.
    """

    pass_at: dict[int, float]
    counts: dict[str, tuple[int, int]]
    outcomes: tuple[Outcome, ...]
    locks: tuple[str, ...]

    @property
    def results(self) -> dict[str, int]:
        """How many samples ended how."""
        return dict(Counter(outcome.result for outcome in self.outcomes).most_common())


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples, drawn without replacement, have one of the c that passed.

    Unbiased for n >= k independent samples, which 1 - (1 - c / n)^k is not (eq. 1 of the paper).
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise UserError(f"pass@{k} cannot be had from {num_samples} samples of which {num_passed} passed")
    return 1 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def score_samples(
    problems: Mapping[str, Problem],
    samples: Sequence[Sample],
    ks: Sequence[int] = (1,),
    *,
    limits: Limits | None = None,
    jobs: int = 1,
    report: Callable[[int, Outcome], None] | None = None,
) -> Scores:
    """Run every sample with its problem's tests in the sandbox, `jobs` at a time.

    The mean is over problems that have samples; each needs max(ks) of them. report: called with how many are done, and the
    outcome. Raises UserError for too few samples, and where the sandbox does not hold on this machine.
    """
    numbers = Counter(sample.task_id for sample in samples)
    for task_id, number in numbers.items():
        if number < max(ks):
            raise UserError(f"pass@{max(ks)} needs {max(ks)} samples of each problem, and {task_id!r} has {number}")
    locks = sandbox_locks()
    programs = [problems[sample.task_id].program(sample.completion) for sample in samples]
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for outcome in _in_order(pool, programs, limits):
                outcomes.append(outcome)
                if report is not None:
                    report(len(outcomes), outcome)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    passed = Counter(sample.task_id for sample, outcome in zip(samples, outcomes, strict=True) if outcome.passed)
    counts = {task_id: (number, passed[task_id]) for task_id, number in numbers.items()}
    pass_at = {k: math.fsum(pass_at_k(n, c, k) for n, c in counts.values()) / len(counts) for k in ks}
    return Scores(pass_at, counts, tuple(outcomes), locks)


def _in_order(pool: ThreadPoolExecutor, programs: Sequence[str], limits: Limits | None) -> Iterator[Outcome]:
    return pool.map(lambda program: run_program(program, limits), programs)
