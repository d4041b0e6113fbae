"""Flows on all cores: the bytes and accounts of one worker, for any captures, definitions, workers and windows."""

import contextlib
import dataclasses
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture_files import ACK, FIN, SYN, ethernet, ipv4, pcap, tcp
from cut_captures import patched
from hypothesis import given, settings
from hypothesis import strategies as st
from random_captures import RandomGroup, definitions, groups

from flowloom.pipelines.flow_tables import capture_flows, flow_scan
from flowloom.pipelines.flow_tables.compare import CompareOptions, compare_definitions
from flowloom.pipelines.flow_tables.flow_scan import FlowScan, RejectWarning, read_flows, scan_flows
from flowloom.pipelines.flow_tables.table_writers import FORMATS
from flowloom.pipelines.flows import FlowsOptions, FlowsReport, meter_captures
from flowloom.schemas.corpus.flow_definition import PRESETS, FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress
from flowloom.transforms.captures import capture_window, records
from flowloom.transforms.flows import flow_shards, meter
from flowloom.transforms.flows.flow_shards import NAME as SHARDS
from flowloom.transforms.io.ahead import NAME as AHEAD
from flowloom.transforms.metering import group_reader

NS, SECOND = 1_700_000_000_000_000_000, 10**9


@dataclasses.dataclass
class Windows:
    """Sizes that must not change anything: records decoded at a time, bytes read at a time, flows of a batch."""

    chunk_records: int = records.CHUNK_RECORDS
    read_bytes: int = capture_window.READ_BYTES
    take_flows: int = meter.TAKE_FLOWS


@contextlib.contextmanager
def windows(sizes: Windows) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(patched(records, CHUNK_RECORDS=sizes.chunk_records))
        stack.enter_context(patched(capture_window, READ_BYTES=sizes.read_bytes))
        for module in (meter, flow_shards, group_reader):
            stack.enter_context(patched(module, TAKE_FLOWS=sizes.take_flows))
        # every capture counts as a large one
        stack.enter_context(patched(capture_flows, _ONE_THREAD_BYTES=0, _DECODED_BYTES=1))
        stack.enter_context(patched(flow_scan, _WAITING_BYTES=1))
        yield


def written(
    captures: tuple[str, ...], definition: FlowDefinition, folder: Path, suffix: str, workers: int
) -> tuple[bytes, FlowsReport, list[Progress]] | str:
    """Returns the file of `flowloom flows`, its report without times and its messages, or the sentence of its error."""
    told: list[Progress] = []
    output = folder / f"flows{suffix}"
    try:
        report = meter_captures(
            FlowsOptions(captures, output, definition, capture_column=True, workers=workers), told.append
        )
    except FlowloomError as error:
        return str(error)
    return output.read_bytes(), dataclasses.replace(report, seconds={}), told


def threads_end() -> bool:
    """Returns whether all threads of readers end; other tests of this process may have threads of their own."""
    gc.collect()
    for thread in reading():
        thread.join(60)
    return not reading()


def reading() -> list[threading.Thread]:
    """Returns the threads that read captures."""
    return [each for each in threading.enumerate() if each.name.startswith((AHEAD, SHARDS))]


