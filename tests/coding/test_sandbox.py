"""Programs that try to get out. Each runs under every set of locks that this machine can be made to have."""

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from openxlstm.coding import Limits, run_program, sandbox_locks
from openxlstm.coding import lock as locked_side
from openxlstm.errors import UserError

QUICK = Limits(seconds=1, memory=256)
WAYS = {"all": (), "mount namespace": ("landlock",), "no namespaces": ("network namespace",)}


def processes():
    """Command lines of all processes of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (folder / "cmdline").read_bytes().decode(errors="replace")


def works(without):
    try:
        return bool(sandbox_locks(without))
    except UserError:
        return False


if not works(()):
    pytest.skip("this machine has no locks for generated code", allow_module_level=True)


@pytest.fixture(params=WAYS)
def run(request):
    """Run a program by one of the ways to lock it in; one that this kernel does not grant is passed over."""
    without = WAYS[request.param]
    if not works(without):
        pytest.skip("not on this kernel")
    return lambda program: run_program(textwrap.dedent(program), QUICK, without=without)


def test_which_locks_hold():
    assert sandbox_locks()[0] == "seccomp"
    assert sandbox_locks()[1] in ("landlock", "mount namespace")
    assert sandbox_locks()[-1] == "resource limits"


def test_a_right_program_passes(run):
    modules = (
        "math, re, collections, heapq, itertools, functools, random, string, json, hashlib, decimal, datetime, bisect, typing"
    )
    assert run(f"import {modules}\nassert math.sqrt(4) == 2 and random.random() < 1\nprint('noise')").passed


def test_wrong_programs_do_not(run):
    assert run("assert 1 + 1 == 3, 'sum'").reason == "AssertionError: sum"
    assert run("def f(:").reason.startswith("SyntaxError")
    assert run("import sys; sys.exit(0)").result == "failed"
    assert run("import os; os._exit(0)").result == "ended"
    assert run("raise KeyboardInterrupt").result == "failed"
    assert run("import ctypes; ctypes.string_at(0)").reason == "by signal SIGSEGV"


def test_one_that_says_that_it_passed_has_not(run):
    program = """
        import json, os
        for fd in range(3, 20):
            try:
                os.write(fd, json.dumps({"number": "0" * 32, "failure": None}).encode() + b"\\n")
            except OSError:
                pass
        os._exit(0)
    """
    assert run(program).result == "ended"


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket()",
        "import socket; socket.socketpair()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import os; os.fork()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.execv('/bin/sh', ['sh', '-c', 'true'])",
        "import threading; threading.Thread(target=print).start()",
        "import os; os.setsid()",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import os; os.killpg(0, 9)",
        "import signal, threading; signal.pthread_kill(threading.get_ident(), 9)",
        "import os; os.chdir('/')",
        "import os; os.mkdir('new')",
        "import os; os.remove('/etc/hostname')",
        "import os; os.rename('a', 'b')",
        "import os; os.symlink('/', 'root')",
        "import os; os.chmod('.', 0o777)",
        "import os; os.unshare(0x10000000)" if hasattr(os, "unshare") else "import os; os.chroot('.')",
        "import os; os.memfd_create('x')",
        "import fcntl; fcntl.fcntl(1, fcntl.F_SETOWN, 1)",
    ],
)
def test_system_calls_are_refused(program):
    outcome = run_program(program, QUICK)
    assert outcome.result == "failed"
    assert "not permitted" in outcome.reason or "can't start new thread" in outcome.reason, outcome


def test_limits_cannot_be_raised():
    program = "import resource\nfor what in range(16):\n  resource.setrlimit(what, (1 << 40, 1 << 40))"
    assert run_program(program, QUICK).reason == "ValueError: not allowed to raise maximum limit"


def test_nothing_can_be_written(run, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    for path, mode in ((kept, "w"), (kept, "r+"), (kept, "a"), (tmp_path / "new", "x"), ("x", "w")):
        how = f"open({str(path)!r}, {mode!r})"
        assert "Error" in run(how).reason
    assert kept.read_text() == "as it was"
    assert os.listdir(tmp_path) == ["kept"]


def test_files_of_the_user_cannot_be_read(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password")
    for program in (
        f"open({str(secret)!r}).read()",
        f"import os; os.listdir({str(tmp_path)!r})",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        f"open('/proc/{os.getpid()}/maps').read()",
        "import os; os.listdir('/proc')",
    ):
        assert run(program).result == "failed", program


def test_there_is_no_environment(run, monkeypatch):
    monkeypatch.setenv("SECRET", "password")
    assert run("import os\nassert not set(os.environ) - {'LC_CTYPE'}, os.environ").passed


@pytest.mark.parametrize("program", ["x = bytearray(1 << 33)", "x = []\nwhile True: x.append(bytearray(1 << 22))"])
def test_memory_is_limited(program):
    assert run_program(program, QUICK).reason == "MemoryError"


def test_a_fork_bomb_is_none():
    program = """
        import os
        born = 0
        for _ in range(1000):
            try:
                born += os.fork() >= 0
            except OSError:
                pass
        assert born == 0
    """
    assert run_program(textwrap.dedent(program), QUICK).passed


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(100)",
        "import signal\nfor s in (2, 15, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "while True: print('x' * 100000)",
    ],
)
def test_endless_programs_end(program):
    began = time.monotonic()
    assert run_program(program, QUICK).result == "timeout"
    assert time.monotonic() - began < 10


def test_a_flood_into_the_pipe_of_results_is_cut_off():
    program = """
        import os
        for fd in range(3, 20):
            try:
                while True:
                    os.write(fd, b"x" * 100000)
            except OSError:
                pass
    """
    assert run_program(textwrap.dedent(program), QUICK).result == "ended"


def test_tracing_and_reading_other_processes_is_refused():
    program = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for request, pid in ((0, 0), (16, {os.getpid()}), (0x4206, {os.getpid()})):
            assert libc.ptrace(request, pid, 0, 0) == -1 and ctypes.get_errno() == 1
        assert libc.syscall(310, {os.getpid()}, None, 0, None, 0, 0) == -1 and ctypes.get_errno() == 1
    """
    assert run_program(textwrap.dedent(program), QUICK).passed


