"""Flow trials: a fit is a function of its arguments, for fused and for striped steps."""

import numpy as np
import pytest

from flowloom.pipelines.reproduce.engine.flow_trials import Examples, FlowFitPlan, FlowTrials
from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.feed.augmentation import Augmentation
from flowloom.trainers.feed.flow_spec import FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe

TASKS = (
    Task(name="kind", kind="multiclass", vocabulary=("a", "b", "c")),
    Task(name="mal", kind="binary"),
)
K, CHANNELS = 5, ("size", "direction", "gap")


def examples(count, seed):
    """Flows of three kinds, visible in their first packet; the second label of every fourth is unknown."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, 3, count).astype(np.int32)
    sequence = generator.normal(size=(count, K + 3, len(CHANNELS))).astype(np.float32)
    sequence[np.arange(count), 0, kinds] += 4.0
    length = generator.integers(1, K + 3, count).astype(np.int32)
    mal = np.where(np.arange(count) % 4, (kinds == 2).astype(np.int32), -1)
    return Examples(sequence, length, {"kind": kinds, "mal": mal})


@pytest.fixture(scope="module", params=["aurora", "rainbow"])
def trials(request):
    settings = [f"paradigm={request.param}", f"k={K}", "units=6", "batch_size=32", "learning_rate=0.03"]
    return FlowTrials(Recipe.named("multa", settings), FeatureSpec(k=K, channels=CHANNELS, scaling="fixed"), TASKS)


def plan(epochs, **others):
    return FlowFitPlan(**{"seed": 3, "epochs": epochs, **others})


def same(one, other):
    return one == other and all(np.array_equal(*pair) for pair in zip(one.shared, other.shared, strict=True))


def test_a_fit_learns_and_keeps_the_best_weights(trials):
    validation = examples(60, 2)
    fit = trials.fit(examples(200, 1), validation, plan(8, keep="best", watch=lambda: {"more": 1}))
    assert [(record["epoch"], record["more"]) for record in fit.history] == [(epoch, 1) for epoch in range(1, 9)]
    accuracies = {record["epoch"]: record["validation_accuracy"]["kind"] for record in fit.history}
    assert accuracies[fit.kept] == max(accuracies.values()) > 0.8
    right = trials.predict(validation)["kind"].argmax(axis=1) == validation.labels["kind"]
    assert right.mean() == accuracies[fit.kept]


def test_a_fit_depends_on_its_arguments_alone(trials):
    train, validation = examples(70, 1), examples(40, 2)
    first = trials.fit(train, validation, plan(2))
    others = [plan(2, seed=4), plan(2, loss_weights={"mal": 9.0}), plan(2, furthest_start=2)]
    assert all(trials.fit(train, validation, other).history != first.history for other in others)
    assert same(trials.fit(train, validation, plan(2)), first)
    adopted = trials.fit(train, validation, plan(1, adopt=first.shared))
    assert adopted.history != trials.fit(train, validation, plan(1)).history


def test_measurements_do_not_change_a_fit(trials):
    train, validation = examples(70, 1), examples(40, 2)
    every, few = (trials.fit(train, validation, plan(5, measured_every=n)) for n in (1, 3))
    assert [record["epoch"] for record in few.history] == [3, 5]
    assert few.history == [every.history[2], every.history[4]]
    assert few.kept == every.kept == 5


@pytest.fixture(scope="module")
def unscaled_trials():
    features = FeatureSpec(k=K, channels=CHANNELS, scaling="none")
    return FlowTrials(Recipe.named("multa", ["paradigm=aurora", f"k={K}", "units=6", "batch_size=32"]), features, TASKS)


def test_augmentation_changes_train_rows_as_it_says(unscaled_trials):
    train, validation = examples(70, 1), examples(40, 2)
    train.sequence[np.arange(K + 3) >= train.length[:, None]] = 0
    lossy = Augmentation(start=2, packet_loss=0.2, gap_scale=(0.5, 1.5), mirror=0.5)
    plain = unscaled_trials.fit(train, validation, plan(2))
    drawn = unscaled_trials.fit(train, validation, plan(2, augment=lossy))
    assert drawn.history != plain.history
    assert same(unscaled_trials.fit(train, validation, plan(2, augment=lossy)), drawn)
    never = Augmentation(mirror=1e-300)  # every row is augmented, and none is changed
    assert same(unscaled_trials.fit(train, validation, plan(2, augment=never)), plain)


def test_augmentation_needs_packets_in_units(trials):
    with pytest.raises(ValueError, match="augment must be of features of scaling=none, got scaling=fixed"):
        trials.fit(examples(9, 1), examples(9, 2), plan(1, augment=Augmentation(start=2)))
    with pytest.raises(ValueError, match=r"furthest_start must be 0 with augment, got 2; set augment\.start"):
        plan(1, augment=Augmentation(start=2), furthest_start=2)


def test_a_fit_has_epochs():
    with pytest.raises(ValueError, match="must be >= 1, got 0 and 1"):
        plan(0)
