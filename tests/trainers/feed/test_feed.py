"""The stream is a pure function of seed and step, and shows every row once per epoch."""

import collections
import dataclasses
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_datasets import Synthetic

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.dataset.dataset_card import CARD
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.balancing import Balance
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.few_labels import kept_flows
from flowloom.trainers.feed.flow_spec import FeatureSpec


def feed(path, split="train", **fields):
    dataset = Dataset.open(path)
    features = FeatureSpec.of(dataset.card, 6, ("size", "gap", "direction"), "standard")
    return Feed(dataset, split, features, **{"batch_size": 32, **fields})


def flat(batch):
    inputs, labels, weights = batch
    return [inputs["sequence"], inputs["length"], *labels.values(), *weights.values()]


def taken(stream, count):
    return [[part.numpy() for part in flat(batch)] for batch in stream.take(count)]


def same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for part, counterpart in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, counterpart)


@pytest.mark.parametrize(("layout", "striped"), [("aurora", False), ("rainbow", True), ("rainbow", False)])
@pytest.mark.parametrize("start", [1, 7, 25, 50])
def test_a_resumed_stream_continues_the_uninterrupted_one(synthetic, layout, striped, start):
    of = feed(synthetic(layout=layout), seed=3, striped=striped, window_rows=200)
    whole = taken(of.batches(), start + 12)
    same(taken(of.batches(start), 12), whole[start:])


def test_the_stream_depends_on_the_seed_and_the_epoch(synthetic):
    path = synthetic()
    steps = len(feed(path, seed=3).stripes(0))
    first = taken(feed(path, seed=3).batches(), 2 * steps)
    same(first, taken(feed(path, seed=3).batches(), 2 * steps))
    for other in (taken(feed(path, seed=4).batches(), 1)[0], first[steps]):
        assert not np.array_equal(first[0][0], other[0])


def rows_seen(batches):
    return collections.Counter(row.tobytes() for batch in batches for row in batch[0])


@pytest.mark.parametrize(("layout", "striped"), [("aurora", False), ("rainbow", True), ("rainbow", False)])
@pytest.mark.parametrize("window_rows", [1, 100, 10_000])
def test_every_epoch_shows_every_row_once(synthetic, layout, striped, window_rows):
    path = synthetic(layout=layout)
    plain = taken(feed(path, window_rows=10_000).batches(epochs=1), 1000)
    of = feed(path, seed=3, striped=striped, window_rows=window_rows, miniset_rows=window_rows)
    for epoch in (0, 1):
        first = sum(len(of.stripes(earlier)) for earlier in range(epoch))
        seen = taken(of.batches(first), len(of.stripes(epoch)))
        assert rows_seen(seen) == rows_seen(plain)
        assert sum(len(batch[0]) for batch in seen) == Dataset.open(path).card.splits["train"].rows


def test_without_a_seed_rows_keep_the_order_of_the_shards(synthetic):
    of = feed(synthetic(), split="validation")
    batches = taken(of.batches(epochs=1), 1000)
    groups = of.dataset.row_groups("validation")
    for place, task in enumerate(of.dataset.tasks):
        column = np.concatenate(
            [
                pq.ParquetFile(group.path).read_row_group(group.index)[label_column(task.name)].fill_null(-1).to_numpy()
                for group in groups
            ]
        )
        labels = np.concatenate([batch[2 + place] for batch in batches])
        weights = np.concatenate([batch[2 + len(of.dataset.tasks) + place] for batch in batches])
        np.testing.assert_array_equal(labels, np.maximum(column, 0))
        np.testing.assert_array_equal(weights, column >= 0)
        assert 0 < weights.sum() < len(weights)


def test_minisets_take_turns_and_carry_one_task(synthetic):
    of = feed(synthetic(layout="rainbow", shards=1), seed=3, striped=True, miniset_rows=64)
    names = [task.name for task in of.dataset.tasks]
    assert [window.task for window in of.windows(0)] == [
        "app", "attack", "bulk", "app", "attack", "bulk", "app", "attack", "app", "attack", "app",
    ]  # fmt: skip
    for stripe, batch in zip(of.stripes(0), taken(of.batches(epochs=1), 1000), strict=True):
        for name, weights in zip(names, batch[-len(names) :], strict=True):
            assert weights.all() if name == stripe else not weights.any()


