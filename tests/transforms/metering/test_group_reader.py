"""Group reader: every record is accounted for, damage becomes a reject row, flows continue across files."""

from pathlib import Path

import pyarrow as pa
import pytest
from capture_files import enhanced, ethernet, interface, ipv4, pcap, section, tcp, udp

from flowloom.schemas.arrow.rows import FLOWS, FRAGMENTS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.transforms.arrays.columns import concatenated
from flowloom.transforms.captures import records
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.flows.flow_fragments import join_fragments
from flowloom.transforms.flows.meter import WHOLE, RangePlace
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.metering.group_reader import GroupReader, dropped_by_reason
from flowloom.transforms.metering.open_flows import crowded_groups

GROUP = "00c0ffee00c0ffee"
NS = 1_700_000_000_000_000_000
FRAMES = [(NS + i, ethernet(ipv4(tcp(bytes(i), 1000, 80)))) for i in range(10)]


def read(*paths: Path) -> tuple[pa.Table, list[dict], list[dict]]:
    reading = GroupReader([CaptureRange(str(p)) for p in paths], GROUP, FlowDefinition.of())
    flows = pa.Table.from_batches(reading.flows(), FLOWS)
    return flows, reading.captures().to_pylist(), reading.rejects().to_pylist()


def test_every_real_capture_is_read_and_its_counts_add_up(real_data):
    folders = [real_data / "nfstream-tests/pcaps", real_data / "attacks", real_data / "kitsune-mirai"]
    paths = [
        path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".pcap", ".pcapng", ".cap")
    ]
    assert len(paths) > 250
    for path in paths:
        flows, captures, rejects = read(path)
        (row,) = captures
        assert row["records"] == row["metered"] + sum(dropped_by_reason(row).values()), path
        counted = sum(flows["packets_fwd"].to_pylist()) + sum(flows["packets_bwd"].to_pylist())
        assert counted == row["metered"], path
        assert row["rejects"] == len(rejects) == 0, path


def test_records_without_a_valid_time_are_dropped_and_counted(tmp_path):
    stamps = [(NS, 0), (2**64 - 1, 1), (NS + 5, 2), (2**63 - 1, 3), (2**63 - 2, 4)]
    blocks = [enhanced(FRAMES[at][1], ticks) for ticks, at in stamps]
    (tmp_path / "far.pcapng").write_bytes(section() + interface(resolution=9) + b"".join(blocks))
    (tmp_path / "none.pcapng").write_bytes(section() + interface(resolution=0) + enhanced(FRAMES[0][1], 2**63))
    flows, captures, rejects = read(tmp_path / "far.pcapng")
    assert flows["packets_fwd"].to_pylist() == [2, 1]
    assert flows["duration_ns"].to_pylist() == [5, 0]
    (row,) = captures
    assert (row["records"], row["metered"], dropped_by_reason(row)) == (5, 3, {"time-out-of-range": 2})
    assert (row["first_ns"], row["last_ns"], rejects) == (NS, 2**63 - 2, [])
    flows, (row,), _ = read(tmp_path / "none.pcapng")
    assert (flows.num_rows, row["records"], row["first_ns"], row["last_ns"]) == (0, 1, None, None)


def test_a_range_with_too_many_open_flows_counts_its_records_and_holds_no_flows(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK_RECORDS", 10)
    frames = [(NS + at, ethernet(ipv4(tcp(b"", 1000 + at, 80)))) for at in range(200)]
    (tmp_path / "flood.pcap").write_bytes(pcap(frames))
    part = [CaptureRange(str(tmp_path / "flood.pcap"))]
    definition = FlowDefinition.of(max_open_flows=40)
    found = {}
    for place in (WHOLE, RangePlace(position=0, last=False)):
        reading = GroupReader(part, GROUP, definition, place=place, gives_up=True)
        flows = sum(batch.num_rows for batch in reading.flows())
        (row,) = reading.captures().to_pylist()
        assert (row["records"], row["metered"]) == (200, 200)
        found[place] = flows + sum(batch.num_rows for batch in reading.fragments()), reading.crowded
        assert crowded_groups([GroupAccount(GROUP, 0, 0, None, None, {0: reading.most_open})], definition)
    assert found == {WHOLE: (200, False), RangePlace(position=0, last=False): (0, True)}


def test_flows_continue_across_files_of_a_group(tmp_path):
    (tmp_path / "1.pcap").write_bytes(pcap(FRAMES[:4]))
    (tmp_path / "2.pcap").write_bytes(pcap(FRAMES[4:]))
    flows, captures, _ = read(tmp_path / "1.pcap", tmp_path / "2.pcap")
    assert flows["packets_fwd"].to_pylist() == [10]
    assert [c["records"] for c in captures] == [4, 6]
    assert (captures[0]["first_ns"], captures[1]["last_ns"]) == (NS, NS + 9)


def test_damage_ends_the_reading_of_one_file_only(tmp_path):
    (tmp_path / "cut.pcap").write_bytes(pcap(FRAMES)[:-3])
    (tmp_path / "text.pcap").write_text("not a capture")
    (tmp_path / "empty.pcap").write_bytes(b"")
    (tmp_path / "whole.pcap").write_bytes(pcap(FRAMES))
    names = ("cut.pcap", "text.pcap", "missing.pcap", "empty.pcap", "whole.pcap")
    flows, captures, rejects = read(*(tmp_path / n for n in names))
    assert flows["packets_fwd"].to_pylist() == [19]
    assert [(Path(c["uri"]).name, c["records"], c["rejects"]) for c in captures] == [
        ("cut.pcap", 9, 1), ("whole.pcap", 10, 0),
    ]  # fmt: skip
    assert [(Path(r["uri"]).name, r["reason"]) for r in rejects] == [
        ("cut.pcap", "cut-off"),
        ("text.pcap", "not-a-capture"),
        ("missing.pcap", "unreadable"),
        ("empty.pcap", "empty"),
    ]
    assert all(r["detail"] for r in rejects)


@pytest.mark.parametrize("cut", range(1, 9))
def test_ip_fragments_find_their_first_fragment_in_an_earlier_range(tmp_path, cut):
    datagram = udp(bytes(2400), 777, 53)
    parts = [(ipv4(datagram[i : i + 800], protocol=17, ip_id=n, fragment=0x2000 * (i < 1600) | i // 8), n)
             for n in range(3) for i in (0, 800, 1600)]  # fmt: skip
    frames = [(NS + at, ethernet(packet)) for at, (packet, _) in enumerate(parts)]
    (tmp_path / "whole.pcap").write_bytes(pcap(frames))
    (tmp_path / "1.pcap").write_bytes(pcap(frames[:cut]))
    (tmp_path / "2.pcap").write_bytes(pcap(frames[cut:]))
    first, second = (CaptureRange(str(tmp_path / f"{n}.pcap")) for n in (1, 2))
    expected, _, _ = read(tmp_path / "whole.pcap")
    assert expected["packets_fwd"].to_pylist() == [9]

    definition = FlowDefinition.of()
    one = GroupReader([first], GROUP, definition, place=RangePlace(0, False))
    two = GroupReader([second], GROUP, definition, place=RangePlace(1, True, NS + cut - 1), earlier=[first])
    assert [*one.flows(), *two.flows()] == []
    pieces = concatenated([*one.fragments(), *two.fragments()], FRAGMENTS)
    joined = join_fragments(pieces, [NS + cut - 1, NS + 8], definition, GROUP).flows
    assert pa.Table.from_batches([joined]).equals(expected)

    alone = GroupReader([second], GROUP, definition)
    lost = sum(
        row["dropped_fragment_without_first"] for _ in [list(alone.flows())] for row in alone.captures().to_pylist()
    )
    assert lost == -cut % 3, "without the earlier range they would have been dropped"


def test_one_flow_cut_over_four_files_is_one_flow_again(real_data):
    parts = ("1_5", "6_10", "11_15", "16_19")
    paths = [real_data / f"nfstream-tests/pcaps/one_flow_{part}.pcap" for part in parts]
    flows, _, _ = read(*paths)
    assert flows.num_rows == 1
    assert flows["packets_fwd"][0].as_py() + flows["packets_bwd"][0].as_py() == 19
