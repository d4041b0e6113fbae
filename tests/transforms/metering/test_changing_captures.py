"""Captures that change between plan, digest and metering: rejected, and never cached as if they were whole."""

import os
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.arrow.accounting import RejectReason
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.captures.capture_files import capture_digest
from flowloom.transforms.captures.groups import CaptureGroup, identify_capture, origin_of, tell_apart
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.metering.meter_cache import MeterCache, cache_metering, plan_cached_group
from flowloom.transforms.metering.meter_ranges import meter_ranges, sha256_captures
from flowloom.transforms.metering.scheduling import plan_metering

NS = 1_700_000_000_000_000_000
DEFINITION = FlowDefinition()


def frames(count: int) -> list[tuple[int, bytes]]:
    packet = ethernet(ipv4(udp(bytes(500), 1000, 4000), protocol=17))
    return [(NS + at * 1_000_000, packet) for at in range(count)]


@pytest.fixture
def capture(tmp_path) -> Path:
    path = tmp_path / "day.pcap"
    path.write_bytes(pcap(frames(6_000)))
    return path


@pytest.fixture
def group(capture) -> CaptureGroup:
    found = identify_capture(str(capture), [0])
    return CaptureGroup(found.fingerprint[:16], (found,))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(pcap(frames(1))[24:])


@pytest.mark.parametrize("split_bytes", [1 << 40, 500_000])
def test_a_capture_that_grew_since_it_was_planned_is_a_reject(capture, group, tmp_path, split_bytes):
    tasks, wanted = plan_metering([group], DEFINITION, split_bytes, sha256=True)
    assert (len(tasks) > 1) == (split_bytes < 1 << 40)
    assert len(wanted) == 1
    append(capture)
    results = meter_ranges(tasks, DEFINITION, str(tmp_path))
    reasons = [reject["reason"] for account in results.accounts for reject in account.rejects.to_pylist()]
    assert set(reasons) == {RejectReason.CHANGED}
    assert results.flows == []
    hashed, (reject,) = sha256_captures(wanted)
    assert hashed == []
    assert reject["reason"].to_pylist() == [RejectReason.CHANGED]


def test_a_capture_that_is_cut_while_it_is_metered_keeps_what_was_read(capture, group):
    """A mapped file would end the process here."""
    (task,), _ = plan_metering([group], DEFINITION, 1 << 40)
    reader = GroupReader(task.ranges, task.group, DEFINITION)
    first = True
    for packets in reader.packets(task.ranges[0]):
        assert packets.num_rows
        if first:
            os.truncate(capture, 100_000)
        first = False
    (reject,) = reader.rejects().to_pylist()
    (row,) = reader.captures().to_pylist()
    assert reject["reason"] == RejectReason.CHANGED
    assert 0 < row["records"] == row["metered"] <= 6_000


def test_nothing_of_a_capture_that_changed_is_cached(capture, group, tmp_path):
    digests = {str(capture): capture_digest(str(capture))}
    cache = MeterCache(str(tmp_path / "cache"), DEFINITION)
    (task,) = plan_cached_group(group, digests, alone=True)
    append(capture)
    cache_metering([task], cache)
    assert task not in cache
    assert os.listdir(cache.root) == []
    found = identify_capture(str(capture), [0])
    grown = CaptureGroup(group.group, (found,))
    (task,) = plan_cached_group(grown, digests, alone=True)  # the digest of the bytes before
    cache_metering([task], cache)
    assert task not in cache
    (task,) = plan_cached_group(grown, {str(capture): capture_digest(str(capture))}, alone=True)
    cache_metering([task], cache)
    assert task in cache


def test_captures_of_one_fingerprint_have_different_origins(tmp_path):
    """Large files that differ in their middle only."""
    paths = [tmp_path / "one.pcap", tmp_path / "other.pcap"]
    content = bytearray(pcap(frames(6_000)))
    for path, byte in zip(paths, b"ab", strict=True):
        content[len(content) // 2] = byte
        path.write_bytes(content)
    one, other = (identify_capture(str(path), [0]) for path in paths)
    assert one.fingerprint == other.fingerprint
    alone = CaptureGroup("0" * 16, (one,)).origins[one.uri]
    assert alone == origin_of(one.fingerprint)
    origins = CaptureGroup("0" * 16, tuple(tell_apart([one, other]))).origins
    assert len(set(origins.values())) == 2


def test_damaged_results_are_removed_from_the_cache(capture, group, tmp_path):
    """A flipped bit in any of the files, at its beginning, in its middle and at its end."""
    cache = MeterCache(str(tmp_path / "cache"), DEFINITION)
    (task,) = plan_cached_group(group, {str(capture): capture_digest(str(capture))}, alone=False)
    cache_metering([task], cache)
    folder = Path(cache.folder(task))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"captures.arrow", "flows.arrow", "fragments.arrow", "reading.json", "rejects.arrow"}
    for name, content in kept.items():
        for place in (9, len(content) // 2, len(content) - 3):
            damaged = bytearray(content)
            damaged[place] ^= 4
            (folder / name).write_bytes(damaged)
            assert task not in cache, (name, place)
            assert not folder.exists()
            cache_metering([task], cache)
            assert task in cache
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
