"""Backends are values: an op has a tuple of them, in order of preference, and takes the first that does not refuse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def never(*_: Any, **__: Any) -> None:
    """A `refuses` for code that runs everywhere."""


@dataclass(frozen=True)
class Backend:
    """One implementation of an op.

    run: takes the op's checked arguments.
    refuses: takes the same arguments and returns the reason it cannot serve them, or None.
    missing: the reason it cannot run on this machine at all, or None; takes no arguments.
    """

    name: str
    run: Callable[..., Any]
    refuses: Callable[..., str | None] = never
    missing: Callable[[], str | None] = never


def choose(backends: Sequence[Backend], want: str, *args: Any, **kwargs: Any) -> Backend:
    """The backend called `want`, or for "auto" the first that can serve these arguments.

    Raises ValueError when a backend asked for by name is unknown or cannot run here; the message has the reason.
    """
    for backend in backends:
        if want not in ("auto", backend.name):
            continue
        reason = backend.missing() or backend.refuses(*args, **kwargs)
        if reason is None:
            return backend
        if backend.name == want:
            raise ValueError(f"backend {want!r} cannot run here: {reason}")
    raise ValueError(f"no backend {want!r}; have {', '.join(repr(b.name) for b in backends)} and 'auto'")
