"""Errors that users can correct: each message names the invalid value, the expected one, and a correction."""

import difflib
from collections.abc import Iterable


class FlowloomError(ValueError):
    """Failure that a user can correct. The command line prints its message, one paragraph, without a traceback."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest known name, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
