"""Few labels: n flows of each class keep their label on the train split, and those of all others count as unknown."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowloom.schemas.arrow.rows import FLOWS, View, label_column
from flowloom.trainers.feed.dataset import Dataset


def few_labels(
    flow_ids: pa.FixedSizeBinaryArray, labels: npt.NDArray[np.int32], per_class: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose `per_class` labelled flows of each class, by a hash of seed and flow id.

    A class with fewer keeps all of them. The choice does not depend on the order of the rows, and one of more labels
    holds each of fewer. Source of the protocol: Rezaei and Liu, table III, whose code takes the first of each class.

    Args:
      flow_ids: fixed binary of 16 bytes [N].
      labels: int32 [N], below 0 where unknown.
      per_class: at least 0.
      seed: another one chooses other flows.

    Returns:
      bool [N], true where the label is kept.

    Raises:
      ValueError: if `per_class` is negative, or ids and labels are of different rows.
    """
    if per_class < 0:
        raise ValueError(f"per_class must be >= 0, got {per_class}")
    if len(flow_ids) != len(labels):
        raise ValueError(f"flow_ids and labels must be of the same rows, got {len(flow_ids)} and {len(labels)}")
    return (class_ranks(flow_ids, labels, seed) < per_class) & (labels >= 0)


def class_ranks(flow_ids: pa.FixedSizeBinaryArray, labels: npt.NDArray[np.int32], seed: int) -> npt.NDArray[np.int64]:
    """Return each flow's place among those of its label, int64 [N] from 0, in the order of a hash of seed and id."""
    high, low = _words(flow_ids).T
    order = np.lexsort((low, high, _mixed(high ^ _mixed(low ^ _mixed(np.uint64(seed)))), labels))
    ordered = labels[order]
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks


def kept_flows(dataset: Dataset, per_class: Mapping[str, int], seed: int, view: View = "flows") -> dict[str, pa.Array]:
    """Return the ids of the flows of the train split that keep their label, for each task that is in `per_class`.

    Rows of a flow, such as its packets, have one label, and are one flow in the count.
    """
    kept = {}
    for task in (task.name for task in dataset.tasks if task.name in per_class):
        known = pa.schema([FLOWS.field("flow_id"), pa.field(label_column(task), pa.int32())])
        paths = dict.fromkeys(group.path for group in dataset.row_groups("train", task, view))
        tables = [pq.read_table(path, columns=known.names, partitioning=None) for path in paths]
        table = pa.concat_tables([known.empty_table(), *tables]).combine_chunks()
        table = table.group_by("flow_id", use_threads=False).aggregate([(label_column(task), "max")])
        flow_ids = table["flow_id"].combine_chunks()
        labels = pc.fill_null(table[f"{label_column(task)}_max"], -1).to_numpy()
        kept[task] = flow_ids.filter(pa.array(few_labels(flow_ids, labels, per_class[task], seed)))
    return kept


def _words(flow_ids: pa.FixedSizeBinaryArray) -> npt.NDArray[np.uint64]:
    """Return 16-byte ids as two words each, uint64 [N, 2]."""
    _, values = flow_ids.buffers()
    words = np.frombuffer(values, "<u8", count=2 * len(flow_ids), offset=16 * flow_ids.offset)
    return words.reshape(-1, 2)


def _mixed(words: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    """Return the output function of SplitMix64 (Steele, Lea and Flood, 2014) of each word."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(words, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
