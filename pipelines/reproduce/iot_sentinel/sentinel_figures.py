"""Figures of predictions: macro F1 of flows and of captures, with twins apart and merged, and the ceiling of labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flowloom.pipelines.reproduce.iot_sentinel.sentinel_data import merged_classes
from flowloom.trainers.evaluation.metrics import headline
from flowloom.trainers.evaluation.predictions import Predictions

MERGED = "device_merged"
"""Target of devices with twins merged, beside the tasks."""

Figures = dict[str, dict[str, float]]
"""Macro F1 in per cent by target and unit, `flow` or `capture`."""


def figures(
    predictions: Mapping[str, Predictions],
    vocabularies: Mapping[str, tuple[str, ...]],
    captures: npt.NDArray[np.int64],
) -> Figures:
    """Returns macro F1 by target and unit.

    Args:
      predictions: of each task, of the same flows in the same order.
      vocabularies: label values of each task.
      captures: int64 [N], the number of each flow's capture.
    """
    targets = dict(predictions)
    if "device" in predictions:
        targets[MERGED] = merged_twins(predictions["device"], merged_classes(vocabularies["device"])[1])
    return {
        target: {"flow": _macro_f1(of_flows), "capture": _macro_f1(of_captures(of_flows, captures))}
        for target, of_flows in targets.items()
    }


def merged_twins(predictions: Predictions, merged: Sequence[int]) -> Predictions:
    """Returns predictions of merged classes, whose probabilities are sums; `merged` has the place of each class."""
    places = np.asarray(merged)
    probabilities = np.zeros((len(predictions.labels), places.max() + 1), predictions.probabilities.dtype)
    np.add.at(probabilities.T, places, predictions.probabilities.T)
    return Predictions(places[predictions.labels].astype(np.int32), probabilities)


def of_captures(predictions: Predictions, captures: npt.NDArray[np.int64]) -> Predictions:
    """Returns the predictions of captures: the mean probabilities of their flows, and the label of the first one.

    All flows of a capture have one label, because it is the set-up of one device.
    """
    _, first, number, counts = np.unique(captures, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(first), predictions.probabilities.shape[1]))
    np.add.at(sums, number, predictions.probabilities)
    return Predictions(predictions.labels[first], (sums / counts[:, None]).astype(np.float32))


def perfect_memory(keys: Sequence[bytes], labels: npt.NDArray[np.int32], classes: int) -> Predictions:
    """Returns the predictions of a memory of these very flows that knows each by its key alone.

    Flows with one key get the shares of their labels, so no function of the key is right more often.

    Args:
      keys: what a flow is known by.
      labels: int32 [N].
      classes: number of classes.
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    number = np.array([places[key] for key in keys], np.int64)
    counts = np.zeros((len(places), classes))
    np.add.at(counts, (number, labels), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return Predictions(labels, shares[number].astype(np.float32))


def _macro_f1(predictions: Predictions) -> float:
    return 100 * headline(predictions)["macro_f1"]
