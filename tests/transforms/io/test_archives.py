"""Captures inside ZIP and tar: read where they lie, with the same records as outside, and damage as one reject."""

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.pipelines.flow_tables.flow_scan import FlowScan
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import CaptureSource
from flowloom.transforms.captures.capture_files import CaptureError, capture_digest, match_captures
from flowloom.transforms.captures.capture_folders import folder_captures
from flowloom.transforms.captures.groups import plan_captures
from flowloom.transforms.captures.ranges import CaptureRange, chain_stretches, index_stretch, stretches
from flowloom.transforms.metering.accounts import sum_captures
from flowloom.transforms.metering.meter_ranges import meter_ranges
from flowloom.transforms.metering.scheduling import plan_metering

NS = 1_700_000_000_000_000_000
CONTENTS = {
    f"{day}/{name}": pcap(
        [(NS + at, ethernet(ipv4(udp(bytes(200), 1000 + at, 53), protocol=17))) for at in range(number * 20)]
    )
    for number, (day, name) in enumerate([("mon", "a.pcap"), ("mon", "b.pcap"), ("tue", "noname")], 1)
}


def zipped(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, contents: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


ARCHIVES = {
    "deflated": zipped,
    "stored": lambda path, contents: zipped(path, contents, zipfile.ZIP_STORED),
    "tar": tarred,
}


def records(uri: str) -> int:
    capture, scanner = CaptureRange(uri).open()
    count = 0
    try:
        while chunk := len(scanner.scan()):
            count += chunk
    finally:
        capture.close()
    return count


def scanned(path: Path) -> FlowScan:
    scan = FlowScan([str(path)], FlowDefinition.of())
    for _ in scan:
        pass
    return scan


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_stands_for_its_captures(tmp_path, kind):
    path = ARCHIVES[kind](tmp_path / "days.bin", {"readme.txt": b"no capture", **CONTENTS, "bad.pcap": b"nothing"})
    expected = [f"{path}/{name}" for name in ("bad.pcap", *sorted(CONTENTS))]
    assert match_captures(str(path)) == match_captures(str(tmp_path / "*")) == expected
    assert folder_captures(str(tmp_path)).captures == tuple(expected)
    assert match_captures(f"{path}/mon/*") == match_captures(f"{tmp_path}/*.bin/mon/*.pcap") == expected[1:3]
    assert match_captures(f"{path}/tue/noname") == [f"{path}/tue/noname"]
    assert match_captures(f"{path}/wed/*") == []
    scan = scanned(path)
    assert {row["uri"]: row["records"] for row in scan.captures} == dict(zip(expected[1:], (20, 40, 60), strict=True))
    assert [reject["reason"] for reject in scan.rejects] == ["not-a-capture"]


@pytest.mark.parametrize("kind", ["stored", "tar"])
def test_members_that_are_not_compressed_are_read_in_ranges(tmp_path, kind):
    uri = f"{ARCHIVES[kind](tmp_path / 'days', CONTENTS)}/mon/b.pcap"
    outside = tmp_path / "b.pcap"
    outside.write_bytes(CONTENTS["mon/b.pcap"])
    idle_ns = FlowDefinition().idle_ns
    ranges = chain_stretches(uri, [index_stretch(each, idle_ns) for each in stretches(uri, 3000)], idle_ns)
    assert len(ranges) > 2
    assert [each.first_record for each in ranges] == [
        each.first_record
        for each in chain_stretches(
            str(outside), [index_stretch(each, idle_ns) for each in stretches(str(outside), 3000)], idle_ns
        )
    ]
    assert capture_digest(uri) == capture_digest(str(outside))


def test_members_are_compressed_once_in_themselves(tmp_path):
    packed = {name + ".gz": gzip.compress(content) for name, content in CONTENTS.items()}
    path = tarred(tmp_path / "a.tar", packed)
    assert [records(uri) for uri in match_captures(f"{path}/mon/*")] == [20, 40]
    path = zipped(tmp_path / "a.zip", packed, zipfile.ZIP_STORED)
    assert [records(uri) for uri in match_captures(f"{path}/mon/*")] == [20, 40]
    path = zipped(tmp_path / "b.zip", {"a.zip": path.read_bytes()})
    assert [reject["reason"] for reject in _rejects(path)] == ["not-a-capture"], "no archive in an archive"


def _rejects(path: Path) -> list[dict]:
    scan = FlowScan([str(path)], FlowDefinition.of())
    with pytest.raises(Exception, match="no capture could be read"):
        next(scan)
    return scan.rejects


def test_a_compressed_tar_says_what_to_do(tmp_path):
    (reject,) = _rejects(tarred(tmp_path / "a.tar.gz", CONTENTS, "w:gz"))
    assert reject["detail"] == ("the gz stream is a tar; decompress it, and its captures are read where they lie")


def test_other_methods_and_passwords_are_rejects(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.pcap": CONTENTS["mon/a.pcap"]}, zipfile.ZIP_BZIP2)
    assert "must be stored or deflated, got bzip2" in _rejects(path)[0]["detail"]
    content = bytearray(zipped(tmp_path / "b.zip", {"a.pcap": CONTENTS["mon/a.pcap"]}).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    assert "is encrypted" in _rejects(tmp_path / "b.zip")[0]["detail"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_name_never_leads_out_of_the_archive(tmp_path, kind):
    (tmp_path / "secret.pcap").write_bytes(CONTENTS["tue/noname"])
    content = CONTENTS["mon/a.pcap"]
    path = ARCHIVES[kind](tmp_path / "days", {"../secret.pcap": content, "/etc/a.pcap": content})
    found = match_captures(str(path))
    assert found == [f"{path}/etc/a.pcap", f"{path}/secret.pcap"]
    assert [records(uri) for uri in found] == [20, 20]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_any_damage_ends_in_rejects(tmp_path, kind):
    content = ARCHIVES[kind](tmp_path / "days", CONTENTS).read_bytes()
    for number in range(60):
        at = number * len(content) // 60
        path = tmp_path / f"damaged-{number}"
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :] if number % 2 else content[:at])
        for uri in match_captures(str(path)):
            try:
                assert records(uri) <= 60
            except CaptureError as error:
                assert error.detail  # noqa: PT017 - either is right


def test_a_deflated_member_that_is_cut_off_gives_what_came_before(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.pcap": CONTENTS["tue/noname"]})
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", content, directory + 20)
    struct.pack_into("<I", content, directory + 20, size // 2)
    path.write_bytes(content)
    scan = scanned(path)
    assert 0 < scan.captures[0]["records"] < 60
    assert [reject["reason"] for reject in scan.rejects] == ["decompression"]


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("split_bytes", [4_000, 1 << 30])
def test_a_manifest_meters_members_like_files(tmp_path, kind, split_bytes):
    ARCHIVES[kind](tmp_path / "days.bin", CONTENTS)
    for name, content in CONTENTS.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    flows, digests = [], []
    for glob in ("days.bin/**/*.pcap", "out/**/*.pcap"):
        plan = plan_captures([CaptureSource(glob=glob)], str(tmp_path))
        assert len(plan.groups) == 2
        tasks, _ = plan_metering(plan.groups, FlowDefinition(), split_bytes)
        results = meter_ranges(tasks, FlowDefinition(), str(tmp_path))
        accounts = sum_captures(results.accounts)
        flows.append(sum(row["metered"] for row in accounts))
        digests.append([row["digest"] for row in accounts])
    assert flows == [60, 60]
    assert (digests[0] == digests[1]) == (kind != "deflated"), "digests are of the bytes as they are stored"


def test_bzip2_outside_is_no_archive(tmp_path):
    (tmp_path / "a.bz2").write_bytes(bz2.compress(CONTENTS["mon/a.pcap"]))
    assert match_captures(str(tmp_path / "a.bz2")) == [str(tmp_path / "a.bz2")]
