"""Training steps of an LMMoE whose experts TensorFlow's kernel trains, against Keras' loop over the same weights."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from bench_mtc import interleaved
from measure import report

from flowloom.trainers.kernel_lstm import without_kernels
from flowloom.trainers.lmmoe import LMMoE

TASKS = {"syn_flood": 2, "ssdp_flood": 2, "tls_renegotiation": 2}
K, CHANNELS, ROWS, ROUNDS = 20, 3, 128, 100
SIZES = ((1, 4), (2, 8), (3, 12), (2, 32), (2, 64))
"""Experts and units."""


def training_step(model: keras.Model, batch: dict[str, tf.Tensor], labels: tf.Tensor) -> Callable[[], object]:
    """Return a call that trains by one step of Adam, and returns the loss."""
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            said = model(batch, training=True)
            loss = tf.add_n([tf.reduce_mean(keras.losses.binary_crossentropy(labels, said[task])) for task in TASKS])
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return lambda: step().numpy()


def main() -> None:
    """Print a line for each size."""
    generator = np.random.default_rng(0)
    batch = {
        "sequence": tf.constant(generator.normal(size=(ROWS, K, CHANNELS)), tf.float32),
        "length": tf.constant(generator.integers(1, K + 1, ROWS), tf.int32),
    }
    labels = tf.constant(generator.integers(0, 2, (ROWS, 1)), tf.float32)
    for experts, units in SIZES:
        ours, plain = (LMMoE(K, CHANNELS, TASKS, experts=experts, units=units, tower=(4,)) for _ in range(2))
        plain.set_weights(ours.get_weights())
        without_kernels(plain)
        steps = {"kernel": training_step(ours, batch, labels), "loop": training_step(plain, batch, labels)}
        taken = interleaved(steps, ROUNDS)
        (wall, processor), (other_wall, other) = taken["kernel"], taken["loop"]
        report(
            "LMMoE training step by the kernel against Keras' loop",
            experts=experts,
            units=units,
            ms=1e3 * wall,
            ratio_wall=wall / other_wall,
            ratio_processor=processor / other,
            apart=abs(float(steps["kernel"]()) - float(steps["loop"]())),
        )


if __name__ == "__main__":
    main()
