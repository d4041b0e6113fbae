"""PTransforms from labelled rows to card: each gives the same results as its function in memory."""

import apache_beam as beam
import pytest
from stored_datasets import BY_FLOW, labelled_flows, random_labels

from flowloom.schemas.arrow.accounting import CAPTURES, CLOCK_COLUMNS, DROPPED_COLUMNS
from flowloom.schemas.corpus.manifest import Output, parse_manifest
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.captures.groups import reject_rows
from flowloom.transforms.dataset.build_results import gather_results
from flowloom.transforms.dataset.dataset_ptransforms import (
    BuildOutputs,
    LayOut,
    SpillRows,
    ViewRows,
    WriteCard,
    WriteSpilledShards,
    WriteViews,
)
from flowloom.transforms.dataset.layouts import LaidOut, lay_out
from flowloom.transforms.dataset.shards import spill_rows, write_spilled_shards
from flowloom.transforms.dataset.write_card import write_card
from flowloom.transforms.dataset.write_views import write_views
from flowloom.transforms.io.spill import read_spilled
from flowloom.transforms.io.verdict import FAILURE
from flowloom.transforms.labels.label_bins import LabelBins
from flowloom.transforms.labels.plan_labels import LabelPlan
from flowloom.transforms.metering.accounts import GroupAccount
from flowloom.transforms.published.plan_published import PublishedFindings
from flowloom.transforms.splits.splits import SplitPlan

MANIFEST = parse_manifest(
    {
        "name": "m",
        "captures": [{"glob": "a"}],
        "tasks": {"app": {"kind": "multiclass", "vocabulary": ["web", "ssh"]}, "attack": {"kind": "binary"}},
        "splits": {"by": "flow"},
    },
    "m.yaml",
)
TASKS = MANIFEST.tasks
PLAN, BINS = SplitPlan(BY_FLOW, {}), LabelBins(TASKS)
BATCHES = [
    labelled_flows(30, {"app": random_labels(30, 2, 0.5, seed), "attack": random_labels(30, 2, 0.5, seed + 9)}, seed)
    for seed in range(2)
]
OUTPUT = Output(shards=2)


def digests(shards):
    return sorted((shard.written.shard.path, shard.written.shard.sha256) for shard in shards)


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_rows_are_laid_out_and_counted(layout):
    laid_out = BATCHES | LayOut(TASKS, layout)
    assert laid_out.rows == [stripe for rows in BATCHES for stripe in lay_out(rows, TASKS, layout)]
    unlabelled = [
        sum(app is None and attack is None for app, attack in zip(*labels, strict=True))
        for labels in ((rows["label_app"].to_pylist(), rows["label_attack"].to_pylist()) for rows in BATCHES)
    ]
    assert [counts.unlabelled for counts in laid_out.counts] == unlabelled
    rows = [sum(counts.rows.values()) for counts in laid_out.counts]
    assert rows == [sum(part.num_rows for _, part in lay_out(each, TASKS, layout)) for each in BATCHES]


def test_rows_are_spilled_by_shard_and_written_once(tmp_path):
    stripes = [stripe for rows in BATCHES for stripe in lay_out(rows, TASKS, "rainbow")]
    places = stripes | SpillRows(OUTPUT.shards, str(tmp_path / "a"))
    expected = spill_rows(stripes, OUTPUT.shards, str(tmp_path / "b"))
    assert sorted({key for key, _ in places}) == sorted({key for key, _ in expected})
    assert sum(read_spilled([place]).num_rows for _, place in places) == sum(rows.num_rows for _, rows in stripes)
    written = places | WriteSpilledShards(str(tmp_path / "a"), BINS, OUTPUT)
    assert digests(written.shards) == digests(write_spilled_shards(expected, str(tmp_path / "b"), TASKS, OUTPUT))
    assert written.sightings == []
    measured = places | WriteSpilledShards(str(tmp_path / "c"), BINS, OUTPUT, leakage=True)
    assert {sightings.kind for sightings in measured.sightings} == {
        "sequences", "timed_sequences", "host_pairs", "hosts",
    }  # fmt: skip


@pytest.mark.parametrize("lost", [0, 1])
def test_the_card_or_the_faults_are_written(tmp_path, lost):
    stripes = [stripe for rows in BATCHES for stripe in lay_out(rows, TASKS, "aurora")]
    places = spill_rows(stripes, OUTPUT.shards, str(tmp_path / "a"))
    shards = write_spilled_shards(places, str(tmp_path / "a"), TASKS, OUTPUT)
    capture = {
        "uri": "/in/a", "digest": "a" * 64, "sha256": None, "group": "g", "bytes": 9,
        "format": "pcap", "compression": "none",
        "link_types": [1], "records": 60, "metered": 60,
        **dict.fromkeys(("metered_cut", *DROPPED_COLUMNS, *CLOCK_COLUMNS), 0),
        "rejects": 0,
        "first_ns": 1, "last_ns": 2,
    }  # fmt: skip
    account = GroupAccount("g", 60, 0, batch([capture], CAPTURES), reject_rows([]))
    outputs = BuildOutputs(shards, [account], [], [], [], [LaidOut({"": 60 + lost})], [], [])
    published = PublishedFindings((), {}, reject_rows([]))
    staging, other = str(tmp_path / "a"), str(tmp_path / "b")
    (tmp_path / "b").mkdir()
    (path,) = outputs | WriteCard(MANIFEST, "/in", staging, None, LabelPlan(MANIFEST), published, PLAN, BINS)
    assert path == f"{staging}/{FAILURE if lost else CARD}"
    write_card(gather_results((), published, PLAN, BINS, *outputs), MANIFEST, "/in", other)
    if lost:
        assert (tmp_path / "a" / FAILURE).read_text() == (tmp_path / "b" / FAILURE).read_text()
    else:
        assert read_card(staging) == read_card(other)


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_views_become_the_shards_and_the_card_of_a_dataset(tmp_path, layout):
    manifest = MANIFEST.model_copy(update={"layout": layout, "leakage": "skip", "output": OUTPUT})
    labels, published = LabelPlan(manifest), PublishedFindings((), {}, reject_rows([]))
    card = WriteCard(manifest, "", str(tmp_path / "a"), None, labels, published, PLAN, BINS, closed=False)
    with beam.Pipeline("FnApiRunner") as pipeline:
        parts = [pipeline | f"Rows {at}" >> beam.Create([rows]) for at, rows in enumerate(BATCHES)]
        written = ViewRows(tuple(parts)) | WriteViews(TASKS, layout, OUTPUT, card, {}, leakage=False)
        written | beam.Map(same_path, str(tmp_path / "a" / CARD))
    write_views({"flows": BATCHES}, manifest, str(tmp_path / "b"), labels, PLAN, BINS)
    assert read_card(str(tmp_path / "a")) == read_card(str(tmp_path / "b"))


def same_path(found: str, expected: str) -> None:
    assert found == expected
