"""Captures from pipes: the flows of the file, and the first of them while the writer goes on."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from capture_files import enhanced, ethernet, interface, ipv4, modified_pcap, pcap, section, snoop, udp

from flowloom.pipelines.flow_tables.flow_scan import FlowScan, read_flows, scan_flows
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.record_clock import LOOK_AHEAD

NS = 1_700_000_000_000_000_000
SECOND = 10**9
STARTS = [*range(6), *[5] * LOOK_AHEAD]  # a time counts once the records behind it confirm it
FRAMES = [(NS + at * 200 * SECOND, ethernet(ipv4(udp(bytes(100), 1000 + at, 53), protocol=17))) for at in STARTS]
FORMS = {
    "pcap": pcap(FRAMES),
    "pcapng": section() + interface(resolution=9) + b"".join(enhanced(frame, at) for at, frame in FRAMES),
    "modified": modified_pcap(FRAMES, usual_magic=True),
    "snoop": snoop(FRAMES),
}


@pytest.fixture
def pipe(tmp_path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece", [1, 37, 10_000])
def test_a_pipe_gives_the_flows_of_the_file(tmp_path, pipe, form, piece):
    path = tmp_path / "c"
    path.write_bytes(FORMS[form])

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for at in range(0, len(FORMS[form]), piece):
                file.write(FORMS[form][at : at + piece])

    writer = threading.Thread(target=write)
    writer.start()
    scan = scan_flows(pipe)
    rows = [row for batch in scan for row in batch.drop_columns(["flow_id", "group"]).to_pylist()]
    writer.join()
    assert rows == read_flows(path).drop_columns(["flow_id", "group"]).to_pylist()
    (account,) = scan.captures
    assert (account["bytes"], account["records"], account["metered"]) == (len(FORMS[form]), len(FRAMES), len(FRAMES))
    (expected,) = _accounts(path)
    assert account["digest"] == expected["digest"]


def _accounts(path: Path) -> list[dict]:
    scan = scan_flows(path)
    for _ in scan:
        pass
    return scan.captures


@pytest.mark.parametrize("form", ["pcap", "pcapng", "snoop"])
def test_flows_come_before_the_writer_closes(pipe, form):
    begun, ended = threading.Event(), threading.Event()

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            file.write(FORMS[form])
            begun.set()
            ended.wait(60)

    writer = threading.Thread(target=write)
    writer.start()
    scan = scan_flows(pipe)
    first = next(scan)
    assert begun.is_set()
    assert not ended.is_set()
    assert first["src_port"].to_pylist()[0] == 1000
    ended.set()
    writer.join()
    assert first.num_rows + sum(batch.num_rows for batch in scan) == 6


def test_a_stream_that_ends_early_or_is_empty_is_a_reject(pipe):
    for content, reason in ((FORMS["pcap"][:-3], "cut-off"), (b"", "empty"), (b"x" * 999, "not-a-capture")):
        writer = threading.Thread(target=lambda content=content: pipe.write_bytes(content))
        writer.start()
        scan = FlowScan([str(pipe)], FlowDefinition.of(), progress=lambda event: None)
        try:
            assert sum(batch["packets_fwd"].to_numpy().sum() for batch in scan) == len(FRAMES) - 1
        except FlowloomError:
            assert reason != "cut-off"
        writer.join()
        assert [reject["reason"] for reject in scan.rejects] == [reason]


def test_lines_of_json_on_standard_output():
    command = [sys.executable, "-c", "from flowloom.pipelines.cli.main import main; main()", "flows", "-", "-o", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(FORMS["pcap"])
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.stdin.close()
        rest = process.stdout.read()
    assert (first["src_ip"], first["src_port"]) == ("10.0.0.1", 1000)
    assert [json.loads(line)["src_port"] for line in rest.splitlines()] == [1001, 1002, 1003, 1004, 1005]
    assert process.returncode == 0
