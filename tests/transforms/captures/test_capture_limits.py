"""Limits of compressed captures: reading stops at them with one reject, and everything before counts."""

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest
import zstandard
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.corpus.capture_limits import CaptureLimits
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.capture_files import capture_digest
from flowloom.transforms.captures.groups import limited, plan_captures
from flowloom.transforms.metering.meter_cache import MeterCache, plan_cached_group
from flowloom.transforms.metering.meter_ranges import meter_ranges
from flowloom.transforms.metering.scheduling import plan_metering

NS = 1_700_000_000_000_000_000
RECORDS = 4_000
FRAME = ethernet(ipv4(udp(bytes(958), 1_000, 4_000), protocol=17))
RECORD_BYTES = 16 + len(FRAME)
CONTENT = pcap([(NS + at * 1_000_000, FRAME) for at in range(RECORDS)])
COMPRESS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "lz4": lambda content: pa.Codec("lz4").compress(content).to_pybytes(),
    "zst": zstandard.ZstdCompressor().compress,
}


def metered(path, limits: CaptureLimits, folder) -> tuple[dict, list[dict]]:
    """Returns the accounts of a capture's records and its rejects."""
    plan = limited(plan_captures([CaptureSource(glob=str(path))], str(folder)), limits)
    tasks, _ = plan_metering(plan.groups, FlowDefinition(), 1 << 40)
    (account,) = meter_ranges(tasks, FlowDefinition(), str(folder)).accounts
    (row,) = account.captures.to_pylist()
    return row, account.rejects.to_pylist()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("most", [1_000_000, 100_000, 24, 24 + 7 * RECORD_BYTES])
def test_reading_stops_at_the_limit_with_one_reject(tmp_path, compression, most):
    path = tmp_path / "a.pcap"
    path.write_bytes(COMPRESS[compression](CONTENT))
    stored = path.stat().st_size
    ratios = [CaptureLimits(ratio=most / stored)] if most > stored else []
    for limits in (CaptureLimits(uncompressed_bytes=most), *ratios):
        allowed = limits.most(stored)
        row, (reject,) = metered(path, limits, tmp_path)
        assert row["records"] == row["metered"] == (allowed - 24) // RECORD_BYTES
        assert (reject["reason"], reject["offset"]) == ("over-limit", allowed)
        assert reject["detail"] == (
            f"the {compression} stream of {stored:,} bytes must have at most {allowed:,} uncompressed bytes, got more; "
            "raise the limits, or remove the capture; all records before that were read"
        )
        assert row["digest"] == capture_digest(str(path))  # of all stored bytes


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_capture_within_its_limits_is_whole(tmp_path, compression):
    path = tmp_path / "a.pcap"
    path.write_bytes(COMPRESS[compression](CONTENT))
    for limits in (CaptureLimits(), CaptureLimits(uncompressed_bytes=len(CONTENT)), CaptureLimits(ratio=1e6)):
        row, rejects = metered(path, limits, tmp_path)
        assert (row["records"], rejects) == (RECORDS, [])


def test_limits_do_not_touch_captures_that_are_not_compressed(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(CONTENT)
    row, rejects = metered(path, CaptureLimits(uncompressed_bytes=1_000, ratio=1), tmp_path)
    assert (row["records"], rejects) == (RECORDS, [])


def test_cached_results_belong_to_their_limits(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(gzip.compress(CONTENT))
    plan = plan_captures([CaptureSource(glob=str(path))], str(tmp_path))
    cache = MeterCache(str(tmp_path / "cache"), FlowDefinition())
    keys = set()
    for limits in (CaptureLimits(), CaptureLimits(ratio=5), CaptureLimits(uncompressed_bytes=5)):
        (group,) = limited(plan, limits).groups
        (task,) = plan_cached_group(group, {str(path): "0" * 64}, alone=True)
        keys.add(cache.key(task))
    assert len(keys) == 3


def test_options_of_commands_are_read_or_refused():
    assert CaptureLimits.of("10GiB", 20.0) == CaptureLimits(uncompressed_bytes=10 << 30, ratio=20)
    assert CaptureLimits.of(None, None) == CaptureLimits()
    with pytest.raises(FlowloomError, match="uncompressed_bytes must be a number of bytes such as 10GiB, got ten"):
        CaptureLimits.of("ten", None)
    with pytest.raises(FlowloomError, match=r"ratio must be at least 1, got 0\.5"):
        CaptureLimits.of(None, 0.5)
