"""Progress of a job, as every job passes it to the function that its caller gives."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Event = Literal[
    "progress", "line", "capture", "shard", "reject", "card", "epoch", "drift", "verdict", "warning", "error", "end"
]
"""Kinds of events: states and lines of a job, its results, and its end."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """State of a job at one moment, or one of its results.

    Attributes:
      text: one line, without the name of the job.
      done: parts of the work that are done; it grows within a job, and in a training within each epoch.
      total: number of all parts; None if it is not known.
      stays: the line is a result or a message, which a display keeps; other lines may be skipped or replaced.
      event: kind of the event. Results that do not stay are for logs; a display for people does not show them.
      facts: values of a result by name, which JSON can hold.
    """

    text: str
    done: int = 0
    total: int | None = None
    stays: bool = False
    event: Event = "progress"
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def ignore_progress(progress: Progress) -> None:
    """Does nothing; the default of jobs."""
