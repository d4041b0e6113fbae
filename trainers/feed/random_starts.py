"""Where in a flow a training row begins: windows of the same flow, drawn anew in every epoch."""

import numpy as np
import numpy.typing as npt


def window_starts(generator: np.random.Generator, rows: int, furthest: int) -> npt.NDArray[np.int64]:
    """Draw the packet that each row begins at, int64 [rows]: half of them the first, the others any up to `furthest`.

    An augmentation for few labels: a flow says much the same from its tenth packet on as from its first. Rows that are
    predicted begin at the first packet, so half of those that are learned do.

    Args:
      generator: what is drawn from.
      rows: how many.
      furthest: packets after the first, all alike likely; 0: every row begins at the first.
    """
    return generator.integers(0, furthest + 1, rows) * generator.integers(0, 2, rows)
