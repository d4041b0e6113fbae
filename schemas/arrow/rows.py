"""What one packet and one flow are: the Arrow schemas that travel between rooms and lie in shards."""

from collections.abc import Iterable
from typing import Literal, get_args

import pyarrow as pa

View = Literal["flows", "packets", "tables"]
VIEWS: tuple[View, ...] = get_args(View)
"""What a dataset can have rows of: flows, bytes of packets or sessions, tables of features."""

ADDRESS = pa.binary(16)
"""An IPv6 address, or an IPv4 one in its IPv4-mapped form ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2)."""

PACKETS = pa.schema(
    [
        pa.field("record", pa.uint64(), nullable=False),  # position in the capture, from 0
        pa.field("time_ns", pa.int64(), nullable=False),  # since the epoch
        pa.field("src_ip", ADDRESS, nullable=False),
        pa.field("dst_ip", ADDRESS, nullable=False),
        pa.field("src_port", pa.uint16(), nullable=False),  # 0 where the protocol has none
        pa.field("dst_port", pa.uint16(), nullable=False),
        pa.field("protocol", pa.uint8(), nullable=False),  # IP protocol number after IPv6 extension headers
        pa.field("ip_version", pa.uint8(), nullable=False),
        pa.field("vlan", pa.uint16(), nullable=False),  # innermost 802.1Q identifier, 0 = untagged
        pa.field("tunnel_id", pa.uint32(), nullable=False),  # of the innermost unwrapped tunnel that has one, else 0
        pa.field("wire_bytes", pa.uint32(), nullable=False),  # whole frame as sent
        pa.field("ip_bytes", pa.uint32(), nullable=False),  # IP header and payload
        pa.field("payload_bytes", pa.uint32(), nullable=False),  # after the transport header
        pa.field("ip_id", pa.uint32(), nullable=False),  # IPv4 or IPv6-fragment identification, else 0
        pa.field("ttl", pa.uint8(), nullable=False),  # or IPv6 hop limit
        pa.field("tcp_flags", pa.uint8(), nullable=False),  # CWR ECE URG ACK PSH RST SYN FIN, high to low
        pa.field("tcp_window", pa.uint16(), nullable=False),  # as sent, unscaled
        pa.field("tcp_seq", pa.uint32(), nullable=False),
    ]
)
"""One decoded IP packet, in captured order: of each record the outermost, or the innermost behind unwrapped tunnels."""

SEQUENCES: dict[str, pa.DataType] = {
    "pkt_size": pa.uint16(),
    "pkt_dir": pa.int8(),
    "pkt_gap_ns": pa.int64(),
    "pkt_tcp_flags": pa.uint8(),
    "pkt_tcp_window": pa.uint16(),
    "pkt_ttl": pa.uint8(),
    "pkt_payload": pa.uint16(),
}
"""The per-packet columns of a flow: lists over its first k packets, never padded.

`pkt_size` is the size that the flow definition names, `pkt_dir` +1 forward and -1 backward, `pkt_gap_ns` the time since
the packet before it in the list (first = 0, out of order = 0). Sizes above 65,535 are stored as 65,535.
"""

IDENTITY = ("src_ip", "dst_ip")
"""Columns that name a host; absent from shards with `identity: drop`."""


def _list(item: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("item", item, nullable=False))


