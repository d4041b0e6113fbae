"""Arrow schemas of packets and flows, in pipelines and in shards."""

from collections.abc import Iterable
from typing import Literal, get_args

import pyarrow as pa

View = Literal["flows", "packets", "tables"]
VIEWS: tuple[View, ...] = get_args(View)
"""Kinds of rows of a dataset: flows, bytes of packets or sessions, tables of features."""

ADDRESS = pa.binary(16)
"""An IPv6 address, or an IPv4 one in its IPv4-mapped form ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2)."""

FLOW_IDS = 2
"""Version of the rule of flow ids of captures: 1 hashed key and start, 2 hashes the place of the first packet."""

PACKETS = pa.schema(
    [
        pa.field("record", pa.uint64(), nullable=False),  # position in the capture, from 0
        pa.field("time_ns", pa.int64(), nullable=False),  # since the epoch
        pa.field("clock_ns", pa.int64(), nullable=False),  # latest time of the group's records up to this one
        pa.field("src_ip", ADDRESS, nullable=False),
        pa.field("dst_ip", ADDRESS, nullable=False),
        pa.field("src_port", pa.uint16(), nullable=False),  # 0 where the protocol has none
        pa.field("dst_port", pa.uint16(), nullable=False),
        pa.field("protocol", pa.uint8(), nullable=False),  # IP protocol number after IPv6 extension headers
        pa.field("ip_version", pa.uint8(), nullable=False),
        pa.field("vlan", pa.uint16(), nullable=False),  # innermost 802.1Q identifier, 0 = untagged
        pa.field("tunnel_id", pa.uint32(), nullable=False),  # of the innermost unwrapped tunnel with an id, else 0
        pa.field("wire_bytes", pa.uint32(), nullable=False),  # whole frame as sent
        pa.field("ip_bytes", pa.uint32(), nullable=False),  # IP header and payload
        pa.field("payload_bytes", pa.uint32(), nullable=False),  # after the transport header
        pa.field("ip_id", pa.uint32(), nullable=False),  # IPv4 or IPv6-fragment identification, else 0
        pa.field("ttl", pa.uint8(), nullable=False),  # or IPv6 hop limit
        pa.field("tcp_flags", pa.uint8(), nullable=False),  # CWR ECE URG ACK PSH RST SYN FIN, high to low
        pa.field("tcp_window", pa.uint16(), nullable=False),  # as sent, unscaled
        pa.field("tcp_seq", pa.uint32(), nullable=False),
        pa.field("tcp_ack", pa.uint32(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),  # of transport; offset of a later fragment; else 0
        pa.field("icmp", pa.uint32(), nullable=False),  # type << 24 | code << 16 | identifier, or NO_ICMP
        pa.field("icmp_error", pa.uint8(), nullable=False),  # 1: key and `icmp` are those of the packet it quotes
    ]
)
"""One decoded IP packet per record, in captured order: the outermost, or the innermost behind unwrapped tunnels.

With `icmp_errors: count` a record can also be an ICMP error, whose row names the flow of the quoted packet.
"""

NO_ICMP = 0xFFFF_FFFF
"""In the place of type, code and identifier of a packet that has none; type 255 is reserved (RFC 4443, section 2.1)."""

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
"""Columns that identify a host; shards lack them with `identity: drop`."""


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
        pa.field("icmp_type", pa.uint8()),  # of the first packet; null unless that has an ICMP header
        pa.field("icmp_code", pa.uint8()),
        pa.field("icmp_id", pa.uint16()),  # also null for messages without an identifier
        pa.field("icmp_errors", pa.uint64()),  # null unless they are counted
        *(pa.field(name, _list(item), nullable=False) for name, item in SEQUENCES.items()),
    ]
)
"""One flow. Forward is the direction of its first packet, unless the definition orients by SYN."""

FLOW_COLUMNS = 2
"""Version of the columns of flows in datasets: 1 lacks `LATER_COLUMNS`."""
LATER_COLUMNS = ("icmp_type", "icmp_code", "icmp_id", "icmp_errors")

HEAD: dict[str, pa.DataType] = {
    "head_signature": pa.uint64(),
    "head_time_ns": pa.int64(),
    "head_size": pa.uint32(),
    "head_from_low": pa.uint8(),
    "head_listed": pa.uint8(),
}
"""The first 8 packets of a piece that may continue a flow, which its counters lack: copies are only known joined."""

TAIL: dict[str, pa.DataType] = {"tail_signature": pa.uint64(), "tail_time_ns": pa.int64()}
"""The last 8 packets of a piece, to find their copies in the next one."""