sizes = st.builds(
    Windows,
    st.sampled_from([1, 2, 5, records.CHUNK_RECORDS]),
    st.sampled_from([64, 500, capture_window.READ_BYTES]),
    st.sampled_from([1, 3, meter.TAKE_FLOWS]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


def write(group: RandomGroup, folder: Path) -> list[str]:
    paths = [folder / f"{number}.capture" for number, _ in enumerate(group.files)]
    for path, parts in zip(paths, group.parts(), strict=True):
        path.write_bytes(b"".join(parts))
    return [str(path) for path in paths]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(groups(), definitions, st.integers(2, 5), sizes, st.randoms(use_true_random=False))
def test_any_workers_and_windows_give_the_bytes_of_one_worker(folder, group, definition, workers, sizes, random):
    uris = write(group, folder)
    random.shuffle(uris)
    expected = written(tuple(uris), definition, folder, ".parquet", 1)
    with windows(sizes):
        assert written(tuple(uris), definition, folder, ".parquet", workers) == expected
        assert written(tuple(uris), definition, folder, ".parquet", 1) == expected


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of 3,000 packets of 80 keys whose flows end in every way."""
    frames, clock = [], NS
    for at in range(3000):
        clock += [0, 1, SECOND // 50, SECOND // 7, 3 * SECOND][at * 7919 % 5] + (
            200 * SECOND if at % 1000 == 999 else 0
        )
        flags = [SYN, ACK, ACK, ACK | FIN, SYN | ACK][at * 31 % 5]
        back = at * 17 % 3 == 0
        ends = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
        port = 1000 + at * 104_729 % 80
        ports = (80, port) if back else (port, 80)
        frames.append((clock, ethernet(ipv4(tcp(bytes(at % 3), *ports, flags, seq=at % 4), *ends))))
    path = tmp_path_factory.mktemp("busy") / "busy.pcap"
    path.write_bytes(pcap(frames))
    return path


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("limit", [None, 64, 5])
def test_every_preset_at_every_limit(busy, tmp_path, preset, limit):
    options = {} if limit is None else {"max_open_flows": limit}
    definition = FlowDefinition.of(preset, **options)
    expected = written((str(busy),), definition, tmp_path, ".parquet", 1)
    if limit != 64 and definition.decision == "flow":  # at 64 some presets end flows early
        assert (expected[1].ended_early > 0) == (limit == 5)
    for workers in (2, 3, 5):
        with windows(Windows(chunk_records=100, take_flows=7)):
            assert written((str(busy),), definition, tmp_path, ".parquet", workers) == expected


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format(busy, corpus, tmp_path, suffix):
    captures = (str(corpus / "web"), str(busy), str(corpus / "none"), str(corpus / "web"))
    expected = written(captures, FlowDefinition.of("nfstream"), tmp_path, suffix, 1)
    assert len(expected[1].captures) > 2
    assert len(expected[1].rejects) == 1
    with windows(Windows(chunk_records=64, take_flows=5)):
        assert written(captures, FlowDefinition.of("nfstream"), tmp_path, suffix, 4) == expected


def test_rows_come_in_the_order_in_which_flows_end(tmp_path):
    def packet(second: int, port: int, flags: int = ACK, seq: int = 0) -> tuple[int, bytes]:
        return NS + second * SECOND, ethernet(ipv4(tcp(b"x", port, 80, flags, seq=seq)))

    path = tmp_path / "c.pcap"
    frames = [
        packet(0, 1), packet(1, 2, SYN, 1), packet(2, 3), packet(3, 1), packet(4, 2, SYN, 2),
        packet(123, 4), packet(124, 5),
    ]  # fmt: skip
    path.write_bytes(pcap(frames))
    for workers in (1, 3):
        with windows(Windows()):
            rows = read_flows(path, "default", workers=workers).to_pylist()
        # a new connection ended 2 at second 4; the timeouts of 3 and 1 are over at 122 and 123; then the end
        assert [(row["src_port"], row["packets_fwd"]) for row in rows] == [
            (2, 1),
            (3, 1),
            (1, 2),
            (2, 1),
            (4, 1),
            (5, 1),
        ]


def test_python_takes_workers(busy):
    one = read_flows(busy, workers=1)
    assert one.equals(read_flows(busy, workers=3))
    assert one.equals(read_flows(busy))
    scan = scan_flows([busy], batch_size=100, workers=2)
    *full, last = [batch.num_rows for batch in scan]
    assert set(full) == {100}
    assert 0 < last <= 100
    with pytest.raises(FlowloomError, match="workers must be at least 1, got 0"):
        scan_flows(busy, workers=0)
    with pytest.raises(FlowloomError, match="workers must be at least 1, got 0"):
        CompareOptions(str(busy), FlowDefinition.of(), FlowDefinition.of("nfstream"), workers=0)


def test_definitions_are_compared_by_any_number_of_workers(busy):
    options = CompareOptions(str(busy), FlowDefinition.of("nfstream"), FlowDefinition.of("multitask-cnn"), workers=1)
    assert compare_definitions(options) == compare_definitions(dataclasses.replace(options, workers=2))


def test_damage_in_the_middle_closes_the_account_of_every_worker(busy, tmp_path):
    content = busy.read_bytes()
    for at in range(6):
        (tmp_path / f"{at}.pcap").write_bytes(content[: len(content) // (at + 1) - 5] if at % 2 else content)
    definition = FlowDefinition.of()
    expected = written((str(tmp_path / "*.pcap"),), definition, tmp_path, ".csv", 1)
    assert len(expected[1].rejects) == 3
    with windows(Windows(chunk_records=50)):
        assert written((str(tmp_path / "*.pcap"),), definition, tmp_path, ".csv", 4) == expected


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("odd")])
def test_a_failing_worker_ends_the_command_with_one_sentence(busy, tmp_path, command, monkeypatch, error):
    calls = itertools.count()

    def fail(*arguments: object) -> None:
        if next(calls) == 3:
            raise error

    monkeypatch.setattr("flowloom.transforms.metering.group_reader.steps_back", lambda *each: fail() or 0)
    with windows(Windows(chunk_records=100)):
        code, _, err = command("flows", busy, busy.parent, "-o", tmp_path / "f.parquet", "--workers", "4")
    assert code in (1, 70)
    (sentence,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert any(text in sentence for text in ("No space left on device", "memory is used up", "RuntimeError: odd"))
    assert os.listdir(tmp_path) == []
    assert threads_end()


def test_a_scan_that_is_given_up_leaves_no_thread(busy):
    with windows(Windows(chunk_records=20, take_flows=1)):
        scan: FlowScan | None = scan_flows([busy], batch_size=1, workers=4)
        next(scan)
        assert reading()
        scan.close()
        assert list(scan) == []
    del scan
    assert threads_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command_and_nothing_is_left(tmp_path, number):
    frame = ethernet(ipv4(tcp(bytes(400), 1, 2)))
    record = pcap([(NS, frame)])[24:]
    path, out = tmp_path / "large.pcap", tmp_path / "out"
    path.write_bytes(pcap([]) + record * 400_000)
    out.mkdir()
    code = "from flowloom.pipelines.cli.main import main; main()"
    paths = [str(path)] + [str(path.with_name(f"{at}.pcap")) for at in range(20)]
    for each in paths[1:]:
        os.link(path, each)
    process = subprocess.Popen(
        [sys.executable, "-c", code, "flows", *paths, "-o", str(out / "f.parquet"), "--workers", "3"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "metering" not in process.stderr.readline():
        pass
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) == 128 + number
    assert "unfinished files were removed" in rest
    assert "Traceback" not in rest
    assert os.listdir(out) == []


def test_warnings_of_rejects_come_in_order(busy, tmp_path):
    for at in range(5):
        (tmp_path / f"{at}.pcap").write_bytes(busy.read_bytes()[: -5 if at % 2 else None])
    with pytest.warns(RejectWarning) as warned:
        read_flows(tmp_path, workers=4)
    assert [Path(str(each.message).partition(": ")[0]).stem for each in warned] == ["1", "3"]
