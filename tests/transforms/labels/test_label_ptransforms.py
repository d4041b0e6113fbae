"""PTransforms of labels, run eagerly: each gives the same results as the function of its name in memory."""

import ipaddress

import numpy as np
import pyarrow as pa
import pytest
from capture_files import ethernet, ipv4, pcap, udp
from synthetic import synthetic_flows

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.label_sources import PacketTable
from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.captures.groups import Capture, CaptureGroup, GroupPlan, reject_rows
from flowloom.transforms.labels.join_labels import FlowSource
from flowloom.transforms.labels.label_bins import find_label_bins
from flowloom.transforms.labels.label_flows import GroupLabels, label_flows
from flowloom.transforms.labels.label_ptransforms import FindLabelBins, LabelFlows, PlanLabels, WindowCaptures
from flowloom.transforms.labels.plan_labels import LabelPlan, describe_labels, plan_labels, with_windows
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
    plan = LabelPlan(MANIFEST, labels)
    labelled = BATCHES | LabelFlows(plan).with_counts()
    expected = [label_flows(flows, labels, MANIFEST) for flows in BATCHES]
    assert labelled.flows == [flows for flows, _ in expected]
    assert labelled.counts == [expected[1][1]]
    assert labelled.counts[0].by_source["app", "one"].labelled == 20
    assert BATCHES | LabelFlows(plan) == labelled.flows


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
    groups = (CaptureGroup(GROUPS[0], (capture,)),)
    source = WindowSource(0, PacketTable(path="p.csv", task="app"), str(tmp_path / "w"))
    np.save(source.codes, np.array([0, 1] * 5, np.int32))

    expected = window_captures(groups, [source], MANIFEST.tasks, FlowDefinition())
    written = tmp_path / f"w-{GROUPS[0]}.windows"
    content = written.read_bytes()
    written.unlink()
    assert expected[0].num_rows == 1
    plan = LabelPlan(MANIFEST, (), (source,), groups)
    assert [plan] | WindowCaptures(FlowDefinition()) == [with_windows(plan, expected)]
    assert written.read_bytes() == content


APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))


def capture_at(uri: str, *copies: str) -> Capture:
    return Capture(uri, 1, uri.encode().hex(), None, 1, (0,), copies=copies)


def group_plans(*captures: Capture) -> list[GroupPlan]:
    groups = [CaptureGroup(f"{at:016x}", (capture,)) for at, capture in enumerate(captures)]
    return [GroupPlan((group,), reject_rows([])) for group in groups]


@pytest.mark.parametrize(
    "entries",
    [
        {"in/web/*": {"app": "web"}, "in/ssh": {"app": "ssh"}},
        [{"glob": "in/web/*", "labels": {"app": "web"}}, {"glob": "in/ssh", "labels": {"app": "ssh"}}],
        [{"glob": "in/*/*", "label_from": {"app": "parent-folder"}, "words": {"app": {"none": None}}}],
    ],
)
def test_labels_of_captures_come_from_the_entries_that_name_them(entries):
    plans = group_plans(
        capture_at("in/web/a"), capture_at("in/ssh/b"), capture_at("in/none/c"), capture_at("in/x/d", "in/ssh/e")
    )
    if not isinstance(entries, dict) and len(entries) == 1:
        plans = plans[:3]
    (plan,) = plans | PlanLabels([APP], entries)
    assert [label.codes for label in plan.labels] == [(0,), (1,), (None,), (1,)][: len(plans)]
    assert plan == plan_labels(reversed(plans), describe_labels([APP], entries))


def test_label_tables_of_a_pipeline_label_single_flows(tmp_path):
    flows, at = BATCHES[0], 3
    addresses = [str(ipaddress.ip_address(flows[name][at].as_py()[12:])) for name in ("src_ip", "dst_ip")]
    values = [*addresses, *(flows[name][at].as_py() for name in ("src_port", "dst_port", "protocol"))]
    table = tmp_path / "t.csv"
    row = ",".join(map(str, [*values, flows["start"][at].value, "ssh"]))
    table.write_text(f"src_ip,dst_ip,src_port,dst_port,protocol,start,label\n{row}\n")
    columns = {name: name for name in ("src_ip", "dst_ip", "src_port", "dst_port", "protocol", "start", "label")}
    spec = {"path": str(table), "task": "app", "columns": columns, "time_format": "epoch_ns"}
    entries = [{"glob": "in/*", "label_table": spec}]
    with pytest.raises(FlowloomError, match="scratch must be a folder that all workers share"):
        PlanLabels([APP], entries)
    capture = capture_at("in/a")
    plans = [GroupPlan((CaptureGroup(GROUPS[0], (capture,)),), reject_rows([]))]
    (plan,) = plans | PlanLabels([APP], entries, scratch=tmp_path / "scratch")
    labelled = [flows] | LabelFlows(plan).with_counts()
    codes = labelled.flows[0]["label_app"].to_pylist()
    assert codes == [1 if row == at else None for row in range(20)]
    (counts,) = labelled.counts[0].by_source.values()
    assert (counts.flows, counts.labelled) == (20, 1)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"in/*": {"app": "web server"}}, "label of task 'app' must be one of web, ssh"),
        ({"in/*": {"apps": "web"}}, "task must be one of app, got 'apps'"),
        ([{"glob": "in/*", "group": "rotated"}], "must be captures without a group"),
        ([{"published": "kitsune", "path": "x"}], "labels"),
        ({"in/*": {}, "gone/*": {"app": "web"}}, "'gone/\\*' must name a capture that was read"),
    ],
)
def test_wrong_entries_are_errors(entries, message):
    with pytest.raises(FlowloomError, match=message):
        plan_labels(group_plans(capture_at("in/a")), describe_labels([APP], entries))
