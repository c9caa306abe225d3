"""A small text, a small run, and the command line as a subprocess."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from openxlstm.data import TextConfig
from openxlstm.training import ModelSettings, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="session")
def text_file(session_folder):
    """About 30 kB in which the next character is often certain, so that a few steps already learn something."""
    lines = [f"{n} plus {n % 7} is {n + n % 7}, and {n} minus {n % 7} is {n - n % 7}.\n" for n in range(600)]
    path = session_folder / "sums.txt"
    path.write_text("".join(lines))
    return path


@pytest.fixture(autouse=True)
def _cache(session_folder, monkeypatch):
    monkeypatch.setenv("OPENXLSTM_CACHE", str(session_folder / "cache"))


@pytest.fixture
def small(text_file):
    """A configuration that trains in about a second."""
    return RunConfig(
        name="small",
        data=TextConfig(source=str(text_file), tokenizer="chars", validation=0.1, test=0.0),
        model=ModelSettings(pattern="mlstm,slstm", dim=16, num_blocks=2, num_heads=2),
        optimizer=OptimizerConfig(lr=5e-3),
        schedule=ScheduleConfig(warmup=2),
        trainer=TrainerConfig(
            steps=8, batch_size=4, context=16, validate_every=4, validate_tokens=200, checkpoint_every=3, threads=1
        ),
    )


@pytest.fixture
def changed(small):
    """`small` with other trainer and model settings."""

    def change(model=None, optimizer=None, **trainer):
        return replace(
            small,
            model=replace(small.model, **(model or {})),
            optimizer=replace(small.optimizer, **(optimizer or {})),
            trainer=replace(small.trainer, **trainer),
        )

    return change


@pytest.fixture
def command(session_folder):
    """Start `openxlstm WORDS` (or torchrun with it) in a process of its own."""

    def start(*words, processes=1, **options):
        launcher = [sys.executable, "-m", "openxlstm"]
        if processes > 1:
            rendezvous = ["--standalone", f"--nproc-per-node={processes}"]
            launcher = [sys.executable, "-m", "torch.distributed.run", *rendezvous, "-m", "openxlstm"]
        environment = os.environ | {
            "PYTHONPATH": str(SOURCE),
            "OMP_NUM_THREADS": "1",
            "OPENXLSTM_CACHE": str(session_folder / "cache"),
        }
        return subprocess.Popen(
            [*launcher, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=session_folder,
            env=environment,
            **options,
        )

    return start


@pytest.fixture
def losses():
    """losses(run folder, column="loss"): step -> the value as it was written in metrics.csv, every digit of it."""

    def read(folder, column="loss"):
        with open(folder / "metrics.csv", newline="") as file:
            return {int(row["step"]): row[column] for row in csv.DictReader(file) if row[column]}

    return read
