"""Place of a training, read from its progress."""

import re

from flowloom.schemas.progress import Progress


def epoch_and_step(progress: Progress) -> tuple[int, int] | None:
    """Returns epoch and step, counted from 1; None for the line after an epoch."""
    found = re.match(r"epoch (\d+) of \d+, step (\d+) of \d+$", progress.text)
    return (int(found[1]), int(found[2])) if found else None
