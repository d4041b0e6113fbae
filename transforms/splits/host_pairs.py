"""Host pairs: the two addresses of a flow in either order, assigned to splits and stratified by class."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.transforms.arrays.apportion import quotas
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.arrays.digests import keyed_hash

_NO_CLASS = -1


@dataclasses.dataclass(frozen=True, eq=False)
class PairClasses:
    """Distinct rows of a host pair and a class of its flows, ascending; 12 bytes a row.

    Attributes:
      hashes: uint64 [rows], hashes of pairs.
      classes: int32 [rows], classes numbered through the vocabularies of all tasks; -1 in one more row of each pair.
    """

    hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))
    classes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int32))


@dataclasses.dataclass(frozen=True)
class PairSplits:
    """Split of each host pair, as bytes: ascending uint64 hashes, and int8 positions in `SPLITS`."""

    hashes: bytes
    splits: bytes

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """Returns the split of each pair by its hash, int8; every pair must be known."""
        known = np.frombuffer(self.hashes, np.uint64)
        return np.frombuffer(self.splits, np.int8)[np.searchsorted(known, hashes)]


def pair_hashes(flows: pa.RecordBatch, seed: int) -> np.ndarray:
    """Hashes the two addresses of each flow, uint64 [rows], equal in both directions."""
    key = f"host pair {seed}"
    ends = np.stack([keyed_hash(flows["src_ip"], key), keyed_hash(flows["dst_ip"], key)], axis=1)
    return keyed_hash(column(np.sort(ends, axis=1), pa.binary(16)), key)


def pair_classes(flows: pa.RecordBatch, tasks: Sequence[Task], seed: int) -> PairClasses:
    """Returns the distinct pairs of labelled flows with their classes."""
    pairs = pair_hashes(flows, seed)
    hashes, classes, first = [pairs], [np.full(len(pairs), _NO_CLASS, np.int32)], 0
    for task in tasks:
        codes = flows[label_column(task.name)]
        known = np.flatnonzero(view(pc.fill_null(codes, _NO_CLASS)) >= 0)
        hashes.append(pairs[known])
        classes.append(view(pc.drop_null(codes)) + np.int32(first))
        first += len(task.vocabulary)
    return _distinct(hashes, classes)


def merge_pairs(parts: Iterable[PairClasses]) -> PairClasses:
    """Merges the pairs and classes of several batches."""
    known = list(parts)
    return _distinct([part.hashes for part in known], [part.classes for part in known])


def place_pairs(found: PairClasses, shares: Sequence[float]) -> PairSplits:
    """Assigns pairs to splits by hash and class quotas; a pair of several classes counts for the rarest."""
    counts = np.bincount(found.classes[found.classes >= 0])
    rarity = np.empty(len(counts) + 1, np.int64)
    rarity[np.lexsort((np.arange(len(counts)), counts))] = np.arange(len(counts))
    rarity[_NO_CLASS] = len(counts)  # after all classes
    starts = np.flatnonzero(found.classes == _NO_CLASS)  # the first row of each pair
    stratum = np.minimum.reduceat(rarity[found.classes], starts) if len(starts) else starts
    splits = np.empty(len(starts), np.int8)
    for each in range(len(counts) + 1):
        members = np.flatnonzero(stratum == each)
        splits[members] = np.repeat(np.arange(len(shares), dtype=np.int8), quotas(len(members), shares))
    return PairSplits(found.hashes[starts].tobytes(), splits.tobytes())


def missed_classes(found: PairClasses, placed: PairSplits, wanted: Iterable[int]) -> list[tuple[int, int]]:
    """Returns (class, pairs) of each class that does not reach every wanted split."""
    labelled = found.classes >= 0
    classes, splits = found.classes[labelled], placed.of(found.hashes[labelled])
    counts = np.bincount(classes)
    reached = np.ones(len(counts), bool)
    for split in wanted:
        reached &= np.bincount(classes[splits == split], minlength=len(counts)) > 0
    return [(int(at), int(counts[at])) for at in np.flatnonzero((counts > 0) & ~reached)]


def _distinct(hashes: Sequence[np.ndarray], classes: Sequence[np.ndarray]) -> PairClasses:
    pairs = np.concatenate([np.empty(0, np.uint64), *hashes])
    of = np.concatenate([np.empty(0, np.int32), *classes])
    order = np.lexsort((of, pairs))
    pairs, of = pairs[order], of[order]
    new = np.append(True, (pairs[1:] != pairs[:-1]) | (of[1:] != of[:-1]))[: len(pairs)]
    return PairClasses(pairs[new], of[new])
