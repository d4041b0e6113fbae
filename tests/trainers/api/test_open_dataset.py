"""Datasets in Python: the trainer's own feed, frames with names, and arrays of whole splits."""

import ast
import dataclasses
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from stored_datasets import labelled_flows, random_labels, store_dataset

import flowloom as fl
from flowloom.schemas.arrow.address_texts import address_texts
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe
from flowloom.trainers.recipes.row_specs import row_spec
from flowloom.trainers.recipes.schedule_settings import STRIPED
from flowloom.trainers.training.loop import Training
from flowloom.trainers.training.paradigms import PARADIGMS

SETTINGS = [
    {},
    {"tasks": ["attack", "app"]},
    {"balance": {"task": "app", "how": "undersample"}},
    {"labels_per_class": {"attack": 20}, "only_labelled": True},
    {"furthest_start": 3},
    {"scaling": "none", "input": "bins", "augment": {"start": 2, "packet_loss": 0.1, "gap_scale": [0.5, 1.5]}},
]


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_batches_of_a_recipe_are_those_of_its_training(synthetic, as_arrays, assert_same, layout, settings):
    ds = fl.open_dataset(synthetic(layout=layout))
    recipe = Recipe.named("multa", ["units=2", "k=5"]).changed({**settings, "batch_size": 32, "seed": 5})
    restricted = ds.restricted(settings.get("tasks") or [task.name for task in ds.tasks])
    training = Training(recipe, restricted, row_spec(recipe, restricted))
    expected = as_arrays(training._feed.batches(0, 2))
    found = ds.tf("train", "multa", batch_size=32, seed=5, epochs=2, k=5, units=2, **settings)
    assert_same(as_arrays(found), expected)
    assert_same(as_arrays(ds.tf("train", recipe, batch_size=32, seed=5, epochs=2)), expected)
    resumed = ds.tf("train", recipe, batch_size=32, seed=5, epochs=2, start_step=3)
    assert_same(as_arrays(resumed), expected[3:])


def test_every_paradigm_is_striped_where_its_batches_are():
    assert {name for name, kind in PARADIGMS.items() if kind.striped} == set(STRIPED)


def test_without_a_seed_a_feed_has_all_rows_in_the_order_of_the_shards(synthetic):
    ds = fl.open_dataset(synthetic())
    balance = {"task": "app", "how": "undersample"}
    batches = list(ds.tf("train", batch_size=50, seed=None, k=5, balance=balance).as_numpy_iterator())
    inputs, labels = ds.to_numpy("train", k=5)
    np.testing.assert_array_equal(np.concatenate([batch[0]["sequence"] for batch in batches]), inputs["sequence"])
    np.testing.assert_array_equal(np.concatenate([batch[0]["length"] for batch in batches]), inputs["length"])
    for task, values in labels.items():
        known = np.concatenate([batch[2][task] for batch in batches])
        np.testing.assert_array_equal(known, values >= 0)
        np.testing.assert_array_equal(np.concatenate([batch[1][task] for batch in batches]), np.maximum(values, 0))


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_arrays_have_the_rows_of_the_scan(synthetic, layout, split):
    ds = fl.open_dataset(synthetic(layout=layout))
    rows = ds.scan(split).collect()
    inputs, labels = ds.to_numpy(split, k=5)
    assert len(inputs["sequence"]) == rows.height == sum(group.rows for group in ds.row_groups(split))
    assert sorted(inputs["length"].tolist()) == sorted(rows["pkt_size"].list.len().clip(0, 5).to_list())
    for task in ds.tasks:
        counted = rows[f"label_{task.name}"].fill_null(-1).to_list()
        assert sorted(labels[task.name].tolist()) == sorted(counted)


def test_a_row_spec_takes_the_place_of_a_recipe(synthetic):
    ds = fl.open_dataset(synthetic())
    spec = FeatureSpec.of(ds.card, k=3, channels=("size", "direction"), scaling="fixed")
    inputs, _ = ds.to_numpy("validation", spec)
    assert inputs["sequence"].shape[1:] == (3, 2)
    with pytest.raises(FlowloomError, match="settings must come with a recipe, got k with a row spec"):
        ds.to_numpy("validation", spec, k=4)


