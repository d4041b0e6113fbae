"""PTransforms of splits, run eagerly: each gives the same results as the function of its name in memory."""

import apache_beam as beam
import pyarrow as pa
import pytest
from synthetic import synthetic_flows

from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, Splits
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.label_flows import GroupLabels
from flowloom.transforms.labels.plan_labels import LabelPlan, describe_labels
from flowloom.transforms.splits.leakage import count_leakage, spill_sightings
from flowloom.transforms.splits.split_ptransforms import (
    AssignSplits,
    AssignSplitsAndBins,
    CompleteSplitPlan,
    CountLeakage,
)
from flowloom.transforms.splits.splits import (
    assign_splits,
    assign_splits_and_bins,
    complete_split_plan,
    plan_splits,
)

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
LABELS = describe_labels([APP], {"*": {}})
LENGTH = Task(name="length", kind="auto", quantity="duration", dividers=Dividers(method="given", at=(0.05,)))


def labelled(seed: int) -> pa.RecordBatch:
    flows = synthetic_flows(50, seed=seed)
    return flows.append_column("label_app", pa.array([at % 2 for at in range(50)], pa.int32()))


BATCHES = [labelled(seed) for seed in range(3)]


@pytest.mark.parametrize("by", ["time", "host_pair"])
def test_plans_are_completed_from_all_flows(by):
    splits = Splits(by=by)
    draft = plan_splits([], [APP], splits)
    expected = complete_split_plan(draft, BATCHES, [APP], splits)
    assert expected != draft
    assert BATCHES | CompleteSplitPlan(draft, (APP,), splits) == [expected]


def test_flows_get_their_split():
    plan = plan_splits([], [APP], Splits(by="flow", seed=3))
    expected = [assign_splits(flows, plan) for flows in BATCHES]
    assert BATCHES | AssignSplits(plan=plan) == expected
    assert BATCHES | AssignSplits("flow", seed=3) == expected


@pytest.mark.parametrize("by", ["flow", "capture", "auto", "time", "host_pair"])
def test_splits_of_a_pipeline_are_those_of_a_manifest(by):
    groups = sorted({group for flows in BATCHES for group in flows["group"].to_pylist()})
    labels = LabelPlan(LABELS, tuple(GroupLabels(group, (0,), (), has_records=True) for group in groups))
    splits = Splits(by=by, train=0.5, validation=0, test=0.5, seed=4)
    draft = plan_splits(labels.labels, [APP], splits)
    plan = complete_split_plan(draft, BATCHES, [APP], splits) if by in ("time", "host_pair") else draft
    expected = [assign_splits(flows, plan) for flows in BATCHES]
    shares = (0.5, 0, 0.5)
    given = BATCHES | AssignSplits(by, shares, 4, labels).with_plan()
    assert (given.flows, given.plan) == (expected, [plan])
    with beam.Pipeline("FnApiRunner") as pipeline:  # the labels as an element
        element = pipeline | "Labels" >> beam.Create([labels])
        found = pipeline | "Flows" >> beam.Create(BATCHES) | AssignSplits(by, shares, 4, element).with_plan()
        found.plan | "Plan" >> beam.Map(same, plan)
        found.flows | "Rows" >> beam.combiners.ToList() | "Same" >> beam.Map(same_rows, expected)


def same(found: object, expected: object) -> None:
    assert found == expected


def same_rows(found: list, expected: list) -> None:
    assert pa.Table.from_batches(found).sort_by("flow_id") == pa.Table.from_batches(expected).sort_by("flow_id")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "host"}, "splits by must be one of .*got 'host'; did you mean 'host_pair'"),
        ({"by": "packet"}, "splits by must be one of"),
        ({"by": "capture"}, "splits by capture need labels, got none"),
        ({"by": "flow", "shares": (0.5, 0.5, 0.5)}, r"train \+ validation \+ test must be 1, got 1.5"),
        ({"by": "flow", "shares": (0.5, 0.5)}, "shares must be those of train, validation and test, got 2"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(FlowloomError, match=message):
        AssignSplits(**options)


@pytest.mark.parametrize("bins", [None, LabelBins((APP, LENGTH))])
@pytest.mark.parametrize("plan", [None, plan_splits([], [APP], Splits(by="flow"))])
def test_flows_get_their_split_and_measured_labels(plan, bins):
    finished = BATCHES | AssignSplitsAndBins(plan, bins)
    assert finished == [assign_splits_and_bins(flows, plan, bins) for flows in BATCHES]
    added = [*([SPLIT_COLUMN] if plan else []), *(["label_length"] if bins else [])]
    assert finished[0].schema.names == [*BATCHES[0].schema.names, *added]


def test_leakage_is_counted_over_all_splits(tmp_path):
    sighted = [
        each
        for split in ("train", "test")
        for each in spill_sightings([BATCHES[0], BATCHES[1]], split, ["app"], str(tmp_path))
    ]
    expected = count_leakage(sighted, ("app",))
    assert sorted(map(str, sighted | CountLeakage(("app",)))) == sorted(map(str, expected)) != []
