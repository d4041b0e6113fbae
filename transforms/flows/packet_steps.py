"""Kernel steps that the flow meter and packet windows share: packet columns, keys without direction, entries."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.arrays.icmp_messages import ICMP, ICMPV6, message_key
from flowloom.transforms.arrays.kernels import Number, step

_SIZES = {"ip": "ip_bytes", "wire": "wire_bytes", "payload": "payload_bytes"}


class MeteredColumns(NamedTuple):
    """Columns of `schemas.arrow.rows.PACKETS` for kernels; `size` is the size that the flow definition names."""

    record: np.ndarray
    time_ns: np.ndarray
    clock_ns: np.ndarray
    src_ip: np.ndarray
    dst_ip: np.ndarray
    src_port: np.ndarray
    dst_port: np.ndarray
    protocol: np.ndarray
    ip_version: np.ndarray
    vlan: np.ndarray
    tunnel_id: np.ndarray
    ip_bytes: np.ndarray
    payload_bytes: np.ndarray
    ip_id: np.ndarray
    ttl: np.ndarray
    tcp_flags: np.ndarray
    tcp_window: np.ndarray
    tcp_seq: np.ndarray
    tcp_ack: np.ndarray
    checksum: np.ndarray
    icmp: np.ndarray
    icmp_error: np.ndarray
    size: np.ndarray


class FlowKey(NamedTuple):
    """The five-tuple without direction, low endpoint first, with VLAN and tunnel (0 where they are not in the key).

    Ports of ICMP are 0, or hold the message if that is in the key.
    """

    low_0: Number
    low_1: Number
    high_0: Number
    high_1: Number
    low_port: Number
    high_port: Number
    protocol: Number
    vlan: Number
    tunnel_id: Number


class KeyOptions(NamedTuple):
    """The parts of a flow definition that decide its keys."""

    vlan_in_key: bool
    tunnel_in_key: bool
    icmp_in_key: bool


def key_options(definition: FlowDefinition) -> KeyOptions:
    """Returns the options of the keys of a flow definition."""
    return KeyOptions(definition.vlan_in_key, definition.tunnel_in_key, definition.icmp_in_key)


def packet_columns(packets: pa.RecordBatch, definition: FlowDefinition) -> MeteredColumns:
    """Returns views of the columns of packets (`schemas.arrow.rows.PACKETS`)."""
    *names, _ = MeteredColumns._fields
    return MeteredColumns(*(view(packets[name]) for name in (*names, _SIZES[definition.size])))


@step
def flow_key(packets, i, options):
    """Returns whether the low endpoint sent packet `i`, and the packet's `FlowKey`.

    Args:
      options: has the fields of `KeyOptions`.
    """
    src_0, src_1, dst_0, dst_1 = packets.src_ip[i, 0], packets.src_ip[i, 1], packets.dst_ip[i, 0], packets.dst_ip[i, 1]
    src_port, dst_port = packets.src_port[i], packets.dst_port[i]
    if src_1 != dst_1:
        from_low = src_1 < dst_1
    elif src_0 != dst_0:
        from_low = src_0 < dst_0
    else:
        from_low = src_port <= dst_port
    if from_low:
        low_0, low_1, high_0, high_1, low_port, high_port = src_0, src_1, dst_0, dst_1, src_port, dst_port
    else:
        low_0, low_1, high_0, high_1, low_port, high_port = dst_0, dst_1, src_0, src_1, dst_port, src_port
    if options.icmp_in_key and (packets.protocol[i] == ICMP or packets.protocol[i] == ICMPV6):
        message = message_key(packets.protocol[i], packets.icmp[i])
        low_port, high_port = np.uint16(message >> np.uint32(16)), np.uint16(message & np.uint32(0xFFFF))
    vlan = packets.vlan[i] if options.vlan_in_key else np.uint16(0)
    tunnel_id = packets.tunnel_id[i] if options.tunnel_in_key else np.uint32(0)
    return from_low, FlowKey(low_0, low_1, high_0, high_1, low_port, high_port, packets.protocol[i], vlan, tunnel_id)


@step
def write_key(flow, key, packets, i):
    """Writes the key of packet `i` into a `FLOW` record, with the version, VLAN and tunnel of the packet itself."""
    flow.low_0, flow.low_1, flow.high_0, flow.high_1 = key.low_0, key.low_1, key.high_0, key.high_1
    flow.low_port, flow.high_port, flow.protocol = key.low_port, key.high_port, key.protocol
    flow.key_vlan, flow.key_tunnel = key.vlan, key.tunnel_id
    flow.vlan, flow.tunnel_id, flow.ip_version = packets.vlan[i], packets.tunnel_id[i], packets.ip_version[i]
    flow.icmp = packets.icmp[i]


@step
def write_entry(entry, packets, i, from_low):
    """Writes packet `i` into an `ENTRY` record."""
    entry.time_ns = packets.time_ns[i]
    entry.size = min(packets.size[i], np.uint32(0xFFFF))
    entry.payload = min(packets.payload_bytes[i], np.uint32(0xFFFF))
    entry.window = packets.tcp_window[i]
    entry.flags = packets.tcp_flags[i]
    entry.ttl = packets.ttl[i]
    entry.from_low = from_low
