"""PTransforms of the metering job: each gives the same results as the function of its name in memory."""

from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, pcap, udp

from flowloom.schemas.arrow.rows import FLOWS, label_column
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.packet_view import PacketView
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.transforms.captures.capture_files import capture_digest
from flowloom.transforms.captures.groups import Capture, CaptureGroup
from flowloom.transforms.io.spill import read_spilled
from flowloom.transforms.metering.join_packets import join_packets
from flowloom.transforms.metering.meter_cache import MeterCache, cache_metering, cached_metering, plan_cached_group
from flowloom.transforms.metering.meter_ranges import (
    join_partitions,
    meter_ranges,
    read_cached_metering,
    sha256_captures,
)
from flowloom.transforms.metering.metering_ptransforms import (
    CacheMetering,
    JoinPackets,
    JoinPartitions,
    MeterRanges,
    PacketsAndFlows,
    PlanMetering,
    ReadCachedMetering,
    Sha256Captures,
)
from flowloom.transforms.metering.scheduling import Sha256Task, plan_metering

NS = 1_700_000_000_000_000_000
DEFINITION = FlowDefinition()
VIEW = PacketView(length=80)
SPLIT_BYTES = 40_000


@pytest.fixture
def groups(tmp_path) -> list[CaptureGroup]:
    """Returns a group that is split into ranges, and one that is not."""
    found = []
    for name, packets in (("long", 300), ("short", 20)):
        frames = [
            (NS + at * 1_000_000, ethernet(ipv4(udp(bytes(500), 1000 + at % 7, 4000), protocol=17)))
            for at in range(packets)
        ]
        path = tmp_path / f"{name}.pcap"
        path.write_bytes(pcap(frames))
        capture = Capture(str(path), path.stat().st_size, "0123456789abcdef", None, NS, (0,))
        found.append(CaptureGroup({"long": "a", "short": "b"}[name] * 16, (capture,)))
    return found


@pytest.fixture
def job(tmp_path) -> str:
    (tmp_path / "job").mkdir()
    return str(tmp_path / "job")


def tables(batches) -> list[list[dict]]:
    """Returns the rows of batches in a canonical order."""
    return sorted((batch.to_pylist() for batch in batches), key=str)


def flow_rows(batches) -> list[dict]:
    """Returns the rows of all batches; the number of batches depends on the bundles."""
    return sorted(pa.Table.from_batches(batches, FLOWS).to_pylist(), key=str)


def accounts(found) -> list[tuple]:
    return sorted((each.group, each.flows, each.flows_short, str(each.captures.to_pylist())) for each in found)


def fragments(found) -> list[tuple]:
    return sorted(
        ((*key, part.position), part.clock_ns, part.spilled and read_spilled([part.spilled]).to_pylist())
        for key, part in found
    )


def packets(found) -> list[tuple]:
    return sorted(
        (group, part.position, [read_spilled([place]).to_pylist() for place in (*part.packets, *part.numbers)])
        for group, part in found
    )


@pytest.mark.parametrize("workers", [None, 2])
def test_tasks_and_captures_to_hash_are_planned(groups, workers):
    tasks, hashed = plan_metering(groups, DEFINITION, SPLIT_BYTES, sha256=True)
    assert len(hashed) == len(groups)
    assert len(tasks) > 4
    with beam.Pipeline("FnApiRunner") as pipeline:
        planned = pipeline | PlanMetering(groups, DEFINITION, SPLIT_BYTES, workers, sha256=True)
        planned.tasks | "Tasks" >> beam.combiners.ToList() | "SameTasks" >> beam.Map(same, tasks)
        planned.sha256_tasks | "Hashed" >> beam.combiners.ToList() | "SameHashed" >> beam.Map(same, hashed)


def same(found: list, expected: list) -> None:
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_captures_are_hashed_or_rejected(groups, tmp_path):
    tasks = [Sha256Task(group.captures[0].uri) for group in groups] + [Sha256Task(str(tmp_path / "gone.pcap"))]
    found = tasks | Sha256Captures()
    hashed, rejects = sha256_captures(tasks)
    assert len(hashed) == 2
    assert found.hashed == hashed
    assert found.rejects == rejects


