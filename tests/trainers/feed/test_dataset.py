"""Dataset directories give a trainer their row groups, and damaged ones are refused."""

import itertools
import json
import shutil

import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.dataset import Dataset


def test_row_groups_cover_every_row_of_a_split_once(synthetic):
    dataset = Dataset.open(synthetic())
    for split, counts in dataset.card.splits.items():
        assert sum(group.rows for group in dataset.row_groups(split)) == counts.rows


def test_a_stripe_has_only_its_own_row_groups(synthetic):
    dataset = Dataset.open(synthetic(layout="rainbow"))
    stripes = [dataset.row_groups("train", task.name) for task in dataset.tasks]
    assert [sum(group.rows for group in stripe) for stripe in stripes] == [300, 200, 100]
    assert sorted(itertools.chain(*stripes), key=str) == sorted(dataset.row_groups("train"), key=str)


@pytest.mark.parametrize(("layout", "rows"), [("aurora", 600), ("rainbow", 400)])
def test_a_dataset_may_be_restricted_to_some_tasks(synthetic, layout, rows):
    """Aurora keeps every row, Rainbow drops the stripes of the others."""
    dataset = Dataset.open(synthetic(layout=layout)).restricted(["bulk", "app"])
    assert [task.name for task in dataset.tasks] == ["app", "bulk"]
    assert sum(group.rows for group in dataset.row_groups("train")) == rows


def test_a_directory_without_a_card_is_refused(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match=r"dataset.json is missing \(the directory exists but was not finished\)"):
        Dataset.open(tmp_path)
    with pytest.raises(FlowloomError, match=r"there is no such directory.*flowloom build"):
        Dataset.open(tmp_path / "nowhere")


def damaged(synthetic, tmp_path, **changes):
    root = tmp_path / "copy"
    shutil.copytree(synthetic(), root)
    card = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**card, **changes}))
    return root


def test_another_format_version_is_refused(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match=r"dataset\.json: format_version must be 1, got 99"):
        Dataset.open(damaged(synthetic, tmp_path, format_version=99))


def test_a_damaged_card_is_refused_with_its_path(synthetic, tmp_path):
    with pytest.raises(FlowloomError, match="damaged at layout"):
        Dataset.open(damaged(synthetic, tmp_path, layout="sunset"))


def test_a_missing_shard_is_named(synthetic, tmp_path):
    root = damaged(synthetic, tmp_path)
    lost = root / Dataset.open(root).card.shards[0].path
    lost.unlink()
    with pytest.raises(FlowloomError, match=f"lacks the shard .*{lost.name}"):
        Dataset.open(root)


def test_a_shard_that_differs_from_its_card_is_refused(synthetic, tmp_path):
    root = damaged(synthetic, tmp_path)
    first, second = (root / shard.path for shard in Dataset.open(root).card.shards[1:3])
    shutil.copy(second, first)
    with pytest.raises(FlowloomError, match=f"{first.name} must have the SHA-256 .*, got .*; build the dataset again"):
        Dataset.open(root).row_groups("train")


def test_a_shard_without_a_digest_is_compared_by_its_row_groups(synthetic, tmp_path):
    root = damaged(synthetic, tmp_path)
    card = json.loads((root / "dataset.json").read_text())
    root = damaged(synthetic, tmp_path / "plain", shards=[{**shard, "sha256": ""} for shard in card["shards"]])
    first, second = (root / shard.path for shard in Dataset.open(root).card.shards[1:3])
    shutil.copy(second, first)
    with pytest.raises(FlowloomError, match="as its card states"):
        Dataset.open(root).row_groups("train")
    first.write_bytes(b"PAR1")
    with pytest.raises(FlowloomError, match="cannot be read as Parquet"):
        Dataset.open(root).row_groups("train")


def test_an_unknown_split_is_refused_with_a_list_of_splits(synthetic):
    with pytest.raises(FlowloomError, match="it has train, validation, test; did you mean 'test'"):
        Dataset.open(synthetic()).row_groups("tests")