FRAGMENTS = pa.schema(
    [
        *(pa.field(name, pa.uint64(), nullable=False) for name in ("low_0", "low_1", "high_0", "high_1")),
        *(pa.field(name, pa.uint16(), nullable=False) for name in ("low_port", "high_port", "vlan", "key_vlan")),
        *(pa.field(name, pa.uint32(), nullable=False) for name in ("tunnel_id", "key_tunnel", "icmp")),
        pa.field("protocol", pa.uint8(), nullable=False),
        pa.field("ip_version", pa.uint8(), nullable=False),
        pa.field("range", pa.int32(), nullable=False),  # position of the byte range or file in its capture group
        pa.field("serial", pa.int64(), nullable=False),  # order of beginning inside the range
        pa.field("open_before", pa.uint8(), nullable=False),
        pa.field("open_after", pa.uint8(), nullable=False),
        pa.field("forward_is_low", pa.uint8(), nullable=False),
        *(
            pa.field(name, pa.uint8(), nullable=False)
            for name in ("begins", "syn", "answer", "opening", "closing", "end_reason")
        ),
        *(pa.field(name, pa.uint32(), nullable=False) for name in ("isn_low", "isn_high", "answered_isn")),
        pa.field("origin", pa.uint64(), nullable=False),  # of the capture of the first packet, from its fingerprint
        pa.field("record", pa.uint64(), nullable=False),  # of the first packet in that capture
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("first_ns", "start_ns", "latest_ns", "start_clock_ns", "clock_ns")
        ),
        *(pa.field(f"packets_{side}", pa.uint64(), nullable=False) for side in ("low", "high")),
        *(pa.field(f"bytes_{side}", pa.uint64(), nullable=False) for side in ("low", "high")),
        pa.field("out_of_order", pa.uint64(), nullable=False),
        pa.field("duplicates", pa.uint64(), nullable=False),
        pa.field("icmp_errors", pa.uint64(), nullable=False),
        pa.field("previous_ns", pa.int64(), nullable=False),
        pa.field("seen", pa.uint64(), nullable=False),  # packets, those of the head and dropped ones included
        *(pa.field(name, _list(item), nullable=False) for name, item in HEAD.items()),
        *(pa.field(name, _list(item), nullable=False) for name, item in TAIL.items()),
        pa.field("pkt_time_ns", _list(pa.int64()), nullable=False),
        pa.field("pkt_from_low", _list(pa.int8()), nullable=False),
        *(
            pa.field(name, _list(item), nullable=False)
            for name, item in SEQUENCES.items()
            if name not in ("pkt_gap_ns", "pkt_dir")
        ),
    ]
)
"""One piece of a flow that the border of a byte range or file cut; see `transforms/flows/flow_fragments.py`.

Its sequences have up to k + 8 packets, because up to 8 may be copies. The key's endpoints are in canonical order, low
and high; an address is two uint64 in the order of its bytes.
"""

PUBLISHED_COLUMNS = ("flow_id", "group", "duration_ns", "bytes_fwd", "bytes_bwd", "pkt_size", "pkt_dir", "pkt_gap_ns")
"""Flow columns that every published format can fill."""

PUBLISHED_FLOWS = pa.schema([field.with_nullable(field.name not in PUBLISHED_COLUMNS) for field in FLOWS])
"""One flow of a published file: `FLOWS`, with null for columns that the file lacks (docs/decisions/0005)."""


def numbered_packet_schema(length: int) -> pa.Schema:
    """Returns the schema of packet rows inside a pipeline, before flows have their ids.

    `serial` is the meter's number of the packet's flow within its byte range; `bytes` has `length` bytes.
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
    """Returns the stored schema of the packets view: the packet's flow, its time and record, and `length` bytes."""
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
"""Flow id of each `serial` of a byte range: one row per flow and range with packets of the flow."""

PUBLISHED_LABEL_PREFIX = "word_"


def published_label_column(task: str) -> str:
    """Returns the name of the column with a published file's own labels of a task; null = none."""
    return PUBLISHED_LABEL_PREFIX + task


def with_published_labels(schema: pa.Schema, tasks: Iterable[str]) -> pa.Schema:
    """Returns `schema` with one nullable string column of published labels per task at its end."""
    for task in tasks:
        schema = schema.append(pa.field(published_label_column(task), pa.string()))
    return schema


def image_schema(length: int) -> pa.Schema:
    """Returns the schema of published packet or session images: id, group, and `length` bytes."""
    return pa.schema([field for field in packet_schema(length) if field.name in ("flow_id", "group", "bytes")])


GROUP_DIGITS = 16
"""Hexadecimal digits of a capture group's name."""

LABEL_PREFIX = "label_"


def label_column(task: str) -> str:
    """Returns the name of a task's label column: int32 index into its vocabulary, null = unknown."""
    return LABEL_PREFIX + task


def labelled(schema: pa.Schema, tasks: list[str]) -> pa.Schema:
    """Returns `schema` with one nullable int32 label column per task at its end."""
    for task in tasks:
        schema = schema.append(pa.field(label_column(task), pa.int32()))
    return schema
