"""Errors that users can correct: each message names the invalid value, the expected one, and a correction."""

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from flowloom.schemas.secrets import without_secrets


class FlowloomError(ValueError):
    """Failure that a user can correct. The command line prints its message, one paragraph, without a traceback.

    Secrets in the message are masked.

    Example:

    >>> import flowloom as fl
    >>> try:
    ...     fl.read_flows("captures", definition="nfstreem")
    ... except fl.FlowloomError as error:
    ...     print(str(error).partition("; ")[2])
    did you mean 'nfstream'?
    """

    def __init__(self, *parts: object):
        super().__init__(*(without_secrets(part) if isinstance(part, str) else part for part in parts))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest known name, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def placed_message(place: str, entry: Mapping[str, Any]) -> str:
    """Returns a problem that pydantic found as `PLACE must be ..., got ...`.

    Args:
      place: the invalid key.
      entry: an entry of `ValidationError.errors()`; inputs that are longer than 80 characters are not shown.
    """
    message = without_secrets(entry["msg"]).removeprefix("Value error, ").replace("Input should ", "must ", 1)
    shown = without_secrets(repr(entry["input"]))
    got = f", got {shown}" if len(shown) < 80 and "got " not in message else ""
    return f"{place}{'' if message.startswith('must ') else ':'} {message}{got}"


def os_error_message(error: OSError) -> str:
    """Returns an error of the operating system as a sentence with its file."""
    if not error.strerror:
        return f"{error}; check the path, its permissions and the free space"
    where = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
    return f"{where}{error.strerror}; check the path, its permissions and the free space"
