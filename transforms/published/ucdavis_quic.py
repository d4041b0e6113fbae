"""Flows of the UC Davis QUIC set, in its two published forms.

The text files of whole flows come from Rezaei and Liu, "How to Achieve High Classification Accuracy with Just a Few
Labels", 2018; the arrays of processed flows from their "Multitask Learning for Network Traffic Classification".
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.published.delimited_text import SECONDS, TextRows, plain_label, read_rows, seconds_ns
from flowloom.transforms.published.flow_rows import published_flows
from flowloom.transforms.published.published_files import PublishedFile, published_files
from flowloom.transforms.published.published_rejects import Rejects

QUIC_PROTOCOL, QUIC_TASK = 17, "service"

ARRAY_CLASSES = {1: "googledrive", 2: "youtube", 3: "googledoc", 4: "googlesearch", 5: "googlemusic"}
"""Labels of the arrays' class numbers, spelt as in the text files."""

ARRAY_PACKETS = 120
ARRAY_SIZE_UNIT = 1434.0
"""Bytes that a length of 1 means in the arrays."""

_COLUMNS = {"time": 0, "relative": 1, "length": 2, "direction": 3}
_LENGTH, _DIRECTION = r"^\d{1,6}$", r"^[01]$"


def read_quic_texts(path: str, rejects: Rejects, *, k: int = 60) -> Iterator[pa.RecordBatch]:
    """Yields flows from text files with one flow each.

    A line has epoch time, relative time, length and direction, separated by tabs. Times are exact to the ns, sizes are
    published frame lengths, and the protocol is UDP. The service is the name of the folder, or without a folder the
    file's name before its number.

    Args:
      path: a file, a folder or a tar archive of them.
      k: packets of a sequence.

    Yields:
      One batch per file: `schemas.arrow.rows.PUBLISHED_FLOWS` with published labels of the kind `service`.
    """
    for file in published_files(path, rejects):
        parts = [_checked(file, rows, rejects) for rows in read_rows(file, "\t", 4, _COLUMNS, rejects)]
        table = pa.Table.from_batches(parts).combine_chunks() if parts else None
        if table is None or not table.num_rows:
            rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, "expected a flow of at least one packet")
            continue
        time_ns = seconds_ns(table["time"].chunk(0))
        size = view(pc.cast(table["length"], pa.int64()).chunk(0))
        direction = view(pc.cast(table["direction"], pa.int64()).chunk(0))
        yield published_flows(
            file, np.zeros(1, np.int64), np.array([0, len(size)]), size, direction == direction[0],
            np.diff(time_ns, prepend=time_ns[0]), k, {QUIC_TASK: [_service(file.name)]},
            start=time_ns[:1], protocol=np.array([QUIC_PROTOCOL]),
        )  # fmt: skip


