"""Label joins: precedence, conflicts, rules, and counts of every flow for every source."""

import numpy as np
import pyarrow as pa
import pytest
from capture_files import ACK, SYN, ethernet, ipv4, pcap, tcp
from hypothesis import given
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.transforms.arrays.columns import view
from flowloom.transforms.captures.groups import Capture, CaptureGroup
from flowloom.transforms.captures.ranges import CaptureRange
from flowloom.transforms.labels.join_labels import (
    Counts,
    FlowSource,
    SourceLabels,
    apply_source,
    join_sources,
    merge_labels,
)
from flowloom.transforms.labels.label_flows import GroupLabels, label_by_path, label_group
from flowloom.transforms.labels.packet_labels import packet_windows
from flowloom.transforms.labels.window_sources import WindowSource
from flowloom.transforms.metering.group_reader import GroupReader
from flowloom.transforms.splits.splits import plan_splits
from flowloom.transforms.windows.window_files import write_windows
from flowloom.transforms.windows.window_index import window_batch
from flowloom.transforms.windows.window_match import NO_WINDOW

DEFINITION = FlowDefinition.of()
GROUP = "00c0ffee00c0ffee"
NS = 1_700_000_000_000_000_000
TABLE = {"path": "labels.csv", "task": "attack", "columns": {"start": "start", "label": "label"}}

given_labels = st.lists(
    st.lists(st.tuples(st.integers(NO_WINDOW, 2), st.booleans()), min_size=8, max_size=8).map(
        lambda rows: [(code, several and code != NO_WINDOW) for code, several in rows]
    ),
    min_size=1,
    max_size=4,
)


def labels_of(rows: list[tuple[int, bool]]) -> SourceLabels:
    codes = np.array([code for code, _ in rows], np.int32)
    return SourceLabels(codes, np.array([several for _, several in rows], bool), *[np.zeros(len(rows), bool)] * 2)


def oracle(sources: list[tuple[int, bool]], on_conflict: str, missing: int | None) -> int | None:
    """Returns the label of one flow from the labels of its sources."""
    known = [code for code, _ in sources if code >= 0]
    if on_conflict == "unknown" and (len(set(known)) > 1 or any(several for _, several in sources)):
        return None
    if known:
        return known[0]
    return missing if all(code == NO_WINDOW for code, _ in sources) else None


@given(given_labels, st.sampled_from(["first", "unknown", "error"]), st.none() | st.just(0))
def test_the_first_source_with_a_label_wins(sources, on_conflict, missing):
    codes, counts = merge_labels([labels_of(rows) for rows in sources], on_conflict, missing)
    flows = list(zip(*sources, strict=True))
    assert [None if code < 0 else code for code in codes.tolist()] == [oracle(f, on_conflict, missing) for f in flows]
    assert [c.labelled for c in counts] == [sum(code >= 0 for code, _ in rows) for rows in sources]
    assert [c.ambiguous for c in counts] == [sum(several for _, several in rows) for rows in sources]
    assert counts[0].conflicts == 0
    disputed = sum(len({code for code, _ in flow if code >= 0}) > 1 for flow in flows)
    assert max(c.conflicts for c in counts) <= disputed <= sum(c.conflicts for c in counts)


def test_labelled_flows_are_counted_by_confidence_and_batches_add_up():
    sure = [np.array([6, 1, 6, 3], np.uint8), np.array([6, 6, 0, 0], np.uint8)]
    codes = [np.array([0, 1, UNKNOWN_LABEL, 1], np.int32), np.array([1, NO_WINDOW, 0, 0], np.int32)]
    nowhere = np.zeros(4, bool)
    counts = [
        merge_labels([SourceLabels(code, nowhere, nowhere, nowhere, level)], "first", None)[1][0]
        for code, level in zip(codes, sure, strict=True)
    ]
    assert [count.confidence for count in counts] == [{1: 1, 3: 1, 6: 1}, {0: 2, 6: 1}]
    total = counts[0] + counts[1]
    assert (total.flows, total.labelled, total.unknown_words) == (8, 6, 1)
    assert total.confidence == {0: 2, 1: 1, 3: 1, 6: 2}


