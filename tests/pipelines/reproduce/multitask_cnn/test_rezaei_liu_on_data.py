"""Experiments of Rezaei and Liu: functions of their settings, which learn from the labels they may see."""

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pytest

from flowloom.pipelines.reproduce.engine.experiments import run_experiments
from flowloom.pipelines.reproduce.multitask_cnn import rezaei_liu_experiments
from flowloom.pipelines.reproduce.multitask_cnn.flow_table import FlowTable
from flowloom.pipelines.reproduce.multitask_cnn.rezaei_liu_experiments import RezaeiLiuExperiments, RezaeiLiuSetting
from flowloom.schemas.arrow.rows import FLOWS, label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset

TASK = Task(name="app", kind="multiclass", vocabulary=("a", "b", "c"))
ROWS, PACKETS = 120, 30


@pytest.fixture
def experiments(monkeypatch):
    """Experiments on flows of three classes, which differ in sizes and gaps, and so in bandwidth and duration."""
    generator = np.random.default_rng(3)
    labels = np.arange(ROWS) % 3
    sizes = (200 + 400 * labels[:, None] + generator.integers(0, 200, (ROWS, PACKETS))).astype(np.uint16)
    gaps = (generator.exponential(1e8, (ROWS, PACKETS)) * (1 + labels[:, None])).astype(np.int64)
    offsets = pa.array(np.arange(ROWS + 1, dtype=np.int32) * PACKETS)

    def lists(name, values):
        return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()), type=FLOWS.field(name).type)

    columns = {
        "flow_id": pa.array([hashlib.sha256(str(n).encode()).digest()[:16] for n in range(ROWS)], pa.binary(16)),
        label_column("app"): pa.array(labels.astype(np.int32)),
        "duration_ns": pa.array(gaps.sum(axis=1)),
        "bytes_fwd": pa.array(sizes.sum(axis=1, dtype=np.uint64)),
        "bytes_bwd": pa.array(np.zeros(ROWS, np.uint64)),
        "pkt_size": lists("pkt_size", sizes),
        "pkt_gap_ns": lists("pkt_gap_ns", gaps),
        "pkt_dir": lists("pkt_dir", np.ones((ROWS, PACKETS), np.int8)),
    }
    table = FlowTable("made", "hash", TASK, pa.RecordBatch.from_pydict(columns))
    monkeypatch.setattr(rezaei_liu_experiments, "_table", lambda path, task: table)
    rezaei_liu_experiments._pretrained.cache_clear()
    rezaei_liu_experiments._statistics.cache_clear()
    return RezaeiLiuExperiments({"made": ("", "app")})


def settings_of(method="multi-task", **others):
    fields = {"labels": 5, "updates": 6, "k": 16, "repeat": 0, "seed": 7, **others}
    return dataclasses.asdict(RezaeiLiuSetting("made", "hash", method, **fields))


def test_a_cell_is_a_function_of_its_settings_whatever_ran_before(experiments):
    transfer, together = settings_of("transfer"), settings_of()
    first = [experiments(transfer), experiments(together)]
    experiments(settings_of(repeat=1, weight=100.0))
    rezaei_liu_experiments._pretrained.cache_clear()
    assert [experiments(settings) for settings in (transfer, together)] == first
    assert experiments(settings_of(seed=8))["history"] != first[1]["history"]
    assert experiments(settings_of(weight=100.0))["history"] != first[1]["history"]


def test_a_cell_knows_few_labels_and_tests_on_a_fifth(experiments):
    found = experiments(settings_of(updates=40))
    assert (found["labelled"], found["tested"]) == (15, 24)
    assert np.sum(found["confusion"]) == 24
    assert found["accuracy"]["class"] == pytest.approx(np.trace(found["confusion"]) / 24)
    assert found["accuracy"]["class"] > 0.6
    assert len(found["dividers"]["duration"]) == 2
    assert experiments(settings_of(labels=None))["labelled"] == 78


def test_dividers_come_from_labelled_train_rows_or_as_given(experiments):
    few, every = (experiments(settings_of(dividers=each))["dividers"] for each in ("labelled", "all"))
    assert few["duration"] != every["duration"]
    given = experiments(settings_of(dividers=((1e3, 1e4), (2.0, 4.0))))
    assert given["dividers"] == {"bandwidth": [1e3, 1e4], "duration": [2.0, 4.0]}


def test_published_budgets_are_epochs_of_the_labelled_rows(experiments):
    published, trained_on = (experiments(settings_of("transfer", budget=budget)) for budget in ("paper", "converged"))
    assert len(published["history"]) == published["epoch"] == 20
    assert len(trained_on["history"]) == 6


@pytest.mark.parametrize("method", ["forest", "forest-statistics"])
def test_trees_learn_from_the_labelled_rows(experiments, method):
    found = experiments(settings_of(method, labels=None))
    assert found["labelled"] == 78
    assert found["accuracy"]["class"] > 0.9


def test_a_grid_goes_on_where_it_was(experiments, tmp_path):
    planned = [RezaeiLiuSetting("made", "hash", "forest", repeat, 7, 6).experiment("forest") for repeat in range(3)]
    first = run_experiments(planned[:2], experiments, tmp_path)
    again = run_experiments(planned, experiments, tmp_path)
    assert (first.computed, again.computed) == (2, 1)
    assert set(again.by_name) == {f"made__forest__seed-7-{repeat}" for repeat in range(3)}


def test_a_flow_table_has_all_flows_in_the_order_of_their_ids(synthetic):
    path = synthetic(rows=(60, 20, 20))
    table = FlowTable.read(path, "app")
    ids = table.flow_ids.to_pylist()
    assert ids == sorted(ids)
    assert len(ids) == 100
    counts = [Dataset.open(path).card.splits[split].classes["app"] for split in ("train", "validation", "test")]
    assert [int((table.labels == code).sum()) for code in range(3)] == [
        sum(c[word] for c in counts) for word in table.task.vocabulary
    ]
    with pytest.raises(FlowloomError, match=r"task must be one of .*, got 'apps'"):
        FlowTable.read(path, "apps")
    with pytest.raises(FlowloomError, match="layout must be aurora, got rainbow"):
        FlowTable.read(synthetic(layout="rainbow", rows=(60, 20, 20)), "app")