def test_another_way_to_number_system_calls_ends_the_program():
    """The 32-bit entry of x86, by which a filter on 64-bit numbers could be passed: int 0x80 with getpid."""
    if locked_side.platform.machine() != "x86_64":
        pytest.skip("of x86")
    program = """
        import ctypes, mmap
        code = b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3"
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(code)
        ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    """
    outcome = run_program(textwrap.dedent(program), QUICK)
    assert outcome.result == "ended", outcome


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for program in ("pass", "import os; os._exit(1)", "while True: pass"):
        run_program(program, QUICK)
    assert os.listdir(tmp_path) == []
    assert not any(f'"parent": {os.getpid()},' in words for words in processes())


def test_the_program_dies_with_its_parent():
    """The process that runs it is killed in the middle, and cannot clean up."""
    code = "from openxlstm.coding import run_program, Limits; run_program('while True: pass', Limits(seconds=60))"
    paths = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | paths)
    running = lambda: any(f'"parent": {parent.pid},' in words for words in processes())  # noqa: E731
    wait_for(running)
    time.sleep(0.3)  # locked in by now
    parent.kill()
    parent.wait()
    wait_for(lambda: not running())


def wait_for(condition):
    """Half a minute at most, for machines with much to do."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not come")


def test_where_locks_are_missing_nothing_runs(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"no landlock .* and mount namespace"):
        run_program("pass", without=("landlock", "mount namespace"))
    elsewhere = tmp_path / "lock.py"
    source = Path(locked_side.__file__).read_text()
    elsewhere.write_text(source.replace("platform.machine()", "'pdp11'"))
    monkeypatch.setattr("openxlstm.coding.sandbox.LOCK", elsewhere)
    with pytest.raises(UserError, match=r"not run here: this machine has no seccomp .not known here for pdp11"):
        run_program("pass")
    elsewhere.write_text("raise SystemExit")
    with pytest.raises(UserError, match="could not be set up"):
        run_program("pass")


def test_limits_that_make_no_sense():
    for name in ("seconds", "memory", "files"):
        with pytest.raises(UserError, match=f"{name}=0 must be at least"):
            Limits(**{name: 0})