def manifest(**entry):
    return parse_manifest(
        {"name": "m", "captures": [{"glob": "a", **entry}], "tasks": {"attack": {"kind": "binary"}}}, "m.yaml"
    )


def group(*sources: int) -> CaptureGroup:
    return CaptureGroup(GROUP, (Capture("x", 9, "0" * 64, "0" * 64, 1, sources),))


def test_sources_of_an_entry_have_the_documented_order():
    described = manifest(
        labels={"attack": True}, label_table=TABLE, packet_table={"path": "packets.csv", "task": "attack"},
        dpi={"task": "attack"}, label_tables=[TABLE | {"path": "more.csv", "default": "negative"}],
    )  # fmt: skip
    windows = [WindowSource(0, spec, f"w{at}") for at, spec in enumerate(described.captures[0].window_specs)]
    labels = label_group(group(0), described, windows)
    assert [(s.kind, s.name) for s in labels.sources] == [
        ("path", "a"), ("table", "labels.csv"), ("table", "more.csv"), ("packets", "packets.csv"),
        ("dpi", "nDPI application_name"),
    ]  # fmt: skip
    assert (labels.codes, labels.claims) == ((None,), ())
    assert [s.default for s in labels.sources] == [None, None, 0, None, None]


def test_a_group_without_such_a_source_is_labelled_by_path():
    described = manifest(labels={"attack": True})
    other = WindowSource(1, manifest(dpi={"task": "attack"}).captures[0].window_specs[0], "w")
    assert label_group(group(0), described, [other]) == label_group(group(0), described)


def test_a_default_labels_flows_that_no_row_matches(tmp_path):
    flows = synthetic_flows(100, group=GROUP)
    path = str(tmp_path / "w.arrow")
    write_windows(path, windows_like(flows.slice(0, 30), 1), "time")
    source = FlowSource("attack", "t", "table", windows=path, default=0)
    labels = (GroupLabels(GROUP, (None,), (), True, (source,)),)
    described = manifest(label_table=TABLE)
    joined, counts, _ = join_sources(label_by_path(flows, labels, described.tasks), {GROUP: [source]}, described)
    assert joined["label_attack"].to_pylist() == [1] * 30 + [0] * 70
    assert counts == {("attack", "t"): Counts(100, 100, 0, 0, 70, 0, 70)}


def test_only_flows_of_groups_with_sources_are_labelled(tmp_path):
    one, two = synthetic_flows(10, group=GROUP), synthetic_flows(10, group="b" * 16)
    mixed = pa.Table.from_batches([one, two, one]).combine_chunks().to_batches()[0]
    path = str(tmp_path / "w.arrow")
    write_windows(path, windows_like(pa.Table.from_batches([one, two]).combine_chunks().to_batches()[0], 1), "time")
    source = FlowSource("attack", "t", "table", windows=path)
    labels = (GroupLabels(GROUP, (None,), (), True, (source,)), GroupLabels("b" * 16, (0,), (), True))
    described = manifest(label_table=TABLE)
    joined, counts, _ = join_sources(label_by_path(mixed, labels, described.tasks), {GROUP: [source]}, described)
    assert joined["label_attack"].to_pylist() == [1] * 10 + [0] * 10 + [1] * 10
    assert counts["attack", "t"].flows == 20
    assert joined.drop_columns(["label_attack"]) == mixed


def windows_like(flows: pa.RecordBatch, code: int) -> pa.RecordBatch:
    start = view(flows["start"])
    key = {name: view(flows[name]) for name in WINDOW_KEY}
    return window_batch(key, start, start + view(flows["duration_ns"]), np.full(flows.num_rows, code, np.int32))


