"""Labels by DPI: nDPI results as label windows; the tests of pipelines run NFStream itself."""

import pyarrow as pa
import pytest
from capture_files import pcap

from flowloom.schemas.arrow.label_windows import INSPECTED
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import Dpi
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.labels.dpi import (
    dpi_windows,
    inspect_captures,
    nfstream_options,
    read_inspected,
    require_nfstream,
)

APP = Task(name="app", kind="multiclass", vocabulary=("dns", "TLS"))


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
def test_names_become_labels_and_guesses_unknown(changes, options, code):
    described = Dpi(task="app", words={"DNS": "dns", "Network": "dns"}, **options)
    windows = dpi_windows(inspected(**changes), described, APP)
    assert windows["code"].to_pylist() == [0, code]
    assert windows["confidence"][1].as_py() == changes.get("confidence", 6)
    assert (windows["first_ns"][0].as_py(), windows["last_ns"][0].as_py()) == (5_000_000, 7_999_999)


@pytest.mark.parametrize(
    "damaged", [{"first_ms": -5}, {"last_ms": 2**63 // 10**6}, {"first_ms": 2**62, "last_ms": 2**62}]
)
def test_flows_with_invalid_times_are_dropped(damaged):
    windows = dpi_windows(inspected(**damaged), Dpi(task="app"), APP)
    assert windows["last_ns"].to_pylist() == [7_999_999]


def test_nfstream_gets_the_flow_definition():
    assert nfstream_options(FlowDefinition.of("nfstream")) == {
        "idle_timeout": 120, "active_timeout": 1800, "decode_tunnels": True,
    }  # fmt: skip
    assert nfstream_options(FlowDefinition.of())["decode_tunnels"] is False


def test_a_missing_nfstream_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FlowloomError, match=r"pip install 'flowloom\[dpi\]'"):
        require_nfstream()


def test_a_process_that_fails_leaves_its_captures_without_labels(tmp_path):
    (tmp_path / "c.pcap").write_bytes(pcap([]))
    out = str(tmp_path / "out.arrow")
    jobs = {out: [str(tmp_path / "c.pcap"), str(tmp_path / "missing.pcap")]}
    refused = inspect_captures(jobs, FlowDefinition.of(), "false")
    assert refused[str(tmp_path / "c.pcap")] == "NFStream failed: exit code 1"
    assert "No such file" in refused[str(tmp_path / "missing.pcap")]
    windows = dpi_windows(read_inspected(out), Dpi(task="app"), APP)
    assert windows.num_rows == 0
