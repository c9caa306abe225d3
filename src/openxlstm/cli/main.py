"""`openxlstm VERB ...`: finds the verb, and turns every failure into one clear line and an exit code.

Exit codes: 0 done, 1 a check failed or a bug (with its traceback), 2 something the user can mend, 130 interrupted.
"""

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from openxlstm import __version__
from openxlstm.cli.arguments import did_you_mean, say
from openxlstm.cli.extras import extra_of
from openxlstm.errors import UserError, mendable, missing_extra

VERBS = {
    "train": ("openxlstm.cli.train", "train a model, on the default text or on yours"),
    "eval": ("openxlstm.cli.eval", "measure a trained model: bits per byte, perplexity"),
    "compare": ("openxlstm.cli.compare", "train several models alike: one table, one figure"),
    "report": ("openxlstm.cli.report", "ask whether the claims about xLSTM hold, and write the evidence"),
    "generate": ("openxlstm.cli.generate", "let a trained model write text"),
    "translate": ("openxlstm.cli.translate", "translate a line, a file or a pipe"),
    "summarize": ("openxlstm.cli.summarize", "say in short what a text says"),
    "classify": ("openxlstm.cli.classify", "let a trained classifier read texts"),
    "transcribe": ("openxlstm.cli.transcribe", "write down what is said in a sound file or a live stream"),
    "compose": ("openxlstm.cli.compose", "let a model of music write a piece"),
    "forecast": ("openxlstm.cli.forecast", "forecast the series of a CSV file"),
    "detect": ("openxlstm.cli.detect", "find anomalies in a series, from a file or as rows come"),
    "monitor": ("openxlstm.cli.monitor", "remaining life or activity after each row of sensors"),
    "simulate": ("openxlstm.cli.simulate", "let a model of a chaotic system go on alone"),
    "pass-at-k": ("openxlstm.cli.pass_at_k", "run a model's programs against their tests, locked in"),
    "data": ("openxlstm.cli.data", "prepare and inspect text"),
    "convert": ("openxlstm.cli.convert", "read and write checkpoints of other projects"),
    "recipes": ("openxlstm.cli.recipes", "list the recipes for text"),
    "tasks": ("openxlstm.cli.tasks", "list the tasks, which are trained by their name"),
    "doctor": ("openxlstm.cli.doctor", "show what works on this machine and what is missing"),
}
"""Verb -> (module with `run(argv) -> exit code`, its line in the help). A module is imported when its verb is used."""

TOGETHER = (
    (("translate", "summarize", "classify"), "texts: a line, a file or a pipe"),
    (("transcribe", "compose"), "speech to text; a piece of music"),
    (("forecast", "detect", "monitor"), "series: what comes, what is odd, what is left"),
    (("recipes", "tasks"), "list what can be trained"),
)
"""Verbs that share a line of the first screen, where the first of them stands in VERBS."""

START = (
    ("openxlstm train", "train a small model on the default text"),
    ('openxlstm generate --prompt "def "', "let the newest trained model write"),
)


def help_text() -> str:
    """The first screen."""
    start = "\n".join(f"  {command:<36}{what}" for command, what in START)
    shared = {names[0]: (names, line) for names, line in TOGETHER}
    later = {name for names, _ in TOGETHER for name in names[1:]}
    lines = [shared.get(name, ((name,), line)) for name, (_, line) in VERBS.items() if name not in later]
    verbs = "\n".join(f"  {', '.join(names):<9}  {line}" for names, line in lines)
    return (
        f"openxlstm {__version__}: train xLSTM models and use them\n"
        "usage: openxlstm VERB [options]      (openxlstm VERB --help explains them)\n\n"
        f"start here:\n{start}\n\nverbs:\n{verbs}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. argv: without the program's name; None takes sys.argv."""
    if argv is not None:
        return outcome(list(argv))
    code = outcome(sys.argv[1:])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        leave(code)
    return code


def leave(code: int) -> None:
    """End one of several processes without the interpreter's shutdown: gloo's threads live as long as anything holds a sharded
    parameter, and one that lets go of a tensor during the shutdown aborts the process (PyTorch's issue 190489)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def outcome(args: list[str]) -> int:
    """Run one command line and return its exit code; what it raises becomes one line."""
    try:
        code = dispatch(args)
        sys.stdout.flush()
        return code
    except SystemExit as exit:  # argparse after --help, and libraries that end the process themselves
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough; keep the interpreter's last flush quiet as well
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return report(error)


def dispatch(args: list[str]) -> int:
    """Find and run the verb."""
    if args[:1] == ["help"]:
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"openxlstm {__version__}")
        return 0
    verb = args[0]
    if args[1:] == ["-h"]:
        args = [verb, "--help"]
    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "verb"
        guess = did_you_mean(verb, [*VERBS, "--help", "--version"])
        raise UserError(f"unknown {kind} {verb!r}{guess or '; have ' + ', '.join(VERBS)}")
    return importlib.import_module(VERBS[verb][0]).run(args[1:])


def report(error: Exception) -> int:
    """Print an exception as the user should see it and return the exit code."""
    line = explain(error)
    if line is None or os.environ.get("OPENXLSTM_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    if line is None:
        say("openxlstm: this is a bug in openxlstm; please report the lines above together with your command")
        return 1
    say(f"openxlstm: error: {' '.join(line.split())}")
    return 2


def explain(error: BaseException) -> str | None:
    """The one line for an error that the user can mend, or None for a bug."""
    line = mendable(error)
    if line is not None:
        return line
    if isinstance(error, ModuleNotFoundError):
        entry = extra_of(error.name or "")
        return str(missing_extra(entry.module, entry.extra, entry.gives)) if entry else None
    if isinstance(error, OSError):
        return explain_os_error(error)
    if isinstance(error, UnicodeDecodeError):
        return f"the text is not UTF-8: {error}"
    if isinstance(error, ValueError):
        # Our own checks say what is wrong. One from deeper down may not, so tell how to see where it came from.
        return str(error) + ("" if raised_by_us(error) else " (OPENXLSTM_DEBUG=1 shows where)")
    return None


def explain_os_error(error: OSError) -> str | None:
    """A line for files that are missing, forbidden, of the wrong kind, and for a full disk; None for anything else."""
    reasons = {
        errno.ENOENT: "no such file or folder",
        errno.EACCES: "permission denied",
        errno.EPERM: "operation not permitted",
        errno.EROFS: "the file system is read-only",
        errno.EISDIR: "this is a folder, not a file",
        errno.ENOTDIR: "a part of this path is not a folder",
        errno.EEXIST: "this exists already",
        errno.ENOSPC: "no space left on the disk",
        errno.EFBIG: "the file would be larger than the system allows",
        errno.EDQUOT: "the disk quota is used up",
        errno.ENAMETOOLONG: "this name is too long",
        errno.EADDRINUSE: "the address is in use",
    }
    reason = reasons.get(error.errno or 0)
    if reason is None and not isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name]
    if reason is None:  # raised in Python with a message of its own
        return str(error)
    return f"{' -> '.join(names)}: {reason}" if names else reason


def raised_by_us(error: BaseException) -> bool:
    """True if the frame that raised it is this package's code."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").startswith("openxlstm")
