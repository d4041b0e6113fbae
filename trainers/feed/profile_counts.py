"""Feature profiles: counts of packet features in fixed bins, computed the same at training and at scoring."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from flowloom.schemas.arrow.rows import SEQUENCES
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import check_digest
from flowloom.schemas.models.feature_profile import PACKETS, PROFILE, PROFILED, FeatureProfile, bin_count
from flowloom.schemas.parquet_files import read_row_group
from flowloom.trainers.arrow_views import list_offsets, numbers
from flowloom.trainers.feed.dataset import Dataset

LENGTHS = ("packets_fwd", "packets_bwd")
"""Columns with the number of packets of a flow, which its lists may not hold completely."""
TRAINED_ON = "train"


class ProfileCounts:
    """Counts over batches of flows, in any order.

    Args:
      columns: flow columns that the model reads.
      k: packets per flow that the model reads.
    """

    def __init__(self, columns: Iterable[str], k: int) -> None:
        self.k = k
        self.rows = 0
        self.counts = {name: np.zeros(bin_count(name, k), np.int64) for name in profiled_columns(columns)}
        self.counts[PACKETS] = np.zeros(k + 1, np.int64)

    def add(self, flows: pa.RecordBatch) -> None:
        """Counts flows whose sequences are known."""
        self.rows += flows.num_rows
        lists = [name for name in self.counts if name in SEQUENCES]
        for name, counts in self.counts.items():
            if name in SEQUENCES:
                values = flows[name]
                _count_first(list_offsets(values), numbers(values.values), self.k, PROFILED[name][0], counts)
            elif name != PACKETS and name in flows.schema.names:
                known = numbers(flows[name].drop_null())
                counts += np.bincount(known, minlength=len(counts))
        packets = _packets(flows, lists[0])
        self.counts[PACKETS] += np.bincount(np.minimum(packets, self.k + 1) - 1, minlength=self.k + 1)[: self.k + 1]

    def profile(self, classes: dict[str, dict[str, int]] | None = None) -> FeatureProfile:
        """Returns the profile of the counted flows.

        Args:
          classes: rows of each class by task.
        """
        counts = {name: tuple(bins.tolist()) for name, bins in self.counts.items() if bins.any()}
        return FeatureProfile(k=self.k, rows=self.rows, counts=counts, classes=classes or {})


def profiled_columns(columns: Iterable[str]) -> list[str]:
    """Returns the columns of a model that a profile counts, and always the protocol."""
    return [name for name in PROFILED if name in {*columns, "protocol"}]


def profile_dataset(dataset: Dataset, columns: Iterable[str], k: int) -> FeatureProfile:
    """Returns the profile of a dataset's train flows; one row group is in memory at a time."""
    columns = tuple(columns)
    counts = ProfileCounts(columns, k)
    read = [*dict.fromkeys([*columns, "protocol", *LENGTHS])]
    for group in dataset.row_groups(TRAINED_ON):
        rows = read_row_group(group.path, group.index, read)
        for batch in rows.combine_chunks().to_batches():
            counts.add(known_rows(batch, columns))
    return counts.profile(dataset.card.splits[TRAINED_ON].classes)


def known_rows(rows: pa.RecordBatch, columns: Iterable[str]) -> pa.RecordBatch:
    """Returns the rows in which all of some columns are known."""
    unknown = [rows[name] for name in columns if rows[name].null_count]
    if not unknown:
        return rows
    known = pc.is_valid(unknown[0])
    for column in unknown[1:]:
        known = pc.and_(known, pc.is_valid(column))
    return rows.filter(known)


def read_profile(folder: Path, sha256: str | None = None) -> FeatureProfile | None:
    """Returns the profile beside a model; None without one.

    Args:
      sha256: recorded digest of the file; None for no check.

    Raises:
      FlowloomError: if it is damaged.
    """
    if sha256 is not None and (folder / PROFILE).exists():
        check_digest(folder / PROFILE, sha256, "restore it from a copy")
    try:
        return FeatureProfile.model_validate_json((folder / PROFILE).read_bytes())
    except FileNotFoundError:
        return None
    except pydantic.ValidationError as error:
        raise FlowloomError(
            f"{folder / PROFILE} is damaged ({error.errors()[0]['msg']}); remove it to score without a skew report"
        ) from None


def _packets(flows: pa.RecordBatch, sequence: str) -> np.ndarray:
    """Returns the packets of each flow, int64, at least 1: the length of its list if the total is unknown."""
    listed = np.diff(list_offsets(flows[sequence])).astype(np.int64)
    for name in LENGTHS:
        if name not in flows.schema.names or flows[name].null_count:
            return np.maximum(listed, 1)
    total = sum(numbers(flows[name]).astype(np.int64) for name in LENGTHS)
    return np.maximum(np.maximum(listed, total), 1)


def _count_first(offsets: Any, values: np.ndarray, k: int, bins: str, counts: Any) -> None:
    """Adds the first k values of each list to their bins."""
    if bins == "octaves":
        _count_octaves(offsets, values, k, counts)
        return
    width = values.dtype.itemsize
    codes = values.view(np.uint8 if width == 1 else np.uint16)
    _count_codes(offsets, codes, k, _QUARTERS if bins == "quarter_octaves" else _BYTES, counts)


def _quarters() -> np.ndarray:
    """Returns the bin of every 16-bit value: one bin each below 4, then four bins per power of two."""
    values = np.arange(1 << 16)
    exponent = np.frexp(np.maximum(values, 1))[1]  # bits of the value
    shift = np.maximum(exponent - 3, 0)
    return np.where(values < 4, values, 4 * (shift + 1) + (values >> shift) % 4).astype(np.uint8)


_QUARTERS = _quarters()
_BYTES = np.arange(256).astype(np.uint8)


@numba.njit(nogil=True, cache=True)
def _count_codes(offsets: Any, codes: Any, k: int, table: Any, counts: Any) -> None:
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], min(offsets[row + 1], offsets[row] + k)):
            counts[table[codes[at]]] += 1


@numba.njit(nogil=True, cache=True)
def _count_octaves(offsets: Any, values: Any, k: int, counts: Any) -> None:
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], min(offsets[row + 1], offsets[row] + k)):
            left, bits = values[at], 0
            while left > 0:
                left >>= 1
                bits += 1
            counts[bits] += 1
