"""`compare_definitions`: a capture file in, a report that adds up out."""

import dataclasses
import io
import json
import re

import pytest
from capture_files import ACK, FIN, SYN, ethernet, ipv4, pcap, tcp, udp
from rich.console import Console

from flowloom.pipelines.flow_tables.compare import (
    CompareOptions,
    CompareReport,
    Difference,
    compare_definitions,
    comparison_table,
)
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress

NS = 1_700_000_000_000_000_000


def test_a_report_says_what_differs_and_why(tmp_path):
    def segment(second, *args):
        return NS + second * 10**9, ethernet(ipv4(tcp(*args)))

    path = tmp_path / "c.pcap"
    path.write_bytes(
        pcap(
            [
                segment(0, b"", 1, 80, SYN),
                segment(1, b"", 1, 80, FIN | ACK),
                (NS + 2 * 10**9, ethernet(ipv4(tcp(b"x", 80, 1, ACK), "10.0.0.2", "10.0.0.1"))),
                (NS + 3 * 10**9, ethernet(ipv4(udp(b"x", 5, 53), protocol=17))),
            ]
        )
    )
    seen: list[Progress] = []
    report = compare_definitions(
        CompareOptions(str(path), FlowDefinition.of(), FlowDefinition.of("multitask-cnn"), examples=1), seen.append
    )
    assert json.loads(json.dumps(dataclasses.asdict(report))) == {
        "capture": str(path),
        "options": {
            "preset": ["default", "multitask-cnn"],
            "idle_udp_s": [None, 15.0],
            "tcp_close": ["lifecycle", "fin"],
        },
        "flows": {"a": 2, "b": 3},
        "equal": 1,
        "differences": [
            {
                "cause": "tcp close",
                "only_a": 0,
                "only_b": 1,
                "both": 1,
                "examples": [
                    {
                        "src_ip": "10.0.0.1", "src_port": 1, "dst_ip": "10.0.0.2", "dst_port": 80, "protocol": 6,
                        "start_ns": NS,
                        "a": {"packets": 3, "duration_s": 2.0, "end_reason": "forced-end"},
                        "b": {"packets": 2, "duration_s": 1.0, "end_reason": "end-detected"},
                    }
                ],
            }
        ],
    }  # fmt: skip
    assert seen == [
        Progress(f"metering {path} by {preset}", done, 2, stays=True)
        for done, preset in enumerate(("default", "multitask-cnn"))
    ]


@pytest.mark.parametrize("content", [None, b"", b"no capture at all"])
def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "c.pcap"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FlowloomError, match="flows can be compared, and packet-windows gives a row for each packet"):
        CompareOptions("c.pcap", FlowDefinition(), FlowDefinition.of("packet-windows"))
    with pytest.raises(FlowloomError, match=r"c\.pcap: "):
        compare_definitions(CompareOptions(str(path), FlowDefinition.of(), FlowDefinition.of("nfstream")))


def test_the_table_shows_counts_and_examples():
    side = {"packets": 1200, "duration_s": 1.5, "end_reason": "idle-timeout"}
    ends = {"src_ip": "::1", "src_port": 1, "dst_ip": "::2", "dst_port": 2, "protocol": 17, "start_ns": 0}
    found = Difference("idle timeout", 0, 1300, 4, [ends | {"a": None, "b": side}])
    report = CompareReport("x.pcap", {}, {"a": 14, "b": 1314}, 10, [found])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_table(report, "default", "mine"))
    text = console.export_text()
    assert "x.pcap: 14 flows by default, 1,314 by mine, 10 equal" in text
    assert re.search(r"idle timeout +0 +1,300 +4", text)
    assert re.search(r"::1 1 > ::2 2, protocol 17 +- +1,200 packets, 1\.500 s", text)


def test_real_captures_add_up(real_data):
    for name in ("skype.pcap", "mongodb.pcap", "6in4tunnel.pcap", "http_ipv6.pcap"):
        path = str(real_data / "nfstream-tests/pcaps" / name)
        report = compare_definitions(
            CompareOptions(path, FlowDefinition.of("datazoo-30"), FlowDefinition.of("nfstream"))
        )
        for side in "ab":
            differing = sum(getattr(found, f"only_{side}") + found.both for found in report.differences)
            assert report.flows[side] == report.equal + differing
        assert all(found.cause != "other" for found in report.differences)
