"""Packet decoder: link, network and transport headers of located records as columns, without Python objects."""

import dataclasses
from collections.abc import Iterable
from typing import Literal, Self

import numpy as np
import pyarrow as pa

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.schemas.arrow.rows import PACKETS
from flowloom.schemas.corpus.flow_definition import VXLAN_PORTS, FlowDefinition
from flowloom.transforms.arrays.columns import column, integer_dtype
from flowloom.transforms.captures.records import Records
from flowloom.transforms.packets.decode_kernels import (
    DecodedColumns,
    Frames,
    decode_records,
    decode_unusual,
    quote_packets,
)
from flowloom.transforms.packets.ip_fragments import IpFragmentTable
from flowloom.transforms.packets.ip_headers import FIRST_FRAGMENT, HEADER_CUT, LATER_FRAGMENT, WHOLE
from flowloom.transforms.packets.tunnels import MAX_DEPTH, MAY_CARRY, inner_packets, tunnel_mask

NO_CLOCK = np.iinfo(np.int64).min
"""Clock before the first record with a time."""

_LAYOUT = tuple(
    (field.name, np.uint64, field.type.byte_width // 8)
    if pa.types.is_fixed_size_binary(field.type)
    else (field.name, integer_dtype(field.type), 1)
    for field in PACKETS
)
"""Name, type and words of each column; addresses are two uint64 words in the order of their bytes."""

_KEPT = ("record", "time_ns", "clock_ns", "wire_bytes", "vlan", "tunnel_id")
"""Columns of an outer packet that its inner packet does not simply replace."""


@dataclasses.dataclass(frozen=True)
class PacketPlaces:
    """Positions of decoded packets, row by row.

    Attributes:
      window: uint8 bytes of the capture.
      network: int64 position in the window of each packet's IP header.
      end: int64 position behind the captured bytes of its frame.
    """

    window: np.ndarray
    network: np.ndarray
    end: np.ndarray


class PacketDecoder:
    """Decoder of the records of one range.

    Args:
      fragments: first IP fragments, by which later ones are completed; None drops later fragments.
      first_record: position of the first record in its capture.
      tunnels: the kinds of tunnel (`schemas.corpus.flow_definition.TUNNELS`) to unwrap. A record is one
        packet in any case: the innermost one that is whole by its own headers and by those around it. The outer packet
        stays where only a port suggests a tunnel, where the inside is damaged, or where the outside is an IP fragment.
      vxlan_ports: the UDP ports of the tunnel `vxlan`.
      decoding: whether headers above IP are read in full, or as NFStream reads them.
      icmp_errors: "count" to mark the ICMP errors that quote a packet (`icmp_error`), and give them its key.
      clock_ns: the latest time of all records before, `NO_CLOCK` if it is not known.

    Attributes:
      records: records seen.
      clock_ns: the latest time of all records so far that counts, those without a packet included.
      dropped: int64 count by `DropReason` code.
      cut: packets whose TCP header is cut off behind the ports; fields that are not there are 0.
    """

    def __init__(
        self,
        fragments: IpFragmentTable | None,
        first_record: int = 0,
        *,
        tunnels: Iterable[str] = (),
        vxlan_ports: Iterable[int] = VXLAN_PORTS,
        decoding: Literal["full", "nfstream"] = "full",
        icmp_errors: Literal["packets", "count"] = "packets",
        clock_ns: int = NO_CLOCK,
    ):
        self.records = 0
        self.clock_ns = clock_ns
        self.dropped = np.zeros(max(DropReason) + 1, np.int64)
        self.cut = 0
        self._fragments = fragments
        self._first_record = first_record
        self._tunnels = tunnel_mask(tunnels)
        self._counts_errors = icmp_errors == "count"
        self._nfstream = decoding == "nfstream"
        self._vxlan_ports = np.array(list(vxlan_ports), np.int64)

    @classmethod
    def of(
        cls,
        definition: FlowDefinition,
        fragments: IpFragmentTable | None,
        first_record: int = 0,
        clock_ns: int = NO_CLOCK,
    ) -> Self:
        """Returns a decoder that reads headers and unwraps tunnels as a flow definition says."""
        return cls(
            fragments, first_record, tunnels=definition.tunnels, vxlan_ports=definition.vxlan_ports,
            decoding=definition.decoding, icmp_errors=definition.icmp_errors, clock_ns=clock_ns,
        )  # fmt: skip

    def decode(self, records: Records) -> pa.RecordBatch:
        """Returns the IP packets of the records as `schemas.arrow.rows.PACKETS`, in order; counts the others."""
        columns, _ = self._columns(records, locate=self._tunnels > 0 or self._counts_errors)
        return _batch(columns)

    def decode_located(self, records: Records) -> tuple[pa.RecordBatch, PacketPlaces]:
        """Decodes records as `decode` does, and also returns the position of each packet."""
        columns, network = self._columns(records, locate=True)
        frame = (columns["record"] - np.uint64(self._first_record + self.records - len(records))).astype(np.int64)
        return _batch(columns), PacketPlaces(records.window, network, (records.start + records.captured)[frame])

    def _columns(self, records: Records, *, locate: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns the columns of `PACKETS` and, if `locate`, the position of each packet's IP header."""
        columns, places, self.clock_ns = _decoded(
            records, self.records, self.clock_ns, self.dropped, locate=locate, nfstream=self._nfstream
        )
        fragment, network, transport = places
        if self._tunnels:
            self._unwrap(records, columns, fragment, network, transport)
        if self._counts_errors:
            self._quote(records, DecodedColumns(**columns, fragment=fragment, network=network, transport=transport))
        columns["record"] += np.uint64(self._first_record)
        self.records += len(records)
        if fragment.any():
            self.cut += int(np.count_nonzero(fragment & HEADER_CUT))
            fragment = fragment & ~np.uint8(HEADER_CUT)
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
        """Replaces outer packets by the packets inside their tunnels, from the outermost inwards.

        An inner packet is decoded as a record that lies inside the outer one.
        """
        rows = np.flatnonzero((fragment == WHOLE) & MAY_CARRY[columns["protocol"]])
        for _ in range(MAX_DEPTH):
            outer, inside, tunnel_id = inner_packets(
                records, (columns["record"][rows] - np.uint64(self.records)).astype(np.int64), transport[rows],
                columns["protocol"][rows], columns["src_port"][rows], columns["dst_port"][rows],
                columns["payload_bytes"][rows], self._tunnels, self._vxlan_ports,
            )  # fmt: skip
            if not len(inside):
                return
            found, found_more, _ = _decoded(
                inside, 0, NO_CLOCK, np.zeros_like(self.dropped), locate=True, nfstream=self._nfstream
            )
            packet = found["record"].astype(np.int64)
            _, inner_network, _ = found_more
            whole = found["ip_bytes"] <= inside.wire[packet] - (inner_network - inside.start[packet])
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
            rows = rows[(fragment[rows] == WHOLE) & MAY_CARRY[columns["protocol"][rows]]]

    def _quote(self, records: Records, rows: DecodedColumns) -> None:
        """Marks ICMP errors, gives them the key of the packet that they quote, and counts them."""
        end = (records.start + records.captured)[(rows.record - np.uint64(self.records)).astype(np.int64)]
        self.dropped[DropReason.ICMP_ERROR] += quote_packets(records.window, end, self._nfstream, tuple(rows))

    def _joined(self, columns: dict[str, np.ndarray], fragment: np.ndarray) -> np.ndarray:
        """Copies ports of first fragments to later ones; returns a mask without the later ones that have no first."""
        keep = fragment != LATER_FRAGMENT
        if self._fragments is None:
            self.dropped[DropReason.FRAGMENT_DROPPED] += np.count_nonzero(~keep)
        else:
            joined = self._fragments.join(columns, fragment == FIRST_FRAGMENT, ~keep)
            self.dropped[DropReason.FRAGMENT_WITHOUT_FIRST] += np.count_nonzero(~keep & ~joined)
            keep |= joined
        return keep


def _batch(columns: dict[str, np.ndarray]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column(columns[f.name], f.type) for f in PACKETS], schema=PACKETS)


def _decoded(
    records: Records, first_record: int, clock_ns: int, dropped: np.ndarray, *, locate: bool, nfstream: bool
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Returns columns of `PACKETS`, part of a datagram and places of headers by row, and the clock.

    The headers are those of the network and of the transport layer; without `locate` they are not located.
    """
    rows = len(records)
    columns = {name: np.empty((rows, words) if words > 1 else rows, dtype) for name, dtype, words in _LAYOUT}
    fragment = np.empty(rows, np.uint8)
    network, transport = (np.empty(rows if locate else 0, np.int64) for _ in range(2))
    frames = Frames(
        records.window, records.start, records.captured, records.wire, records.time_ns, records.link_type,
        records.jumps, nfstream,
    )  # fmt: skip
    out = DecodedColumns(**columns, fragment=fragment, network=network, transport=transport)
    count, unusual, clock_ns = decode_records(tuple(frames), first_record, clock_ns, tuple(out), dropped)
    kept: slice | np.ndarray = slice(count)
    if unusual:
        kept = np.ones(count, np.bool_)
        decode_unusual(tuple(frames), first_record, tuple(out), kept, dropped)
        kept = np.flatnonzero(kept)
    places = fragment[kept], network[kept] if locate else network, transport[kept] if locate else transport
    return {name: values[kept] for name, values in columns.items()}, places, int(clock_ns)
