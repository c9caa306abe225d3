"""The command line as its user meets it: screens, exit codes, one line for each failure."""

import errno
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import openxlstm
from openxlstm.cli import main as cli
from openxlstm.cli.extras import OPTIONAL
from openxlstm.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def verb(monkeypatch):
    """Install a function as the verb `fail`."""

    def install(run):
        module = types.ModuleType("fake_verb")
        module.run = run
        monkeypatch.setitem(sys.modules, "fake_verb", module)
        monkeypatch.setitem(cli.VERBS, "fail", ("fake_verb", "fails"))

    monkeypatch.delenv("OPENXLSTM_DEBUG", raising=False)
    return install


def raising(error):
    def run(argv):
        raise error

    return run


def python_m(*args, **options):
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "openxlstm", *args], capture_output=True, text=True, env=env, **options)


def test_alone_it_shows_where_to_start(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "openxlstm train" in out
    assert "openxlstm generate" in out
    assert all(re.search(rf"\n  ([a-z-]+, )*{name}[ ,]", out) for name in cli.VERBS)
    assert len(out.splitlines()) <= 24  # one screen
    assert max(map(len, out.splitlines())) <= 80
    for same in (["--help"], ["-h"], ["help"]):
        assert cli.main(same) == 0
        assert capsys.readouterr().out == out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"openxlstm {openxlstm.__version__}\n"


def test_unknown_verb_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "openxlstm: error: unknown verb 'trian'; did you mean 'train'?\n"
    assert cli.main(["zzzzz"]) == 2
    assert "have train, eval" in capsys.readouterr().err


@pytest.mark.parametrize("verb_name", cli.VERBS)
def test_every_verb_explains_itself(verb_name, capsys):
    assert cli.main([verb_name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"openxlstm {verb_name}" in out
    assert out.count("\n") >= 3
    for same in (["help", verb_name], [verb_name, "-h"]):
        assert cli.main(same) == 0
        assert capsys.readouterr().out == out


@pytest.mark.parametrize("verb_name", cli.VERBS)
def test_every_verb_refuses_an_unknown_option_in_one_line(verb_name, capsys):
    assert cli.main([verb_name, "--no-such-option-anywhere"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("openxlstm: error: ")
    assert shown.err.count("\n") == 1
    assert "--no-such-option-anywhere" in shown.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("the\n  file is bad"), "the file is bad"),
        (ValueError("odd"), "odd"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "a/b: no such file or folder"),
        (PermissionError(errno.EACCES, "denied", "a/b"), "a/b: permission denied"),
        (IsADirectoryError(errno.EISDIR, "dir", "a/b"), "a/b: this is a folder, not a file"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (OSError(errno.ENOSPC, "No space left", "runs/x"), "runs/x: no space left on the disk"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "the text is not UTF-8"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), "out of memory"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(verb, capsys, error, message):
    verb(raising(error))
    assert cli.main(["fail"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"openxlstm: error: {message}")
    assert shown.err.count("\n") == 1


def test_a_missing_optional_package_says_how_to_install_it(verb, capsys):
    verb(raising(ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")))
    assert cli.main(["fail"]) == 2
    assert "pip install 'openxlstm[train]'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(verb, capsys):
    verb(raising(KeyError("oops")))
    assert cli.main(["fail"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "please report" in err
    verb(raising(ModuleNotFoundError("No module named 'openxlstm.nothing'", name="openxlstm.nothing")))
    assert cli.main(["fail"]) == 1


def test_debug_adds_the_traceback(verb, capsys, monkeypatch):
    verb(raising(UserError("bad")))
    monkeypatch.setenv("OPENXLSTM_DEBUG", "1")
    assert cli.main(["fail"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("openxlstm: error: bad\n")


def test_interruption(verb, capsys):
    verb(raising(KeyboardInterrupt()))
    assert cli.main(["fail"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_exit_codes_pass_through(verb):
    verb(lambda argv: 1)
    assert cli.main(["fail"]) == 1
    verb(raising(SystemExit(3)))
    assert cli.main(["fail"]) == 3


def test_as_a_program():
    done = python_m("nonsense")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("openxlstm: error: unknown verb")


@pytest.mark.parametrize(("processes", "last"), [("1", "shutdown\n"), ("2", "")])
def test_one_of_several_processes_ends_without_the_interpreters_shutdown(processes, last):
    """Threads of gloo that let go of a tensor during the shutdown would abort it."""
    code = (
        "import atexit, sys; atexit.register(print, 'shutdown'); sys.argv = ['openxlstm', *sys.argv[1:]];"
        "from openxlstm.cli.main import main; sys.exit(main())"
    )
    environment = os.environ | {"WORLD_SIZE": processes}
    for word, exit_code, printed in (("--version", 0, f"openxlstm {openxlstm.__version__}\n"), ("--versoin", 2, "")):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (exit_code, printed + last)
        assert (done.stderr != "") == (exit_code == 2)


def test_a_closed_pipe_is_quiet():
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = f"{sys.executable} -m openxlstm | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_extras_are_those_of_the_package():
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    distribution = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub", "PIL": "pillow", "rouge_score": "rouge-score"}
    for entry in OPTIONAL:
        wanted = distribution.get(entry.module, entry.module)
        assert any(line.partition(">")[0].partition("[")[0] == wanted for line in extras[entry.extra]), entry
