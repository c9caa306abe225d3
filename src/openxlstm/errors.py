"""Errors that are the user's to mend: one line and exit code 2 on the command line, ValueErrors in Python."""


class UserError(ValueError):
    """Says what is wrong, where, and what to do, in one line."""


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(f"{purpose} needs the package {package!r}; install it with: pip install 'openxlstm[{extra}]'")


def out_of_memory(error: BaseException) -> bool:
    """True for Python's, the CPU allocator's, the GPU's and cuBLAS's way to say that memory is used up."""
    texts = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in texts))


def mendable(error: BaseException) -> str | None:
    """What is said of an error of the user's or of too little memory; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    return "out of memory: try a smaller batch, context or model" if out_of_memory(error) else None
