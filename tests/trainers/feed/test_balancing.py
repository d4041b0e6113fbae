"""Balancing gives classes their totals from train rows alone, the same for the same seed."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.balancing import TrainLabels, equal_shares, oversample, resample, smote, undersample
from flowloom.trainers.feed.dataset import Dataset

APP = Task(name="app", kind="multiclass", vocabulary=("web", "ssh", "dns"))
VPN = Task(name="vpn", kind="binary")


def labels_of(app: list[int], vpn: list[int] | None = None) -> TrainLabels:
    codes = {"app": np.array(app, np.int32), "vpn": np.array(vpn or [-1] * len(app), np.int32)}
    return TrainLabels("train", codes)


codes = st.lists(st.integers(-1, 2), max_size=60)


@settings(deadline=None, max_examples=25)
@given(codes, st.integers(0, 3))
def test_classes_become_as_frequent_as_the_rarest_or_the_most_frequent(app, seed):
    labels = labels_of(app)
    counts = collections.Counter(code for code in app if code >= 0)
    fewer, more = undersample(labels, APP, seed), oversample(labels, APP, seed)
    assert collections.Counter(app[at] for at in fewer) == dict.fromkeys(counts, min(counts.values(), default=0))
    assert collections.Counter(app[at] for at in more) == dict.fromkeys(counts, max(counts.values(), default=0))
    assert len(set(fewer.tolist())) == len(fewer)
    assert set(more.tolist()) == {at for at, code in enumerate(app) if code >= 0}, "every row stays"


@settings(deadline=None, max_examples=25)
@given(codes.filter(lambda app: {0, 1} <= set(app)), st.integers(0, 90), st.integers(0, 90))
def test_totals_are_met_and_classes_are_drawn_independently(app, web, ssh):
    rows = resample(labels_of(app), APP, {"web": web, "ssh": ssh}, seed=7)
    found = collections.Counter(app[at] for at in rows)
    assert (found[0], found[1], found[2]) == (web, ssh, app.count(2))
    repeats = collections.Counter(rows.tolist())
    for code in (0, 1):
        times = {repeats[at] for at, of in enumerate(app) if of == code}
        assert max(times) - min(times) <= 1, "no row comes again before all others did"
    other = resample(labels_of(app), APP, {"web": web, "ssh": ssh + 1}, seed=7)
    assert [at for at in other if app[at] == 0] == [at for at in rows if app[at] == 0]
    assert rows.tolist() == sorted(rows.tolist())


def test_the_seed_chooses_the_rows():
    labels = labels_of([0] * 100 + [1] * 10)
    one, again, other = (undersample(labels, APP, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 1)), max_size=60))
def test_shares_of_one_task_are_equal_in_every_class_of_another(pairs):
    rows = equal_shares(labels_of([app for app, _ in pairs], [vpn for _, vpn in pairs]), VPN, APP, seed=3)
    found = collections.Counter(pairs[at] for at in rows)
    for app in range(3):
        assert found[app, 0] == found[app, 1] == min(pairs.count((app, vpn)) for vpn in (0, 1))
    assert sum(found[key] for key in found if -1 in key) == 0
    assert len(set(rows.tolist())) == len(rows)


def test_shares_are_equal_up_to_a_total():
    labels = labels_of([0] * 40 + [1] * 10, [0, 1] * 25)
    rows = equal_shares(labels, VPN, APP, seed=3, totals={"web": 12})
    assert collections.Counter(labels.codes["app"][rows].tolist()) == {0: 12, 1: 10}
    assert labels.codes["vpn"][rows].sum() == 11


@pytest.mark.parametrize(("total", "vpn", "plain"), [(4, 2, 2), (20, 3, 17), (100, 3, 40), (0, 0, 0)])
def test_other_classes_fill_the_total_of_a_small_class(total, vpn, plain):
    labels = labels_of([0] * 43 + [1] * 9, [1] * 3 + [0] * 49)
    rows = equal_shares(labels, VPN, APP, seed=3, totals={"web": total})
    assert np.bincount(labels.codes["vpn"][rows], minlength=2).tolist() == [plain, vpn]
    assert not labels.codes["app"][rows].any()


@settings(deadline=None, max_examples=10)
@given(st.integers(7, 20), st.integers(1, 30), st.integers(0, 5))
def test_synthetic_rows_lie_between_rows_of_their_class(members, more, seed):
    generator = np.random.default_rng(seed)
    app = np.array([0] * 40 + [1] * members + [-1] * 5, np.int32)
    features = generator.normal(size=(len(app), 2)) + 100 * app[:, None]
    labels = TrainLabels("train", {"app": app})
    made, of = smote(features, labels, APP, {"ssh": members + more}, seed)
    assert made.shape == (more, 2)
    assert of.tolist() == [1] * more
    own = features[app == 1]
    assert (made >= own.min(axis=0)).all()
    assert (made <= own.max(axis=0)).all()
    again, _ = smote(features, labels, APP, {"ssh": members + more}, seed)
    np.testing.assert_array_equal(made, again)


def test_a_complete_class_gets_no_synthetic_rows():
    made, of = smote(np.zeros((3, 2)), labels_of([0, 0, 1]), APP, {"web": 2}, seed=0)
    assert (made.shape, of.shape) == ((0, 2), (0,))


def test_classes_of_automatic_tasks_are_balanced_too():
    at = {"method": "given", "at": (1.0, 60.0)}
    duration = Task(name="duration", kind="auto", quantity="duration", dividers=at)
    labels = TrainLabels("train", {"duration": np.array([0, 0, 1, 2, 2, 2], np.int32)})
    assert undersample(labels, duration, seed=0).size == 3
    assert resample(labels, duration, {"from 60 s": 1}, seed=0).size == 4


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_splits_are_refused(split):
    with pytest.raises(FlowloomError, match=f"split must be train to be resampled, got '{split}'"):
        TrainLabels(split, {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample(labels_of([0]), APP, {"ssh": 1}, 0), "class 'ssh' of task 'app' must have train rows"),
        (lambda: resample(labels_of([0]), APP, {"web": -1}, 0), "at least 0, got -1"),
        (lambda: resample(labels_of([0]), APP, {"wbe": 1}, 0), "did you mean 'web'"),
        (lambda: equal_shares(labels_of([0]), VPN, APP, 0, {"wbe": 1}), "did you mean 'web'"),
        (lambda: undersample(TrainLabels("train", {}), APP, 0), "task must be one of .*got 'app'"),
        (lambda: labels_of([0], [0, 1]), "equally many rows for each task"),
        (lambda: smote(np.zeros((1, 2, 3)), labels_of([0]), APP, {}, 0), "features must be finite and of shape"),
        (lambda: smote(np.full((1, 2), np.nan), labels_of([0]), APP, {}, 0), "with infinite or NaN values"),
        (lambda: smote(np.zeros((9, 2)), labels_of([0] * 9), APP, {"web": 8}, 0), "at least its 9 rows, got 8"),
        (
            lambda: smote(np.zeros((5, 2)), labels_of([0] * 5), APP, {"web": 8}, 0),
            "have 6 train rows for SMOTE",
        ),
    ],
)
def test_impossible_balances_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_labels_are_read_from_the_train_split(synthetic, layout):
    dataset = Dataset.open(synthetic(layout=layout))
    labels = TrainLabels.read(dataset)
    counts = dataset.card.splits["train"]
    for task in dataset.tasks:
        found = np.bincount(labels.of(task) + 1, minlength=len(task.vocabulary) + 1).tolist()
        assert dict(zip(task.vocabulary, found[1:], strict=True)) == counts.classes[task.name]
        assert len(labels.of(task)) == counts.rows
