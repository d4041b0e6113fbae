"""Packets and tables pass through the same feed as flows, byte for byte and value for value."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
import sklearn.preprocessing
from hypothesis import given
from hypothesis import strategies as st
from stored_views import store_views

from flowloom.schemas.arrow.feature_tables import feature_schema
from flowloom.schemas.arrow.rows import label_column, labelled, packet_schema
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.balancing import Balance
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feature_selection import correlations
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.feed.row_spec import TENSOR_ALIGNMENT, aligned_empty
from flowloom.trainers.feed.table_spec import TableSpec, uniform

ROWS = {"train": 200, "validation": 30}
BYTES = 40
FEATURES = ("duration", "constant", "gappy")


def table(view, split, tasks):
    """Returns rows of a view with some unknown labels.

    The feature `gappy` is null in every other row, and NaN in some.
    """
    rows = ROWS[split]
    rng = np.random.default_rng(rows)
    gappy = [None if n % 2 else float(n) for n in range(rows)]
    columns = {
        "flow_id": [hashlib.sha256(f"{split} {n}".encode()).digest()[:16] for n in range(rows)],
        "group": ["a"] * rows,
        "time": np.arange(rows),
        "record": np.arange(rows, dtype=np.uint64),
        "bytes": [rng.bytes(BYTES) for _ in range(rows)],
        "duration": rng.exponential(1e6, rows),
        "constant": np.full(rows, 3.0),
        "gappy": gappy,
        **{label_column(task.name): rng.choice(np.array([0, 0, 0, 1, None]), rows) for task in tasks},
    }
    schema = packet_schema(BYTES) if view == "packets" else feature_schema(FEATURES)
    return pa.table({name: columns[name] for name in labelled(schema, [task.name for task in tasks]).names}).cast(
        labelled(schema, [task.name for task in tasks])
    )


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory):
    """A dataset of packets and tables, with the tasks of the synthetic flows."""
    card = read_card(synthetic())
    tables = {(view, split): table(view, split, card.tasks) for view in ("packets", "tables") for split in ROWS}
    root = tmp_path_factory.mktemp("views")
    return Dataset.open(store_views(root, card, tables, packet_bytes=BYTES, features=FEATURES))


def gathered(feed, name):
    batches = [(inputs[name].numpy(), labels["app"].numpy()) for inputs, labels, _ in feed.batches(epochs=1)]
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


@pytest.mark.parametrize("length", [None, 13])
def test_bytes_of_packets_are_fed_unchanged(dataset, length):
    spec = ByteSpec.of(dataset.card, length)
    rows, labels = gathered(Feed(dataset, "validation", spec, 7), "bytes")
    expected = table("packets", "validation", dataset.tasks)
    assert rows.dtype == np.uint8
    assert [bytes(row) for row in rows] == [each.as_py()[:length] for each in expected["bytes"]]
    np.testing.assert_array_equal(labels, expected["label_app"].fill_null(0).to_numpy())
    shuffled, of = gathered(Feed(dataset, "train", spec, 7, seed=1), "bytes")
    everything = table("packets", "train", dataset.tasks)
    listed = zip(everything["bytes"].to_pylist(), everything["label_app"].fill_null(0).to_pylist(), strict=True)
    assert sorted(zip(map(bytes, shuffled), of.tolist(), strict=True)) == sorted(
        (content[:length], label) for content, label in listed
    )


@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_features_of_tables_are_scaled_by_train_rows(dataset, scaling):
    spec = TableSpec.of(dataset, scaling=scaling)
    assert TableSpec.model_validate_json(spec.model_dump_json()) == spec
    rows, _ = gathered(Feed(dataset, "validation", spec, 7), "features")
    train, validation = (table("tables", split, dataset.tasks).to_pandas()[[*FEATURES]] for split in ROWS)
    expected = validation.fillna(train.mean())
    if scaling == "standard":
        expected = (expected - train.mean()) / train.std(ddof=0).replace(0.0, 1.0)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected.to_numpy(), rtol=1e-5, atol=1e-6)


def test_quantiles_are_those_of_scikit_learn(dataset):
    spec = TableSpec.of(dataset, ("duration", "gappy"), "quantile")
    assert TableSpec.model_validate_json(spec.model_dump_json()) == spec
    rows, _ = gathered(Feed(dataset, "validation", spec, 7), "features")
    train, validation = (table("tables", split, dataset.tasks).to_pandas()[["duration", "gappy"]] for split in ROWS)
    for column, name in enumerate(spec.columns):
        known = train[[name]].dropna().to_numpy()
        oracle = sklearn.preprocessing.QuantileTransformer(n_quantiles=len(known), subsample=None).fit(known)
        expected = oracle.transform(validation[[name]].fillna(train[name].mean()).to_numpy())
        np.testing.assert_allclose(rows[:, column], expected[:, 0], atol=1e-6)


@given(st.lists(st.sampled_from([-3.0, 0.0, 0.5, 2.0, 1e9]), min_size=1, max_size=30))
def test_shares_lie_between_0_and_1_and_keep_the_order(values):
    quantiles = np.quantile(values, np.linspace(0, 1, len(values)))
    asked = np.array([-np.inf, *sorted(values), np.inf])
    shares = uniform(asked, quantiles)
    assert shares[0] == 0
    assert shares[-1] == (1 if len(set(values)) > 1 else shares[-1])
    assert (np.diff(shares) >= 0).all()


def test_constants_and_copies_are_dropped(synthetic, tmp_path):
    card, rng = read_card(synthetic()), np.random.default_rng(3)
    features = ("constant", "first", "copy", "nearly", "other")
    first = rng.normal(size=90)
    columns = {
        "constant": np.ones(90),
        "first": first,
        "copy": -2 * first + 1e6,
        "nearly": first + rng.normal(size=90) * 0.1,
        "other": rng.normal(size=90),
    }
    rows = table("tables", "train", card.tasks).slice(0, 90)
    for name in FEATURES:
        rows = rows.drop_columns(name)
    for number, (name, values) in enumerate(columns.items()):
        rows = rows.add_column(2 + number, name, pa.array(values))
    dataset = Dataset.open(store_views(tmp_path, card, {("tables", "train"): rows}, features=features))
    assert TableSpec.of(dataset, most=4).columns == ("first", "copy", "nearly", "other")
    assert TableSpec.of(dataset, most=3).columns == ("first", "nearly", "other")
    assert TableSpec.of(dataset, most=2).columns == ("first", "other")
    with pytest.raises(FlowloomError, match=r"most_features must be at least 2.*set most_features=2"):
        TableSpec.of(dataset, most=1)
    values = np.stack([columns[name] for name in features[1:]], axis=1)
    found = correlations(dataset, {name: (np.mean(columns[name]), np.std(columns[name])) for name in features[1:]})
    np.testing.assert_allclose(found, np.corrcoef(values.T), atol=1e-9)


def test_some_features_in_another_order(dataset):
    rows, _ = gathered(Feed(dataset, "train", TableSpec.of(dataset, ("constant", "duration"), "none"), 7), "features")
    expected = table("tables", "train", dataset.tasks)
    np.testing.assert_allclose(rows[:, 0], 3.0)
    np.testing.assert_allclose(rows[:, 1], expected["duration"].to_numpy(), rtol=1e-6)


@pytest.mark.parametrize("view", ["packets", "tables"])
def test_other_views_are_balanced_and_resumed_too(dataset, view):
    spec = ByteSpec.of(dataset.card) if view == "packets" else TableSpec.of(dataset)
    balance = Balance(task="attack", how="undersample")
    feed = Feed(dataset, "train", spec, 8, seed=1, window_rows=100, balance=balance)
    whole = list(feed.batches(epochs=2))
    counts = np.bincount(np.concatenate([labels["attack"] for _, labels, _ in whole]))
    assert counts[0] == counts[1] > 20
    for one, other in zip(feed.batches(5, epochs=2), whole[5:], strict=True):
        for name in spec.inputs:
            np.testing.assert_array_equal(one[0][name], other[0][name])


def test_specs_that_do_not_fit_are_refused(dataset, synthetic):
    flows = Dataset.open(synthetic())
    for call, words in [
        (lambda: FeatureSpec.of(dataset.card, 6, ("size",), "fixed"), "has no flows view, only packets, tables"),
        (lambda: ByteSpec.of(flows.card), r"has no packets view, only flows; .* views: \[packets, flows\]"),
        (lambda: TableSpec.of(flows), "has no tables view"),
        (lambda: ByteSpec.of(dataset.card, 41), "length must be from 1 to 40, .*, got 41"),
        (lambda: TableSpec.of(dataset, ["durations"]), "got 'durations'; did you mean 'duration'"),
        (lambda: TableSpec.of(dataset, ["constant", "constant"]), "must not repeat"),
        (
            lambda: Feed(dataset, "train", TableSpec.of(dataset, missing="refuse"), 8).tensors(0, 0),
            "feature gappy is unknown in 100 of 200 rows; set missing=mean",
        ),
    ]:
        with pytest.raises(FlowloomError, match=words):
            call()


@pytest.mark.parametrize("shape", [(0, 3), (1,), (7, 5, 3)])
def test_memory_is_aligned_for_tensorflow(shape):
    for dtype in (np.uint8, np.float32):
        memory = aligned_empty(shape, dtype)
        assert (memory.shape, memory.dtype, memory.flags.c_contiguous) == (shape, dtype, True)
        assert memory.ctypes.data % TENSOR_ALIGNMENT == 0 or not memory.size
