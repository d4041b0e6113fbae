"""A train split with synthetic rows lies beside the dataset and has its schema."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_views import store_views

from flowloom.schemas.arrow.feature_tables import feature_schema
from flowloom.schemas.arrow.rows import label_column, labelled
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.dataset_card import read_card
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.balancing import Balance
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.table_spec import TableSpec
from flowloom.trainers.training.synthetic_rows import MADE, with_synthetic_rows

FEATURES = ("first", "second", "third")
TASKS = (
    Task(name="family", kind="multiclass", vocabulary=("benign", "dos", "bot")),
    Task(name="attack", kind="binary"),
    Task(name="loud", kind="binary"),
)
COUNTS = (60, 30, 8)
BALANCE = Balance(task="family", how="smote", totals={"benign": 25, "bot": 40})


def table(split):
    """Returns rows of three families, which imply the label of one task but not of the other."""
    family = np.repeat(np.arange(3), COUNTS) if split == "train" else np.arange(12) % 3
    rng, rows = np.random.default_rng(len(split)), len(family)
    values = rng.exponential(100.0, (rows, 3)) + 1000 * family[:, None]
    columns = {
        "flow_id": [hashlib.sha256(f"{split} {n}".encode()).digest()[:16] for n in range(rows)],
        "group": ["a"] * rows,
        **dict(zip(FEATURES, values.T, strict=True)),
        label_column("family"): family,
        label_column("attack"): (family > 0).astype(int),
        label_column("loud"): rng.integers(0, 2, rows),
    }
    schema = labelled(feature_schema(FEATURES), [task.name for task in TASKS])
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory):
    tables = {("tables", split): table(split) for split in ("train", "validation")}
    root = store_views(
        tmp_path_factory.mktemp("tables"), read_card(synthetic()), tables, tasks=TASKS, features=FEATURES
    )
    return Dataset.open(root)


@pytest.mark.parametrize("scaling", ["standard", "quantile"])
def test_classes_get_their_totals_of_rows_between_neighbours(dataset, tmp_path, scaling):
    spec = TableSpec.of(dataset, scaling=scaling)
    made = with_synthetic_rows(dataset, spec, BALANCE, 7, tmp_path / "made.parquet")
    features, labels = Feed(made, "train", spec.scaled, 8).tensors(0, 0)
    assert np.bincount(labels[:, 0]).tolist() == [25, 30, 40]
    real, known = Feed(dataset, "train", spec, 8).tensors(0, 0)
    new = np.array([row.tobytes() not in {each.tobytes() for each in real} for row in features])
    assert np.bincount(labels[new, 0], minlength=3).tolist() == [0, 0, 32]
    bots = real[known[:, 0] == 2]
    assert (features[new] >= bots.min(axis=0) - 1e-6).all()
    assert (features[new] <= bots.max(axis=0) + 1e-6).all()
    assert (labels[new, 1] == 1).all(), "all bots are attacks"
    assert (labels[new, 2] == -1).all(), "some bots are loud and some are not"
    stored = pq.read_table(tmp_path / "made.parquet")
    assert (np.array(stored["group"].to_pylist()) == MADE).tolist() == new.tolist()
    assert len(set(stored["flow_id"].to_pylist())) == stored.num_rows


def test_the_dataset_and_its_other_splits_are_unchanged(dataset, tmp_path):
    spec = TableSpec.of(dataset)
    before = {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()}
    made = with_synthetic_rows(dataset, spec, BALANCE, 7, tmp_path / "made.parquet")
    assert {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()} == before
    assert made.row_groups("validation", view="tables") == dataset.row_groups("validation", view="tables")
    assert [path.name for path in tmp_path.iterdir()] == ["made.parquet"]


def test_bytes_depend_on_the_seed_alone(dataset, tmp_path):
    spec, paths = TableSpec.of(dataset), [tmp_path / name for name in "abc"]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        with_synthetic_rows(dataset, spec, BALANCE, seed, path)
    one, again, other = (path.read_bytes() for path in paths)
    assert one == again != other


def test_impossible_syntheses_are_refused(dataset, tmp_path):
    spec, path = TableSpec.of(dataset), tmp_path / "made.parquet"
    few = Balance(task="family", how="smote", totals={"bot": 40}, neighbours=8)
    with pytest.raises(
        FlowloomError, match="class 'bot' of task 'family' must have 9 train rows for SMOTE between 8 neighbours, got 8"
    ):
        with_synthetic_rows(dataset, spec, few, 7, path)
    with pytest.raises(FlowloomError, match="got 'bott'; did you mean 'bot'"):
        with_synthetic_rows(dataset, spec, Balance(task="family", how="smote", totals={"bott": 40}), 7, path)
    rainbow = Dataset(dataset.root, dataset.card.model_copy(update={"layout": "rainbow"}))
    with pytest.raises(FlowloomError, match="must have the layout aurora for balance how=smote"):
        with_synthetic_rows(rainbow, spec, BALANCE, 7, path)
    with pytest.raises(ValueError, match="totals must give rows by class for how=smote"):
        Balance(task="family", how="smote")
    assert not path.exists()
