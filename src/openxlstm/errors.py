"""Errors that are the user's to mend: one line and exit code 2 on the command line, ValueErrors in Python."""


class UserError(ValueError):
    """Says what is wrong, where, and what to do, in one line."""


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(f"{purpose} needs the package {package!r}; install it with: pip install 'openxlstm[{extra}]'")
