"""Sketch of a dataset: statistics of its rows from one pass over any number of parts.

Counts, moments, contingencies, profiles and numbers of distinct values do not depend on the parts and their order.
Quantiles and the bounds of frequent values do, within the error that the result states.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_statistics import ClassProfile, ColumnStatistics, Contingency, DatasetStatistics
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.inspection.column_sketch import DISTINCT_EXACT, QUANTILE_ERROR, ColumnSketch

PROFILE_PACKETS = 30
"""Maximum number of positions in a profile."""

_FINE, _FINE_BYTES, _COARSE_BYTES = 2048, 4, 256
_FINE_BINS = _FINE // _FINE_BYTES
_BINS = _FINE_BINS + (65_536 - _FINE) // _COARSE_BYTES
"""Number of size bins in one direction: 4 bytes wide up to 2,048 bytes, 256 bytes wide above."""


class DatasetSketch:
    """Summary of the rows of a dataset; its size depends on columns and classes, not on the number of rows."""

    def __init__(self, tasks: Sequence[Task], k: int):
        self._tasks = tuple(tasks)
        self._positions = min(k, PROFILE_PACKETS)
        self.rows = dict.fromkeys(SPLITS, 0)
        self._columns: dict[tuple[str, str], ColumnSketch] = {}
        self._classes = {(split, task.name): _zeros(task) for split in SPLITS for task in tasks}
        self._contingencies: dict[tuple[str, str], np.ndarray] = {}
        self._profiles = {task.name: _zeros(task, self._positions, 2 * _BINS) for task in tasks}

    def add(self, split: str, rows: pa.RecordBatch) -> None:
        """Adds stored rows of a split; tasks without a label column in the rows are not counted."""
        self.rows[split] += rows.num_rows
        for field in rows.schema:
            key = (split, field.name)
            if key not in self._columns:
                self._columns[key] = ColumnSketch(field)
            self._columns[key].add(rows[field.name])
        codes = {task.name: _codes(rows, task) for task in self._tasks if label_column(task.name) in rows.schema.names}
        for name, code in codes.items():
            counts = self._classes[split, name]
            counts += np.bincount(code, minlength=len(counts))
        for one, other in itertools.combinations(codes, 2):
            shape = len(self._classes[split, one]), len(self._classes[split, other])
            crossed = np.bincount(codes[one] * shape[1] + codes[other], minlength=shape[0] * shape[1]).reshape(shape)
            self._contingencies[one, other] = self._contingencies.get((one, other), 0) + crossed
        if split == SPLITS[0] and "pkt_size" in rows.schema.names:
            self._add_profiles(rows, codes)

    def merge(self, other: "DatasetSketch") -> None:
        """Adds another sketch, which must not be used afterwards."""
        for split, rows in other.rows.items():
            self.rows[split] += rows
        for key, sketch in other._columns.items():
            if key in self._columns:
                self._columns[key].merge(sketch)
            else:
                self._columns[key] = sketch
        for split_task, counts in other._classes.items():
            self._classes[split_task] += counts
        for pair, counts in other._contingencies.items():
            self._contingencies[pair] = self._contingencies.get(pair, 0) + counts
        for name, counts in other._profiles.items():
            self._profiles[name] += counts

    def compact(self) -> None:
        """Frees the memory that merging does not need."""
        for sketch in self._columns.values():
            sketch.compact()

    def statistics(self, content_hash: str) -> DatasetStatistics:
        """Returns the statistics. Nothing can be added afterwards."""
        columns: dict[str, dict[str, ColumnStatistics]] = {split: {} for split in SPLITS}
        for (split, name), sketch in self._columns.items():
            columns[split][name] = sketch.statistics()
        return DatasetStatistics(
            content_hash=content_hash,
            quantile_error=QUANTILE_ERROR,
            distinct_exact=DISTINCT_EXACT,
            rows=self.rows,
            classes={
                split: {
                    task.name: dict(zip(task.vocabulary, self._classes[split, task.name].tolist(), strict=False))
                    for task in self._tasks
                }
                for split in SPLITS
            },
            unknown={
                split: {task.name: int(self._classes[split, task.name][-1]) for task in self._tasks} for split in SPLITS
            },
            columns=columns,
            contingencies=tuple(
                Contingency(tasks=pair, counts=tuple(map(tuple, self._contingencies[pair].tolist())))
                for pair in itertools.combinations([task.name for task in self._tasks], 2)
                if pair in self._contingencies
            ),
            profiles=tuple(
                _profile(task.name, value, counts)
                for task in self._tasks
                for value, counts in zip(task.vocabulary, self._profiles[task.name], strict=False)
                if counts.any()
            ),
        )

    def _add_profiles(self, rows: pa.RecordBatch, codes: dict[str, np.ndarray]) -> None:
        lengths = view(pc.list_value_length(rows["pkt_size"]).fill_null(0)).astype(np.int64)
        row = np.repeat(np.arange(rows.num_rows), lengths)
        position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = position < self._positions
        bins = size_bins(view(rows["pkt_size"].flatten())[kept], view(rows["pkt_dir"].flatten())[kept])
        places = position[kept] * (2 * _BINS) + bins
        for name, code in codes.items():
            counts = self._profiles[name]
            place = code[row[kept]] * counts[0].size + places
            counts += np.bincount(place, minlength=counts.size).reshape(counts.shape)


def merge_sketches(first: DatasetSketch, others: Iterable[DatasetSketch]) -> DatasetSketch:
    """Adds other sketches to the first one, in their order."""
    for sketch in others:
        first.merge(sketch)
    return first


def size_bins(sizes: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Returns the bin of size times direction of each packet, from the largest backward to the largest forward one."""
    wide = sizes.astype(np.int64)
    bins = np.where(wide < _FINE, wide // _FINE_BYTES, _FINE_BINS + (wide - _FINE) // _COARSE_BYTES)
    return np.where(directions > 0, _BINS + bins, _BINS - 1 - bins)


def bin_sizes() -> np.ndarray:
    """Returns size times direction in the middle of each bin, which is within 2 or 128 bytes of all members."""
    fine = np.arange(_FINE_BINS) * _FINE_BYTES + (_FINE_BYTES - 1) / 2
    coarse = _FINE + np.arange(_BINS - _FINE_BINS) * _COARSE_BYTES + (_COARSE_BYTES - 1) / 2
    forward = np.concatenate([fine, coarse])
    return np.concatenate([-forward[::-1], forward])


def _zeros(task: Task, *shape: int) -> np.ndarray:
    """Returns zero counts by label value of a task, then unknown."""
    return np.zeros((len(task.vocabulary) + 1, *shape), np.int64)


def _codes(rows: pa.RecordBatch, task: Task) -> np.ndarray:
    """Returns label numbers; unknown labels have the number after the last label value."""
    return view(rows[label_column(task.name)].fill_null(len(task.vocabulary))).astype(np.int64)


def _profile(task: str, value: str, counts: np.ndarray) -> ClassProfile:
    """Returns the quartiles of counts [positions, bins], each as the middle of its bin."""
    flows = counts.sum(axis=1)
    reached = int(np.count_nonzero(flows))  # a flow with a position also has all earlier positions
    cumulated, sizes = np.cumsum(counts[:reached], axis=1), bin_sizes()
    lower, median, upper = (
        tuple(sizes[(cumulated < np.ceil(flows[:reached] * share)[:, None]).sum(axis=1)].tolist())
        for share in (0.25, 0.5, 0.75)
    )
    return ClassProfile(
        task=task, word=value, flows=tuple(flows[:reached].tolist()), lower=lower, median=median, upper=upper
    )
