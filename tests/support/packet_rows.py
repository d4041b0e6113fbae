"""Packet rows for the meter's tests: one at a time, and any that hypothesis can think of."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from reference_decoder import Packet

from flowloom.schemas.arrow.rows import NO_ICMP, PACKETS

GROUP = "00c0ffee00c0ffee"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
A, B = (bytes(10) + b"\xff\xff" + bytes([10, 0, 0, last]) for last in (1, 2))


def packet(**fields: Any) -> dict[str, Any]:
    """One `PACKETS` row, by default a TCP ACK from A to B."""
    row = {
        "record": 0, "time_ns": START, "clock_ns": START, "src_ip": A, "dst_ip": B, "src_port": 1000, "dst_port": 80,
        "protocol": 6, "ip_version": 4, "vlan": 0, "tunnel_id": 0, "wire_bytes": 114, "ip_bytes": 100,
        "payload_bytes": 60, "ip_id": 0, "ttl": 64, "tcp_flags": 0x10, "tcp_window": 500, "tcp_seq": 0, "tcp_ack": 0,
        "checksum": 0, "icmp": NO_ICMP, "icmp_error": 0,
    }  # fmt: skip
    return row | fields


def in_capture(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows as the records of one capture: numbered, each with the latest time up to it."""
    clock, numbered = 0, []
    for record, row in enumerate(rows):
        clock = max(clock, row["time_ns"])
        numbered.append(row | {"record": record, "clock_ns": clock})
    return numbered


def batch_of(rows: Iterable[dict[str, Any]]) -> pa.RecordBatch:
    """Returns rows as one batch of `PACKETS`."""
    return pa.RecordBatch.from_pylist(list(rows), schema=PACKETS)


def with_clock(packets: pa.RecordBatch, clock_ns: int | None) -> pa.RecordBatch:
    """Returns packets of a range with the clock as far as the range knows it.

    Args:
      clock_ns: the latest time before the range; None if it is unknown.
    """
    times = packets["time_ns"].to_numpy()
    if clock_ns is not None:
        times = np.maximum(times, clock_ns)
    at = PACKETS.get_field_index("clock_ns")
    return packets.set_column(at, PACKETS.field(at), pa.array(np.maximum.accumulate(times)))


def answered(row: dict[str, Any]) -> dict[str, Any]:
    """The same packet in the other direction."""
    return row | {
        "src_ip": row["dst_ip"], "dst_ip": row["src_ip"], "src_port": row["dst_port"], "dst_port": row["src_port"],
    }  # fmt: skip


def reference_packet(row: dict[str, Any]) -> Packet:
    """Returns a `PACKETS` row as a packet of the reference meter."""
    return Packet(**row, fragment="whole", transport=b"")


packet_rows = st.builds(
    lambda back, swap, kind, flags, seq, ack, gap, size, ip_id, host, vlan, tunnel_id, checksum: (
        gap,
        (answered if swap else dict)(
            packet(
                protocol=kind, dst_port=80 if kind != 1 else 0, src_port=1000 + host if kind != 1 else 0,
                tcp_flags=flags if kind == 6 else 0, tcp_seq=seq if kind == 6 else 0,
                tcp_ack=ack if kind == 6 else 0,
                ip_bytes=size, wire_bytes=size + 14, payload_bytes=max(size - 40, 0), ip_id=ip_id, vlan=vlan,
                tunnel_id=tunnel_id, checksum=checksum,
            )
        ),
    ),
    st.none(), st.booleans(), st.sampled_from([6, 6, 6, 17, 1]), st.sampled_from([2, 0x12, 0x10, 0x11, 0x14, 0x18]),
    st.integers(0, 2), st.integers(0, 3),
    st.sampled_from([0, 0, 1, 20_000, 50_000, 50_001, SECOND, 5 * SECOND, 70 * SECOND, 130 * SECOND, -3 * SECOND]),
    st.sampled_from([40, 60, 1500, 70_000]), st.integers(0, 1), st.integers(0, 2), st.integers(0, 1),
    st.sampled_from([0, 0, 0, 1 << 31]), st.sampled_from([0, 0, 7]),
)  # fmt: skip
