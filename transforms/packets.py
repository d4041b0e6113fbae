"""Packets: link, network and transport headers of located records as columns; no Python object per packet."""

import numba
import numpy as np
import pyarrow as pa

from flowloom.schemas.accounting import DropReason
from flowloom.schemas.rows import PACKETS
from flowloom.transforms.columns import column, integer_dtype
from flowloom.transforms.ip_fragments import IpFragmentTable
from flowloom.transforms.records import Records

_NOT_IP = int(DropReason.NOT_IP)
_UNSUPPORTED_LINKTYPE = int(DropReason.UNSUPPORTED_LINKTYPE)
_TRUNCATED = int(DropReason.TRUNCATED)
_MALFORMED = int(DropReason.MALFORMED)

_WHOLE, _FIRST_FRAGMENT, _LATER_FRAGMENT = 0, 1, 2


class PacketDecoder:
    """Decodes the records of one range.

    Args:
      fragments: where later IP fragments find their first; None drops them.
      first_record: position of the first record in its capture.

    Attributes:
      records: records seen.
      dropped: int64 count by `DropReason` code.
    """

    def __init__(self, fragments: IpFragmentTable | None, first_record: int = 0):
        self.records = 0
        self.dropped = np.zeros(max(DropReason) + 1, np.int64)
        self._fragments = fragments
        self._first_record = first_record

    def decode(self, records: Records) -> pa.RecordBatch:
        """Return the IP packets among the records, in captured order, as `schemas.rows.PACKETS`; count the others."""
        rows = len(records)
        columns = {field.name: _empty(field, rows) for field in PACKETS}
        fragment = np.empty(rows, np.uint8)
        count = _decode(
            records.window, records.start, records.captured, records.wire, records.time_ns, records.link_type,
            np.uint64(self._first_record + self.records), *columns.values(), fragment, self.dropped,
        )  # fmt: skip
        self.records += rows
        columns = {name: values[:count] for name, values in columns.items()}
        if fragment[:count].any():
            columns = self._joined(columns, fragment[:count])
        return pa.RecordBatch.from_arrays([column(columns[f.name], f.type) for f in PACKETS], schema=PACKETS)

    def _joined(self, columns: dict[str, np.ndarray], fragment: np.ndarray) -> dict[str, np.ndarray]:
        """Give later fragments the ports of their first, and leave out those that stay alone."""
        keep = fragment != _LATER_FRAGMENT
        if self._fragments is None:
            self.dropped[DropReason.FRAGMENT_DROPPED] += np.count_nonzero(~keep)
        else:
            joined = self._fragments.join(columns, fragment == _FIRST_FRAGMENT, ~keep)
            self.dropped[DropReason.FRAGMENT_WITHOUT_FIRST] += np.count_nonzero(~keep & ~joined)
            keep |= joined
        return {name: values[keep] for name, values in columns.items()}


