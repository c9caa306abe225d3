"""Programs that a model wrote: problems to solve, samples, a sandbox that runs them, pass@k."""

from openxlstm.coding.pass_at_k import Scores, pass_at_k, score_samples
from openxlstm.coding.problems import Problem, Sample, read_problems, read_samples, write_samples
from openxlstm.coding.sandbox import Limits, Outcome, run_program, sandbox_locks

__all__ = [
    "Limits",
    "Outcome",
    "Problem",
    "Sample",
    "Scores",
    "pass_at_k",
    "read_problems",
    "read_samples",
    "run_program",
    "sandbox_locks",
    "score_samples",
    "write_samples",
]
