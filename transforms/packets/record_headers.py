"""Headers of records: one row for every captured record, with its packet or the reason that it has none."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import PACKETS
from flowloom.transforms.arrays.columns import column, text_column
from flowloom.transforms.captures.records import NO_TIME, Records
from flowloom.transforms.packets.decoder import PacketDecoder

_OF_RECORDS = ("record", "time_ns", "clock_ns", "wire_bytes")
"""Columns of `PACKETS` that every record has, or that none needs."""

_OF_METERING = ("checksum", "icmp", "icmp_error")
"""Columns of `PACKETS` in the form that metering needs."""

HEADERS = pa.schema(
    [
        pa.field("record", pa.uint64(), nullable=False),  # position in the capture, from 0
        pa.field("time", pa.timestamp("ns", tz="UTC")),  # null outside of 1970 to 2262
        pa.field("link_type", pa.int32(), nullable=False),  # LINKTYPE_ number of pcap
        pa.field("captured_bytes", pa.uint32(), nullable=False),
        pa.field("wire_bytes", pa.uint32(), nullable=False),  # whole frame as sent
        *(field.with_nullable(True) for field in PACKETS if field.name not in _OF_RECORDS + _OF_METERING),
        pa.field("drop_reason", pa.string()),  # a `DropReason` label; null for a packet
    ]
)
"""One captured record: the fields of its IP packet, or null in them and a drop reason."""


def record_headers(decoder: PacketDecoder, records: Records) -> pa.RecordBatch:
    """Returns one row for each record, in captured order (`HEADERS`).

    Args:
      decoder: the decoder of the capture, which has seen all records before.
      records: the next records.
    """
    first = decoder.records
    packets = decoder.decode(records)
    rows = packets["record"].to_numpy().astype(np.int64) - first
    source = np.full(len(records), -1, np.int64)
    source[rows] = np.arange(len(rows))
    missing = source < 0
    of_packet = _nullable(source, missing, pa.int64())
    columns = {
        name: packets[name].take(of_packet)
        for name in HEADERS.names
        if name in packets.schema.names and name not in _OF_RECORDS
    }
    columns["record"] = column(np.arange(first, first + len(records), dtype=np.uint64), pa.uint64())
    columns["time"] = _nullable(records.time_ns, records.time_ns == NO_TIME, HEADERS.field("time").type)
    columns["link_type"] = column(records.link_type, pa.int32())
    columns["captured_bytes"] = column(records.captured.astype(np.uint32), pa.uint32())
    columns["wire_bytes"] = column(records.wire.astype(np.uint32), pa.uint32())
    reasons = np.zeros(len(records), np.int64)
    reasons[missing] = drop_reasons(_some(records, np.flatnonzero(missing)))
    labels = text_column([reason.label for reason in DropReason])
    columns["drop_reason"] = labels.take(_nullable(reasons - min(DropReason), ~missing, pa.int64()))
    return pa.RecordBatch.from_arrays([columns[name] for name in HEADERS.names], schema=HEADERS)


def drop_reasons(records: Records) -> npt.NDArray[np.uint8]:
    """Returns the `DropReason` code of records that the decoder drops, uint8 [N].

    Records are decoded again in halves until all of a part have one reason, which neighbours mostly share.
    """
    if not len(records):
        return np.empty(0, np.uint8)
    decoder = PacketDecoder(None)
    decoder.decode(records)
    (found,) = np.nonzero(decoder.dropped)
    if len(found) == 1:
        alone = found[0] == DropReason.FRAGMENT_DROPPED  # decoded without the first fragments of before
        return np.full(len(records), DropReason.FRAGMENT_WITHOUT_FIRST if alone else found[0], np.uint8)
    middle = len(records) // 2
    halves = np.arange(middle), np.arange(middle, len(records))
    return np.concatenate([drop_reasons(_some(records, rows)) for rows in halves])


def _some(records: Records, rows: npt.NDArray[np.int64]) -> Records:
    columns = (records.start, records.captured, records.wire, records.time_ns, records.link_type)
    return Records(records.window, *(values[rows] for values in columns))


def _nullable(values: np.ndarray, missing: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Returns int64 values as an Arrow array that is null where they are missing."""
    validity = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(np.ascontiguousarray(values))])
