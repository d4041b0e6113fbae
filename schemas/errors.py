"""Errors that users can correct: each message names the invalid value, the expected one, and a correction."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class FlowloomError(ValueError):
    """Failure that a user can correct. The command line prints its message, one paragraph, without a traceback."""


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
    message = entry["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
    shown = repr(entry["input"])
    got = f", got {shown}" if len(shown) < 80 and "got " not in message else ""
    return f"{place}{'' if message.startswith('must ') else ':'} {message}{got}"