def test_scans_have_names_of_labels_and_addresses_on_request(tmp_path):
    flows = labelled_flows(60, {"app": random_labels(60, 2, 0, 1)})
    task = fl.Task(name="app", kind="multiclass", vocabulary=("web", "ssh"))
    ds = fl.open_dataset(store_dataset(tmp_path / "dataset", flows, [task]))
    split = next(name for name, counts in ds.splits.items() if counts.rows)
    plain = ds.scan(split).collect()
    named = ds.scan(split, text_addresses=True, label_names=True).collect()
    assert named["label_app"].dtype == pl.Enum(["web", "ssh"])
    values = [None if each is None else task.vocabulary[each] for each in plain["label_app"].to_list()]
    assert named["label_app"].to_list() == values
    assert named["src_ip"].to_list() == address_texts(plain["src_ip"].to_arrow()).to_pylist()
    assert named.drop("label_app", "src_ip", "dst_ip").equals(plain.drop("label_app", "src_ip", "dst_ip"))
    one = named["src_ip"][0]
    found = ds.scan(split, text_addresses=True).filter(pl.col("src_ip") == one).select(pl.len()).collect().item()
    assert found == named["src_ip"].to_list().count(one) > 0


def test_a_split_without_rows_is_a_frame_without_rows(synthetic):
    ds = fl.open_dataset(synthetic())
    shards = tuple(shard for shard in ds.card.shards if shard.split != "test")
    without = dataclasses.replace(ds, card=ds.card.model_copy(update={"shards": shards}))
    rows = without.scan("test", text_addresses=True, label_names=True).collect()
    assert rows.height == 0
    assert rows.schema == ds.scan("test", text_addresses=True, label_names=True).collect_schema()
    with pytest.raises(FlowloomError, match=r"split 'test' of dataset .* has no rows"):
        without.to_numpy("test", k=5)


def test_wrong_splits_views_and_recipes_are_named(synthetic):
    ds = fl.open_dataset(synthetic())
    with pytest.raises(FlowloomError, match=r"has no split 'tran'.*did you mean 'train'"):
        ds.scan("tran")
    with pytest.raises(FlowloomError, match="has no packets view"):
        ds.scan("train", "packets")
    with pytest.raises(FlowloomError, match=r"recipe must be one of .*did you mean 'multa'"):
        ds.to_numpy("train", "mutla")
    with pytest.raises(FlowloomError, match=r"schedule\.paradigm=incremental has a feed for each phase"):
        ds.tf("train", k=5, paradigm="incremental")


WITHOUT = """
import sys
for name in ("tensorflow", "keras", "apache_beam"):
    sys.modules[name] = None  # importing it fails
import flowloom as fl
inputs, labels = fl.open_dataset({path!r}).to_numpy("train", k=5)
print([inputs["sequence"].shape[0], sorted(labels), fl.open_dataset({path!r}).scan("train").collect().height])
"""


def test_arrays_and_frames_need_neither_tensorflow_nor_beam(synthetic):
    path = str(synthetic())
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(path=path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, tasks, height = ast.literal_eval(done.stdout)
    assert rows == height > 0
    assert tasks == ["app", "attack", "bulk"]


@pytest.mark.parametrize(
    ("library", "method", "extra"),
    [("polars", "scan", "build"), ("torch", "torch", "torch"), ("datasets", "huggingface", "huggingface")],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(synthetic, monkeypatch, library, method, extra):
    ds = fl.open_dataset(synthetic())
    for name in (library, "flowloom.trainers.api.torch_batches", "flowloom.trainers.api.huggingface_splits"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"Dataset.{method} needs {library}; install it with: pip install 'flowloom\[{extra}\]'"
    with pytest.raises(FlowloomError, match=f"^{message}$"):
        getattr(ds, method)("train") if method != "huggingface" else ds.huggingface()
