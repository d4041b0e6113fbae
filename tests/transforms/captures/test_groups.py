"""Groups depend on content: names and order change nothing, and every file is in a group or a reject row."""

import dataclasses
import gzip
import hashlib
import random
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.transforms.captures.capture_files import CaptureError, FileStamp, capture_digest, capture_fingerprint
from flowloom.transforms.captures.groups import (
    Capture,
    identify_capture,
    match_source,
    plan_groups,
    relative_uri,
    tell_apart,
)

NS = 1_700_000_000_000_000_000


def capture_bytes(number: int) -> bytes:
    return pcap([(NS + number, ethernet(ipv4(udp(b"x", number, 53), protocol=17)))])


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def capture(uri: str, number: int, *sources: int, first_ns: int | None = NS) -> Capture:
    return Capture(uri, 9, digest(number), digest(number), first_ns, sources)


def sources(*groups: str) -> list[CaptureSource]:
    return [CaptureSource(glob="*", group=group) for group in groups]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.pcap", "a.pcap", "deep/c.pcap", "other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(capture_bytes(len(name)))
    return tmp_path


def test_globs_are_relative_to_the_manifest_and_sorted(folder):
    uris, rejects = match_source(CaptureSource(glob="*.pcap"), str(folder))
    assert [relative_uri(uri, str(folder)) for uri in uris] == ["a.pcap", "b.pcap"]
    assert rejects.num_rows == 0
    uris, _ = match_source(CaptureSource(glob="**/*.pcap"), str(folder))
    assert len(uris) == 3
    uris, _ = match_source(CaptureSource(glob=str(folder / "a.pcap")), "/elsewhere")
    assert uris == [str(folder / "a.pcap")]


def test_a_folder_with_brackets_is_no_pattern(tmp_path):
    folder = tmp_path / "run [1]*"
    folder.mkdir()
    (folder / "a.pcap").write_bytes(b"")
    assert match_source(CaptureSource(glob="*.pcap"), str(folder))[0] == [str(folder / "a.pcap")]


@pytest.mark.parametrize(("glob", "reason"), [("none*.pcap", "no-match"), ("none.pcap", "unreadable")])
def test_a_source_without_files_is_a_reject(folder, glob, reason):
    uris, rejects = match_source(CaptureSource(glob=glob), str(folder))
    (row,) = rejects.to_pylist()
    assert (uris, row["uri"], row["reason"]) == ([], glob, reason)
    assert "check the path" in row["detail"]


def test_identity_is_content_and_first_time(folder):
    found = identify_capture(str(folder / "a.pcap"), [2, 0, 2])
    data = (folder / "a.pcap").read_bytes()
    size, name = capture_fingerprint(found.uri)
    assert size == len(data)
    stamp = FileStamp.of((folder / "a.pcap").stat())
    assert found == Capture(found.uri, size, name, None, NS + 6, (0, 2), stamp)
    (folder / "text.pcap").write_text("hello")
    assert identify_capture(str(folder / "text.pcap"), [0]).first_ns is None
    with pytest.raises(CaptureError, match="cannot open"):
        identify_capture(str(folder / "missing.pcap"), [0])


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_identifying_a_small_file_opens_it_once(folder, monkeypatch, compress):
    path = folder / "once"
    path.write_bytes(compress(capture_bytes(3)))
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *how, **more: opened.append(self) or original(self, *how, **more))
    found = identify_capture(str(path), [0])
    assert opened == [path]
    assert found.first_ns == NS + 3


def test_each_file_is_a_group_named_by_its_digest():
    plan = plan_groups([capture("a", 1, 0), capture("b", 2, 0)], sources("file"))
    assert [group.group for group in plan.groups] == sorted([digest(1)[:16], digest(2)[:16]])


def test_named_groups_run_in_time_and_are_named_by_the_first_digest():
    files = [capture("z", 1, 0, first_ns=NS), capture("a", 2, 0, first_ns=NS + 5), capture("m", 3, 0, first_ns=None)]
    (group,) = plan_groups(files, sources("gateway")).groups
    assert [file.uri for file in group.captures] == ["z", "a", "m"]
    assert group.group == digest(1)[:16]
    (longer,) = plan_groups([*files, capture("b", 4, 0, first_ns=NS + 9)], sources("gateway")).groups
    assert (longer.group, len(longer.captures)) == (group.group, 4)


def test_names_and_order_change_no_group():
    files = [capture(f"{number}.pcap", number, 0, first_ns=NS + number) for number in range(9)]
    renamed = [dataclasses.replace(file, uri=f"other/{100 - at}") for at, file in enumerate(files)]
    random.Random(1).shuffle(renamed)
    for kind in ("file", "rotated"):
        one, other = (plan_groups(each, sources(kind)).groups for each in (files, renamed))
        assert [group.group for group in one] == [group.group for group in other]


def test_a_named_group_wins_over_file_and_the_first_name_over_others():
    (group,) = plan_groups([capture("a", 1, 0, 1, 2)], sources("file", "one", "two")).groups
    assert group.sources == (0, 1, 2)
    plan = plan_groups([capture("a", 1, 0, 2), capture("b", 2, 1), capture("c", 3, 1)], sources("file", "one", "one"))
    assert [len(group.captures) for group in plan.groups] == [3]


def test_files_of_the_same_bytes_are_read_once_and_know_all_labels():
    plan = plan_groups([capture("/in/b", 1, 1), capture("/in/a", 1, 0)], sources("file", "file"), "/in")
    (group,) = plan.groups
    assert ([file.uri for file in group.captures], group.sources) == (["/in/a"], (0, 1))
    (row,) = plan.rejects.to_pylist()
    assert (row["uri"], row["reason"]) == ("/in/b", "duplicate")
    assert "same bytes as a," in row["detail"]


def test_files_without_records_are_kept_apart():
    plan = plan_groups([capture("a", 1, 0, first_ns=None), capture("b", 1, 0, first_ns=None)], sources("file"))
    assert [group.has_records for group in plan.groups] == [False, False]
    assert plan.rejects.num_rows == 0


def test_a_fingerprint_tells_contents_apart_and_not_names(tmp_path):
    for name, content in (("a", b"x" * 9), ("b", b"x" * 9), ("c", b"x" * 10), ("d", b"x" * 8 + b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (capture_fingerprint(str(tmp_path / name)) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_large_files_that_share_a_fingerprint_are_told_apart_by_all_their_bytes(tmp_path):
    for number in range(3):
        content = bytearray(3 << 20)
        content[3 << 19] = number % 2
        (tmp_path / f"{number}.pcap").write_bytes(content)
    alone = [identify_capture(str(tmp_path / f"{number}.pcap"), [0]) for number in range(3)]
    assert [file.digest for file in alone] == [None] * 3
    assert len({file.fingerprint for file in alone}) == 1
    files = [dataclasses.replace(file, first_ns=NS) for file in tell_apart(alone)]
    plan = plan_groups(files, sources("file"))
    digests = [capture_digest(str(tmp_path / f"{number}.pcap")) for number in range(3)]
    assert {group.group for group in plan.groups} == {whole[:16] for whole in digests}
    assert [row["reason"] for row in plan.rejects.to_pylist()] == ["duplicate"]
