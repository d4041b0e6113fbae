"""Headers of records: every record is one row, with the decoder's packet or the reference's reason."""

import collections
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from random_captures import groups
from reference_decoder import decode
from reference_links import FRAME, DropError
from reference_records import Record, read_records

from flowloom.schemas.arrow.accounting import DropReason
from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.packets.decoder import PacketDecoder
from flowloom.transforms.packets.ip_fragments import IpFragmentTable
from flowloom.transforms.packets.record_headers import HEADERS, record_headers


def batches(path: str, of) -> list:
    """Returns the results of a function for each chunk of records before damage."""
    capture, scanner = CaptureRange(path).open()
    found = []
    try:
        while len(records := scanner.scan()):
            found.append(of(records))
    except CaptureError:
        pass
    finally:
        capture.close()
    return found


def reasons(record: Record) -> set[str | None]:
    """Returns the possible drop reasons of a record by the reference decoder; None for a packet."""
    if record.time_ns is None:
        return {DropReason.TIME_OUT_OF_RANGE.label}
    try:
        packet = decode(record.frame, record.wire_bytes, FRAME + record.link_type)
    except DropError as error:
        return {error.reason.label}
    return {None, DropReason.FRAGMENT_WITHOUT_FIRST.label} if packet.fragment == "later" else {None}


@settings(max_examples=150, deadline=None)
@given(groups(most_files=1, most_packets=24))
def test_every_record_has_its_packet_or_its_reason(group):
    data = b"".join(group.parts()[0])
    records, _ = read_records(data)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "c")
        Path(path).write_bytes(data)
        decoder = PacketDecoder(IpFragmentTable())
        rows = pa.Table.from_batches(batches(path, lambda some: record_headers(decoder, some)), HEADERS)
        plain = PacketDecoder(IpFragmentTable())
        packets = [packet for some in batches(path, plain.decode) for packet in some.to_pylist()]
    assert rows.num_rows == len(records)
    for row, record in zip(rows.to_pylist(), records, strict=True):
        assert row["drop_reason"] in reasons(record)
        assert (row["captured_bytes"], row["wire_bytes"]) == (len(record.frame), record.wire_bytes)
        assert row["link_type"] == record.link_type
        assert (row["time"] is None) == (record.time_ns is None)
        assert (row["src_ip"] is None) == (row["drop_reason"] is not None)
    assert rows["record"].to_pylist() == list(range(len(records)))
    kept = rows.filter(rows["drop_reason"].is_null())
    for name in packets[0] if packets else ():
        if name in HEADERS.names:
            assert kept[name].to_pylist() == [packet[name] for packet in packets], name
    counted = collections.Counter(rows["drop_reason"].drop_null().to_pylist())
    assert counted == {DropReason(code).label: n for code, n in enumerate(plain.dropped) if n}


def test_records_after_a_chunk_keep_their_first_fragments(tmp_path):
    from capture_files import ethernet, ipv4, pcap, udp

    start = 1_700_000_000_000_000_000
    first = ethernet(ipv4(udp(bytes(16), 7, 8), protocol=17, ip_id=9, fragment=0x2000))
    later = ethernet(ipv4(bytes(8), protocol=17, ip_id=9, fragment=3))
    lost = ethernet(ipv4(bytes(8), protocol=17, ip_id=10, fragment=3))
    arp = ethernet(bytes(28), 0x0806)
    path = tmp_path / "f.pcap"
    path.write_bytes(pcap([(start + at, frame) for at, frame in enumerate((first, arp, later, lost))]))
    decoder = PacketDecoder(IpFragmentTable())
    (rows,) = batches(str(path), lambda some: record_headers(decoder, some))
    assert rows["drop_reason"].to_pylist() == [None, "not-ip", None, "fragment-without-first"]
    assert rows["src_port"].to_pylist() == [7, None, 7, None]
    assert np.array_equal(rows["record"], np.arange(4))
