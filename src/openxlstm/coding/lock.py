"""The locked side of the sandbox: `python -I -S lock.py SETTINGS` takes a program on stdin, locks itself in and runs it.

It is started by `sandbox.run_program` and imports nothing of the package. Before the program's first line the kernel has taken
from this process, for ever and whatever it does:

* system calls: a seccomp filter allows reading, memory, clocks and ending, and refuses all others. So there are no processes
  or threads, sockets, signals to others, tracing, mounts, and no file can be opened to write.
* files: landlock, or where the kernel has none a mount namespace, leaves the Python library and shared libraries to read.
* network: besides, an empty network namespace where the kernel grants one.
* CPU time, memory, open files, file size: resource limits.

What it says goes through a pipe as lines of JSON: first which locks hold, then how the program ended. The last line carries a
number that was drawn for this run, so that a program that prints or ends by itself is not taken for one that passed.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

# Numbers of the kernel's interface (linux/seccomp.h, landlock.h, sched.h, mount.h, prctl.h).
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446  # on all machines
LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 1 << 2, 1 << 3
LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # version of the interface -> rights of files that it knows

CAN_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FCNTL = (1, 2, 3, 1030)  # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC: others can make the kernel send signals

# fmt: off
MACHINES = {
    "x86_64": (0xC000003E, {
        "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19,
        "writev": 20, "access": 21, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "nanosleep": 35,
        "getpid": 39, "exit": 60, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89, "umask": 95, "gettimeofday": 96,
        "getrusage": 98, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110,
        "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217,
        "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "openat": 257,
        "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271, "getrandom": 318, "statx": 332,
        "faccessat2": 439,
    }),
    "aarch64": (0xC00000B7, {
        "getcwd": 17, "dup": 23, "fcntl": 25, "faccessat": 48, "openat": 56, "close": 57, "getdents64": 61, "lseek": 62,
        "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pselect6": 72, "ppoll": 73, "readlinkat": 78,
        "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124, "sigaltstack": 132,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160, "getrusage": 165,
        "umask": 166, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176,
        "getegid": 177, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233,
        "getrandom": 278, "statx": 291, "faccessat2": 439,
    }),
}
# fmt: on
"""Machine -> its name in seccomp's data, and the system calls that a program keeps."""


class Refused(Exception):
    """A lock that this machine does not have."""


libc = ctypes.CDLL(None, use_errno=True)


