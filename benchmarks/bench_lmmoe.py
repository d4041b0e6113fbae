"""Training steps of an LMMoE whose experts TensorFlow's kernel trains, against Keras' loop over the same weights."""

import functools

import keras
import numpy as np
import tensorflow as tf
from measure import report
from measure_networks import interleaved, training_step

from flowloom.trainers.layers.kernel_lstm import without_kernels
from flowloom.trainers.models.lmmoe import LMMoE

TASKS = {"syn_flood": 2, "ssdp_flood": 2, "tls_renegotiation": 2}
K, CHANNELS, ROWS, ROUNDS = 20, 3, 128, 100
SIZES = ((1, 4), (2, 8), (3, 12), (2, 32), (2, 64))
"""Experts and units."""


def loss_of(labels: tf.Tensor, said: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the sum over the tasks, which all have the same labels."""
    return tf.add_n([tf.reduce_mean(keras.losses.binary_crossentropy(labels, said[task])) for task in TASKS])


def main() -> None:
    """Prints a line for each size."""
    generator = np.random.default_rng(0)
    batch = {
        "sequence": tf.constant(generator.normal(size=(ROWS, K, CHANNELS)), tf.float32),
        "length": tf.constant(generator.integers(1, K + 1, ROWS), tf.int32),
    }
    loss = functools.partial(loss_of, tf.constant(generator.integers(0, 2, (ROWS, 1)), tf.float32))
    for experts, units in SIZES:
        ours, plain = (LMMoE(K, CHANNELS, TASKS, experts=experts, units=units, tower=(4,)) for _ in range(2))
        plain.set_weights(ours.get_weights())
        without_kernels(plain)
        steps = {
            name: training_step(model, batch, loss, keras.optimizers.Adam(1e-3))
            for name, model in (("kernel", ours), ("loop", plain))
        }
        taken = interleaved(steps, ROUNDS)
        (wall, processor), (other_wall, other) = taken["kernel"], taken["loop"]
        report(
            "LMMoE training step by the kernel against Keras' loop",
            experts=experts,
            units=units,
            ms=1e3 * wall,
            ratio_wall=wall / other_wall,
            ratio_processor=processor / other,
            apart=abs(steps["kernel"]() - steps["loop"]()),
        )


if __name__ == "__main__":
    main()