FLOWS = pa.schema(
    [
        pa.field("flow_id", pa.binary(16), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("duration_ns", pa.int64(), nullable=False),
        pa.field("ip_version", pa.uint8(), nullable=False),
        pa.field("protocol", pa.uint8(), nullable=False),
        pa.field("src_ip", ADDRESS, nullable=False),
        pa.field("dst_ip", ADDRESS, nullable=False),
        pa.field("src_port", pa.uint16(), nullable=False),
        pa.field("dst_port", pa.uint16(), nullable=False),
        pa.field("vlan", pa.uint16(), nullable=False),
        pa.field("tunnel_id", pa.uint32(), nullable=False),
        pa.field("packets_fwd", pa.uint64(), nullable=False),
        pa.field("packets_bwd", pa.uint64(), nullable=False),
        pa.field("bytes_fwd", pa.uint64(), nullable=False),
        pa.field("bytes_bwd", pa.uint64(), nullable=False),
        pa.field("end_reason", pa.uint8(), nullable=False),
        pa.field("out_of_order", pa.uint64(), nullable=False),
        pa.field("duplicates", pa.uint64(), nullable=False),
        *(pa.field(name, _list(item), nullable=False) for name, item in SEQUENCES.items()),
    ]
)
"""One flow. Forward is the direction of its first packet, unless the definition orients by SYN."""

FRAGMENTS = pa.schema(
    [
        *(pa.field(name, pa.uint64(), nullable=False) for name in ("low_0", "low_1", "high_0", "high_1")),
        *(pa.field(name, pa.uint16(), nullable=False) for name in ("low_port", "high_port", "vlan", "key_vlan")),
        *(pa.field(name, pa.uint32(), nullable=False) for name in ("tunnel_id", "key_tunnel")),
        pa.field("protocol", pa.uint8(), nullable=False),
        pa.field("ip_version", pa.uint8(), nullable=False),
        pa.field("range", pa.int32(), nullable=False),  # position of the byte range or file in its capture group
        pa.field("serial", pa.int64(), nullable=False),  # order of beginning inside the range
        pa.field("open_before", pa.uint8(), nullable=False),
        pa.field("open_after", pa.uint8(), nullable=False),
        pa.field("forward_is_low", pa.uint8(), nullable=False),
        *(pa.field(name, pa.uint8(), nullable=False) for name in ("syn", "syn_low", "fresh", "closing", "end_reason")),
        pa.field("isn", pa.uint32(), nullable=False),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("start_ns", "latest_ns", "start_clock_ns", "clock_ns")
        ),
        *(pa.field(f"packets_{side}", pa.uint64(), nullable=False) for side in ("low", "high")),
        *(pa.field(f"bytes_{side}", pa.uint64(), nullable=False) for side in ("low", "high")),
        pa.field("out_of_order", pa.uint64(), nullable=False),
        pa.field("duplicates", pa.uint64(), nullable=False),
        pa.field("previous_ns", pa.int64(), nullable=False),
        *(pa.field(f"{which}_ip_id", pa.uint32(), nullable=False) for which in ("previous", "first")),
        *(pa.field(f"{which}_bytes", pa.uint32(), nullable=False) for which in ("previous", "first")),
        pa.field("pkt_time_ns", _list(pa.int64()), nullable=False),
        pa.field("pkt_from_low", _list(pa.int8()), nullable=False),
        *(
            pa.field(name, _list(item), nullable=False)
            for name, item in SEQUENCES.items()
            if name not in ("pkt_gap_ns", "pkt_dir")
        ),
    ]
)
"""One piece of a flow that a byte range or file of its capture group cut off; see `transforms/flows/flow_fragments.py`.

The key's endpoints are in canonical order, low and high; addresses are two words each in the order of their bytes.
"""

KNOWN_OF_PUBLISHED = ("flow_id", "group", "duration_ns", "bytes_fwd", "bytes_bwd", "pkt_size", "pkt_dir", "pkt_gap_ns")
"""Flow columns that every published format can fill."""

PUBLISHED_FLOWS = pa.schema([field.with_nullable(field.name not in KNOWN_OF_PUBLISHED) for field in FLOWS])
"""One flow out of a published file: as `FLOWS`, but null where the file does not tell (docs/decisions/0005)."""


def numbered_packet_schema(length: int) -> pa.Schema:
    """Return the schema of the packets view while it travels with the flows of its range.

    `serial` is the meter's number of the packet's flow within the range; `bytes` has `length` of them.
    """
    return pa.schema(
        [
            pa.field("record", pa.uint64(), nullable=False),
            pa.field("time_ns", pa.int64(), nullable=False),
            pa.field("serial", pa.int64(), nullable=False),
            pa.field("bytes", pa.binary(length), nullable=False),
        ]
    )


def packet_schema(length: int) -> pa.Schema:
    """Return the schema of the packets view as it is stored: the packet's flow, its place in it, and `length` bytes."""
    return pa.schema(
        [
            pa.field("flow_id", pa.binary(16), nullable=False),
            pa.field("group", pa.string(), nullable=False),
            pa.field("time", pa.timestamp("ns", tz="UTC"), nullable=False),
            pa.field("record", pa.uint64(), nullable=False),
            pa.field("bytes", pa.binary(length), nullable=False),
        ]
    )


FLOW_NUMBERS = pa.schema(
    [
        pa.field("range", pa.int32(), nullable=False),
        pa.field("serial", pa.int64(), nullable=False),
        pa.field("flow_id", pa.binary(16), nullable=False),
    ]
)
"""Which flow a range's `serial` means: one row per flow of every range that holds packets of it."""

WORD_PREFIX = "word_"


def word_column(task: str) -> str:
    """Return the name of the column with the words that a published file says of a task; null = it says none."""
    return WORD_PREFIX + task


def worded(schema: pa.Schema, tasks: Iterable[str]) -> pa.Schema:
    """Return `schema` with one nullable string column of words per task at its end."""
    for task in tasks:
        schema = schema.append(pa.field(word_column(task), pa.string()))
    return schema


def image_schema(length: int) -> pa.Schema:
    """Return the schema of published packet or session images: id, group, and `length` bytes."""
    return pa.schema([field for field in packet_schema(length) if field.name in ("flow_id", "group", "bytes")])


GROUP_DIGITS = 16
"""Hexadecimal digits of a group's name."""

LABEL_PREFIX = "label_"


def label_column(task: str) -> str:
    """Return the name of a task's label column: int32 index into its vocabulary, null = unknown."""
    return LABEL_PREFIX + task


def labelled(schema: pa.Schema, tasks: list[str]) -> pa.Schema:
    """Return `schema` with one nullable int32 label column per task at its end."""
    for task in tasks:
        schema = schema.append(pa.field(label_column(task), pa.int32()))
    return schema
