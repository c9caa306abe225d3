"""The filter of system calls, gone through by hand, for machines that are not here too."""

import os

import pytest

from openxlstm.coding.lock import FCNTL, MACHINES, filter_program, readable

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000


def verdict(program, machine, number, *arguments):
    """What the kernel would answer: classic BPF over 32-bit words."""
    words = {0: number, 4: machine} | {16 + 8 * place: value for place, value in enumerate(arguments)}
    place = accumulator = 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        if code == 0x20:
            accumulator = words.get(value, 0)
        elif code == 0x06:
            return value
        else:
            place += yes if (accumulator == value if code == 0x15 else accumulator & value) else no


@pytest.mark.parametrize("name", MACHINES)
def test_the_filter(name):
    machine, calls = MACHINES[name]
    program = filter_program(machine, calls)
    assert len(program) < 4096  # the kernel takes no more
    assert all(0 <= jump < 256 for _, yes, no, _ in program for jump in (yes, no))
    assert len(set(calls.values())) == len(calls)
    for call, number in calls.items():
        if call not in ("openat", "fcntl"):
            assert verdict(program, machine, number) == ALLOW
    for number in set(range(600)) - set(calls.values()):
        assert verdict(program, machine, number) == REFUSE
        assert verdict(program, machine, number | 0x40000000) == REFUSE  # x32
    for number in calls.values():
        assert verdict(program, machine ^ 1, number) == KILL
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY):
        assert verdict(program, machine, calls["openat"], 0, 0, flags) == ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, os.O_RDWR | os.O_TMPFILE):
        assert verdict(program, machine, calls["openat"], 0, 0, flags) == REFUSE
    for command in range(1100):
        assert verdict(program, machine, calls["fcntl"], 0, command) == (ALLOW if command in FCNTL else REFUSE)


def test_dangerous_calls_are_on_neither_list():
    for _, calls in MACHINES.values():
        assert not {"socket", "clone", "clone3", "fork", "execve", "kill", "tgkill", "ptrace", "mount", "prctl", "ioctl"} & set(
            calls
        )


def test_what_can_be_read_is_not_the_home():
    assert os.path.dirname(os.__file__) in readable() or any(os.__file__.startswith(path + "/") for path in readable())
    assert not {"/", "/home", "/root", "/etc", "/tmp", os.path.expanduser("~")} & set(readable())
