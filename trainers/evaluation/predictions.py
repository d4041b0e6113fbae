"""Predictions of a model for the labelled rows of a split."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.models.protocol import MultiTaskModel
from flowloom.trainers.trees.tree_model import TreeModel


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels and class probabilities of the rows with a label of one task."""

    labels: np.ndarray
    """int32 [N], in the order of the feed."""
    probabilities: np.ndarray
    """float32 [N, classes]; a binary task has two columns, the second for the positive class."""

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy; None without rows."""
        if not len(self.labels):
            return None
        chosen = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(chosen, 1e-7)).mean())


def compiled(model: MultiTaskModel | TreeModel, feed: Feed) -> Callable[[Any], dict[str, Any]]:
    """Returns the model's inference for the batches of a feed: one graph of a network, or trees as they are."""
    if isinstance(model, TreeModel):
        return model
    inputs, _, _ = feed.signature
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[inputs], autograph=False)
    return forward.get_concrete_function()  # one trace: TensorFlow warns of retracing when several models pass here


def predict(forward: Callable[[Any], dict[str, Any]], feed: Feed) -> dict[str, Predictions]:
    """Returns the predictions for the labelled rows of each task in one epoch of a feed."""
    tasks = feed.dataset.tasks
    labels: dict[str, list[np.ndarray]] = {task.name: [] for task in tasks}
    outputs: dict[str, list[np.ndarray]] = {task.name: [] for task in tasks}
    for inputs, known, weights in feed.stream(epochs=1):
        predicted = forward(inputs)
        for task in labels:
            rows = weights[task].numpy() > 0
            labels[task].append(known[task].numpy()[rows])
            outputs[task].append(np.asarray(predicted[task])[rows])
    return {
        task: Predictions(np.concatenate(labels[task]), both_classes(np.concatenate(outputs[task]))) for task in labels
    }


def both_classes(outputs: np.ndarray) -> np.ndarray:
    """Returns sigmoid outputs [N, 1] as probabilities of both classes [N, 2], and other outputs unchanged."""
    return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs
