"""Tunnels: the position of the packet inside a packet, and the identifier in its tunnel header."""

from collections.abc import Iterable

import numba
import numpy as np

from flowloom.schemas.corpus.flow_definition import TUNNELS
from flowloom.transforms.captures.records import Records
from flowloom.transforms.packets import tunnel_headers
from flowloom.transforms.packets.link_kinds import IP, MPLS, link_type_of
from flowloom.transforms.packets.tunnel_headers import NONE

MAX_DEPTH = 8
"""Most nested tunnels that are unwrapped; deeper ones stay inside the eighth."""

MAY_CARRY = np.isin(np.arange(256), (4, 17, 41, 47, 97, 115, 137))
"""bool by IP protocol number: True if a kind of tunnel uses it."""

(
    _IP_IN_IP, _GRE, _GTP_U, _VXLAN, _TEREDO, _ERSPAN, _PPTP, _ETHERIP, _L2TP, _MPLS, _VXLAN_GPE, _GENEVE, _GUE, _TZSP,
    _CAPWAP, _AMT,
) = (1 << position for position in range(len(TUNNELS)))  # fmt: skip


def tunnel_mask(tunnels: Iterable[str]) -> int:
    """Returns kinds of `schemas.corpus.flow_definition.TUNNELS` as the bit set of `inner_packets`."""
    return sum(1 << TUNNELS.index(name) for name in set(tunnels))


def inner_packets(
    records: Records, record: np.ndarray, transport: np.ndarray, protocol: np.ndarray,
    src_port: np.ndarray, dst_port: np.ndarray, payload_bytes: np.ndarray, tunnels: int, vxlan_ports: np.ndarray,
) -> tuple[np.ndarray, Records, np.ndarray]:  # fmt: skip
    """Locates possible packets inside IP packets as records of their own; decoding decides whether they are packets.

    Args:
      records: the outermost frames.
      record: int64 row of each packet's frame in `records`.
      transport: int64 position of each packet's transport header in the window.
      protocol, src_port, dst_port, payload_bytes: of each packet, as in `schemas.arrow.rows.PACKETS`.
      tunnels: a `tunnel_mask`.
      vxlan_ports: int64 UDP ports of VXLAN.

    Returns:
      for each inner packet the row of its outer packet, its record, and the identifier of its tunnel (-1 for a tunnel
      header without one).
    """
    start, wire, tunnel_id = (np.empty(len(record), np.int64) for _ in range(3))
    kind = np.empty(len(record), np.int64)
    end = (records.start + records.captured)[record]
    _locate(
        records.window, transport, end, protocol, src_port, dst_port, payload_bytes.astype(np.int64), tunnels,
        vxlan_ports, start, wire, kind, tunnel_id,
    )  # fmt: skip
    outer = np.flatnonzero(kind != NONE)
    start, wire = start[outer], wire[outer]
    captured = np.minimum(end[outer] - start, wire)
    link_type = link_type_of(kind[outer])
    inside = Records(records.window, start, captured, wire, records.time_ns[record[outer]], link_type)
    return outer, inside, tunnel_id[outer]


@numba.njit(nogil=True, cache=True)
def _locate(
    buffer, transport, end, protocol, src_port, dst_port, payload, tunnels, vxlan_ports, start_out, wire_out, kind_out,
    id_out,
):  # fmt: skip
    for i in range(len(transport)):
        at, limit = transport[i], end[i]
        if protocol[i] == 17:
            at, kind, number = _open_udp(
                buffer, at + 8, limit, src_port[i], dst_port[i], tunnels, vxlan_ports
            )  # fmt: skip
        else:
            at, kind, number = _open_ip(buffer, at, limit, protocol[i], tunnels)
        header = at - transport[i] - (8 if protocol[i] == 17 else 0)
        if header >= payload[i] or at >= limit:
            kind = np.int64(NONE)
        start_out[i] = at
        wire_out[i] = payload[i] - header
        kind_out[i] = kind
        id_out[i] = number


@numba.njit(nogil=True, cache=True)
def _open_ip(buffer, at, limit, protocol, tunnels):
    """Returns position, kind and identifier of the content of a tunnel directly over IP."""
    if protocol == 47:
        return tunnel_headers.open_gre(buffer, at, limit, tunnels & _GRE, tunnels & _PPTP, tunnels & _ERSPAN)
    if protocol in (4, 41) and tunnels & _IP_IN_IP:  # RFC 2003, RFC 4213
        if at < limit and buffer[at] >> 4 == (4 if protocol == 4 else 6):
            return at, np.int64(IP), np.int64(-1)
    elif protocol == 97 and tunnels & _ETHERIP:
        return tunnel_headers.open_etherip(buffer, at, limit)
    elif protocol == 115 and tunnels & _L2TP:
        return tunnel_headers.open_l2tp_3(buffer, at, limit)
    elif protocol == 137 and tunnels & _MPLS:  # RFC 4023
        return at, np.int64(MPLS), np.int64(-1)
    return at, np.int64(NONE), np.int64(-1)


@numba.njit(nogil=True, cache=True)
def _open_udp(buffer, at, limit, src_port, dst_port, tunnels, vxlan_ports):
    """Returns position, kind and identifier of the content of a tunnel over UDP; the first port that fits decides."""
    if tunnels & _VXLAN:
        for port in vxlan_ports:
            if dst_port == port:
                return tunnel_headers.open_vxlan(buffer, at, limit)
    if tunnels & _GTP_U and (dst_port == 2152 or src_port == 2152):
        return tunnel_headers.open_gtp_u(buffer, at, limit)
    if tunnels & _TEREDO and (dst_port == 3544 or src_port == 3544):
        return tunnel_headers.open_teredo(buffer, at, limit)
    if tunnels & _VXLAN_GPE and dst_port == 4790:
        return tunnel_headers.open_vxlan_gpe(buffer, at, limit)
    if tunnels & _GENEVE and dst_port == 6081:
        return tunnel_headers.open_geneve(buffer, at, limit)
    if tunnels & _L2TP and (dst_port == 1701 or src_port == 1701):
        return tunnel_headers.open_l2tp(buffer, at, limit)
    if tunnels & _TZSP and dst_port == 37_008:
        return tunnel_headers.open_tzsp(buffer, at, limit)
    if tunnels & _MPLS and dst_port == 6635:  # RFC 7510
        return at, np.int64(MPLS), np.int64(-1)
    if tunnels & _GUE and dst_port == 6080:
        return tunnel_headers.open_gue(buffer, at, limit)
    if tunnels & _CAPWAP and (dst_port == 5247 or src_port == 5247):
        return tunnel_headers.open_capwap(buffer, at, limit)
    if tunnels & _AMT and (dst_port == 2268 or src_port == 2268):
        return tunnel_headers.open_amt(buffer, at, limit)
    return at, np.int64(NONE), np.int64(-1)
