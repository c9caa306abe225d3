"""Whole trainings: what a GPU computes, or the interpreted kernels, is what a CPU computes, to float32's rounding."""

from dataclasses import replace
from pathlib import Path

import pytest

from openxlstm.ops import gpu
from openxlstm.recipes import recipe
from openxlstm.tasks import TASKS
from openxlstm.training import train
from openxlstm.training.record import read_metrics

KERNELS = ("mlstm", "slstm")
"""Patterns whose recurrence has a kernel that can be interpreted."""


@pytest.mark.parametrize("pattern", [*KERNELS, "mlstm_large", "lstm", "transformer", "ssd"])
def test_a_training_is_that_of_a_cpu(pattern: str, device: str, tmp_path: Path) -> None:
    start = recipe("majority")
    task = TASKS["majority"](train_length="12", eval_length="12-20", report_lengths=(), validation_samples=8, test_samples=8)

    def losses(device: str, backend: str, folder: str) -> list[float]:
        model = replace(start.model, pattern=pattern, dim=16, num_blocks=1, num_heads=1, backend=backend)
        trainer = replace(start.trainer, steps=4, batch_size=4, validate_every=2, device=device)
        config = replace(start, data=task, model=model, trainer=trainer)
        rows = read_metrics(train(config, run_dir=tmp_path / folder).folder / "metrics.csv")
        return [float(row[name]) for row in rows for name in ("loss", "val_loss") if row[name]]

    expected = losses("cpu", "reference" if pattern in KERNELS else "auto", "cpu")
    backend = "triton" if gpu.interpreted() and pattern in KERNELS else "auto"
    assert len(expected) == 6
    assert losses(device, backend, "gpu") == pytest.approx(expected, rel=1e-3)
