"""Ranges: any stretches of a capture hold each of its records exactly once."""

import gzip
import random
import struct
from pathlib import Path

import pytest
from capture_files import enhanced, ethernet, interface, ipv4, pcap, section, simple, tcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowloom.transforms.captures.capture_files import CaptureError
from flowloom.transforms.captures.ranges import CaptureRange, chain_stretches, index_stretch, stretches
from flowloom.transforms.captures.records import NO_TIME

NS = 1_700_000_000_000_000_000
IDLE_NS = 120_000_000_000
Row = tuple[int, bytes]


def records(parts: list[CaptureRange]) -> tuple[list[Row], str | None]:
    """Returns all records of ranges in order, and the damage at the end."""
    rows: list[Row] = []
    for part in parts:
        try:
            capture, scanner = part.open()
            assert part.first_record == len(rows)
            while len(chunk := scanner.scan()):
                for i in range(len(chunk)):
                    frame = chunk.window[chunk.start[i] : chunk.start[i] + chunk.captured[i]].tobytes()
                    rows.append((int(chunk.time_ns[i]), frame))
            capture.close()
        except CaptureError as damage:
            return rows, str(damage.reason)
    return rows, None


def ranges(path: Path, stretch_bytes: int, *, shuffle: int = 0) -> list[CaptureRange]:
    cut = stretches(str(path), stretch_bytes)
    random.Random(shuffle).shuffle(cut)
    return chain_stretches(str(path), [index_stretch(stretch, IDLE_NS) for stretch in cut], IDLE_NS)


def frames(count: int, seed: int = 0, hostile: bool = False) -> list[Row]:
    draws = random.Random(seed)
    rows = []
    for i in range(count):
        payload = draws.randbytes(draws.randrange(0, 300))
        if hostile and draws.random() < 0.7:
            # record headers inside a payload: a chain that looks better than the real one
            fake = struct.pack("<IIII", 1_700_000_000, 5, 20, 20) + bytes(20)
            payload = fake * draws.randrange(1, 40) + draws.randbytes(draws.randrange(0, 3))
        rows.append((NS + i * 1000, ethernet(ipv4(tcp(payload)))))
    return rows


def as_pcapng(rows: list[Row]) -> bytes:
    return section() + interface(resolution=9) + b"".join(enhanced(frame, time) for time, frame in rows)


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("ng", [False, True])
@pytest.mark.parametrize("stretch_bytes", [100, 1000, 5000, 60_000])
def test_every_record_once_however_cut(tmp_path, hostile, ng, stretch_bytes):
    rows = frames(300, hostile=hostile)
    path = tmp_path / "c"
    path.write_bytes(as_pcapng(rows) if ng else pcap(rows))
    parts = ranges(path, stretch_bytes, shuffle=stretch_bytes)
    assert len(parts) > 1
    assert records(parts) == (rows, None)
    clocks = [part.clock_ns for part in parts if part.clock_ns is not None]
    assert clocks == sorted(clocks)
    assert clocks[-1] == rows[-1][0]


def test_stretches_tell_their_clock_without_times_that_are_out_of_range(tmp_path):
    rows = [(2**64 - 1 if at % 3 == 0 or at > 40 else time, frame) for at, (time, frame) in enumerate(frames(60))]
    path = tmp_path / "c"
    path.write_bytes(as_pcapng(rows))
    parts = ranges(path, 500)
    assert records(parts) == ([(NO_TIME if time == 2**64 - 1 else time, frame) for time, frame in rows], None)
    clocks = [part.clock_ns for part in parts]
    assert max(clock for clock in clocks if clock is not None) == max(time for time, _ in rows if time < 2**63)
    assert clocks[-1] is None, "no record there has a time"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), size=st.integers(30, 3000), ng=st.booleans())
def test_any_capture_and_stretch(tmp_path, seed, count, size, ng):
    rows = frames(count, seed, hostile=seed % 2 == 0)
    path = tmp_path / "c"
    path.write_bytes(as_pcapng(rows) if ng else pcap(rows))
    assert records(ranges(path, size, shuffle=seed)) == (rows, None)


def test_a_hostile_chain_that_ends_on_a_true_record_is_found_out(tmp_path):
    """The fake chain ends at a true record, so only reading from the stretch before it can tell them apart."""
    fake = struct.pack("<IIII", 1_700_000_000, 5, 20, 20) + bytes(20)
    rows = [(NS + i * 1000, ethernet(ipv4(tcp(fake * 30)))) for i in range(40)]
    path = tmp_path / "c"
    path.write_bytes(pcap(rows))
    cut = [index_stretch(stretch, IDLE_NS) for stretch in stretches(str(path), 3000)]
    deceived = [s for s in cut if s.start is not None and (s.start - 24) % (16 + len(rows[0][1]))]
    assert deceived, "the test is meant to deceive"
    assert records(chain_stretches(str(path), cut, IDLE_NS)) == (rows, None)


def test_interfaces_and_sections_in_the_middle_are_known_behind_it(tmp_path):
    rows = frames(60)
    blocks = [enhanced(f, t) for t, f in rows[:20]]
    blocks += [interface(resolution=6)] + [enhanced(f, t // 1000, interface_id=1) for t, f in rows[20:40]]
    blocks += [section(">"), interface(resolution=9, order=">")]
    blocks += [enhanced(f, t, order=">") for t, f in rows[40:]]
    path = tmp_path / "c"
    path.write_bytes(section() + interface(resolution=9) + b"".join(blocks))
    for size in (200, 777, 4000):
        assert records(ranges(path, size)) == (rows, None)


def test_simple_packets_take_the_time_before_them_over_a_range(tmp_path):
    rows = frames(30)
    blocks = [enhanced(f, t) if i % 5 == 0 else simple(f) for i, (t, f) in enumerate(rows)]
    path = tmp_path / "c"
    path.write_bytes(section() + interface(resolution=9) + b"".join(blocks))
    expected = [(rows[i // 5 * 5][0], f) for i, (_, f) in enumerate(rows)]
    for size in (150, 900):
        assert records(ranges(path, size)) == (expected, None)


@pytest.mark.parametrize("ng", [False, True])
def test_damage_ends_the_last_range(tmp_path, ng):
    rows = frames(100)
    content = as_pcapng(rows) if ng else pcap(rows)
    path = tmp_path / "cut"
    path.write_bytes(content[:-5])
    assert records(ranges(path, 2000)) == (rows[:-1], "cut-off")
    middle = (as_pcapng(rows[:50]) if ng else pcap(rows[:50])) + b"\xff" * 500 + content[100:]
    path.write_bytes(middle)
    found, damage = records(ranges(path, 2000))
    assert (found, damage) == (rows[:50], "malformed")


def test_what_cannot_be_split_is_one_range(tmp_path):
    rows = frames(50)
    for name, content in {"gz": gzip.compress(pcap(rows)), "text": b"x" * 9000, "empty": b""}.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert ranges(path, 500) == [CaptureRange(str(path))]
    assert ranges(tmp_path / "missing", 500) == [CaptureRange(str(tmp_path / "missing"))]


def test_a_small_capture_is_one_range_with_a_known_clock(tmp_path):
    rows = frames(50)
    path = tmp_path / "small"
    path.write_bytes(pcap(rows))
    assert ranges(path, 10**6) == [CaptureRange(str(path), clock_ns=rows[-1][0])]
