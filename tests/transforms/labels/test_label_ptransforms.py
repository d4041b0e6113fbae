"""PTransforms of labels, run eagerly: each gives the same results as the function of its name in memory."""

import apache_beam as beam
import numpy as np
import pyarrow as pa
from capture_files import ethernet, ipv4, pcap, udp
from synthetic import synthetic_flows

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import PacketTable
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.transforms.captures.groups import Capture, CaptureGroup, GroupPlan, reject_rows
from flowloom.transforms.labels.join_labels import FlowSource
from flowloom.transforms.labels.label_bins import find_label_bins
from flowloom.transforms.labels.label_flows import GroupLabels, label_flows
from flowloom.transforms.labels.label_ptransforms import FindLabelBins, LabelFlows, WindowCaptures
from flowloom.transforms.labels.window_sources import WindowSource, window_captures

GROUPS = ("a" * 16, "b" * 16)
BATCHES = [synthetic_flows(20, seed=at, group=group) for at, group in enumerate(GROUPS)]
MANIFEST = parse_manifest(
    {
        "name": "m",
        "captures": [{"glob": "one", "labels": {"app": "ssh"}}],
        "tasks": {"app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]}},
    },
    "m.yaml",
)


def test_flows_are_labelled_and_their_sources_counted():
    by_path = GroupLabels(GROUPS[0], (1,), (), has_records=True)
    by_flow = GroupLabels(GROUPS[1], (None,), (), has_records=True, sources=(FlowSource("app", "one", "path", code=0),))
    labels = (by_path, by_flow)
    labelled = BATCHES | LabelFlows(labels, MANIFEST)
    expected = [label_flows(flows, labels, MANIFEST) for flows in BATCHES]
    assert labelled.flows == [flows for flows, _ in expected]
    assert labelled.counts == [expected[1][1]]
    assert labelled.counts[0].by_source["app", "one"].labelled == 20


def test_label_bins_are_found_on_the_train_split():
    app = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    by_means = Task(
        name="length", kind="auto", quantity="duration", dividers=Dividers(method="class-means", reference="app")
    )
    by_quantiles = Task(name="pace", kind="auto", quantity="duration", dividers=Dividers(method="quantiles", classes=3))
    tasks = (app, by_means, by_quantiles)
    batches = [
        flows.append_column("label_app", pa.array([at % 2 for at in range(20)], pa.int32())).append_column(
            "split", pa.array([at % 3 for at in range(20)], pa.int8())
        )
        for flows in BATCHES
    ]
    expected = find_label_bins(batches, tasks)
    assert expected.fault is None
    assert all(task.dividers is None or task.dividers.at for task in expected.tasks)
    assert batches | FindLabelBins(tasks) == [expected]


def test_captures_get_their_label_windows(tmp_path):
    frames = [(1_700_000_000_000_000_000 + at, ethernet(ipv4(udp(b"x", 1000, 4000), protocol=17))) for at in range(9)]
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(frames))
    capture = Capture(str(path), path.stat().st_size, "0" * 64, "0" * 64, 1, (0,))
    plan = GroupPlan((CaptureGroup(GROUPS[0], (capture,)),), reject_rows([]))
    source = WindowSource(0, PacketTable(path="p.csv", task="app"), str(tmp_path / "w"))
    np.save(source.codes, np.array([0, 1] * 5, np.int32))

    expected = window_captures(plan, [source], MANIFEST.tasks, FlowDefinition())
    written = tmp_path / f"w-{GROUPS[0]}.windows"
    content = written.read_bytes()
    written.unlink()
    assert expected[0].num_rows == 1
    with beam.Pipeline("FnApiRunner") as pipeline:
        rejects = pipeline | WindowCaptures(plan, (source,), MANIFEST.tasks, FlowDefinition())
        rejects | beam.combiners.ToList() | beam.Map(same, expected)
    assert written.read_bytes() == content


def same(found: list, expected: list) -> None:
    assert found == expected