def packet_capture(tmp_path, flows: int = 4, packets: int = 4) -> str:
    """Writes a capture whose first record is not an IP packet, followed by alternating packets of some flows."""
    frames = [(NS, ethernet(bytes(28), 0x0806))]
    for packet in range(packets):
        for flow in range(flows):
            flags = SYN if packet == 0 else ACK
            ends = ("10.0.0.1", "10.0.0.2") if packet % 2 == 0 else ("10.0.0.2", "10.0.0.1")
            ports = (1000 + flow, 80) if packet % 2 == 0 else (80, 1000 + flow)
            frames.append((NS + 1000 * len(frames), ethernet(ipv4(tcp(b"", *ports, flags), *ends))))
    path = tmp_path / "c.pcap"
    path.write_bytes(pcap(frames))
    return str(path)


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("any", [0, 1, 1, 1, None]),
        ("majority", [0, 0, None, 1, None]),
        ("all", [0, None, None, None, None]),
    ],
)
def test_packets_vote_for_their_flow(tmp_path, rule, labels):
    # positive packets of the flows 0 to 4: none, one, two and three of four; the last has no label at all
    path = packet_capture(tmp_path, flows=5)
    positive = [0, 1, 2, 3, 0]
    codes = [0] + [
        UNKNOWN_LABEL if flow == 4 else int(packet < positive[flow]) for packet in range(4) for flow in range(5)
    ]
    windows, rejects = packet_windows(path, np.array(codes, np.int32), DEFINITION, "p.csv")
    assert rejects.num_rows == 0
    write_windows(str(tmp_path / "w.arrow"), windows, "windows")
    source = FlowSource("attack", "p.csv", "packets", windows=str(tmp_path / "w.arrow"), rule=rule)
    (flows,) = GroupReader([CaptureRange(path)], GROUP, DEFINITION).flows()
    found = apply_source(source, flows)
    by_port = {
        max(ports): None if code < 0 else code
        for *ports, code in zip(
            flows["src_port"].to_pylist(), flows["dst_port"].to_pylist(), found.codes.tolist(), strict=True
        )
    }
    assert [by_port[1000 + flow] for flow in range(5)] == labels
    assert int(found.ambiguous.sum()) == sum(label is None for label in labels[:4])


@pytest.mark.parametrize(
    ("rows", "detail"), [(30, "13 rows are ignored"), (9, "8 records have no label"), (0, "17 rec")]
)
def test_a_table_of_another_length_is_used_and_reported(tmp_path, rows, detail):
    path = packet_capture(tmp_path)
    windows, rejects = packet_windows(path, np.ones(rows, np.int32), DEFINITION, "p.csv")
    assert windows.num_rows == max(0, min(rows, 17) - 1)  # the first record is not an IP packet
    (reject,) = rejects.to_pylist()
    assert (reject["uri"], reject["offset"], reject["reason"]) == ("p.csv", min(rows, 17) + 1, "label-count")
    assert detail in reject["detail"]


def test_kitsunes_first_packets_are_benign(real_data):
    path = str(real_data / "kitsune-mirai" / "mirai2000.pcap")
    windows, rejects = packet_windows(path, np.zeros(764_137, np.int32), DEFINITION, "labels")
    assert "2,000 readable records, got 764,137 rows; 762,137 rows are ignored" in rejects["detail"][0].as_py()
    assert 0 < windows.num_rows <= 2000


def test_labels_that_differ_within_groups_are_split_by_flow():
    described = manifest()
    source = FlowSource("attack", "t", "table")
    groups = [GroupLabels(f"{at:016x}", (None,), (), True, (source,)) for at in range(9)]
    split_plan = plan_splits(groups, described.tasks, described.splits)
    assert split_plan.rule.by == "flow"
    assert "the same for all flows of a group, got different ones of: attack" in split_plan.rule.reason
    by_capture = plan_splits(groups, described.tasks, described.splits.model_copy(update={"by": "capture"}))
    assert by_capture.rule.by == "capture"
    assert "labels differ within a group: attack" in by_capture.rule.reason
    assert set(by_capture.of_group.values()) == {0, 1, 2}
