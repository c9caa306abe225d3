"""Runs that are stopped from outside, as processes of their own."""

import json
import os
import resource
import signal
import time

import pytest

from openxlstm.errors import UserError
from openxlstm.files import held
from openxlstm.training import train


@pytest.fixture
def config_file(changed, tmp_path):
    """Carried states and dropout: everything that a checkpoint must hold."""

    def write(**trainer):
        config = changed(model={"dropout": 0.2}, tbptt=True, **trainer)
        path = tmp_path / "run.json"
        path.write_text(json.dumps(config.to_dict()))
        return config, path

    return write


def wait_for_step(process, folder, step):
    """Return when metrics.csv has a row of this step."""
    for _ in range(6000):
        metrics = folder / "metrics.csv"
        if metrics.exists() and metrics.read_text().count("\n") > step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("the run does not move")


def test_a_killed_run_resumes_bit_for_bit(config_file, command, tmp_path, losses):
    config, path = config_file(steps=60, checkpoint_every=7, validate_every=10)
    whole = train(config, tmp_path / "whole")
    process = command("train", "--config", path, "--run-dir", tmp_path / "killed")
    wait_for_step(process, tmp_path / "killed", 18)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "report.json").exists(), "killed too late to show anything"
    resumed = train(resume=tmp_path / "killed")
    for column in ("loss", "lr", "grad_norm", "tokens", "val_loss", "val_bits_per_byte"):
        assert losses(resumed.folder, column) == losses(whole.folder, column), column
    model = "model/model.safetensors"
    assert (resumed.folder / model).read_bytes() == (whole.folder / model).read_bytes()


def test_a_run_is_one_process_at_a_time(config_file, command, tmp_path, losses):
    _, path = config_file(steps=100_000, checkpoint_every=2, validate_every=0)
    folder = tmp_path / "run"
    process = command("train", "--config", path, "--run-dir", folder)
    wait_for_step(process, folder, 5)
    with pytest.raises(UserError, match="another process works in it; wait for it or stop it"):
        train(resume=folder)
    wait_for_step(process, folder, len(losses(folder)) + 3)  # the first goes on
    process.kill()
    process.communicate()
    with held(folder):  # nothing holds it any more
        assert (folder / "checkpoints" / "last.pt").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(config_file, command, tmp_path, losses, number, code):
    _, path = config_file(steps=100_000, checkpoint_every=100_000, validate_every=0)
    folder = tmp_path / "run"
    process = command("train", "--config", path, "--run-dir", folder)
    wait_for_step(process, folder, 3)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"continue with: openxlstm train --resume {folder}" in err
    assert out == "", "no result, so nothing on stdout"
    last = max(losses(folder))
    assert f"interrupted at step {last};" in err
    from openxlstm.training import checkpoint

    assert checkpoint.read(folder / "checkpoints" / "last.pt")["step"] == last


def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_loads(small, command, tmp_path):
    folder = tmp_path / "run"
    train(small, folder)
    (folder / "report.json").unlink()
    settings = json.loads((folder / "config.json").read_text())
    settings["trainer"]["steps"] = 40  # there is more to do
    (folder / "config.json").write_text(json.dumps(settings))
    last = folder / "checkpoints" / "last.pt"
    before, room = last.read_bytes(), last.stat().st_size // 2

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    process = command("train", "--resume", folder, preexec_fn=small_disk)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert out == ""
    assert f"openxlstm: error: no room to write the checkpoint {last} (File too large)" in err
    assert "is intact" in err
    assert "Traceback" not in err
    assert last.read_bytes() == before
    assert train(resume=folder).report["steps_done"] == 40


def test_the_command_line_reports_on_stdout_and_fails_in_one_line(config_file, command, tmp_path):
    _, path = config_file()
    good = command("train", "--config", path, "--run-dir", tmp_path / "run", "--sample=20")
    bad = command("train", "--config", path, "--trainer.stepz=3")
    out, err = good.communicate(timeout=100)
    assert good.returncode == 0, err
    assert out.startswith("validation: ")
    assert f"figure: {tmp_path / 'run' / 'loss.png'}" in out
    assert "sample (20 tokens" in out
    assert "step 8/8" in err
    out, err = bad.communicate(timeout=100)
    assert bad.returncode == 2
    assert out == ""
    assert err == "openxlstm: error: unknown option --trainer.stepz; did you mean --trainer.steps or --trainer.tbptt?\n"
