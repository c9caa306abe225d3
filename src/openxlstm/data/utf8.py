"""Text that is not Unicode: half a surrogate pair of JSON, or a word of a command line in another encoding."""

from openxlstm.errors import UserError


def utf8(text: str, what: str) -> bytes:
    """The text as UTF-8. Raises UserError, which begins with `what`, where that cannot be."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} cannot be written as UTF-8: {error.reason} at place {error.start}") from None