def call(function: Any, *arguments: Any) -> int:
    """A C function that returns -1 for an error. Raises OSError."""
    result = function(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def enter(namespaces: int) -> None:
    """Move into a new user namespace, and into others that it makes possible. Raises OSError where the kernel grants none."""
    user, group = os.getuid(), os.getgid()
    call(libc.unshare, CLONE_NEWUSER | namespaces)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def leave_network() -> str | None:
    """Move into empty network and IPC namespaces. Returns what holds now, or None where the kernel grants none."""
    try:
        enter(CLONE_NEWNET | CLONE_NEWIPC)
    except OSError:
        return None
    return "network namespace"


def readable() -> list[str]:
    """Folders and files that a program may read: the Python library and the system's shared libraries."""
    wanted = [*sys.path, os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib"), "/lib", "/lib64"]
    wanted += ["/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    found: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted if path and os.path.exists(path)}, key=len):
        if not any(path == known or path.startswith(known + "/") for known in found):
            found.append(path)
    return found


def landlock() -> str:
    """Take all files but the readable ones from this process. Raises Refused where the kernel has no landlock."""
    try:
        version = call(libc.syscall, LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    except OSError as error:
        raise Refused(f"landlock ({error.strerror})") from None
    rights = (1 << LANDLOCK_RIGHTS[min(version, max(LANDLOCK_RIGHTS))]) - 1
    rules = struct.pack("=QQQ", rights, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)  # files, TCP, signals
    size = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}.get(version, 24)
    ruleset = call(libc.syscall, LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(size), 0)
    for path in readable():
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = LANDLOCK_READ_FILE | (LANDLOCK_READ_DIR if os.path.isdir(path) else 0)
        call(libc.syscall, LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    call(libc.syscall, LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return "landlock"


def mount_namespace(in_namespace: bool) -> str:
    """Change to a root that has nothing but the readable files. Raises Refused where that cannot be had."""
    here = os.getcwd()
    try:
        if in_namespace:
            call(libc.unshare, CLONE_NEWNS)
        else:
            enter(CLONE_NEWNS)
        call(libc.mount, None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        call(libc.mount, b"tmpfs", here.encode(), b"tmpfs", ctypes.c_ulong(MS_NOSUID | MS_NODEV), b"size=1m")
        for path in readable():
            target = here + path
            os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
            if not os.path.isdir(path):
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
            call(libc.mount, path.encode(), target.encode(), None, ctypes.c_ulong(MS_BIND | MS_REC), None)
        os.chroot(here)
        os.chdir("/")
    except OSError as error:
        raise Refused(f"mount namespace ({error.strerror})") from None
    return "mount namespace"


def lock_files(in_namespace: bool, without: list[str]) -> str:
    """The first way to take files away that this kernel has. Raises Refused where it has none."""
    missing = []
    for name, way in (("landlock", landlock), ("mount namespace", lambda: mount_namespace(in_namespace))):
        try:
            if name not in without:
                return way()
            missing.append(f"{name} (left out)")
        except Refused as reason:
            missing.append(str(reason))
    raise Refused(" and ".join(missing))


def limit(settings: dict[str, Any]) -> str:
    """Set the resource limits, or what is left here if that is less. Who catches the signal of the CPU time has a second."""
    seconds = settings["seconds"]
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, settings["memory"], settings["memory"]),
        (resource.RLIMIT_NOFILE, settings["files"], settings["files"]),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(what, (soft, hard))
    return "resource limits"


def seccomp() -> str:
    """Refuse all system calls but those of the list. Raises Refused on machines and kernels without."""
    if platform.machine() not in MACHINES:
        raise Refused(f"seccomp (not known here for {platform.machine()})")
    program = filter_program(*MACHINES[platform.machine()])
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    try:
        call(libc.prctl, PR_SET_SECCOMP, 2, header, 0, 0)
    except OSError as error:
        raise Refused(f"seccomp ({error.strerror})") from None
    return "seccomp"


def filter_program(machine: int, calls: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, value) of the filter: programs of classic BPF over the call's number at
    byte 0, the machine at 4, and six arguments of 8 bytes from 16 on."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # refused is EPERM
    program = [(load, 0, 0, 4), (equal, 1, 0, machine), (answer, 0, 0, kill), (load, 0, 0, 0)]
    for name, number in calls.items():
        if name not in ("openat", "fcntl"):
            program += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    program += [(equal, 0, 4, calls["openat"]), (load, 0, 0, 16 + 8 * 2), (any_bit, 0, 1, CAN_WRITE)]
    program += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    program += [(equal, 0, len(FCNTL) * 2 + 1, calls["fcntl"]), (load, 0, 0, 16 + 8 * 1)]
    for command in FCNTL:
        program += [(equal, 0, 1, command), (answer, 0, 0, allow)]
    return [*program, (answer, 0, 0, refuse)]


def lock(settings: dict[str, Any]) -> list[str]:
    """Put this process under all locks and return their names. Raises Refused where one of those that must be is missing."""
    if sys.platform != "linux":
        raise Refused(f"seccomp (no such thing on {sys.platform})")
    call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    network = None if "network namespace" in settings["without"] else leave_network()
    files = lock_files(network is not None, settings["without"])
    # entering a user namespace forgets the signal, so it comes late; who died before it has another parent now
    call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call(libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != settings["parent"]:
        raise SystemExit
    limits = limit(settings)
    return [seccomp(), files, *([network] if network else []), limits]


def main() -> None:
    """Read, lock, run, tell."""
    settings = json.loads(sys.argv[1])
    task = json.loads(sys.stdin.buffer.read())
    say = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)

    def tell(**what: Any) -> None:
        os.write(say, json.dumps(what).encode() + b"\n")

    try:
        tell(locks=lock(settings))
    except Refused as missing:
        tell(refused=str(missing))
        return
    except (OSError, ValueError) as error:
        tell(refused=f"way to lock it in ({error})")
        return
    failure = None
    try:
        exec(compile(task["program"], "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: a program that ends itself has not passed
        failure = f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
    tell(number=task["number"], failure=failure)
    os._exit(0)


if __name__ == "__main__":
    main()
