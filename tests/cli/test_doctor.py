"""The doctor must find what is broken, not only report what is well."""

import errno
import json
from pathlib import Path

import pytest
import torch

import openxlstm.ops
from openxlstm.cli import doctor
from openxlstm.cli.main import main
from openxlstm.ops.backend import Backend

DOORS = openxlstm.ops.DOORS


def mlstm_module():
    import importlib

    return importlib.import_module("openxlstm.ops.mlstm.scan")


def test_here_everything_works(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["usable"]
    assert report["versions"]["torch"] == torch.__version__
    on_cpu = {op["operation"]: op for op in report["operations"] if op["device"] == "cpu"}
    assert {"mlstm_scan", "slstm_scan", "lstm_scan", "causal_conv1d"} <= set(on_cpu)
    for op in on_cpu.values():
        assert {entry["backend"]: entry["status"] for entry in op["backends"]}["reference"] == "works"
        assert op["auto"] is not None


def test_for_a_reader(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "mlstm_scan on cpu" in out
    assert "  Triton   " in out
    assert out.rstrip().endswith("usable: the self-test passed")


def test_every_door_is_tested():
    assert set(DOORS) == {name for name in openxlstm.ops.__all__ if callable(getattr(openxlstm.ops, name)) and name.islower()}
    assert set(DOORS) == set(doctor.INPUTS)


def wrong_value(*args, **options):
    h, state = mlstm_module().REFERENCE.run(*args, **options)
    return h * 1.01, state


def wrong_gradient(*args, **options):
    h, state = mlstm_module().REFERENCE.run(*args, **options)
    return h + (h - h.detach()) * 0.01, state


def not_a_number(*args, **options):
    h, state = mlstm_module().REFERENCE.run(*args, **options)
    return h * torch.nan, state


def crash(*args, **options):
    raise RuntimeError("illegal instruction")


@pytest.mark.parametrize("broken", [wrong_value, wrong_gradient, not_a_number, crash])
def test_a_broken_backend_fails_the_self_test(monkeypatch, capsys, broken):
    module = mlstm_module()
    monkeypatch.setattr(module, "BACKENDS", (Backend("new", broken), *module.BACKENDS))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: mlstm_scan on cpu, backend new: " in out
    assert out.rstrip().endswith("not usable: the self-test failed")


def test_backends_that_cannot_run_say_why_and_are_passed_over(monkeypatch, capsys):
    module = mlstm_module()
    absent = Backend("absent", crash, missing=lambda: "the library is not there")
    unwilling = Backend("unwilling", crash, refuses=lambda *_, **__: "not with these shapes")
    monkeypatch.setattr(module, "BACKENDS", (absent, unwilling, *module.BACKENDS))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "missing   the library is not there" in out
    assert "refuses   not with these shapes" in out
    assert doctor.examine_operation("mlstm_scan", "cpu")["auto"] == module.BACKENDS[2].name


def test_missing_packages_say_what_they_would_give(monkeypatch):
    monkeypatch.setattr(doctor, "found", lambda module: None)
    text = doctor.as_text(doctor.examine())
    assert "lightning        missing    training   pip install 'openxlstm[train]'" in text


def test_a_folder_that_cannot_be_written(tmp_path):
    assert doctor.write_problem(tmp_path / "not" / "yet" / "there") is None
    (tmp_path / "file").write_text("x")
    assert doctor.write_problem(tmp_path / "file") is not None


def test_a_folder_that_cannot_be_looked_into(tmp_path, monkeypatch):
    def exists(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", exists)
    assert doctor.write_problem(tmp_path / "locked" / "cache") == "Permission denied"
