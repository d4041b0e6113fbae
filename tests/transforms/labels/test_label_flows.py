"""Labels by path: unions, precedence, unknown and negative labels, and their counts."""

import pytest
from synthetic import synthetic_flows

from flowloom.schemas.corpus.manifest import parse_manifest
from flowloom.transforms.captures.groups import Capture, CaptureGroup, GroupPlan, reject_rows
from flowloom.transforms.labels.label_flows import (
    GroupLabels,
    LabelClaim,
    count_unlabelled,
    label_by_path,
    label_group,
    label_groups,
)


def manifest(**changes):
    return parse_manifest(
        {
            "name": "m",
            "captures": [
                {"glob": "one", "labels": {"app": "ssh"}},
                {"glob": "two", "labels": {"app": "web", "attack": True}},
                {"glob": "three"},
            ],
            "tasks": {"app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]}, "attack": {"kind": "binary"}},
            **changes,
        },
        "m.yaml",
    )


def group(*sources: int) -> CaptureGroup:
    return CaptureGroup("0" * 16, (Capture("x", 9, "0" * 64, "0" * 64, 1, sources),))


def test_sources_are_joined_and_the_first_wins():
    labels = label_group(group(0, 1), manifest())
    assert labels.codes == (1, 1)
    assert labels.claims == (
        LabelClaim("app", "one", True),
        LabelClaim("app", "two", False),
        LabelClaim("attack", "two", True),
    )


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({}, (1, None)),
        ({"missing": "negative"}, (1, 0)),
        ({"missing": "negative", "layout": "rainbow"}, (1, None)),
    ],
)
def test_absent_labels_are_unknown_unless_aurora_fills_them(changes, codes):
    assert label_group(group(0), manifest(**changes)).codes == codes


def test_conflicting_sources_leave_the_label_unknown_if_configured():
    asked = manifest(on_conflict={"app": "unknown"}, missing="negative")
    assert label_group(group(0, 1), asked).codes == (None, 1)
    assert label_group(group(1, 1), asked).codes == (0, 1)


def test_plans_are_labelled_in_their_order():
    plan = GroupPlan((group(0), group(2)), reject_rows([]))
    assert [labels.codes for labels in label_groups(plan, manifest())] == [(1, None), (None, None)]


def test_flows_get_the_labels_of_their_group():
    batch = synthetic_flows(10, group="a" * 16)
    labels = (GroupLabels("b" * 16, (0, 0), (), True), GroupLabels("a" * 16, (1, None), (), True))
    labelled = label_by_path(batch, labels, manifest().tasks)
    assert labelled.select(batch.schema.names).equals(batch)
    assert labelled["label_app"].to_pylist() == [1] * 10
    assert labelled["label_attack"].null_count == 10
    assert count_unlabelled(labelled, manifest().tasks) == 0
    assert count_unlabelled(label_by_path(batch, labels[:1], manifest().tasks), manifest().tasks) == 10
