"""PTransforms that merge datasets: each gives the same results as its function in memory."""

from pathlib import Path

import pytest
from eager import run_root
from stored_datasets import labelled_flows, random_labels, store_dataset

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import CARD, read_card
from flowloom.transforms.io.verdict import FAILURE
from flowloom.transforms.weave.merge_rows import find_parts, merge_shards, read_part
from flowloom.transforms.weave.weave_plans import WeaveRules, plan_weave
from flowloom.transforms.weave.weave_ptransforms import FindParts, MergedShards, MergeShards, WriteMergedCard
from flowloom.transforms.weave.write_merged_card import write_merged_card

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns"))


@pytest.fixture
def datasets(tmp_path):
    """Two datasets of the same flows, in two and in three shards."""
    flows = labelled_flows(60, {"app": random_labels(60, 3, 0.3, 1)})
    folders = [
        store_dataset(tmp_path / str(shards), flows, [APP], shards=shards, name=str(shards)) for shards in (2, 3)
    ]
    return [(folder, read_card(folder)) for folder in folders]


def plan_of(datasets):
    return plan_weave([card for _, card in datasets], WeaveRules("aurora", shards=2))


def read_rows(parts, plan):
    """Returns the flow ids and labels of each new shard, dataset and split."""
    rows: dict = {}
    for number, part in parts:
        for batch in read_part(part, plan):
            found = zip(batch["flow_id"].to_pylist(), batch["label_app"].to_pylist(), strict=True)
            rows.setdefault((number, part.dataset, part.split), []).extend(found)
    return {key: sorted(values, key=str) for key, values in rows.items()}


def by_path(shards):
    return sorted((shard.written for shard in shards), key=lambda written: written.shard.path)


def test_parts_are_found_or_moved_to_new_shards(datasets, tmp_path):
    plan = plan_of(datasets)
    found = run_root(FindParts(datasets, plan, str(tmp_path / "job")))
    parts, faults = find_parts(datasets, plan, str(tmp_path / "other"))
    assert read_rows(found.parts, plan) == read_rows(parts, plan)
    assert {number for number, _ in parts} == {0, 1}
    assert found.faults == faults == []


def test_unreadable_shards_are_faults(datasets, tmp_path):
    plan = plan_of(datasets)
    for folder, card in datasets:
        (folder / card.shards[0].path).write_bytes(b"PAR1")
    found = run_root(FindParts(datasets, plan, str(tmp_path / "job")))
    parts, faults = find_parts(datasets, plan, str(tmp_path / "other"))
    assert found.faults == faults
    assert [Path(datasets[1][0]).name in fault for fault in faults] == [True]
    merged = parts | MergeShards(plan, str(tmp_path / "merged"))
    assert merged.faults == merge_shards(parts, plan, str(tmp_path / "again"))[2]
    assert "must have the SHA-256" in merged.faults[0]


def test_shards_are_merged_and_their_card_written(datasets, tmp_path):
    plan = plan_of(datasets)
    parts, _ = find_parts(datasets, plan, str(tmp_path / "job"))
    merged = parts | MergeShards(plan, str(tmp_path / "a"))
    shards, counts, faults = merge_shards(parts, plan, str(tmp_path / "b"))
    assert by_path(merged.shards) == by_path(shards)
    assert sum(each.merged for each in merged.counts) == sum(each.merged for each in counts) == 60
    assert merged.faults == faults == []
    (path,) = merged | WriteMergedCard(plan, datasets, str(tmp_path / "a"))
    assert path == f"{tmp_path}/a/{CARD}"
    write_merged_card(shards, counts, faults, plan, datasets, str(tmp_path / "b"))
    assert read_card(tmp_path / "a") == read_card(tmp_path / "b")


def test_faults_are_written_in_place_of_a_card(datasets, tmp_path):
    plan = plan_of(datasets)
    (path,) = MergedShards([], [], ["b is damaged", "a is damaged"]) | WriteMergedCard(plan, datasets, str(tmp_path))
    assert path == f"{tmp_path}/{FAILURE}"
    assert Path(path).read_text() == "a is damaged"