def _empty(field: pa.Field, rows: int) -> np.ndarray:
    """Return an uninitialised column; addresses are two uint64 words in the order of their bytes."""
    if pa.types.is_fixed_size_binary(field.type):
        return np.empty((rows, field.type.byte_width // 8), np.uint64)
    return np.empty(rows, integer_dtype(field.type))


# link layer --------------------------------------------------------------------------------------
# Numbers: https://www.tcpdump.org/linktypes.html, IEEE 802 EtherTypes, PPP DLL protocol numbers (RFC 1661).


@numba.njit(nogil=True, cache=True, inline="always")
def _u16(buffer, at):
    return (np.int64(buffer[at]) << 8) | np.int64(buffer[at + 1])


@numba.njit(nogil=True, cache=True, inline="always")
def _u32(buffer, at):
    return (_u16(buffer, at) << 16) | _u16(buffer, at + 2)


@numba.njit(nogil=True, cache=True, inline="always")
def _u64(buffer, at):
    """Eight bytes as a word whose memory holds them in the same order (little-endian machines)."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(buffer[at + i]) << np.uint64(8 * i)
    return word


@numba.njit(nogil=True, cache=True)
def _network_header(buffer, at, end, link_type):
    """Return (position of the IP header, VLAN identifier), or (-reason, 0) for a record without one."""
    vlan = 0
    if link_type == 1:  # Ethernet
        if at + 14 > end:
            return -_TRUNCATED, 0
        kind = _u16(buffer, at + 12)
        at += 14
    elif link_type == 113:  # Linux cooked capture
        if at + 16 > end:
            return -_TRUNCATED, 0
        kind = _u16(buffer, at + 14)
        at += 16
    elif link_type == 276:  # Linux cooked capture, version 2
        if at + 20 > end:
            return -_TRUNCATED, 0
        kind = _u16(buffer, at)
        at += 20
    elif link_type in (12, 14, 101, 228, 229):  # raw IP
        kind = 0
    elif link_type in (0, 108):  # BSD null (either byte order) and loop
        if at + 4 > end:
            return -_TRUNCATED, 0
        family = _u32(buffer, at)
        if family > 0xFFFF:
            family = np.int64(buffer[at]) | (np.int64(buffer[at + 1]) << 8)
        if family not in (2, 10, 24, 28, 30):  # AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD, Darwin
            return -_NOT_IP, 0
        kind = 0
        at += 4
    elif link_type in (9, 50):  # PPP, with or without HDLC framing
        if at + 2 > end:
            return -_TRUNCATED, 0
        if buffer[at] == 0xFF and buffer[at + 1] == 0x03:
            at += 2
        at, kind = _ppp(buffer, at, end)
    elif link_type == 51:  # PPPoE
        kind = 0x8864
    elif link_type == 104:  # Cisco HDLC
        if at + 4 > end:
            return -_TRUNCATED, 0
        kind = _u16(buffer, at + 2)
        at += 4
    else:
        return -_UNSUPPORTED_LINKTYPE, 0

    while kind not in (0x0800, 0x86DD, 0):
        if kind in (0x8100, 0x88A8, 0x9100):  # 802.1Q, 802.1ad and its ancestor
            if at + 4 > end:
                return -_TRUNCATED, 0
            vlan = _u16(buffer, at) & 0x0FFF
            kind = _u16(buffer, at + 2)
            at += 4
        elif kind in (0x8847, 0x8848):  # MPLS (RFC 3032): labels down to the bottom, then IP by its version
            bottom = False
            while not bottom:
                if at + 4 > end:
                    return -_TRUNCATED, 0
                bottom = (buffer[at + 2] & 1) == 1
                at += 4
            kind = 0
        elif kind == 0x8864:  # PPPoE session (RFC 2516)
            if at + 6 > end:
                return -_TRUNCATED, 0
            at, kind = _ppp(buffer, at + 6, end)
        elif kind <= 1500:  # IEEE 802.3 length: LLC, IP only behind SNAP
            if at + 8 > end:
                return -_NOT_IP, 0
            if _u32(buffer, at) != 0xAAAA0300 or buffer[at + 4] != 0:
                return -_NOT_IP, 0
            kind = _u16(buffer, at + 6)
            at += 8
            if kind <= 1500:
                return -_NOT_IP, 0
        else:
            return -_NOT_IP, 0
    return at, vlan


@numba.njit(nogil=True, cache=True)
def _ppp(buffer, at, end):
    """Return the position behind a PPP protocol field (one byte where compressed) and the EtherType it stands for."""
    if at + 2 > end:
        return at, np.int64(0xFFFF)
    protocol = np.int64(buffer[at])
    if protocol & 1:
        at += 1
    else:
        protocol = _u16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return at, np.int64(0x0800)
    if protocol == 0x0057:
        return at, np.int64(0x86DD)
    if protocol == 0x0281:
        return at, np.int64(0x8847)
    return at, np.int64(0xFFFF)


# network and transport layer ---------------------------------------------------------------------


@numba.njit(nogil=True, cache=True)
def _decode(
    buffer, start, captured, wire, time_ns, link_type, first_record,
    record_out, time_out, src_out, dst_out, src_port_out, dst_port_out, protocol_out, version_out, vlan_out,
    wire_out, ip_bytes_out, payload_out, ip_id_out, ttl_out, flags_out, window_out, seq_out, fragment_out, dropped,
):  # fmt: skip
    """Write one row per IP packet, count the other records by reason, return the rows written."""
    count = 0
    for i in range(len(start)):
        frame = start[i]
        end = frame + captured[i]
        at, vlan = _network_header(buffer, frame, end, link_type[i])
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
            ip_bytes = _u16(buffer, at + 2)
            if ip_bytes == 0:  # segmentation offload: longer than the field can say
                ip_bytes = wire[i] - (at - frame)
            if header < 20 or ip_bytes < header:
                dropped[_MALFORMED] += 1
                continue
            ip_id = _u16(buffer, at + 4)
            offset = _u16(buffer, at + 6)
            if offset & 0x1FFF:
                fragment = _LATER_FRAGMENT
            elif offset & 0x2000:
                fragment = _FIRST_FRAGMENT
            ttl = buffer[at + 8]
            protocol = np.int64(buffer[at + 9])
            src_out[count, 0] = 0
            dst_out[count, 0] = 0
            src_out[count, 1] = (_u64(buffer, at + 8) & np.uint64(0xFFFFFFFF00000000)) | np.uint64(0xFFFF0000)
            dst_out[count, 1] = (_u64(buffer, at + 12) & np.uint64(0xFFFFFFFF00000000)) | np.uint64(0xFFFF0000)
            transport = at + header
        elif version == 6:  # RFC 8200
            if at + 40 > end:
                dropped[_TRUNCATED] += 1
                continue
            ip_bytes = _u16(buffer, at + 4) + 40
            if ip_bytes == 40 and buffer[at + 6] != 59:  # jumbogram or segmentation offload
                ip_bytes = wire[i] - (at - frame)
            ttl = buffer[at + 7]
            protocol = np.int64(buffer[at + 6])
            src_out[count, 0] = _u64(buffer, at + 8)
            src_out[count, 1] = _u64(buffer, at + 16)
            dst_out[count, 0] = _u64(buffer, at + 24)
            dst_out[count, 1] = _u64(buffer, at + 32)
            transport = at + 40
            complete = True
            while protocol in (0, 43, 44, 51, 60, 135, 139, 140):  # extension headers, RFC 7045
                if transport + 8 > end:
                    complete = False
                    break
                if protocol == 44:
                    offset = _u16(buffer, transport + 2)
                    ip_id = _u32(buffer, transport + 4)
                    if offset & 0xFFF8:
                        fragment = _LATER_FRAGMENT
                    elif offset & 1:
                        fragment = _FIRST_FRAGMENT
                    length = np.int64(8)
                elif protocol == 51:
                    length = (np.int64(buffer[transport + 1]) + 2) * 4
                else:
                    length = (np.int64(buffer[transport + 1]) + 1) * 8
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
                seq = _u32(buffer, transport + 4)
                flags = buffer[transport + 13]
                window = _u16(buffer, transport + 14)
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
                src_port = _u16(buffer, transport)
                dst_port = _u16(buffer, transport + 2)

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
        count += 1
    return count
