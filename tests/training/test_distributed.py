"""Two processes on the CPU against one, at the same global batch."""

import json

import pytest

from openxlstm.training import train


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_are_one(changed, command, tmp_path, losses, strategy):
    """With carried states and a validation in the middle, whose best weights are the ones that are saved.

    Tolerance: sums over rows are done in two halves, which changes the last bit of fp32 (6e-8 relative); eight steps of AdamW,
    which divides by sqrt(v), make up to some hundred times that of it. A wrong average (a factor of 2 in the gradient, or the
    mean of means) would show in the norm at once.
    """
    config = changed(tbptt=True, strategy=strategy, validate_every=2)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.to_dict()))
    process = command("train", "--config", path, "--run-dir", tmp_path / "two", "--sample=0", processes=2)
    one = train(config, tmp_path / "one")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert out.count("validation: ") == 1, "process 0 alone reports"
    two = tmp_path / "two"
    for column in ("loss", "grad_norm", "val_loss"):
        found, expected = losses(two, column), losses(one.folder, column)
        assert found.keys() == expected.keys()
        for step, value in expected.items():
            assert float(found[step]) == pytest.approx(float(value), rel=2e-5), (column, step)
    report = json.loads((two / "report.json").read_text())
    assert report["environment"]["processes"] == 2
    assert report["validation"]["nats_per_token"] == pytest.approx(one.report["validation"]["nats_per_token"], rel=2e-5)
    # a run of two processes can be continued by one
    (two / "report.json").unlink()
    from openxlstm.training import checkpoint

    stored = checkpoint.read(two / "checkpoints" / "last.pt")
    assert len(stored["processes"]) == 2
    assert {name: tuple(w.shape) for name, w in stored["model"].items()} == {
        f"model.{name}": tuple(w.shape) for name, w in one.model.state_dict().items()
    }
    alone = train(resume=two)
    expected = report["validation"]["nats_per_token"]
    assert alone.report["validation"]["nats_per_token"] == pytest.approx(expected, rel=1e-6)  # the same weights, other sums
