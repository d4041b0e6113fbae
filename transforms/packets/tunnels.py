"""Tunnels: the position of the packet inside a packet, and the identifier in its tunnel header.

Sources: IP in IP RFC 2003 and RFC 4213, GRE RFC 2784 and RFC 2890, GTP-U 3GPP TS 29.281, VXLAN RFC 7348, Teredo
RFC 4380.
"""

from collections.abc import Iterable

import numba
import numpy as np

from flowloom.schemas.corpus.flow_definition import TUNNELS
from flowloom.transforms.arrays.kernels import u16, u32
from flowloom.transforms.captures.records import Records

MAX_DEPTH = 8
"""Most nested tunnels that are unwrapped; deeper ones stay inside the eighth."""

MAY_CARRY = np.isin(np.arange(256), (4, 17, 41, 47))
"""bool by IP protocol number: True if a kind of tunnel uses it."""

_IP_IN_IP, _GRE, _GTP_U, _VXLAN, _TEREDO = (
    1 << TUNNELS.index(name) for name in ("ip-in-ip", "gre", "gtp-u", "vxlan", "teredo")
)
_GTP_U_PORT, _TEREDO_PORT, _VXLAN_PORT = 2152, 3544, 4789
_ETHERNET, _RAW_IP, _NONE = 1, 101, 0  # link types: what the tunnel carries
_GRE_REFUSED = 0x4007
"""GRE header bits: source routing (RFC 1701), and the version, which is 1 for PPTP."""


def tunnel_mask(tunnels: Iterable[str]) -> int:
    """Returns kinds of `schemas.corpus.flow_definition.TUNNELS` as the bit set of `inner_packets`."""
    return sum(1 << TUNNELS.index(name) for name in set(tunnels))


def inner_packets(
    records: Records, record: np.ndarray, transport: np.ndarray, protocol: np.ndarray,
    src_port: np.ndarray, dst_port: np.ndarray, payload_bytes: np.ndarray, tunnels: int,
) -> tuple[np.ndarray, Records, np.ndarray]:  # fmt: skip
    """Locates possible packets inside IP packets as records of their own; decoding decides whether they are packets.

    Args:
      records: the outermost frames.
      record: int64 row of each packet's frame in `records`.
      transport: int64 position of each packet's transport header in the window.
      protocol, src_port, dst_port, payload_bytes: of each packet, as in `schemas.arrow.rows.PACKETS`.
      tunnels: a `tunnel_mask`.

    Returns:
      for each inner packet the row of its outer packet, its record, and the identifier of its tunnel (-1 for a tunnel
      header without one).
    """
    start, wire, tunnel_id = (np.empty(len(record), np.int64) for _ in range(3))
    link_type = np.empty(len(record), np.int32)
    end = (records.start + records.captured)[record]
    _locate(
        records.window, transport, end, protocol, src_port, dst_port, payload_bytes.astype(np.int64), tunnels,
        start, wire, link_type, tunnel_id,
    )  # fmt: skip
    outer = np.flatnonzero(link_type)
    start, wire = start[outer], wire[outer]
    captured = np.minimum(end[outer] - start, wire)
    inside = Records(records.window, start, captured, wire, records.time_ns[record[outer]], link_type[outer])
    return outer, inside, tunnel_id[outer]


@numba.njit(nogil=True, cache=True)
def _locate(
    buffer, transport, end, protocol, src_port, dst_port, payload, tunnels, start_out, wire_out, link_type_out, id_out
):
    for i in range(len(transport)):
        at, limit = transport[i], end[i]
        link_type, number = _NONE, -1
        if protocol[i] == 4 or protocol[i] == 41:
            if tunnels & _IP_IN_IP and at < limit and buffer[at] >> 4 == (4 if protocol[i] == 4 else 6):
                link_type = _RAW_IP
        elif protocol[i] == 47:
            if tunnels & _GRE:
                at, link_type, number = _gre(buffer, at, limit)
        elif protocol[i] == 17:
            at += 8
            if tunnels & _VXLAN and dst_port[i] == _VXLAN_PORT:
                if at + 8 <= limit and buffer[at] & 0x08:  # without the flag I there is no valid identifier
                    link_type, number = _ETHERNET, u32(buffer, at + 4) >> 8
                    at += 8
            elif tunnels & _GTP_U and (src_port[i] == _GTP_U_PORT or dst_port[i] == _GTP_U_PORT):
                at, link_type, number = _gtp_u(buffer, at, limit)
            elif tunnels & _TEREDO and (src_port[i] == _TEREDO_PORT or dst_port[i] == _TEREDO_PORT):
                at, link_type = _teredo(buffer, at, limit)
        header = at - transport[i] - (8 if protocol[i] == 17 else 0)
        if header >= payload[i] or at >= limit:
            link_type = _NONE
        start_out[i] = at
        wire_out[i] = payload[i] - header
        link_type_out[i] = link_type
        id_out[i] = number


@numba.njit(nogil=True, cache=True)
def _gre(buffer, at, limit):
    if at + 8 > limit:
        return at, _NONE, -1
    flags, kind = u16(buffer, at), u16(buffer, at + 2)
    if flags & _GRE_REFUSED:
        return at, _NONE, -1
    at += 8 if flags & 0x8000 else 4  # checksum
    key = -1
    if flags & 0x2000:
        if at + 4 > limit:
            return at, _NONE, -1
        key = u32(buffer, at)
        at += 4
    if flags & 0x1000:  # sequence number
        at += 4
    if kind == 0x6558:  # transparent Ethernet bridging
        return at, _ETHERNET, key
    return at, _RAW_IP if kind in (0x0800, 0x86DD) else _NONE, key


@numba.njit(nogil=True, cache=True)
def _gtp_u(buffer, at, limit):
    """Skips the header of a G-PDU of version 1.

    Flags E, S and PN add four bytes, and E also extension headers.
    """
    if at + 12 > limit or buffer[at] & 0xF0 != 0x30 or buffer[at + 1] != 255:
        return at, _NONE, -1
    flags, teid = buffer[at], u32(buffer, at + 4)
    at += 8
    if flags & 0x07:
        at += 4
    extended = flags & 0x04 != 0 and buffer[at - 1] != 0
    while extended:
        length = np.int64(buffer[at]) * 4 if at < limit else 0
        at += length
        if length == 0 or at > limit:
            return at, _NONE, -1
        extended = buffer[at - 1] != 0
    return at, _RAW_IP, teid


@numba.njit(nogil=True, cache=True)
def _teredo(buffer, at, limit):
    """Skips authentication and origin indication up to an IPv6 packet, the only kind that Teredo carries."""
    if at + 4 <= limit and u16(buffer, at) == 1:
        at += 13 + np.int64(buffer[at + 2]) + np.int64(buffer[at + 3])
    if at + 8 <= limit and u16(buffer, at) == 0:
        at += 8
    if at < limit and buffer[at] >> 4 == 6:
        return at, _RAW_IP
    return at, _NONE
