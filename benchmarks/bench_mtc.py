"""MTC lite against the same network of Keras layers: training steps, and inference of one packet."""

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import plain_mtc
import tensorflow as tf
from measure import report
from measure_networks import interleaved, training_step

from flowloom.trainers.models.mtc import MTC
from flowloom.trainers.recipes.named_recipes import MTC_LITE
from flowloom.trainers.training.optimizer import CoupledAdam

TASKS = {"app": 17, "tunnel_traffic": 12, "traffic": 6}
WEIGHTS = {"app": 6 / 9, "tunnel_traffic": 2 / 9, "traffic": 1 / 9}
ROWS, ROUNDS, SINGLES = 128, 15, 200


def loss_of(labels: dict[str, tf.Tensor], said: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the weighted sum over the tasks."""
    losses = {task: keras.losses.sparse_categorical_crossentropy(labels[task], said[task]) for task in TASKS}
    return tf.add_n([WEIGHTS[task] * tf.reduce_mean(losses[task]) for task in TASKS])


def tensorflow_inference(network: keras.Model, packet: tf.Tensor) -> Callable[[], object]:
    """Returns a call that classifies one packet."""
    forward = tf.function(lambda given: network({"bytes": given}, training=False), autograph=False)
    return lambda: [said.numpy() for said in forward(packet).values()]


def litert_inference(network: keras.Model, packet: tf.Tensor) -> Callable[[], list[np.ndarray]]:
    """Returns a call that classifies one packet by LiteRT, one thread, the model exported as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        network.export(Path(folder) / "model", verbose=False)
        converted = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder) / "model")).convert()
    interpreter = tf.lite.Interpreter(model_content=converted, num_threads=1)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], packet.shape)
    interpreter.allocate_tensors()
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def classify() -> list[np.ndarray]:
        interpreter.set_tensor(given["index"], packet.numpy())
        interpreter.invoke()
        return [interpreter.get_tensor(output) for output in outputs]

    return classify


def main(rows: int = ROWS) -> None:
    """Prints the ratio of training steps, and of single packets."""
    generator = np.random.default_rng(0)
    packets = tf.constant(generator.integers(0, 256, (rows, 1500)), tf.uint8)
    labels = {task: tf.constant(generator.integers(0, classes, rows), tf.int32) for task, classes in TASKS.items()}
    loss = functools.partial(loss_of, labels)
    plain = plain_mtc.plain_mtc((30, 50), TASKS, ["app"], stem=50, repetitions=MTC_LITE["repetitions"], lite=True)
    model = MTC(1500, TASKS, ["app"], stem=50, **MTC_LITE)
    plain_mtc.copy_weights(plain, model)
    said, expected = model({"bytes": packets[:8]}), plain({"bytes": packets[:8]})
    difference = max(float(np.abs(said[task] - expected[task]).max()) for task in TASKS)

    singles = {
        "keras": tensorflow_inference(plain, packets[:1]),
        "tensorflow": tensorflow_inference(model, packets[:1]),
        "litert": litert_inference(model, packets[:1]),
    }
    answers = sorted(float(np.max(answer)) for answer in singles["litert"]())
    np.testing.assert_allclose(answers, sorted(float(np.max(each)) for each in singles["tensorflow"]()), atol=1e-4)
    taken = interleaved(singles, SINGLES)
    (wall, processor), (other_wall, other) = taken["litert"], taken["tensorflow"]
    report(
        "one packet through MTC lite by LiteRT against TensorFlow",
        ms=1e3 * wall,
        ratio_wall=wall / other_wall,
        ratio_processor=processor / other,
        ratio_tensorflow_to_keras=other_wall / taken["keras"][0],
    )
    steps = {
        "plain": training_step(plain, {"bytes": packets}, loss, keras.optimizers.Adam(1e-3)),
        "model": training_step(model, {"bytes": packets}, loss, CoupledAdam(1e-3)),
    }
    taken = interleaved(steps, ROUNDS)
    (wall, processor), (other_wall, other) = taken["model"], taken["plain"]
    report(
        "MTC lite training step against Keras layers",
        rows=rows,
        seconds=wall,
        processor_seconds=processor,
        ratio_wall=wall / other_wall,
        ratio_processor=processor / other,
        largest_difference=difference,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