@pytest.mark.parametrize("packet_view", [None, VIEW])
def test_ranges_are_metered(groups, job, packet_view):
    tasks, _ = plan_metering(groups, DEFINITION, SPLIT_BYTES)
    expected = meter_ranges(tasks, DEFINITION, job, packet_view)
    metered = tasks | MeterRanges(DEFINITION, job, packet_view)
    assert flow_rows(metered.flows) == flow_rows(expected.flows)
    assert fragments(metered.fragments) == fragments(expected.fragments) != []
    assert packets(metered.packets) == packets(expected.packets)
    assert bool(metered.packets) == (packet_view is not None)
    assert metered.counts == expected.counts
    assert accounts(metered.accounts) == accounts(expected.accounts)


@pytest.mark.parametrize("numbered", [False, True])
def test_fragments_are_joined(groups, job, numbered):
    tasks, _ = plan_metering(groups, DEFINITION, SPLIT_BYTES)
    found = meter_ranges(tasks, DEFINITION, job, VIEW if numbered else None).fragments
    expected = join_partitions(found, DEFINITION, numbered=numbered)
    joined = found | JoinPartitions(DEFINITION, job, numbered)
    assert flow_rows(joined.flows) == flow_rows([each.flows for each in expected]) != []
    assert accounts(joined.accounts) == accounts([each.account for each in expected])
    numbers = [read_spilled(part.numbers).to_pylist() for _, part in joined.packets]
    assert sorted(numbers, key=str) == tables(each.numbers for each in expected if each.numbers)


def test_packets_get_the_labels_of_their_flows(groups, job):
    tasks, _ = plan_metering(groups, DEFINITION, SPLIT_BYTES)
    metered = meter_ranges(tasks, DEFINITION, job, VIEW)
    joined = join_partitions(metered.fragments, DEFINITION, numbered=True)
    flows = [labelled(rows) for rows in (*metered.flows, *(each.flows for each in joined))]
    spilled = [*metered.packets, *(packets for each in joined for packets in each.packets(job))]
    rows, counts = join_packets(spilled, flows, None, job)
    attached = PacketsAndFlows(spilled, flows) | JoinPackets(None, job)
    assert tables(attached.rows) == tables(rows)
    assert sorted(attached.counts, key=str) == sorted(counts, key=str)
    assert sum(each.rows for each in counts) == 320


def labelled(flows: pa.RecordBatch) -> pa.RecordBatch:
    ports = pa.array([port % 2 for port in flows["src_port"].to_pylist()], pa.int32())
    split = pa.array([0] * flows.num_rows, pa.int8())
    return flows.append_column(label_column("app"), ports).append_column(SPLIT_COLUMN, split)


def test_cached_captures_give_the_results_of_metering(groups, tmp_path, job):
    cache = MeterCache(str(tmp_path / "cache"), DEFINITION)
    digests = {group.captures[0].uri: capture_digest(group.captures[0].uri) for group in groups}
    tasks = [task for group in groups for task in plan_cached_group(group, digests, alone=False)]
    sizes = {uri: Path(uri).stat().st_size for uri in digests}
    with beam.Pipeline("FnApiRunner") as pipeline:
        folders = pipeline | CacheMetering(tasks, sizes, cache, job, workers=2)
        folders | beam.combiners.ToList() | beam.Map(same, [cache.folder(task) for task in tasks])
    assert cache_metering(tasks, cache) == [cache.folder(task) for task in tasks]

    cached = cached_metering(tasks, cache)
    read, metered = read_cached_metering(cached, job), meter_ranges(tasks, DEFINITION, job)
    assert flow_rows(read.flows) == flow_rows(metered.flows)
    assert [each.flows_short for each in read.accounts] == [each.flows_short for each in metered.accounts]
    with beam.Pipeline("FnApiRunner") as pipeline:
        results = pipeline | ReadCachedMetering(cached, job, workers=2)
        collect = beam.combiners.ToList()
        results.flows | "Flows" >> collect | "SameFlows" >> beam.Map(same_flows, read.flows)
        results.fragments | "Parts" >> collect | "SameParts" >> beam.Map(same_fragments, read.fragments)
        results.accounts | "Accounts" >> collect | "SameAccounts" >> beam.Map(same_accounts, read.accounts)


def same_flows(found: list, expected: list) -> None:
    assert flow_rows(found) == flow_rows(expected)


def same_fragments(found: list, expected: list) -> None:
    assert fragments(found) == fragments(expected) != []


def same_accounts(found: list, expected: list) -> None:
    assert accounts(found) == accounts(expected)
