"""Headers of a capture's records as one table."""

import os
import warnings
from collections.abc import Iterator, Sequence

import pyarrow as pa

from flowloom.pipelines.flow_tables.flow_scan import RejectWarning
from flowloom.schemas.arrow.address_texts import text_address_schema, with_text_addresses
from flowloom.schemas.corpus.flow_definition import TUNNELS, FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.captures.record_clock import timed_records
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable
from flowloom.transforms.packets.record_headers import HEADERS, record_headers


def read_packets(
    capture: str | os.PathLike[str], *, tunnels: Sequence[str] = (), text_addresses: bool = False
) -> pa.Table:
    """Returns the decoded headers of a capture, one row for every record in captured order.

    Args:
      capture: a file (pcap, pcapng or snoop, plain or in gz, zst, xz, bz2, lz4) or a URL.
      tunnels: kinds of tunnel to unwrap: `ip-in-ip`, `gre`, `gtp-u`, `vxlan`, `teredo`; none by default.
      text_addresses: whether `src_ip` and `dst_ip` are text rather than 16 bytes (IPv4 in its IPv4-mapped form).

    Returns:
      A table with `record` (from 0), `time`, `link_type` (a LINKTYPE's number), `captured_bytes` and `wire_bytes` of
      every record; addresses, ports, protocol, VLAN, lengths in bytes, TTL and TCP fields of its IP packet, 0 where the
      protocol has none; and `drop_reason`, null for a packet. A dropped record has null in the fields of a packet.

    Raises:
      FlowloomError: if the file cannot be opened or is no capture, or a kind of tunnel is unknown. A place where
        reading stops gives a `RejectWarning`; the table has the records before it.

    Example:

    >>> import flowloom as fl
    >>> packets = fl.read_packets("captures/web/nginx/plain-01.pcap.zst", text_addresses=True)
    >>> packets.select(["protocol", "src_port", "drop_reason"]).num_rows
    348
    >>> packets["drop_reason"].null_count
    348
    """
    uri = os.fspath(capture)
    if unknown := [name for name in tunnels if name not in TUNNELS]:
        raise FlowloomError(f"tunnels must be among {', '.join(TUNNELS)}, got {unknown[0]!r}; remove it")
    schema = text_address_schema(HEADERS) if text_addresses else HEADERS
    batches: list[pa.RecordBatch] = []
    try:
        for rows in _headers(uri, FlowDefinition(tunnels=tuple(tunnels))):
            batches.append(with_text_addresses(rows) if text_addresses else rows)  # noqa: PERF401 - keeps those before damage
    except CaptureError as damage:
        sentence = f"{uri}: {damage.reason} at byte {damage.offset}: {damage.detail}"
        if not batches:
            raise FlowloomError(sentence) from None
        warnings.warn(sentence, RejectWarning, stacklevel=2)
    return pa.Table.from_batches(batches, schema)


def _headers(uri: str, definition: FlowDefinition) -> Iterator[pa.RecordBatch]:
    """Yields the headers of a capture; raises the damage that ends it after all records before."""
    capture, scanner = CaptureRange(uri).open()
    decoder = PacketDecoder.of(definition, IpFragmentTable())
    try:
        for records in timed_records(scanner, definition.idle_ns):
            yield record_headers(decoder, records)
        if changed := capture.changed():
            raise changed
    finally:
        capture.close()