def test_striped_windows_of_a_fused_dataset_hide_the_other_tasks(synthetic):
    of = feed(synthetic(), seed=3, striped=True)
    assert set(of.stripes(0)) == {"app", "attack", "bulk"}
    for stripe, (_, _, weights) in zip(of.stripes(0), of.batches(epochs=1), strict=True):
        assert {name for name, known in weights.items() if known.numpy().any()} == {stripe}


def test_workers_share_the_windows(synthetic):
    path = synthetic()
    whole = feed(path, seed=3, window_rows=100)
    parts = [feed(path, seed=3, window_rows=100, worker=worker, workers=3) for worker in range(3)]
    assert len(whole.windows(0)) > 3
    together = [window for part in parts for window in part.windows(5)]
    assert sorted(together, key=str) == sorted(whole.windows(5), key=str)
    shown = sum((rows_seen(taken(part.batches(epochs=1), 1000)) for part in parts), collections.Counter())
    assert shown == rows_seen(taken(whole.batches(epochs=1), 1000))


def test_position_is_the_inverse_of_counting_steps(synthetic):
    of = feed(synthetic(), seed=3, window_rows=100)
    counted = [
        (epoch, number, batch)
        for epoch in range(2)
        for number, window in enumerate(of.windows(epoch))
        for batch in range(-(-window.rows // 32))
    ]
    assert [of.position(step) for step in range(len(counted))] == counted


def test_a_window_holds_about_the_wanted_rows(synthetic):
    windows = feed(synthetic(rows=(2000, 10, 10)), seed=3, window_rows=256).windows(0)
    assert all(len(window.groups) == 4 for window in windows[:-1])


def test_bad_feeds_are_refused(synthetic):
    with pytest.raises(FlowloomError, match=r"split 'validation' .* has no rows"):
        feed(synthetic(rows=(64, 0, 20)), split="validation")
    with pytest.raises(ValueError, match="worker must be >= 0 and < workers, got worker=2, workers=2"):
        feed(synthetic(), worker=2, workers=2)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        feed(synthetic(), batch_size=0)


def shown(of, epoch=0):
    """Returns the labels of an epoch, int32 [N, T], and the number of times that each row occurs."""
    windows = [of.tensors(epoch, number) for number in range(len(of.windows(epoch)))]
    rows = collections.Counter(row.tobytes() for window in windows for row in window[0])
    return np.concatenate([window[-1] for window in windows]), rows


def balanced(path, balance, **fields):
    return feed(path, **{"seed": 3, "window_rows": 200, "balance": Balance(**balance), **fields})


@pytest.mark.parametrize("how", ["undersample", "oversample"])
def test_classes_are_balanced_the_same_in_every_epoch(synthetic, how):
    of = balanced(synthetic(), {"task": "app", "how": how})
    counts = Dataset.open(synthetic()).card.splits["train"].classes["app"].values()
    wanted = min(counts) if how == "undersample" else max(counts)
    labels, rows = shown(of)
    assert np.bincount(labels[:, 0]).tolist() == [wanted] * 3
    assert max(rows.values()) == (1 if how == "undersample" else 2)
    assert shown(of, epoch=1)[1] == rows
    assert shown(balanced(synthetic(), {"task": "app", "how": how}, window_rows=50))[1] == rows
    assert shown(balanced(synthetic(), {"task": "app", "how": how}, seed=4))[1] != rows
    assert sum(len(batch[0]) for batch in taken(of.batches(epochs=1), 1000)) == 3 * wanted


def test_shares_and_totals_are_balanced(synthetic):
    shares = {"task": "attack", "how": "equal_shares", "within": "app", "totals": {"chat": 20}}
    labels, _ = shown(balanced(synthetic(), shares))
    cells = collections.Counter(map(tuple, labels[:, :2].tolist()))
    assert cells[0, 0] == cells[0, 1] == 10
    assert cells[1, 0] == cells[1, 1] > 10
    labels, _ = shown(balanced(synthetic(), {"task": "app", "how": "totals", "totals": {"chat": 7, "web": 0}}))
    voip = Dataset.open(synthetic()).card.splits["train"].classes["app"]["voip"]
    assert collections.Counter(labels[:, 0].tolist()) == {0: 7, 1: voip}


@pytest.mark.parametrize("start", [1, 9])
def test_a_balanced_stream_can_be_resumed(synthetic, start):
    of = balanced(synthetic(), {"task": "app", "how": "oversample"}, only_labelled=True)
    whole = taken(of.batches(), start + 30)
    assert len(of.stripes(0)) < start + 30, "the stream reaches the second epoch"
    same(taken(of.batches(start), 30), whole[start:])


def test_balancing_affects_the_minisets_of_its_task_alone(synthetic):
    for layout in ("aurora", "rainbow"):
        plain, _ = shown(feed(synthetic(layout=layout), seed=3, striped=True))
        labels, _ = shown(balanced(synthetic(layout=layout), {"task": "app", "how": "undersample"}, striped=True))
        known = [labels[:, column][labels[:, column] >= 0] for column in range(3)]
        assert len(set(np.bincount(known[0]).tolist())) == 1
        for column in (1, 2):
            assert sorted(known[column]) == sorted(plain[:, column][plain[:, column] >= 0])


def test_balancing_ignores_labels_that_few_labels_hide(synthetic):
    dataset = Dataset.open(synthetic())
    kept = kept_flows(dataset, {"app": 5}, seed=7)
    labels, rows = shown(balanced(synthetic(), {"task": "app", "how": "undersample"}, kept=kept))
    assert np.bincount(labels[:, 0]).tolist() == [5, 5, 5]
    assert len(rows) == 15


def test_only_training_is_balanced(synthetic):
    undersample = {"task": "app", "how": "undersample"}
    with pytest.raises(FlowloomError, match="split must be train to be resampled, got 'test'"):
        balanced(synthetic(), undersample, split="test")
    with pytest.raises(ValueError, match="seed must be set with balance, got None"):
        balanced(synthetic(), undersample, seed=None)
    with pytest.raises(FlowloomError, match=r"balance must name trained tasks.* got 'ap'.*did you mean 'app'"):
        balanced(synthetic(), {"task": "ap", "how": "undersample"})


def test_row_groups_beyond_the_memory_are_decoded_again(synthetic):
    path = synthetic()
    for memory_bytes in (0, 20_000):
        few, many = feed(path, seed=3, window_rows=100, memory_bytes=memory_bytes), feed(path, seed=3, window_rows=100)
        same(taken(few.batches(), 45), taken(many.batches(), 45))


def test_a_dataset_without_flows_is_refused_with_a_list_of_its_views(synthetic):
    dataset = Dataset.open(synthetic())
    other = dataclasses.replace(dataset, card=dataset.card.model_copy(update={"views": ("packets", "tables")}))
    message = r"has no flows view, only packets, tables; .* build the dataset with views: \[flows, packets, tables\]"
    for call in (
        lambda: other.row_groups("train"),
        lambda: FeatureSpec.of(other.card, 6, ("size",), "standard"),
    ):
        with pytest.raises(FlowloomError, match=message):
            call()


def test_windows_across_stripes_hold_every_task_in_its_share(synthetic):
    """A mixed batch has rows of all tasks, whatever the number of windows of an epoch (`rainbow_mixed`)."""
    of = feed(synthetic(layout="rainbow", row_group_rows=10), seed=3, window_rows=120)
    for epoch in (0, 1):
        windows = of.windows(epoch)
        assert len(windows) > 4
        for number in range(len(windows)):
            *_, labels = of.tensors(epoch, number)
            shares = (labels >= 0).sum(axis=0) / len(labels)
            np.testing.assert_allclose(shares, [3 / 6, 2 / 6, 1 / 6], atol=0.1)


@pytest.mark.parametrize("code", [2, -2])
def test_a_label_that_is_none_of_its_tasks_classes_stops_the_feed(tmp_path, code):
    """A binary loss would train on a label of 2 without a word."""
    root = Synthetic(rows=(60, 20, 20)).write(tmp_path)
    card = json.loads((root / CARD).read_text())
    (shard, *_) = (shard for shard in card["shards"] if shard["split"] == "train")
    table = pq.read_table(root / shard["path"])
    place = table.schema.get_field_index(label_column("attack"))
    wrong = pa.array([code, *table[place].to_pylist()[1:]], pa.int32())
    pq.write_table(table.set_column(place, table.schema.field(place), wrong), root / shard["path"], row_group_size=64)
    shard["sha256"] = hashlib.sha256((root / shard["path"]).read_bytes()).hexdigest()
    (root / CARD).write_text(json.dumps(card))
    dataset = Dataset.open(root)
    features = FeatureSpec.of(dataset.card, 4, ("size",), "fixed")
    expected = (
        rf"labels of task 'attack' must be from 0 to 1 or null in split train, got {code}; build the dataset again"
    )
    with pytest.raises(FlowloomError, match=expected):
        next(iter(Feed(dataset, "train", features, 32, seed=1).stream(epochs=1)))
