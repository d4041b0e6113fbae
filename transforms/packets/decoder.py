"""Packets: link, network and transport headers of located records as columns; no Python object per packet."""

import dataclasses
from collections.abc import Iterable

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import PACKETS
from flowloom.transforms.arrays.columns import column, integer_dtype
from flowloom.transforms.arrays.kernels import u16, u32, u64
from flowloom.transforms.captures.records import Records
from flowloom.transforms.packets.ip_fragments import IpFragmentTable
from flowloom.transforms.packets.ipv6_extensions import EXTENSIONS, FRAGMENT, extension_bytes
from flowloom.transforms.packets.link_layer import network_header
from flowloom.transforms.packets.tunnels import MAX_DEPTH, MAY_CARRY, inner_packets, tunnel_mask

_NOT_IP = int(DropReason.NOT_IP)
_TRUNCATED = int(DropReason.TRUNCATED)
_MALFORMED = int(DropReason.MALFORMED)
_TIME_OUT_OF_RANGE = int(DropReason.TIME_OUT_OF_RANGE)

_WHOLE, _FIRST_FRAGMENT, _LATER_FRAGMENT = 0, 1, 2


_KEPT = ("record", "time_ns", "wire_bytes", "vlan", "tunnel_id")
"""Columns that an inner packet does not take over as it takes over the others."""


@dataclasses.dataclass(frozen=True)
class PacketPlaces:
    """Where decoded packets lie, row by row.

    Attributes:
      window: uint8 bytes of the capture.
      network: int64 position in the window of each packet's IP header.
      end: int64 position behind the captured bytes of its frame.
    """

    window: np.ndarray
    network: np.ndarray
    end: np.ndarray


class PacketDecoder:
    """Decodes the records of one range.

    Args:
      fragments: where later IP fragments find their first; None drops them.
      first_record: position of the first record in its capture.
      tunnels: the kinds of tunnel (`schemas.definition.TUNNELS`) to look into. A record is one packet in any case: the
        innermost that is whole by its own headers and by those around it. What merely looks like a tunnel, is damaged
        inside or an IP fragment outside stays the outer packet.

    Attributes:
      records: records seen.
      dropped: int64 count by `DropReason` code.
    """

    def __init__(self, fragments: IpFragmentTable | None, first_record: int = 0, *, tunnels: Iterable[str] = ()):
        self.records = 0
        self.dropped = np.zeros(max(DropReason) + 1, np.int64)
        self._fragments = fragments
        self._first_record = first_record
        self._tunnels = tunnel_mask(tunnels)

    def decode(self, records: Records) -> pa.RecordBatch:
        """Return the IP packets among the records, in captured order, as `schemas.rows.PACKETS`; count the others."""
        columns, _ = self._columns(records, locate=self._tunnels > 0)
        return _batch(columns)

    def decode_located(self, records: Records) -> tuple[pa.RecordBatch, PacketPlaces]:
        """Return what `decode` returns, and where each of the packets lies."""
        columns, network = self._columns(records, locate=True)
        frame = (columns["record"] - np.uint64(self._first_record + self.records - len(records))).astype(np.int64)
        return _batch(columns), PacketPlaces(records.window, network, (records.start + records.captured)[frame])

    def _columns(self, records: Records, *, locate: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the columns of `PACKETS` and, if `locate`, where each packet's IP header begins."""
        columns, fragment, network, transport = _decoded(records, self.records, self.dropped, locate=locate)
        if self._tunnels:
            self._unwrap(records, columns, fragment, network, transport)
        columns["record"] += np.uint64(self._first_record)
        self.records += len(records)
        if fragment.any():
            keep = self._joined(columns, fragment)
            columns = {name: values[keep] for name, values in columns.items()}
            network = network[keep] if locate else network
        return columns, network

    def _unwrap(
        self,
        records: Records,
        columns: dict[str, np.ndarray],
        fragment: np.ndarray,
        network: np.ndarray,
        transport: np.ndarray,
    ) -> None:
        """Write the packets inside tunnels over those around them, from the outermost inwards.

        An inner packet is a record of its own, which lies inside the outer one.
        """
        rows = np.flatnonzero((fragment == _WHOLE) & MAY_CARRY[columns["protocol"]])
        for _ in range(MAX_DEPTH):
            outer, inside, tunnel_id = inner_packets(
                records, (columns["record"][rows] - np.uint64(self.records)).astype(np.int64), transport[rows],
                columns["protocol"][rows], columns["src_port"][rows], columns["dst_port"][rows],
                columns["payload_bytes"][rows], self._tunnels,
            )  # fmt: skip
            found, *found_more = _decoded(inside, 0, np.zeros_like(self.dropped), locate=True)
            packet = found["record"].astype(np.int64)
            whole = found["ip_bytes"] <= inside.wire[packet]
            packet = packet[whole]
            rows = rows[outer[packet]]
            if not len(rows):
                return
            for name in columns.keys() - set(_KEPT):
                columns[name][rows] = found[name][whole]
            fragment[rows], network[rows], transport[rows] = (values[whole] for values in found_more)
            tagged, numbered = found["vlan"][whole] > 0, tunnel_id[packet] >= 0
            columns["vlan"][rows[tagged]] = found["vlan"][whole][tagged]
            columns["tunnel_id"][rows[numbered]] = tunnel_id[packet[numbered]]
            rows = rows[(fragment[rows] == _WHOLE) & MAY_CARRY[columns["protocol"][rows]]]

    def _joined(self, columns: dict[str, np.ndarray], fragment: np.ndarray) -> np.ndarray:
        """Give later fragments the ports of their first; return a mask of all packets but those that stay alone."""
        keep = fragment != _LATER_FRAGMENT
        if self._fragments is None:
            self.dropped[DropReason.FRAGMENT_DROPPED] += np.count_nonzero(~keep)
        else:
            joined = self._fragments.join(columns, fragment == _FIRST_FRAGMENT, ~keep)
            self.dropped[DropReason.FRAGMENT_WITHOUT_FIRST] += np.count_nonzero(~keep & ~joined)
            keep |= joined
        return keep


def _batch(columns: dict[str, np.ndarray]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column(columns[f.name], f.type) for f in PACKETS], schema=PACKETS)


