"""PTransforms from names to groups of captures: the plans of the function of their name."""

import gzip

import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.transforms.captures.capture_ptransforms import ReadCaptures
from flowloom.transforms.captures.groups import plan_captures, read_captures

NS = 1_700_000_000_000_000_000


def capture(first: int) -> bytes:
    frame = ethernet(ipv4(udp(bytes(50), 1_000, 4_000), protocol=17))
    return pcap([(NS + (first + at) * 1_000_000, frame) for at in range(3)])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, content in (
        ("day.pcap0", capture(0)),
        ("day.pcap1", capture(10)),
        ("sub/copy", capture(0)),
        ("sub/b.pcap.gz", gzip.compress(capture(20))),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def shown(plans) -> list:
    return sorted(
        ([(group.group, group.captures) for group in plan.groups], plan.rejects.to_pylist()) for plan in plans
    )


@pytest.mark.parametrize("group", ["file", "rotated", "office"])
def test_captures_are_grouped_as_by_the_function(folder, group):
    names = [str(folder), f"{folder}/day.*", f"{folder}/sub/b.pcap.gz", f"{folder}/none", f"{folder}/*.cap"]
    plans = names | ReadCaptures(group)
    assert shown(plans) == shown(read_captures(names, group))
    (rejects,) = [plan.rejects.to_pylist() for plan in plans if plan.rejects.num_rows]
    reasons = {(row["uri"].removeprefix(str(folder)), row["reason"]) for row in rejects}
    assert reasons == {("/none", "unreadable"), ("/*.cap", "no-match"), ("/sub/copy", "duplicate")}


@pytest.mark.parametrize("group", ["file", "rotated", "office"])
def test_groups_are_those_of_a_manifest(folder, group):
    manifest = plan_captures([CaptureSource(glob="**/*", group=group)], str(folder))
    plans = read_captures([str(folder)], group)
    names = sorted(each.group for plan in plans for each in plan.groups)
    assert names == [each.group for each in manifest.groups]
    assert len(names) == {"file": 3, "rotated": 2, "office": 1}[group]
