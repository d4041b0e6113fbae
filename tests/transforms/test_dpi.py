"""Labels by DPI: what nDPI says of flows as windows, and NFStream where it is installed."""

import gzip

import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.label_sources import Dpi
from flowloom.schemas.label_windows import INSPECTED
from flowloom.schemas.tasks import Task
from flowloom.transforms import dpi
from flowloom.transforms.dpi import dpi_windows, inspect_captures, nfstream_options, read_inspected, require_nfstream

APP = Task(name="app", kind="multiclass", vocabulary=("dns", "TLS"))
NS = 1_700_000_000_123_456_789
QUERY = bytes.fromhex("123401000001000000000000076578616d706c6503636f6d0000010001")


def inspected(**changes) -> pa.RecordBatch:
    row = {
        "src_ip": "10.0.0.1", "dst_ip": "fd00::2", "src_port": 1, "dst_port": 2, "protocol": 17, "first_ms": 5,
        "last_ms": 7, "application_name": "DNS", "application_category_name": "Network", "guessed": False,
        "confidence": 6,
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row, row | changes], schema=INSPECTED)


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({}, {}, 0),
        ({"application_name": "TLS"}, {}, 1),
        ({"application_name": "NTP"}, {}, -1),
        ({"guessed": True}, {}, -1),
        ({"guessed": True}, {"guesses": "keep"}, 0),
        ({"confidence": 1}, {}, 0),
        ({"confidence": 1}, {"min_confidence": 2}, -1),
        ({"application_category_name": "Web"}, {"field": "application_category_name"}, -1),
    ],
)
def test_names_become_words_and_guesses_unknown(changes, options, code):
    described = Dpi(task="app", words={"DNS": "dns", "Network": "dns"}, **options)
    windows = dpi_windows(inspected(**changes), described, APP)
    assert windows["code"].to_pylist() == [0, code]
    assert windows["confidence"][1].as_py() == changes.get("confidence", 6)
    assert (windows["first_ns"][0].as_py(), windows["last_ns"][0].as_py()) == (5_000_000, 7_999_999)


def test_nfstream_is_told_the_definition():
    assert nfstream_options(FlowDefinition.of("nfstream")) == {
        "idle_timeout": 120, "active_timeout": 1800, "decode_tunnels": True,
    }  # fmt: skip
    assert nfstream_options(FlowDefinition.of())["decode_tunnels"] is False


def test_without_nfstream_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(dpi.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FlowloomError, match=r"pip install 'flowloom\[dpi\]'"):
        require_nfstream()


def test_captures_are_inspected_and_what_cannot_be_is_named(tmp_path):
    pytest.importorskip("nfstream", reason="needs NFStream (pip install flowloom[dpi])")
    frames = [(NS + at, ethernet(ipv4(udp(QUERY, 4000, 53), "10.0.0.1", "10.0.0.2", 17))) for at in range(2)]
    paths = {name: str(tmp_path / name) for name in ("plain.pcap", "packed.pcap.gz", "text.pcap", "missing.pcap")}
    (tmp_path / "plain.pcap").write_bytes(pcap(frames))
    (tmp_path / "packed.pcap.gz").write_bytes(gzip.compress(pcap(frames)))
    (tmp_path / "text.pcap").write_text("no capture at all")
    jobs = {
        str(tmp_path / "one.arrow"): list(paths.values())[:1],
        str(tmp_path / "two.arrow"): list(paths.values())[1:],
    }
    refused = inspect_captures(jobs, FlowDefinition.of())
    assert refused.keys() == {paths["text.pcap"], paths["missing.pcap"]}
    for out in jobs:
        (flow,) = read_inspected(out).to_pylist()
        assert (flow["src_ip"], flow["dst_port"], flow["first_ms"]) == ("10.0.0.1", 53, NS // 1_000_000)
        assert flow["application_name"] == "DNS"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.arrow", "packed.pcap.gz", "plain.pcap", "text.pcap", "two.arrow",
    ]  # fmt: skip