def _decoded(
    records: Records, first_record: int, dropped: np.ndarray, *, locate: bool
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Return columns of `PACKETS`, which part of a datagram each is and, if `locate`, where its headers begin.

    The headers are those of the network and of the transport layer.
    """
    rows = len(records)
    columns = {field.name: _empty(field, rows) for field in PACKETS if field.name != "tunnel_id"}
    fragment = np.empty(rows, np.uint8)
    network, transport = (np.empty(rows if locate else 0, np.int64) for _ in range(2))
    count = _decode(
        records.window, records.start, records.captured, records.wire, records.time_ns, records.link_type,
        np.uint64(first_record), *columns.values(), fragment, network, transport, dropped,
    )  # fmt: skip
    columns["tunnel_id"] = np.zeros(count, np.uint32)
    places = fragment[:count], network[:count], transport[:count]
    return {name: values[:count] for name, values in columns.items()}, *places


def _empty(field: pa.Field, rows: int) -> np.ndarray:
    """Return an uninitialised column; addresses are two uint64 words in the order of their bytes."""
    if pa.types.is_fixed_size_binary(field.type):
        return np.empty((rows, field.type.byte_width // 8), np.uint64)
    return np.empty(rows, integer_dtype(field.type))


@numba.njit(nogil=True, cache=True)
def _decode(
    buffer, start, captured, wire, time_ns, link_type, first_record,
    record_out, time_out, src_out, dst_out, src_port_out, dst_port_out, protocol_out, version_out, vlan_out,
    wire_out, ip_bytes_out, payload_out, ip_id_out, ttl_out, flags_out, window_out, seq_out, fragment_out,
    network_out, transport_out, dropped,
):  # fmt: skip
    """Write one row per IP packet, count the other records by reason, return the rows written."""
    count = 0
    for i in range(len(start)):
        if time_ns[i] < 0:
            dropped[_TIME_OUT_OF_RANGE] += 1
            continue
        frame = start[i]
        end = frame + captured[i]
        at, vlan = network_header(buffer, frame, end, link_type[i])
        if at < 0:
            dropped[-at] += 1
            continue
        if at >= end:
            dropped[_TRUNCATED] += 1
            continue

        version = buffer[at] >> 4
        fragment = _WHOLE
        ip_id = np.int64(0)
        if version == 4:  # RFC 791
            if at + 20 > end:
                dropped[_TRUNCATED] += 1
                continue
            header = np.int64(buffer[at] & 15) * 4
            ip_bytes = u16(buffer, at + 2)
            if ip_bytes == 0:  # segmentation offload: longer than the field can say
                ip_bytes = wire[i] - (at - frame)
            if header < 20 or ip_bytes < header:
                dropped[_MALFORMED] += 1
                continue
            ip_id = u16(buffer, at + 4)
            offset = u16(buffer, at + 6)
            if offset & 0x1FFF:
                fragment = _LATER_FRAGMENT
            elif offset & 0x2000:
                fragment = _FIRST_FRAGMENT
            ttl = buffer[at + 8]
            protocol = np.int64(buffer[at + 9])
            src_out[count, 0] = 0
            dst_out[count, 0] = 0
            src_out[count, 1] = (u64(buffer, at + 8) & np.uint64(0xFFFFFFFF00000000)) | np.uint64(0xFFFF0000)
            dst_out[count, 1] = (u64(buffer, at + 12) & np.uint64(0xFFFFFFFF00000000)) | np.uint64(0xFFFF0000)
            transport = at + header
        elif version == 6:  # RFC 8200
            if at + 40 > end:
                dropped[_TRUNCATED] += 1
                continue
            ip_bytes = u16(buffer, at + 4) + 40
            if ip_bytes == 40 and buffer[at + 6] != 59:  # jumbogram or segmentation offload
                ip_bytes = wire[i] - (at - frame)
            ttl = buffer[at + 7]
            protocol = np.int64(buffer[at + 6])
            src_out[count, 0] = u64(buffer, at + 8)
            src_out[count, 1] = u64(buffer, at + 16)
            dst_out[count, 0] = u64(buffer, at + 24)
            dst_out[count, 1] = u64(buffer, at + 32)
            transport = at + 40
            complete = True
            while protocol in EXTENSIONS:
                if transport + 8 > end:
                    complete = False
                    break
                if protocol == FRAGMENT:
                    offset = u16(buffer, transport + 2)
                    ip_id = u32(buffer, transport + 4)
                    if offset & 0xFFF8:
                        fragment = _LATER_FRAGMENT
                    elif offset & 1:
                        fragment = _FIRST_FRAGMENT
                length = extension_bytes(buffer, transport, protocol)
                protocol = np.int64(buffer[transport])
                transport += length
                if fragment == _LATER_FRAGMENT:
                    break
            if not complete:
                dropped[_TRUNCATED] += 1
                continue
        else:
            dropped[_NOT_IP] += 1
            continue

        left = ip_bytes - (transport - at)
        if left < 0:
            dropped[_MALFORMED] += 1
            continue
        src_port = np.int64(0)
        dst_port = np.int64(0)
        flags = np.uint8(0)
        window = np.int64(0)
        seq = np.int64(0)
        payload = left
        if fragment != _LATER_FRAGMENT:
            if protocol == 6:  # RFC 9293; the window ends at byte 16
                if left < 20:
                    dropped[_MALFORMED] += 1
                    continue
                if transport + 16 > end:
                    dropped[_TRUNCATED] += 1
                    continue
                header = np.int64(buffer[transport + 12] >> 4) * 4
                if header < 20 or header > left:
                    dropped[_MALFORMED] += 1
                    continue
                seq = u32(buffer, transport + 4)
                flags = buffer[transport + 13]
                window = u16(buffer, transport + 14)
                payload = left - header
            elif protocol == 17:  # RFC 768
                payload = left - 8
            elif protocol == 132:  # RFC 9260
                payload = left - 12
            elif protocol in (1, 58):  # RFC 792, RFC 4443
                payload = max(left - 8, 0)
            if protocol in (6, 17, 132):
                if payload < 0:
                    dropped[_MALFORMED] += 1
                    continue
                if transport + 4 > end:
                    dropped[_TRUNCATED] += 1
                    continue
                src_port = u16(buffer, transport)
                dst_port = u16(buffer, transport + 2)

        record_out[count] = first_record + np.uint64(i)
        time_out[count] = time_ns[i]
        src_port_out[count] = src_port
        dst_port_out[count] = dst_port
        protocol_out[count] = protocol
        version_out[count] = version
        vlan_out[count] = vlan
        wire_out[count] = wire[i]
        ip_bytes_out[count] = ip_bytes
        payload_out[count] = payload
        ip_id_out[count] = ip_id
        ttl_out[count] = ttl
        flags_out[count] = flags
        window_out[count] = window
        seq_out[count] = seq
        fragment_out[count] = fragment
        if len(transport_out):
            network_out[count] = at
            transport_out[count] = transport
        count += 1
    return count
