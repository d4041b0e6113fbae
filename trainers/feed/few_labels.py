"""Few labels: n flows of each class keep their label in the train split, all others become unknown."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.rows import FLOWS, View, label_column
from flowloom.schemas.parquet_files import read_table
from flowloom.trainers.feed.dataset import Dataset


def few_labels(
    flow_ids: pa.FixedSizeBinaryArray, labels: npt.NDArray[np.int32], per_class: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Chooses `per_class` labelled flows of each class, by a hash of seed and flow id.

    A class with fewer flows keeps all of them. The choice does not depend on the order of the rows, and a choice of
    more labels contains every choice of fewer. Source: Rezaei and Liu, table III; their code takes the first flows of
    each class.

    Args:
      flow_ids: binary of 16 bytes [N].
      labels: int32 [N], negative where unknown.
      per_class: at least 0.
      seed: seed of the hash.

    Returns:
      bool [N], true for flows that keep their label.

    Raises:
      ValueError: if `per_class` is negative, or ids and labels differ in length.
    """
    if per_class < 0:
        raise ValueError(f"per_class must be >= 0, got {per_class}")
    if len(flow_ids) != len(labels):
        raise ValueError(f"flow_ids and labels must have the same length, got {len(flow_ids)} and {len(labels)}")
    return (class_ranks(flow_ids, labels, seed) < per_class) & (labels >= 0)


def class_ranks(flow_ids: pa.FixedSizeBinaryArray, labels: npt.NDArray[np.int32], seed: int) -> npt.NDArray[np.int64]:
    """Returns each flow's rank within its class by a hash of seed and id, int64 [N] from 0."""
    high, low = _halves(flow_ids).T
    order = np.lexsort((low, high, _mixed(high ^ _mixed(low ^ _mixed(np.uint64(seed)))), labels))
    ordered = labels[order]
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks


def kept_flows(dataset: Dataset, per_class: Mapping[str, int], seed: int, view: View = "flows") -> dict[str, pa.Array]:
    """Returns the ids of the train flows that keep their label, for each task in `per_class`.

    All rows of a flow, such as its packets, share one label and count once.
    """
    kept = {}
    for task in (task.name for task in dataset.tasks if task.name in per_class):
        known = pa.schema([FLOWS.field("flow_id"), pa.field(label_column(task), pa.int32())])
        paths = dict.fromkeys(group.path for group in dataset.row_groups("train", task, view))
        tables = [read_table(path, known.names) for path in paths]
        table = pa.concat_tables([known.empty_table(), *tables]).combine_chunks()
        table = table.group_by("flow_id", use_threads=False).aggregate([(label_column(task), "max")])
        flow_ids = table["flow_id"].combine_chunks()
        labels = pc.fill_null(table[f"{label_column(task)}_max"], -1).to_numpy()
        kept[task] = flow_ids.filter(pa.array(few_labels(flow_ids, labels, per_class[task], seed)))
    return kept


def _halves(flow_ids: pa.FixedSizeBinaryArray) -> npt.NDArray[np.uint64]:
    """Returns 16-byte ids as two integers each, uint64 [N, 2]."""
    _, values = flow_ids.buffers()
    halves = np.frombuffer(values, "<u8", count=2 * len(flow_ids), offset=16 * flow_ids.offset)
    return halves.reshape(-1, 2)


def _mixed(numbers: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    """Returns the output function of SplitMix64 (Steele, Lea and Flood, 2014) of each number."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(numbers, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
