"""What a model says of the labelled flows of a split."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.models.protocol import MultiTaskModel


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels and class probabilities of the rows that are labelled for one task."""

    labels: np.ndarray
    """int32 [N], in the order of the feed."""
    probabilities: np.ndarray
    """float32 [N, classes]; two columns for a binary task, the second is the positive class."""

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy, None without rows."""
        if not len(self.labels):
            return None
        chosen = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(chosen, 1e-7)).mean())


def compiled(model: MultiTaskModel, feed: Feed) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Return the model's inference as one graph for the batches of a feed."""
    inputs, _, _ = feed.signature
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[inputs], autograph=False)
    return forward.get_concrete_function()  # TensorFlow takes several models at one place for retracing, and warns


def predict(forward: Callable[[Any], dict[str, tf.Tensor]], feed: Feed) -> dict[str, Predictions]:
    """Run one epoch of a feed through a compiled model; keep each task's labelled rows."""
    tasks = feed.dataset.tasks
    labels: dict[str, list[np.ndarray]] = {task.name: [] for task in tasks}
    outputs: dict[str, list[np.ndarray]] = {task.name: [] for task in tasks}
    for inputs, known, weights in feed.batches(epochs=1):
        said = forward(inputs)
        for task in labels:
            rows = weights[task].numpy() > 0
            labels[task].append(known[task].numpy()[rows])
            outputs[task].append(said[task].numpy()[rows])
    return {
        task: Predictions(np.concatenate(labels[task]), both_classes(np.concatenate(outputs[task]))) for task in labels
    }


def both_classes(outputs: np.ndarray) -> np.ndarray:
    """Return sigmoid outputs [N, 1] as the probabilities of both classes [N, 2]; others as they are."""
    return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs
