"""Flows in batches and tables: those of `flowloom flows`, read as they are asked for."""

import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from capture_files import ethernet, ipv4, pcap, tcp

from flowloom.pipelines.flow_tables.flow_scan import RejectWarning, read_flows, scan_flows
from flowloom.schemas.arrow.address_texts import address_texts
from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.flows.meter import TAKE_FLOWS

NS = 1_700_000_000_000_000_000


def one_packet_flows(count: int, host: int) -> bytes:
    """Returns a capture with a flow for each packet."""
    frames = [
        ethernet(ipv4(tcp(src_port=1 + at % 60_000, seq=at), f"10.{host}.{at // 60_000}.1")) for at in range(count)
    ]
    return pcap([(NS + at, frame) for at, frame in enumerate(frames)])


@pytest.mark.parametrize("options", [(), ("--k", "5"), ("--preset", "nfstream"), ("--capture-column",)])
def test_a_table_is_what_the_command_writes(command, corpus, tmp_path, options):
    code, _, _ = command("flows", corpus / "web/*.pcap", "-o", tmp_path / "f.parquet", *options)
    assert code == 0
    arguments = {"--k": {"k": 5}, "--preset": {"definition": "nfstream"}, "--capture-column": {"capture": True}}
    table = read_flows(str(corpus / "web/*.pcap"), **arguments.get(options[0] if options else "", {}))
    assert table.equals(pq.read_table(tmp_path / "f.parquet"))


def test_definitions_are_presets_objects_or_mappings(corpus):
    of_name = read_flows(corpus / "web", "nfstream", k=4)
    assert of_name.equals(read_flows([corpus / "web"], FlowDefinition.of("nfstream", k=4)))
    assert of_name.equals(read_flows(corpus / "web", {"preset": "nfstream", "k": 9}, k=4))
    assert not of_name.equals(read_flows(corpus / "web", k=4))
    with pytest.raises(FlowloomError, match=re.escape("definition.idle_s must be greater than 0, got -1")):
        read_flows(corpus / "web", {"idle_s": -1})
    with pytest.raises(FlowloomError, match="did you mean 'nfstream'"):
        read_flows(corpus / "web", "nfstreem")
    with pytest.raises(FlowloomError, match=r"definition\.k "):
        scan_flows(corpus / "web", k=0)


def test_columns_on_request(corpus):
    plain = read_flows(corpus / "web")
    assert plain.schema == FLOWS
    table = read_flows(corpus / "web", text_addresses=True, capture=True)
    assert table.schema.names == [*FLOWS.names, "capture"]
    assert table["src_ip"].to_pylist() == address_texts(plain["src_ip"].combine_chunks()).to_pylist()
    assert set(table["capture"].to_pylist()) == {str(path) for path in (corpus / "web").iterdir()}


def test_batches_hold_the_rows_asked_for_and_are_read_when_asked(tmp_path):
    sizes = (50_000, 20_000, 3)
    for at, size in enumerate(sizes):
        (tmp_path / f"{at}.pcap").write_bytes(one_packet_flows(size, at))
    scan = scan_flows(tmp_path, batch_size=1_000)
    assert scan.files == 0
    first = next(scan)
    assert (scan.files, scan.captures) == (1, [])  # the first capture is still being read
    rest = list(scan)
    *full, _ = (batch.num_rows for batch in (first, *rest))
    assert all(1_000 <= rows < 1_000 + TAKE_FLOWS for rows in full)
    assert pa.Table.from_batches([first, *rest]).equals(read_flows(tmp_path).combine_chunks().cast(FLOWS))
    assert [capture["metered"] for capture in scan.captures] == list(sizes)
    assert scan.packets == sum(sizes)


def test_damage_is_a_warning_and_a_row_and_flows_before_it_stay(tmp_path):
    whole = one_packet_flows(9, 1)
    (tmp_path / "a.pcap").write_bytes(whole)
    (tmp_path / "b.pcap").write_bytes(one_packet_flows(9, 2)[:-5])
    (tmp_path / "c.pcap").write_bytes(b"no capture at all")
    (tmp_path / "0.pcap").write_bytes(b"")
    with pytest.warns(RejectWarning) as warned:
        table = read_flows(tmp_path)
    assert table.num_rows == 17
    messages = [str(each.message) for each in warned]
    assert [re.search(r"/(\w)\.pcap: ([a-z-]+)", each).groups() for each in messages] == [
        ("0", "empty"), ("b", "cut-off"), ("c", "not-a-capture"),
    ]  # fmt: skip
    assert {each.filename for each in warned} == {__file__}
    scan = scan_flows(tmp_path)
    with pytest.warns(RejectWarning):
        assert sum(batch.num_rows for batch in scan) == 17
    assert scan.rejects_batch()["reason"].to_pylist() == ["empty", "cut-off", "not-a-capture"]
    assert scan.captures_batch()["rejects"].to_pylist() == [0, 1]


def test_names_that_are_not_utf_8_are_rejects(tmp_path):
    (tmp_path / "a[1].pcap").write_bytes(one_packet_flows(3, 1))
    with open(os.fsencode(tmp_path) + b"/\xff.pcap", "wb") as file:
        file.write(one_packet_flows(3, 2))
    with pytest.warns(RejectWarning, match=r"\\xff\.pcap: unreadable at byte 0: the name of the file is not UTF-8"):
        table = read_flows(tmp_path, capture=True)
    assert set(table["capture"].to_pylist()) == {str(tmp_path / "a[1].pcap")}


def test_nothing_readable_is_an_error_and_so_are_wrong_arguments(tmp_path):
    (tmp_path / "labels.csv").write_text("a,b\n")
    with pytest.raises(FlowloomError, match=r"no capture could be read: .*the folder has no capture; check the path"):
        read_flows(tmp_path)
    with pytest.raises(FlowloomError, match="no such file, and no file matches it as a glob"):
        read_flows(tmp_path / "*.pcap")
    with pytest.raises(FlowloomError, match="batch_size must be at least 1, got 0"):
        scan_flows(tmp_path, batch_size=0)
    with pytest.raises(FlowloomError, match="captures must name at least 1 file"):
        scan_flows([])
