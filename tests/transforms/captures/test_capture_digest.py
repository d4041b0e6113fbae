"""Digests of captures: equal for any ranges, buffers and compressions, from the pass that reads the records."""

import bz2
import gzip
import lzma

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from capture_files import ethernet, ipv4, pcap, udp
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.transforms.captures.capture_digest import LEAF_BYTES, LeafHasher, join_leaves
from flowloom.transforms.captures.capture_files import capture_digest
from flowloom.transforms.captures.groups import plan_captures
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.dataset.capture_tables import captures_table, rejects_table
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.metering.meter_ranges import meter_ranges
from flowloom.transforms.metering.scheduling import plan_metering

DEFINITION = FlowDefinition()
NS = 1_700_000_000_000_000_000
CONTENT = np.random.default_rng(1).bytes(3 * LEAF_BYTES + 12_345)
COMPRESS = {
    "none": bytes,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


def expected(content: bytes) -> str:
    """The definition: BLAKE3 over the BLAKE3 digests of each MiB."""
    leaves = [content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]
    return blake3(b"".join(blake3(leaf).digest() for leaf in leaves)).hexdigest()


def large_capture() -> bytes:
    """A capture of 3.1 MB whose records have payloads that do not compress."""
    rng = np.random.default_rng(2)
    packets = [ethernet(ipv4(udp(rng.bytes(1_200), 1_000 + at % 50, 4_000), protocol=17)) for at in range(2_500)]
    return pcap([(NS + at * 1_000_000, packet) for at, packet in enumerate(packets)])


@given(
    size=st.integers(0, len(CONTENT)) | st.integers(-2, 2).map(lambda more: 2 * LEAF_BYTES + more),
    cuts=st.lists(st.integers(0, len(CONTENT)) | st.integers(-2, 2).map(lambda more: LEAF_BYTES + more), max_size=5),
    piece=st.sampled_from([1_000, LEAF_BYTES - 1, LEAF_BYTES, 1 << 22]),
    beyond=st.integers(0, 2 * LEAF_BYTES),
)
@settings(max_examples=60, deadline=None)
def test_ranges_that_tile_a_file_give_the_digest_of_the_file(size, cuts, piece, beyond):
    """Each range reads its bytes, the rest of its last leaf, and any number of bytes behind."""
    content = CONTENT[:size]
    starts = sorted({0, *(cut for cut in cuts if cut < size)})
    parts = []
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        hasher, place = LeafHasher(start, stop), start
        while place < size and (not hasher.complete or place < (stop or 0) + beyond):
            hasher.update(memoryview(content)[place : place + piece])
            place += piece
        parts.append(hasher.leaves("a"))
    assert join_leaves(reversed(parts), {"a": size}) == {"a": expected(content)}
    if size > LEAF_BYTES:
        full = [part for part in parts if part.digests]
        assert join_leaves(full[1:], {"a": size}) == {}
        assert join_leaves([*full, full[-1]], {"a": size}) == {}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("damaged", [False, True])
def test_one_reading_meters_and_digests_every_stored_byte(tmp_path, compression, damaged):
    content = bytearray(COMPRESS[compression](large_capture()))
    if damaged:  # the records end at a third of the file, its bytes go on
        at = len(content) // 3
        content[at : at + 3_000] = b"\xff" * 3_000
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    assert capture_digest(str(path)) == expected(content)
    reader = GroupReader([CaptureRange(str(path))], "0" * 16, DEFINITION)
    flows = sum(batch.num_rows for batch in reader.flows())
    (row,) = reader.captures().to_pylist()
    assert row["digest"] == expected(content)
    assert row["sha256"] is None
    assert row["rejects"] == damaged
    assert (flows == 50) or damaged
    assert 0 < row["records"] <= 2_500 - damaged


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("split_bytes", [1 << 40, 1 << 20, 700_000, 40_000])
def test_ranges_of_a_capture_give_its_digest_together(tmp_path, split_bytes, damaged):
    content = bytearray(large_capture())
    if damaged:
        content[2_000_000:2_003_000] = b"\xff" * 3_000
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    corpus = plan_captures([CaptureSource(glob=str(path), labels={"app": "web"})], str(tmp_path))
    tasks, sha256 = plan_metering(corpus.groups, DEFINITION, split_bytes)
    assert sha256 == []
    accounts = meter_ranges(tasks, DEFINITION, str(tmp_path)).accounts
    assert (len(tasks) > 1) == (split_bytes < 1 << 40)
    rejects = rejects_table(accounts, [], str(tmp_path))
    assert rejects.num_rows == damaged
    (row,) = captures_table(accounts, {}, rejects, str(tmp_path)).to_pylist()
    assert row["digest"] == expected(content)


def test_files_up_to_a_leaf_have_the_digest_of_their_digest(tmp_path):
    for content in (b"", b"a", bytes(LEAF_BYTES)):
        (tmp_path / "a").write_bytes(content)
        whole = blake3(content).digest() if content else b""
        assert capture_digest(str(tmp_path / "a")) == blake3(whole).hexdigest()
