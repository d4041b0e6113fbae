"""Progress of a job, as every job passes it to the function that its caller gives."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Progress:
    """State of a job at one moment.

    Attributes:
      text: one line, without the name of the job.
      done: parts of the work that are done; it grows within a job, and in a training within each epoch.
      total: number of all parts; None if it is not known.
      stays: the line is a result or a message, which a display keeps; other lines may be skipped or replaced.
    """

    text: str
    done: int = 0
    total: int | None = None
    stays: bool = False


def ignore_progress(progress: Progress) -> None:
    """Does nothing; the default of jobs."""
