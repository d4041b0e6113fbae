"""Arrays of fitted trees and linear models against the libraries that fitted them."""

import numpy as np
import pytest
import sklearn.ensemble
import sklearn.linear_model
from scipy.special import expit
from scipy.special import softmax as scipy_softmax

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.trees.estimators import FAMILIES, FitSettings, fit, from_boosted, from_forest
from flowloom.trainers.trees.tree_arrays import TreeEnsemble, round_down


def rows_of(classes, rows=400, columns=9, seed=0):
    """Rows with coarse values, so that many lie on a threshold, and labels that depend on them."""
    generator = np.random.default_rng((seed, classes))
    x = (generator.integers(-30, 30, (rows, columns)) / 7).astype(np.float32)
    score = x[:, 0] + x[:, 1] * x[:, 2] + generator.normal(size=rows)
    return x, np.searchsorted(np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]), score).astype(np.int32)


def between(x):
    """Rows that nothing was fitted on, with many values half-way between others, where trees place thresholds."""
    return np.concatenate([x, (x + np.roll(x, 1, axis=0)) / 2, np.nextafter(x, np.float32(np.inf))]).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kind", [sklearn.ensemble.RandomForestClassifier, sklearn.ensemble.ExtraTreesClassifier])
def test_forests_give_the_probabilities_of_scikit_learn_to_the_last_bit(kind, classes):
    x, y = rows_of(classes)
    forest = kind(30, random_state=1, min_samples_leaf=3, n_jobs=1).fit(x, y)
    found = from_forest(forest, classes).probabilities(between(x))
    assert found.tobytes() == forest.predict_proba(between(x)).tobytes()
    assert (found.argmax(axis=1)[: len(x)] == y).mean() > 0.6


@pytest.mark.parametrize("classes", [2, 5])
def test_boosted_trees_give_the_sums_of_scikit_learn_to_the_last_bit(classes):
    x, y = rows_of(classes)
    model = sklearn.ensemble.HistGradientBoostingClassifier(max_iter=20, min_samples_leaf=5).fit(x, y)
    found = from_boosted(model, classes)
    expected = model._raw_predict(between(x).astype(np.float64))
    sums = found.sums(between(x))
    assert np.ascontiguousarray(sums[:, -expected.shape[1] :]).tobytes() == np.ascontiguousarray(expected).tobytes()
    np.testing.assert_allclose(found.probabilities(between(x)), model.predict_proba(between(x)), rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_lightgbm_gives_the_sums_of_its_own_library(classes, extra_library):
    lightgbm = extra_library("lightgbm")
    x, y = rows_of(classes)
    found = fit(FitSettings("lightgbm", trees=15, leaf_rows=5, seed=3), x, y, classes)
    objective = {"objective": "multiclass", "num_class": classes} if classes > 2 else {"objective": "binary"}
    same = {"learning_rate": 0.1, "min_data_in_leaf": 5, "use_missing": False, "seed": 3, "deterministic": True}
    booster = lightgbm.train({**objective, **same, "force_row_wise": True, "verbosity": -1}, lightgbm.Dataset(x, y), 15)
    raw = booster.predict(between(x).astype(np.float64), raw_score=True)
    np.testing.assert_allclose(
        found.sums(between(x))[:, -raw.reshape(len(raw), -1).shape[1] :].squeeze(), raw, rtol=1e-9
    )
    expected = scipy_softmax(raw, axis=1) if classes > 2 else expit(raw)
    probabilities = found.probabilities(between(x))
    np.testing.assert_allclose(probabilities if classes > 2 else probabilities[:, 1], expected, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_that_of_scikit_learn_on_standardised_columns(classes):
    x, y = rows_of(classes)
    x = np.hstack([x, np.full((len(x), 1), 5, np.float32)])  # a constant column
    found = fit(FitSettings("logistic", penalty=0.5), x, y, classes)
    standard = (x - x.mean(axis=0, dtype=np.float64)) / np.where(x.std(axis=0) > 0, x.std(axis=0, dtype=np.float64), 1)
    expected = sklearn.linear_model.LogisticRegression(C=2, max_iter=300).fit(standard, y).predict_proba(standard)
    np.testing.assert_allclose(found.probabilities(x), expected, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_without_rows_have_no_probability(family, extra_library):
    if family == "lightgbm":
        extra_library("lightgbm")
    x, y = rows_of(3)
    for present in ((1, 4), (0, 2, 5), (3,)):
        labels = np.array(present, np.int32)[y % len(present)]
        found = fit(FitSettings(family, trees=5), x, labels, 6).probabilities(x)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
        assert not np.delete(found, present, axis=1).any()
        assert (found.argmax(axis=1) == labels).mean() > 1 / len(present) - 0.1


@pytest.mark.parametrize("family", ["extra_trees", "boosted_trees"])
def test_a_seed_gives_the_same_arrays_and_the_first_trees_are_a_smaller_model(family):
    x, y = rows_of(4)
    one, two = (fit(FitSettings(family, trees=6, seed=2), x, y, 4) for _ in range(2))
    assert all(one.arrays[name].tobytes() == two.arrays[name].tobytes() for name in one.arrays)
    assert isinstance(one, TreeEnsemble)
    half = len(one.roots) // 2
    first = TreeEnsemble.of(one.link, one.first(half).arrays, 4, x.shape[1])
    assert one.sums(x, half, first.sums(x)).tobytes() == one.sums(x).tobytes()
    assert first.parameters < one.parameters
    assert first.operations < one.operations


def test_operations_are_those_of_the_longest_paths():
    x, y = rows_of(2)
    forest = sklearn.ensemble.RandomForestClassifier(4, random_state=0).fit(x, y)
    depths = [each.tree_.max_depth for each in forest.estimators_]
    found = from_forest(forest, 2)
    assert sum(depths) < found.operations <= sum(depths) + 2 * len(depths)
    assert found.parameters == sum((each.tree_.feature >= 0).sum() for each in forest.estimators_) + len(found.value)


def test_thresholds_are_rounded_down():
    numbers = np.array([0.1, 1 / 3, -0.1, 1e30, 2.5])
    found = round_down(numbers)
    assert (found <= numbers).all()
    assert (np.nextafter(found, np.float32(np.inf)) > numbers).all()


def test_an_unknown_family_is_refused():
    with pytest.raises(FlowloomError, match="did you mean 'extra_trees'"):
        fit(FitSettings("extra_tree"), np.zeros((2, 1), np.float32), np.arange(2, dtype=np.int32), 2)
