"""Records of pcap and pcapng: formats, clocks, compressions, window sizes, damage."""

import bz2
import gzip
import lzma
import os
import random
import struct
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from capture_files import (
    block,
    enhanced,
    ethernet,
    interface,
    ipv4,
    modified_pcap,
    obsolete,
    pcap,
    section,
    simple,
    snoop,
    tcp,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.transforms.captures import capture_window
from flowloom.transforms.captures.capture_files import CaptureError, FileStamp, capture_sha256, match_captures
from flowloom.transforms.captures.capture_window import CaptureBytes
from flowloom.transforms.captures.formats import first_time_ns, open_records
from flowloom.transforms.captures.ranges import stretches
from flowloom.transforms.captures.records import NO_TIME
from flowloom.transforms.io import compressions

NS = 1_700_000_000_123_456_789
FRAMES = [ethernet(ipv4(tcp(bytes(i)))) for i in range(5)]


def read(path: Path) -> list[tuple[int, bytes, int, int]]:
    """Returns all records as (time_ns, frame, wire, link type); raises for damage."""
    capture = CaptureBytes(str(path))
    try:
        scanner = open_records(capture)
        rows = []
        while len(records := scanner.scan()):
            for i in range(len(records)):
                frame = records.window[records.start[i] : records.start[i] + records.captured[i]].tobytes()
                rows.append((int(records.time_ns[i]), frame, int(records.wire[i]), int(records.link_type[i])))
        return rows
    finally:
        capture.close()


def write(folder: Path, content: bytes, name: str = "c.bin") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("nanoseconds", "tick"), [(True, 1), (False, 1000)])
def test_pcap_of_either_order_and_resolution(tmp_path, order, nanoseconds, tick):
    content = pcap([(NS + i, f) for i, f in enumerate(FRAMES)], order=order, nanoseconds=nanoseconds, link_type=101)
    expected = [((NS + i) // tick * tick, f, len(f), 101) for i, f in enumerate(FRAMES)]
    assert read(write(tmp_path, content)) == expected


def test_a_snapped_record_keeps_its_wire_length(tmp_path):
    rows = read(write(tmp_path, pcap([(NS, FRAMES[4])], snap=30)))
    assert rows == [(NS, FRAMES[4][:30], len(FRAMES[4]), 1)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_of_every_packet_block(tmp_path, order):
    frame = FRAMES[3]
    ticks = NS // 1000
    content = section(order) + interface(1, order=order) + interface(101, order=order)
    content += enhanced(frame, ticks, order=order) + obsolete(frame, ticks + 5, interface_id=1, order=order)
    content += simple(frame, order=order)
    micro = NS // 1000 * 1000
    expected = [
        (micro, frame, len(frame), 1),
        (micro + 5000, frame, len(frame), 101),
        (micro + 5000, frame, len(frame), 1),
    ]
    assert read(write(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("resolution", "ticks", "expected"),
    [
        (None, 1_700_000_000_000_001, 1_700_000_000_000_001_000),
        (9, NS, NS),
        (3, 1_700_000_000_123, 1_700_000_000_123_000_000),
        (0, 1_700_000_000, 1_700_000_000_000_000_000),
        (12, 1_700_000_000_123_456, 1_700_000_000_123),
        (0x80 | 0, 1_700_000_000, 1_700_000_000_000_000_000),
        (0x80 | 10, (1_700_000_000 << 10) | 512, 1_700_000_000_500_000_000),
        (0x80 | 32, (1_700_000_000 << 32) | 0xFFFFFFFF, 1_700_000_000_000_000_000 + (0xFFFFFFFF * 10**9 >> 32)),
        (0x80 | 50, (16 << 50) | 987_654_321_987_654, 16 * 10**9 + (987_654_321_987_654 * 10**9 >> 50)),
        (0x80 | 63, (1 << 63) | (1 << 61) | 12345, 10**9 + (((1 << 61) | 12345) * 10**9 >> 63)),
    ],
)
def test_pcapng_clock_resolutions(tmp_path, resolution, ticks, expected):
    content = section() + interface(resolution=resolution) + enhanced(FRAMES[0], ticks)
    assert read(write(tmp_path, content))[0][0] == expected


def test_pcapng_clock_offset_counts_in_seconds(tmp_path):
    content = section() + interface(resolution=9, offset_s=-3600) + enhanced(FRAMES[0], NS)
    assert read(write(tmp_path, content))[0][0] == NS - 3600 * 10**9


LIMIT = 2**63 - 1
EXTREMES = [0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    resolution=st.integers(0, 255),
    offset_s=st.sampled_from([0, -3600, 9_223_372_036, -9_223_372_037, 2**63 - 1, -(2**63)])
    | st.integers(-(2**63), 2**63 - 1),
    anywhere=st.sampled_from(EXTREMES) | st.integers(0, 2**64 - 1),
    edge=st.sampled_from([None, 0, LIMIT]),
    beside=st.integers(-2, 2),
)
def test_pcapng_times_are_exact_or_none(tmp_path, resolution, offset_s, anywhere, edge, beside):
    per_s = (2 if resolution & 0x80 else 10) ** (resolution & 0x7F)
    at_edge = ((edge or 0) - offset_s * 10**9) * per_s // 10**9 + beside
    ticks = anywhere if edge is None else min(max(at_edge, 0), 2**64 - 1)
    time_ns = ticks * 10**9 // per_s + offset_s * 10**9
    content = section() + interface(resolution=resolution, offset_s=offset_s) + enhanced(FRAMES[0], ticks)
    assert read(write(tmp_path, content))[0][0] == (time_ns if 0 <= time_ns < LIMIT else NO_TIME)


def test_a_block_without_a_time_gets_the_last_one_that_could_be_told(tmp_path):
    content = section() + interface(resolution=9)
    content += enhanced(FRAMES[0], 7) + enhanced(FRAMES[1], 2**64 - 1) + simple(FRAMES[2]) + enhanced(FRAMES[3], 9)
    assert [time_ns for time_ns, *_ in read(write(tmp_path, content))] == [7, NO_TIME, 7, 9]
    path = str(write(tmp_path, section() + interface(resolution=9) + enhanced(FRAMES[1], 2**64 - 1)))
    assert first_time_ns(path) is None
    assert first_time_ns(str(write(tmp_path, content[:-64] + enhanced(FRAMES[0], 8), "d"))) == 7


def test_no_pcap_time_is_out_of_range(tmp_path):
    record = struct.pack("<IIII", 2**32 - 1, 2**32 - 1, len(FRAMES[0]), len(FRAMES[0])) + FRAMES[0]
    latest = (2**32 - 1) * 10**9 + (2**32 - 1) * 1000
    assert read(write(tmp_path, pcap([], nanoseconds=False) + record))[0][0] == latest


def test_pcapng_sections_have_interfaces_and_byte_orders_of_their_own(tmp_path):
    content = section("<") + interface(1, resolution=9) + enhanced(FRAMES[1], NS)
    content += section(">") + interface(101, resolution=6, order=">") + enhanced(FRAMES[2], NS // 1000, order=">")
    assert [(t, link) for t, _, _, link in read(write(tmp_path, content))] == [(NS, 1), (NS // 1000 * 1000, 101)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("usual_magic", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_modified_pcap_with_either_magic(tmp_path, order, usual_magic, count):
    frames = [(NS + i * 10**9, frame) for i, frame in enumerate(FRAMES[:count])]
    content = modified_pcap(frames, order=order, usual_magic=usual_magic, link_type=101)
    expected = [(time_ns // 1000 * 1000, frame, len(frame), 101) for time_ns, frame in frames]
    path = write(tmp_path, content)
    assert read(path) == expected
    assert open_records(CaptureBytes(str(path))).format == "pcap-modified"


def test_one_record_under_the_usual_magic_is_that_of_a_usual_pcap(tmp_path):
    assert len(read(write(tmp_path, pcap([(NS, FRAMES[3])])))) == 1
    assert len(read(write(tmp_path, modified_pcap([(NS, FRAMES[3])])))) == 1


@pytest.mark.parametrize(("link", "link_type"), [(0, 1), (2, 6), (4, 1), (8, 10), (9, 0xFFFF)])
def test_snoop(tmp_path, link, link_type):
    frames = [(NS + i, frame) for i, frame in enumerate(FRAMES)]
    path = write(tmp_path, snoop(frames, link=link))
    assert read(path) == [(time_ns // 1000 * 1000, frame, len(frame), link_type) for time_ns, frame in frames]
    assert stretches(str(path), 100) == [], "one range"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], RejectReason.CUT_OFF),
        (lambda content: content[:10], RejectReason.CUT_OFF),
        (lambda content: content[:8] + b"\0\0\0\x03" + content[12:], RejectReason.NOT_A_CAPTURE),
        (lambda content: content[:16] + bytes(24) + content[40:], RejectReason.MALFORMED),
    ],
)
def test_damaged_snoop_is_one_reject(tmp_path, change, reason):
    with pytest.raises(CaptureError) as caught:
        read(write(tmp_path, change(snoop([(NS, FRAMES[3])]))))
    assert caught.value.reason == reason


@pytest.mark.parametrize("order", ["<", ">"])
def test_blocks_without_packets_may_have_any_length(tmp_path, order):
    long = block(0x0A, bytes(17 << 20), order)
    content = section(order) + interface(order=order) + enhanced(FRAMES[1], 1000, order=order) + long
    content += enhanced(FRAMES[2], 2000, order=order)
    path = write(tmp_path, content)
    assert [frame for _, frame, *_ in read(path)] == FRAMES[1:3]
    capture = CaptureBytes(str(path))
    scanner, largest = open_records(capture), 0
    while len(scanner.scan()):
        largest = max(largest, len(capture.window))
    assert largest <= 2 * capture_window.READ_BYTES, "it streams through the window"
    for cut in (len(content) - 10**6, len(content) - len(enhanced(FRAMES[2], 2000)) - 2):
        with pytest.raises(CaptureError) as caught:
            read(write(tmp_path, content[:cut]))
        assert (caught.value.reason, caught.value.offset) == (RejectReason.CUT_OFF, content.index(long))
    wrong = content.replace(long, long[:-1] + b"\x77")
    with pytest.raises(CaptureError, match="two lengths differ") as caught:
        read(write(tmp_path, wrong))
    assert (caught.value.reason, caught.value.offset) == (RejectReason.MALFORMED, content.index(long))


def test_a_long_packet_block_is_damage(tmp_path):
    content = section() + interface() + block(6, struct.pack("<IIIII", 0, 0, 0, 8, 8) + bytes(17 << 20))
    with pytest.raises(CaptureError) as caught:
        read(write(tmp_path, content))
    assert caught.value.reason == RejectReason.MALFORMED


COMPRESS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "lz4": lambda content: pa.Codec("lz4").compress(content).to_pybytes(),
    "zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("members", [1, 3])
def test_compressed_captures_are_told_by_content(tmp_path, name, members):
    content = pcap([(NS + i, f) for i, f in enumerate(FRAMES)])
    size = -(-len(content) // members)
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    path = write(tmp_path, b"".join(map(COMPRESS[name], parts)), "misleading.pcap")
    assert CaptureBytes(str(path)).compression == name
    assert read(path) == read(write(tmp_path, content, "plain"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(piece=st.integers(1, 700), grown=st.integers(1, 2000), ng=st.booleans())
def test_window_sizes_do_not_show(tmp_path, piece, grown, ng):
    stamped = [(NS + i, f) for i, f in enumerate(FRAMES * 3)]
    if ng:
        content = section() + interface(resolution=9) + b"".join(enhanced(f, t) for t, f in stamped)
    else:
        content = pcap(stamped)
    path = write(tmp_path, gzip.compress(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_window, "_PIECE_BYTES", piece)
        patch.setattr(capture_window, "READ_BYTES", grown)
        assert [(t, f) for t, f, _, _ in read(path)] == stamped


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_block_of_any_size_fits_a_window_of_any_size(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(capture_window, "_PIECE_BYTES", 40)
    monkeypatch.setattr(capture_window, "READ_BYTES", 40)
    noise = random.Random(3).randbytes(1 << 20)
    content = section() + interface(resolution=9) + block(0xBAD, noise) + enhanced(FRAMES[0], NS)
    path = write(tmp_path, compress(content))
    assert [frame for _, frame, _, _ in read(path)] == FRAMES[:1]
    cut = write(tmp_path, compress(content[: 1 << 20]), "cut")
    with pytest.raises(CaptureError, match="ends inside a record"):
        read(cut)


@pytest.mark.parametrize("lost", [1, 20, 70])
@pytest.mark.parametrize("ng", [False, True])
def test_a_cut_capture_gives_what_came_before_and_one_reject(tmp_path, lost, ng):
    if ng:
        content = section() + interface() + b"".join(enhanced(f, i) for i, f in enumerate(FRAMES))
    else:
        content = pcap([(NS, f) for f in FRAMES])
    path = write(tmp_path, content[:-lost])
    scanner = open_records(CaptureBytes(str(path)))
    assert len(scanner.scan()) == 4
    with pytest.raises(CaptureError) as caught:
        scanner.scan()
    assert caught.value.reason == RejectReason.CUT_OFF
    assert path.read_bytes()[: caught.value.offset] == content[: caught.value.offset]
    assert len(content) - caught.value.offset <= 100


@pytest.mark.parametrize("name", COMPRESS)
def test_a_cut_compressed_capture_gives_what_came_before(tmp_path, name):
    noise = random.Random(5)
    content = pcap([(NS + i, ethernet(ipv4(tcp(noise.randbytes(500))))) for i in range(4000)])
    packed = COMPRESS[name](content)
    path = write(tmp_path, packed[: len(packed) * 3 // 4])
    scanner = open_records(CaptureBytes(str(path)))
    count = 0
    with pytest.raises(CaptureError) as caught:  # noqa: PT012 - scanning is what raises, after a few good chunks
        while len(records := scanner.scan()):
            count += len(records)
    assert caught.value.reason == RejectReason.DECOMPRESSION
    assert 0 < caught.value.offset < len(content)
    assert count == (caught.value.offset - 24) // (16 + 554)


def test_impossible_lengths_stop_the_reading(tmp_path):
    content = bytearray(pcap([(NS, f) for f in FRAMES]))
    content[24 + 16 + 54 + 8 : 24 + 16 + 54 + 12] = b"\xff\xff\xff\x7f"
    scanner = open_records(CaptureBytes(str(write(tmp_path, bytes(content)))))
    assert len(scanner.scan()) == 1
    with pytest.raises(CaptureError, match="claims more than") as caught:
        scanner.scan()
    assert (caught.value.reason, caught.value.offset) == (RejectReason.MALFORMED, 24 + 16 + 54)


def test_an_unknown_interface_stops_the_reading(tmp_path):
    path = write(tmp_path, section() + interface() + enhanced(FRAMES[0], 1, interface_id=7))
    with pytest.raises(CaptureError, match="contradict") as caught:
        open_records(CaptureBytes(str(path))).scan()
    assert caught.value.reason == RejectReason.MALFORMED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", RejectReason.EMPTY),
        (b"this is a text file, not a capture\n", RejectReason.NOT_A_CAPTURE),
        (gzip.compress(b"text inside gz", mtime=0), RejectReason.NOT_A_CAPTURE),
        (b"\x1f\x8b garbage", RejectReason.DECOMPRESSION),
        (pcap([])[:10], RejectReason.CUT_OFF),
    ],
)
def test_what_is_no_capture_says_so(tmp_path, content, reason):
    path = write(tmp_path, content, "x.pcap")
    with pytest.raises(CaptureError) as caught:
        open_records(CaptureBytes(str(path)))
    assert (caught.value.reason, caught.value.offset) == (reason, 0)


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(CaptureError, match="No such file") as caught:
        CaptureBytes(str(tmp_path / "none.pcap"))
    assert caught.value.reason == RejectReason.UNREADABLE


def test_an_empty_capture_has_no_records(tmp_path):
    assert read(write(tmp_path, pcap([]))) == []
    assert read(write(tmp_path, section() + interface(), "ng")) == []
    assert first_time_ns(str(tmp_path / "ng")) is None


def test_first_time_and_identity(tmp_path):
    path = write(tmp_path, pcap([(NS, FRAMES[0])]))
    assert first_time_ns(str(path)) == NS
    assert len(capture_sha256(str(path))) == 64
    assert capture_sha256(str(path)) != capture_sha256(str(write(tmp_path, pcap([(NS + 1, FRAMES[0])]), "d")))


def test_globs_are_sorted_and_name_files_only(tmp_path):
    for name in ("b.pcap", "a.pcap", "deep/c.pcap"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [Path(p).relative_to(tmp_path).as_posix() for p in match_captures(str(tmp_path / "**"))]
    assert found == ["a.pcap", "b.pcap", "deep/c.pcap"]
    assert match_captures(str(tmp_path / "*.none")) == []


def zeros_after(records: int, zeros: int) -> bytes:
    return pcap([(NS + i, FRAMES[i % 5]) for i in range(records)]) + bytes(zeros)


@pytest.mark.parametrize("name", [None, *COMPRESS])
def test_a_capture_that_ends_in_zeros_is_one_reject(tmp_path, name):
    """As of a recorder that reserves space, or of a bomb: ten million record headers that claim nothing."""
    content = zeros_after(3, 160_000_000)
    path = write(tmp_path, content if name is None else COMPRESS[name](content))
    capture = CaptureBytes(str(path))
    scanner = open_records(capture)
    assert len(scanner.scan()) == 3
    with pytest.raises(CaptureError, match="more than 65536 bytes are zero where records must be") as caught:
        scanner.scan()
    assert (caught.value.reason, caught.value.offset) == (RejectReason.MALFORMED, len(zeros_after(3, 0)))
    assert len(capture.window) < 80_000_000, "the rest was not read"


@pytest.mark.parametrize("zeros", [16, 16 * 4_000, 16 * 4_095])
def test_few_empty_records_are_records(tmp_path, zeros):
    path = write(tmp_path, zeros_after(2, zeros) + pcap([(NS, FRAMES[1])])[24:])
    assert len(read(path)) == 2 + zeros // 16 + 1
    assert len(read(write(tmp_path, gzip.compress(path.read_bytes()), "gz"))) == 2 + zeros // 16 + 1


def test_a_small_stored_piece_becomes_a_bounded_window(tmp_path):
    """A zstd frame of blocks that repeat one byte: 4 stored bytes are 131,072."""
    head = pcap([])
    blocks = [((131_072 << 3) | (1 << 1) | last).to_bytes(3, "little") + b"\1" for last in (*[0] * 20_000, 1)]
    frame = b"\x28\xb5\x2f\xfd\x00\x38" + (len(head) << 3).to_bytes(3, "little") + head + b"".join(blocks)
    largest = 0
    with pytest.MonkeyPatch.context() as patch:
        uncompressed = compressions.uncompressed

        def watched(file, compression):
            nonlocal largest
            for piece in uncompressed(file, compression):
                largest = max(largest, len(piece))
                yield piece

        patch.setattr(capture_window, "uncompressed", watched)
        capture = CaptureBytes(str(write(tmp_path, frame)))
        for _ in range(20):
            capture.advance(len(capture.window))
    assert 0 < largest <= 64 << 20
    assert capture.offset > 40_000_000


def change(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "grows":
        with path.open("ab") as file:
            file.write(pcap([(NS, FRAMES[0])])[24:])
    elif how == "shrinks":
        with path.open("r+b") as file:
            file.truncate(len(content) // 2)
    elif how == "is rewritten":
        with path.open("r+b") as file:
            file.write(content[:-1] + b"x")
        os.utime(path, ns=(1, 1))
    else:
        other = path.with_suffix(".new")
        other.write_bytes(content)
        other.replace(path)


@pytest.mark.parametrize("how", ["grows", "shrinks", "is rewritten", "is replaced"])
def test_a_capture_that_changes_after_it_was_planned_is_told(tmp_path, how):
    path = write(tmp_path, pcap([(NS + i, FRAMES[i % 5]) for i in range(50)]))
    stamp = FileStamp.of(path.stat())
    assert len(capture_sha256(str(path), stamp=stamp)) == 64
    change(path, how)
    for use in (CaptureBytes, capture_sha256):
        with pytest.raises(CaptureError, match="must not change while it is read") as caught:
            use(str(path), stamp=stamp)
        assert caught.value.reason == RejectReason.CHANGED


@pytest.mark.parametrize("how", ["grows", "shrinks", "is rewritten"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_capture_that_changes_while_it_is_read_is_told(tmp_path, how, compressed):
    """Its mapping would end the process when the file shrinks (SIGBUS)."""
    noise = random.Random(5)
    content = pcap([(NS + i, ethernet(ipv4(tcp(noise.randbytes(500))))) for i in range(40_000)])
    path = write(tmp_path, gzip.compress(content, 0) if compressed else content)
    scanner = open_records(CaptureBytes(str(path)))
    count = len(scanner.scan())
    change(path, how)
    with pytest.raises(CaptureError) as caught:  # noqa: PT012 - scanning is what raises, at the end
        while len(records := scanner.scan()):
            count += len(records)
    assert caught.value.reason == RejectReason.CHANGED
    assert 0 < count <= 40_000
