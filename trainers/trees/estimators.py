"""Fits of trees and linear models by scikit-learn and LightGBM, whose results become plain arrays."""

import dataclasses
import warnings
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from flowloom.schemas.errors import FlowloomError, did_you_mean
from flowloom.schemas.extras import extra_needed
from flowloom.trainers.trees.linear_arrays import LinearModel
from flowloom.trainers.trees.tree_arrays import LEAF, PlainTree, TreeEnsemble, joined

Family = Literal["extra_trees", "random_forest", "boosted_trees", "lightgbm", "logistic"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FORESTS = ("extra_trees", "random_forest")
BOOSTED = ("boosted_trees", "lightgbm")
TREE_LIBRARIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FAMILIES, ("scikit-learn",)),
    "lightgbm": ("lightgbm",),
}
"""Distributions that fit each family."""
FEW_VALUES = 10_000_000
"""Number of values below which boosting uses one thread: its threads wait for each other at every node, which takes
longer than the work if another process has the processor."""
Estimator = TreeEnsemble | LinearModel


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Settings of one fit.

    Attributes:
      family: the kind of model.
      trees: number of trees of a forest, or of rounds of boosting.
      leaf_rows: fewest rows of a leaf; None: 1 in forests, 20 in boosted trees, the libraries' defaults.
      shrinkage: times the values of each round of boosting.
      penalty: strength of the L2 penalty of logistic regression, the inverse of scikit-learn's C.
      seed: of all random choices.
    """

    family: Family
    trees: int = 100
    leaf_rows: int | None = None
    shrinkage: float = 0.1
    penalty: float = 1.0
    seed: int = 0


def fit(settings: FitSettings, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], classes: int) -> Estimator:
    """Fits a model on labelled rows; the same on any number of threads.

    Args:
      settings: of the fit.
      rows: float32 [N, columns], finite, at least one row.
      labels: int32 [N], each from 0 to `classes` - 1.
      classes: number of classes. Those without a row have the probability 0 everywhere.

    Raises:
      FlowloomError: if there is no such family, or LightGBM is needed and not installed.
    """
    if settings.family not in FAMILIES:
        raise FlowloomError(
            f"the family of trees must be one of {', '.join(FAMILIES)}, got {settings.family!r}"
            f"{did_you_mean(settings.family, FAMILIES)}"
        )
    present = np.unique(labels)
    if len(present) == 1:
        return _constant(int(present[0]), classes)
    if settings.family in FORESTS:
        return _fit_forest(settings, rows, labels, classes)
    if settings.family == "boosted_trees":
        return _fit_boosted(settings, rows, labels, classes)
    if settings.family == "lightgbm":
        return _fit_lightgbm(settings, rows, labels, classes)
    return _fit_logistic(settings, rows, labels, classes)


def trees_of_a_round(labels: npt.NDArray[np.int32]) -> int:
    """Returns the number of trees in a round of boosting: 1 for two classes, one per class for more."""
    present = len(np.unique(labels))
    return present if present > 2 else 1


def _constant(label: int, classes: int) -> TreeEnsemble:
    """Returns an ensemble without trees that gives every row the same class."""
    base = np.full(classes, -np.inf)
    base[label] = 0.0
    return joined([], "softmax", base)


def _base(present: np.ndarray, values: np.ndarray, classes: int) -> np.ndarray:
    """Returns the base of boosted trees or a linear model, whose two classes have one value."""
    base = np.full(classes, -np.inf)
    base[present] = values if len(present) > 2 else [0.0, *values]
    return base


def _fit_forest(settings: FitSettings, rows: np.ndarray, labels: np.ndarray, classes: int) -> TreeEnsemble:
    import sklearn.ensemble

    kinds = {
        "extra_trees": sklearn.ensemble.ExtraTreesClassifier,
        "random_forest": sklearn.ensemble.RandomForestClassifier,
    }
    forest = kinds[settings.family](
        settings.trees, min_samples_leaf=settings.leaf_rows or 1, random_state=settings.seed, n_jobs=-1
    )
    forest.fit(rows, labels)
    return from_forest(forest, classes)


def from_forest(forest: Any, classes: int) -> TreeEnsemble:
    """Returns the arrays of a fitted forest of scikit-learn, whose labels are from 0 to `classes` - 1."""
    outputs, trees = forest.classes_.astype(np.int64), []
    for estimator in forest.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        shares = tree.value[:, 0, :] * leaf[:, None]
        nodes, output = np.nonzero(shares)
        trees.append(
            PlainTree(
                np.where(leaf, LEAF, tree.feature), tree.threshold, tree.children_left, tree.children_right,
                np.bincount(nodes, minlength=len(leaf)), outputs[output], shares[nodes, output],
            )
        )  # fmt: skip
    return joined(trees, "mean", np.zeros(classes))


def _fit_boosted(settings: FitSettings, rows: np.ndarray, labels: np.ndarray, classes: int) -> TreeEnsemble:
    import sklearn.ensemble
    import threadpoolctl

    model = sklearn.ensemble.HistGradientBoostingClassifier(
        max_iter=settings.trees,
        learning_rate=settings.shrinkage,
        min_samples_leaf=settings.leaf_rows or 20,
        early_stopping=False,
        random_state=settings.seed,
    )
    with threadpoolctl.threadpool_limits(1 if rows.size < FEW_VALUES else None, "openmp"):
        model.fit(rows, labels)
    return from_boosted(model, classes)


def from_boosted(model: Any, classes: int) -> TreeEnsemble:
    """Returns the arrays of a fitted `HistGradientBoostingClassifier` on finite numbers."""
    present = model.classes_.astype(np.int64)
    outputs = present if len(present) > 2 else present[1:]
    trees = []
    for predictors in model._predictors:
        for output, predictor in zip(outputs, predictors, strict=True):
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            feature = np.where(leaf, LEAF, nodes["feature_idx"])
            left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
            trees.append(_boosted_tree(feature, nodes["num_threshold"], left, right, nodes["value"], int(output)))
    return joined(trees, "softmax", _base(present, model._baseline_prediction.ravel(), classes))


def _boosted_tree(
    feature: np.ndarray, threshold: np.ndarray, left: np.ndarray, right: np.ndarray, value: np.ndarray, output: int
) -> PlainTree:
    """Returns a tree each of whose leaves adds one value to one class."""
    leaf = feature == LEAF
    entries = leaf.astype(np.int64)
    return PlainTree(feature, threshold, left, right, entries, np.full(entries.sum(), output), value[leaf])


def _fit_lightgbm(settings: FitSettings, rows: np.ndarray, labels: np.ndarray, classes: int) -> TreeEnsemble:
    with extra_needed("model.kind=lightgbm needs"):
        import lightgbm
    present, codes = np.unique(labels, return_inverse=True)
    multiclass: dict[str, Any] = {"objective": "multiclass", "num_class": len(present)}
    parameters = {
        **(multiclass if len(present) > 2 else {"objective": "binary"}),
        "learning_rate": settings.shrinkage,
        "min_data_in_leaf": settings.leaf_rows or 20,
        "use_missing": False,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1 if rows.size < FEW_VALUES else 0,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(np.ascontiguousarray(rows, np.float64), codes, free_raw_data=True)
    booster = lightgbm.train(parameters, data, settings.trees)
    outputs = present if len(present) > 2 else present[1:]
    trees = [
        _lightgbm_tree(tree["tree_structure"], int(outputs[number % len(outputs)]))
        for number, tree in enumerate(booster.dump_model()["tree_info"])
    ]
    return joined(trees, "softmax", _base(present, np.zeros(len(outputs)), classes))


def _lightgbm_tree(root: dict[str, Any], output: int) -> PlainTree:
    """Returns a tree of LightGBM's dump, parents before children."""
    nodes, left, right, waiting = list[dict[str, Any]](), list[int](), list[int](), [(root, -1, False)]
    while waiting:
        node, parent, is_left = waiting.pop()
        place = len(nodes)
        nodes.append(node)
        left.append(place)
        right.append(place)
        if parent >= 0:
            (left if is_left else right)[parent] = place
        if "split_feature" in node:
            waiting += [(node["right_child"], place, False), (node["left_child"], place, True)]
    return _boosted_tree(
        np.array([node.get("split_feature", LEAF) for node in nodes]),
        np.array([node.get("threshold", 0.0) for node in nodes], np.float64),
        np.array(left),
        np.array(right),
        np.array([node.get("leaf_value", 0.0) for node in nodes], np.float64),
        output,
    )


def _fit_logistic(settings: FitSettings, rows: np.ndarray, labels: np.ndarray, classes: int) -> LinearModel:
    import sklearn.exceptions
    import sklearn.linear_model

    shift = rows.mean(axis=0, dtype=np.float64)
    deviation = rows.std(axis=0, dtype=np.float64)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    model = sklearn.linear_model.LogisticRegression(C=1 / settings.penalty, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)  # the last figures change no class
        model.fit((rows - shift) * scale, labels)
    present = model.classes_.astype(np.int64)
    weights = np.zeros((rows.shape[1], classes))
    weights[:, present if len(present) > 2 else present[1:]] = model.coef_.T
    return LinearModel(shift, scale, weights, _base(present, model.intercept_, classes))
