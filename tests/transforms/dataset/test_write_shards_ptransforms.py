"""Datasets of a user's pipeline: the plan of the layout, the shards, the card, and dropped flows."""

import apache_beam as beam
import pyarrow.compute as pc
import pytest
from stored_datasets import labelled_flows, random_labels

from flowloom.pipelines.api.beam_transforms import embedded_pipeline
from flowloom.schemas.arrow.accounting import CAPTURES, CLOCK_COLUMNS, DROPPED_COLUMNS
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.tasks import Dividers, Task
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.dataset.write_shards_ptransforms import PlanLayout, WriteShards
from flowloom.transforms.dataset.write_views import plan_layout, write_shards
from flowloom.transforms.labels.plan_labels import LabelPlan, describe_labels
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.metering.meter_flows_ptransforms import MeteredFlows
from flowloom.transforms.splits.splits import plan_splits, splits_of

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
PACE = Task(name="pace", kind="auto", quantity="duration", dividers=Dividers(method="quantiles", classes=3))
TASKS = (APP, PACE)
BATCHES = [labelled_flows(60, {"app": random_labels(60, 2, 0.2, seed)}, seed) for seed in range(3)]
ROWS = sum(rows.num_rows for rows in BATCHES)
PLAN = plan_splits((), (), splits_of("flow", (0.4, 0.3, 0.3), 7))


def account(flows: int) -> GroupAccount:
    capture = {
        "uri": "in/a", "digest": "a" * 64, "sha256": None, "group": "g", "bytes": 9,
        "format": "pcap", "compression": "none",
        "link_types": [1], "records": 60, "metered": 60,
        **dict.fromkeys(("metered_cut", *DROPPED_COLUMNS, *CLOCK_COLUMNS), 0),
        "rejects": 0,
        "first_ns": 1, "last_ns": 2,
    }  # fmt: skip
    return GroupAccount("g", flows, 0, batch([capture], CAPTURES), reject_rows([]))


def write(folder, batches=BATCHES, flows=ROWS, **options) -> None:
    """Writes batches as a dataset, in a pipeline."""
    with beam.Pipeline("FnApiRunner") as pipeline:
        rows = pipeline | "Rows" >> beam.Create(batches)
        write_rows(rows, folder, flows, **options)


def write_rows(rows, folder, flows=ROWS, **options) -> None:
    pipeline = rows.pipeline
    nothing = pipeline | "Nothing" >> beam.Create([])
    known = pipeline | "Accounts" >> beam.Create([account(flows)])
    definition = pipeline | "Definition" >> beam.Create([FlowDefinition()])
    metered = MeteredFlows(nothing, nothing, nothing, known, definition)
    rows | WriteShards(folder, TASKS, metered, PLAN, **options)


@pytest.mark.parametrize("deduplicate", ["none", "split", "all"])
@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_a_layout_is_planned_from_all_flows(layout, deduplicate):
    twice = [*BATCHES, BATCHES[0].set_column(0, "flow_id", BATCHES[1]["flow_id"])]
    plan = twice | PlanLayout(TASKS, layout, deduplicate)
    expected = plan_layout(twice, TASKS, layout, deduplicate)
    assert plan == ([expected[0]], [expected[1]])
    assert bool(expected[1]) == (deduplicate != "none")


@pytest.mark.parametrize("deduplicate", ["none", "all"])
@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_flows_become_the_dataset_of_the_function_in_memory(tmp_path, layout, deduplicate):
    options = {"layout": layout, "deduplicate": deduplicate, "leakage": "skip", "output": {"shards": 2}}
    write(tmp_path / "a", name="d", **options)
    manifest = describe_labels(TASKS, {"*": {}}, name="d", **options)
    write_shards(BATCHES, str(tmp_path / "b"), manifest, LabelPlan(manifest), PLAN, [account(ROWS)])
    assert read_card(tmp_path / "a") == read_card(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_flows_that_steps_dropped_are_absent_on_the_card(tmp_path):
    long = [rows.filter(pc.greater(rows["packets_fwd"], 5)) for rows in BATCHES]
    kept = sum(rows.num_rows for rows in long)
    write(tmp_path / "fewer", long)
    accounting = read_card(tmp_path / "fewer").accounting
    assert (accounting.flows, accounting.flows_absent) == (ROWS, ROWS - kept) != (ROWS, 0)
    write(tmp_path / "more", BATCHES, 10)
    assert read_card(tmp_path / "more").accounting.flows == ROWS


def test_nothing_is_left_of_a_dataset_without_a_class(tmp_path):
    only = [rows.filter(pc.equal(rows["label_app"], 0)) for rows in BATCHES]
    with pytest.raises(Exception, match=r"no flow has the label ssh.*write it with allow_empty=True"):
        write(tmp_path / "out", only)
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", only, allow_empty=True)
    assert read_card(tmp_path / "out").splits["train"].classes["app"]["ssh"] == 0


def broken(rows):
    raise OSError("a step of the user fails")


@pytest.mark.parametrize("fault", ["step", "block", "no flows"])
def test_nothing_is_left_of_the_dataset_of_an_embedded_pipeline_that_fails(tmp_path, fault):
    wrong = "the block fails" if fault == "block" else "the user fails" if fault == "step" else "no flow"

    def run() -> None:
        with embedded_pipeline(workers=1) as pipeline:
            rows = pipeline | "Rows" >> beam.Create([] if fault == "no flows" else BATCHES)
            if fault == "step":
                rows = rows | beam.Map(broken)
            write_rows(rows, tmp_path / "out")
            assert len(list(tmp_path.glob(".out.building-*"))) == 1
            if fault == "block":
                raise ValueError(wrong)

    with pytest.raises(Exception, match=wrong):
        run()
    assert list(tmp_path.iterdir()) == []
    with embedded_pipeline(workers=1) as pipeline:
        write_rows(pipeline | "Rows" >> beam.Create(BATCHES), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_card(tmp_path / "out").accounting.flows == ROWS


def test_wrong_options_and_existing_folders_are_errors(tmp_path):
    with pytest.raises(FlowloomError, match="layout"):
        write(tmp_path / "out", layout="auroras")
    with pytest.raises(FlowloomError, match="shards"):
        write(tmp_path / "out", output={"shards": 0})
    (tmp_path / "out").mkdir()
    with pytest.raises(FlowloomError, match="exists already"):
        write(tmp_path / "out")
