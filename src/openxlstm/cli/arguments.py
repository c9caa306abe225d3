"""Argument parsing shared by the verbs: help that explains, errors of one line that name the nearest right word."""

import argparse
import difflib
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

from openxlstm.errors import UserError, missing_extra


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the nearest known word, or nothing when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def say(*lines: object) -> None:
    """Talk goes to stderr, so that stdout holds results alone."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def check_figures() -> None:
    """Raise UserError now, not after the training, where nothing can be drawn."""
    if find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "plot", "the figure (or give --no-figure)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """One column of options, text as wide as the terminal up to 100, and every default that says something."""

    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(prog, max_help_position=30, width=width)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = (None, argparse.SUPPRESS, "")
        shown = action.default not in silent and not isinstance(action.default, bool) and "default" not in text
        return f"{text} (default: %(default)s)" if shown else text


class VerbParser(argparse.ArgumentParser):
    """The parser of one verb. Wrong arguments raise UserError; they do not print the usage."""

    def __init__(self, verb: str, summary: str, examples: Sequence[str] = (), **options: Any) -> None:
        """verb: name after `openxlstm`. summary: the help's first lines. examples: whole command lines, shown last."""
        lines = "\n".join(f"  {line}" for line in examples)
        super().__init__(
            prog=f"openxlstm {verb}",
            description=summary,
            epilog=f"examples:\n{lines}" if lines else None,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; an unknown option is the first thing to be said, and names the nearest known one."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--")] if "--" in words else words:
            name = word.partition("=")[0]
            if word.startswith("--") and name not in self._option_string_actions:
                self.error(f"unknown option {name!r}{did_you_mean(name, self._option_string_actions)}")
        found, rest = self.parse_known_args(words, namespace)
        if rest:
            self.error(f"{rest[0]!r} is {'an unknown option' if rest[0].startswith('-') else 'one argument too many'}")
        return found

    def parse_going_on(self, args: Sequence[str], training: Sequence[str]) -> Any:
        """As parse_args, for a verb that trains or, with --load, goes on; then options of `training` (their names as
        attributes) raise UserError, for nothing would come of them."""
        found = self.parse_args(args, argparse.Namespace(**dict.fromkeys(training)))  # argparse leaves alone what is there
        given = [f"--{name.replace('_', '-')}" for name in training if getattr(found, name) is not None]
        if found.load and given:
            raise UserError(f"--load goes on with what was trained: leave out {', '.join(given)}")
        for name in training:
            if getattr(found, name) is None:
                setattr(found, name, self.get_default(name))
        return found

    def error(self, message: str) -> NoReturn:
        """Raise UserError in place of argparse's usage text and exit."""
        message = message.removeprefix("argument ")
        raise UserError(f"{message} (see: {self.prog} --help)")


def number(
    kind: Callable[[str], Any] = float,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
) -> Callable[[str], Any]:
    """An argparse `type`: an int or float with least <= x <= most and x > above, or one line that says so. Whole numbers have
    at most 64 bits, as torch takes them."""
    what = "a whole number" if kind is int else "a number"
    bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"at most {most:g}"] * (most < math.inf)
    rule = " and ".join(bounds)

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expects {what}, got {text!r}") from None
        if not (least <= value <= most and value > above and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"expects {what} {rule}, got {text}")
        if kind is int and not -(2**63) <= value < 2**63:
            raise argparse.ArgumentTypeError(f"expects {what} of at most 64 bits, got {text}")
        return value

    return convert


def numbers(kind: Callable[[str], Any] = int, **bounds: float) -> Callable[[str], Any]:
    """An argparse `type`: a comma-separated list, each entry as `number`."""
    one = number(kind, **bounds)
    return lambda text: tuple(one(part.strip()) for part in text.split(","))


def add_device_options(p: Any, *, backend: bool = True, device: str | None = None) -> None:
    """`--device` and `--threads`, which `device_of` reads, and `--backend`. p: a parser or a group of one. device: what it is
    without `--device`; None = a GPU if there is one."""
    if backend:
        p.add_argument("--backend", metavar="NAME", help="how recurrences are computed: a name that 'openxlstm doctor' lists")
    found = "" if device else "; without it, a GPU if there is one"
    p.add_argument("--device", metavar="NAME", default=device, help=f"cpu, cuda, cuda:1 ...{found}")
    p.add_argument("--threads", type=number(int, least=1), metavar="N", help="CPU threads; without it, what torch chooses")


def device_of(args: Any) -> str:
    """The device of the options above, which can be used here; `--threads` holds from now on."""
    import torch

    from openxlstm.models.checkpoint import check_device

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    return device
