"""Draws that clients share: pauses between actions and sizes of what they move."""

import random
import time

LONGEST_PAUSE = 6.0


def think(draws: random.Random, mean: float) -> None:
    """Waits for an exponentially distributed time with a mean in seconds."""
    time.sleep(min(draws.expovariate(1 / mean), LONGEST_PAUSE))


def size(draws: random.Random, median: float, spread: float = 0.8, most: float = 1_500_000) -> int:
    """Returns a log-normally distributed number of bytes."""
    return int(min(draws.lognormvariate(0, spread) * median + 1, most))