def read_quic_arrays(data: str, labels: str, rejects: Rejects, *, k: int = 60) -> Iterator[pa.RecordBatch]:
    """Yields flows from the processed arrays.

    The arrays have inter-arrival times of each flow's first 120 packets, scaled to [-1, 1] and cut at 1 s, and lengths
    in units of 1,434 bytes. They lack directions, so all packets and bytes count as forward. Duration and bytes are
    those of the whole flow, from its labels; its number of packets is unknown.

    Args:
      data: `.npy` file of float [flows, 240]: 120 pairs of scaled time and length.
      labels: `.npy` file of float [flows, 3]: bandwidth in bytes a second, duration in s, class.
      k: packets of a sequence.

    Yields:
      One batch: `schemas.arrow.rows.PUBLISHED_FLOWS` with published labels of the kind `service`.
    """
    for file in published_files(data, rejects):
        values = _array(file, 2 * ARRAY_PACKETS, rejects)
        named = [_array(other, 3, rejects) for other in published_files(labels, rejects)]
        if values is None or not named or named[0] is None:
            continue
        if len(values) != len(named[0]):
            detail = f"expected a label for each of {len(values)} flows, got {len(named[0])} labels"
            rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
            continue
        bandwidth, duration, classes = named[0].T
        pairs = values.reshape(len(values), ARRAY_PACKETS, 2)
        size = np.rint(pairs[:, :, 1] * ARRAY_SIZE_UNIT)
        good = np.isfinite(values).all(axis=1) & _good_labels(named[0])
        good &= (pairs[:, :, 0] <= 1).all(axis=1) & (size > 0).all(axis=1)
        detail = "expected 120 scaled times and lengths, a bandwidth, a duration and a class from 1 to 5"
        rejects.add(file.uri, np.flatnonzero(~good), RejectReason.BAD_ROW, detail)
        rows = np.flatnonzero(good)
        flows = len(rows)
        yield published_flows(
            file, rows, np.arange(flows + 1) * ARRAY_PACKETS, size[rows].astype(np.int64).ravel(),
            np.ones(flows * ARRAY_PACKETS, bool), np.rint((pairs[rows, :, 0] + 1) / 2 * 1e9).astype(np.int64).ravel(),
            k, {QUIC_TASK: [ARRAY_CLASSES[int(number)] for number in classes[rows]]},
            protocol=np.full(flows, QUIC_PROTOCOL), duration_ns=np.rint(duration[rows] * 1e9),
            bytes_fwd=np.rint(bandwidth[rows] * duration[rows]),
            packets_fwd=None, packets_bwd=None, out_of_order=None,
        )  # fmt: skip


def read_quic_labels(path: str, rejects: Rejects) -> np.ndarray:
    """Returns the labels of flows, also of flows without published packets.

    Args:
      path: `.npy` file of float [flows, 3].

    Returns:
      float64 [flows, 3]: bandwidth in bytes a second, duration in s, and a key of `ARRAY_CLASSES`.
    """
    found = [np.empty((0, 3))]
    for file in published_files(path, rejects):
        labels = _array(file, 3, rejects)
        if labels is not None:
            good = _good_labels(labels)
            detail = "expected a bandwidth, a duration and a class from 1 to 5"
            rejects.add(file.uri, np.flatnonzero(~good), RejectReason.BAD_ROW, detail)
            found.append(labels[good])
    return np.concatenate(found)


def _good_labels(labels: np.ndarray) -> np.ndarray:
    """Returns bool [flows]: whether a row has a bandwidth, a duration and a class."""
    return (
        np.isfinite(labels).all(axis=1) & (labels[:, :2] >= 0).all(axis=1) & np.isin(labels[:, 2], list(ARRAY_CLASSES))
    )


def _checked(file: PublishedFile, rows: TextRows, rejects: Rejects) -> pa.RecordBatch:
    """Returns the rows with a time, a length and a direction; the others are rejects."""
    good = pc.match_substring_regex(rows.columns["time"], SECONDS)
    good = pc.and_(good, pc.match_substring_regex(rows.columns["length"], _LENGTH))
    good = pc.and_(good, pc.match_substring_regex(rows.columns["direction"], _DIRECTION))
    detail = "expected epoch seconds with up to 9 decimals, a relative time, a length and a direction of 0 or 1"
    rejects.add(file.uri, rows.keep(pc.invert(good)).positions, RejectReason.BAD_ROW, detail)
    return rows.keep(good).columns


def _service(name: str) -> str:
    path = PurePosixPath(name)
    named = path.parent.name or re.sub(r"[-_ ]*\d+$", "", path.stem)
    return plain_label(named).replace("-", "")


def _array(file: PublishedFile, width: int, rejects: Rejects) -> np.ndarray | None:
    try:
        values = np.lib.format.read_array(file.content, allow_pickle=False)
    except ValueError as error:
        rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, f"expected a NumPy array ({error})")
        return None
    if values.ndim != 2 or values.shape[1] != width or values.dtype.kind != "f":
        detail = f"expected floats of shape [flows, {width}], got {values.dtype} of shape {list(values.shape)}"
        rejects.add(file.uri, [0], RejectReason.OTHER_FORMAT, detail)
        return None
    return values
