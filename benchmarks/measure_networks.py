"""Calls of networks, timed in turn within one process."""

import statistics
import time
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf


def training_step(
    network: keras.Model,
    rows: Mapping[str, tf.Tensor],
    loss_of: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    optimizer: keras.optimizers.Adam,
) -> Callable[[], float]:
    """Return a call that trains a network by one step, and returns the loss; `loss_of` takes its outputs."""
    optimizer.build(network.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(network(rows, training=True))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    return lambda: float(step())


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Call everything in turn, once unmeasured; return the median wall and processor seconds of each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for measured in [False] + [True] * rounds:
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            if measured:
                taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (statistics.median(wall for wall, _ in times), statistics.median(processor for _, processor in times))
        for name, times in taken.items()
    }
