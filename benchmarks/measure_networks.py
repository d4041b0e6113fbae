"""Calls of networks, timed in turn within one process."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from flowloom.trainers.evaluation.cost import time_interleaved


def training_step(
    network: keras.Model,
    rows: Mapping[str, tf.Tensor],
    loss_of: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    optimizer: keras.optimizers.Adam,
) -> Callable[[], float]:
    """Returns a call that trains a network by one step, and returns the loss; `loss_of` takes its outputs."""
    optimizer.build(network.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(network(rows, training=True))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    return lambda: float(step())


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Calls everything in turn, once unmeasured; returns the median wall and processor seconds of each."""
    time_interleaved(list(calls.values()), 1)
    taken = time_interleaved(list(calls.values()), rounds)[:, :, :2] / 1e9  # [calls, rounds, (wall, processor)]
    medians = np.median(taken, 1).tolist()
    return {name: (wall, processor) for name, (wall, processor) in zip(calls, medians, strict=True)}
