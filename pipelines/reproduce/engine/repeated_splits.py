"""Repeated splits of a small set of flows, so that figures have intervals."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flowloom.trainers.feed.few_labels import class_ranks

SHARES = (0.64, 0.16, 0.20)
"""Shares of the flows of each class in train, validation and test."""
TEST_PER_TRAIN = SHARES[2] / SHARES[0]
"""Test rows per train row, by which intervals over repeats are corrected (`intervals.mean_of`)."""


@dataclasses.dataclass(frozen=True)
class RowSplit:
    """Positions of the rows of each split, int64, ascending; every row is in exactly one split."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def repeated_split(
    flow_ids: pa.FixedSizeBinaryArray,
    labels: npt.NDArray[np.int32],
    repeat: int,
    seed: int,
    shares: tuple[float, float, float] = SHARES,
) -> RowSplit:
    """Splits flows at random, each class by the same shares, rounded to whole flows; the train split gets the rest.

    The split of a flow does not depend on the order of the rows. Flows without a label count as one class.

    Args:
      flow_ids: fixed binary of 16 bytes [N].
      labels: int32 [N], below 0 where unknown.
      repeat: number of the split.
      seed: of all repeats.
      shares: of train, validation and test; their sum is 1.

    Raises:
      ValueError: if a share is not above 0, or their sum is not 1.
    """
    if min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
        raise ValueError(f"shares must be above 0 and sum to 1, got {shares}")
    if len(flow_ids) != len(labels):
        raise ValueError(f"flow_ids and labels must have the same length, got {len(flow_ids)} and {len(labels)}")
    ranks = class_ranks(flow_ids, labels, derived_seed(seed, repeat))
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    test = np.rint(counts * shares[2]).astype(np.int64)[codes] if len(classes) else ranks
    held_out = test + (np.rint(counts * shares[1]).astype(np.int64)[codes] if len(classes) else ranks)
    return RowSplit(
        train=np.flatnonzero(ranks >= held_out),
        validation=np.flatnonzero((ranks >= test) & (ranks < held_out)),
        test=np.flatnonzero(ranks < test),
    )


def derived_seed(*numbers: int) -> int:
    """Returns a seed below 2^32: equal numbers give equal seeds, other numbers independent ones."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
