"""PTransforms of labels, run eagerly: each gives what the function of its name gives in memory."""

from synthetic import synthetic_flows

from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.transforms.labels.join_labels import FlowSource
from flowloom.transforms.labels.label_flows import GroupLabels, label_flows
from flowloom.transforms.labels.label_ptransforms import LabelFlows

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


def test_flows_are_labelled_and_the_answers_of_sources_counted():
    by_path = GroupLabels(GROUPS[0], (1,), (), has_records=True)
    by_flow = GroupLabels(GROUPS[1], (None,), (), has_records=True, sources=(FlowSource("app", "one", "path", code=0),))
    labels = (by_path, by_flow)
    labelled = BATCHES | LabelFlows(labels, MANIFEST)
    expected = [label_flows(flows, labels, MANIFEST) for flows in BATCHES]
    assert labelled.flows == [flows for flows, _ in expected]
    assert labelled.counts == [expected[1][1]]
    assert labelled.counts[0].said["app", "one"].labelled == 20
