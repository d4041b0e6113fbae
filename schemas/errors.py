"""The error a user can mend: what is invalid, what was expected, what was received."""

import difflib
from collections.abc import Iterable


class FlowloomError(ValueError):
    """A job failed for a reason its user can mend; the message is one paragraph and is printed without a traceback."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known word, or an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
