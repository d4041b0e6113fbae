"""Published flows: sequences of sizes, directions and times out of published files, as flow rows with nulls."""

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
    words: Mapping[str, Sequence[str]],
    **known: np.ndarray | None,
) -> pa.RecordBatch:
    """Return flows as `schemas.rows.PUBLISHED_FLOWS` with a word column per task; null where nothing is known.

    Counters and duration are taken over all packets given, the sequences are their first k.

    Args:
      file: where they come from; names group and ids.
      rows: int64 [flows] positions of the flows in the file.
      offsets: int64 [flows + 1] positions of their packets, at least one each.
      size: bytes of each packet, at least 0.
      forward: bool, whether each packet goes the way of its flow's first.
      gap_ns: int64 time since the packet before; that of a flow's first does not count.
      words: what the file says of each task.
      known: flow columns that the file tells otherwise; None = it does not tell.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    first = np.zeros(len(size), bool)
    first[starts] = True
    gaps = np.where(first, 0, gap_ns)
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[starts], lengths)

    def over(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)

    columns: dict[str, np.ndarray | None] = {
        "duration_ns": np.maximum.reduceat(elapsed, starts) if len(starts) else np.zeros(0, np.int64),
        "packets_fwd": over(forward),
        "packets_bwd": over(~forward),
        "bytes_fwd": over(np.where(forward, size, 0)),
        "bytes_bwd": over(np.where(forward, 0, size)),
        "out_of_order": over(gaps < 0),
        **known,
    }
    head = np.arange(len(size)) - np.repeat(starts, lengths) < k
    sequences = {
        "pkt_size": np.minimum(size, _LARGEST)[head],
        "pkt_dir": np.where(forward, 1, -1)[head],
        "pkt_gap_ns": np.maximum(gaps, 0)[head],
    }
    heads = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.minimum(lengths, k), dtype=np.int32)])
    arrays = []
    for field in PUBLISHED_FLOWS:
        if field.name == "flow_id":
            arrays.append(file.ids(rows))
        elif field.name == "group":
            arrays.append(repeated_text(file.group, len(rows)))
        elif field.name in sequences:
            values = sequences[field.name].astype(integer_dtype(field.type.value_type))
            arrays.append(list_column(heads, values, field.type))
        elif (values := columns.get(field.name)) is not None:
            arrays.append(column(values.astype(integer_dtype(field.type)), field.type))
        else:
            arrays.append(pa.nulls(len(rows), field.type))
    arrays += [text_column(words[task]) for task in words]
    return pa.RecordBatch.from_arrays(arrays, schema=with_published_labels(PUBLISHED_FLOWS, words))


def forget(flows: pa.RecordBatch, unknown: Sequence[str]) -> pa.RecordBatch:
    """Return metered flows (`schemas.rows.FLOWS`) as `PUBLISHED_FLOWS`, null in columns that their packets lacked."""
    arrays = [pa.nulls(len(flows), f.type) if f.name in unknown else flows[f.name] for f in PUBLISHED_FLOWS]
    return pa.RecordBatch.from_arrays(arrays, schema=PUBLISHED_FLOWS)
