"""Flow rows from published sequences of sizes, directions and times."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.rows import PUBLISHED_FLOWS, with_published_labels
from flowloom.transforms.arrays.columns import column, integer_dtype, list_column, repeated_text, text_column
from flowloom.transforms.published.published_files import PublishedFile

_LARGEST = 0xFFFF


def published_flows(
    file: PublishedFile,
    rows: np.ndarray,
    offsets: np.ndarray,
    size: np.ndarray,
    forward: np.ndarray,
    gap_ns: np.ndarray,
    k: int,
    labels: Mapping[str, Sequence[str]],
    **known: np.ndarray | None,
) -> pa.RecordBatch:
    """Returns flows as `schemas.arrow.rows.PUBLISHED_FLOWS` with published labels, null in unknown columns.

    Counters and duration are those of all given packets; the sequences have the first k.

    Args:
      file: the flows' file, which names group and ids.
      rows: int64 [flows] positions of the flows in the file.
      offsets: int64 [flows + 1] positions of their packets, at least one each.
      size: bytes of each packet, at least 0.
      forward: bool, whether each packet has the direction of its flow's first.
      gap_ns: int64 time since the packet before; that of a flow's first is ignored.
      labels: published labels of the flows by kind.
      known: other flow columns from the file; None for a column that is unknown.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    gaps = gap_ns.copy()
    gaps[starts] = 0
    columns = _totals(starts, lengths, size, forward, gaps) | known
    sequences, first = _first_packets(starts, lengths, size, forward, gaps, k)
    arrays = []
    for field in PUBLISHED_FLOWS:
        if field.name == "flow_id":
            arrays.append(file.ids(rows))
        elif field.name == "group":
            arrays.append(repeated_text(file.group, len(rows)))
        elif field.name in sequences:
            entries = sequences[field.name].astype(integer_dtype(field.type.value_type))
            arrays.append(list_column(first, entries, field.type))
        elif (values := columns.get(field.name)) is not None:
            arrays.append(column(values.astype(integer_dtype(field.type)), field.type))
        else:
            arrays.append(pa.nulls(len(rows), field.type))
    arrays += [text_column(labels[kind]) for kind in labels]
    return pa.RecordBatch.from_arrays(arrays, schema=with_published_labels(PUBLISHED_FLOWS, labels))


def _first_packets(
    starts: np.ndarray, lengths: np.ndarray, size: np.ndarray, forward: np.ndarray, gaps: np.ndarray, k: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the sequences of each flow's first k packets by column, and int32 [flows + 1] positions of the flows."""
    head = np.arange(len(size)) - np.repeat(starts, lengths) < k
    sequences = {
        "pkt_size": np.minimum(size, _LARGEST)[head],
        "pkt_dir": np.where(forward, 1, -1)[head],
        "pkt_gap_ns": np.maximum(gaps, 0)[head],
    }
    return sequences, np.concatenate([np.zeros(1, np.int32), np.cumsum(np.minimum(lengths, k), dtype=np.int32)])


def _totals(
    starts: np.ndarray, lengths: np.ndarray, size: np.ndarray, forward: np.ndarray, gaps: np.ndarray
) -> dict[str, np.ndarray | None]:
    """Returns the columns that are sums or maxima over the packets of each flow."""
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[starts], lengths)

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)

    return {
        "duration_ns": np.maximum.reduceat(elapsed, starts) if len(starts) else np.zeros(0, np.int64),
        "packets_fwd": total(forward),
        "packets_bwd": total(~forward),
        "bytes_fwd": total(np.where(forward, size, 0)),
        "bytes_bwd": total(np.where(forward, 0, size)),
        "out_of_order": total(gaps < 0),
    }


def with_nulls(flows: pa.RecordBatch, unknown: Sequence[str]) -> pa.RecordBatch:
    """Returns metered flows (`schemas.arrow.rows.FLOWS`) as `PUBLISHED_FLOWS`, null in the unknown columns."""
    arrays = [pa.nulls(len(flows), f.type) if f.name in unknown else flows[f.name] for f in PUBLISHED_FLOWS]
    return pa.RecordBatch.from_arrays(arrays, schema=PUBLISHED_FLOWS)
