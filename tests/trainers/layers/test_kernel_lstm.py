"""KernelLSTM equals Keras' LSTM: values, gradients, masks and files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowloom.trainers.layers.kernel_lstm import KernelLSTM

B, T, C, UNITS = 13, 7, 3, 5


def both(return_sequences=False):
    """Returns Keras' layer and KernelLSTM with the same weights."""
    layers = [kind(UNITS, return_sequences=return_sequences) for kind in (keras.layers.LSTM, KernelLSTM)]
    for layer in layers:
        layer.build((None, T, C))
    generator = np.random.default_rng(3)
    weights = [generator.normal(size=weight.shape).astype(np.float32) for weight in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def rows(lengths):
    """Returns sequences with random padding, and their mask."""
    sequences = np.random.default_rng(4).normal(size=(len(lengths), T, C)).astype(np.float32)
    return tf.constant(sequences), tf.constant(np.arange(T) < np.asarray(lengths)[:, None])


def outputs_and_gradients(layer, sequences, mask):
    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(sequences)
            said = layer(sequences, mask=mask, training=True)
            loss = tf.reduce_sum(said * tf.cos(tf.range(UNITS, dtype=tf.float32)))
        return said, tape.gradient(loss, [sequences, *(variable.value for variable in layer.trainable_variables)])

    return step()


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_keras(return_sequences, masked):
    sequences, mask = rows([T, 1, 0, 3, *np.random.default_rng(5).integers(0, T + 1, B - 4)])
    theirs, ours = both(return_sequences)
    expected, wanted = outputs_and_gradients(theirs, sequences, mask if masked else None)
    found, got = outputs_and_gradients(ours, sequences, mask if masked else None)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    operations = {each.type for each in tf.function(ours.call).get_concrete_function(
        tf.TensorSpec((None, T, C)), training=True).graph.get_operations()}  # fmt: skip
    assert "BlockLSTMV2" in operations
    assert "While" not in operations


def test_inference_is_keras_own():
    sequences, mask = rows([T, 2, 4])
    theirs, ours = both()
    np.testing.assert_array_equal(ours(sequences, mask=mask), theirs(sequences, mask=mask))


@pytest.mark.parametrize("left_to_keras", ["xla", "bfloat16"])
def test_unsupported_calls_use_keras(left_to_keras):
    sequences, mask = rows([T, 2, 4])
    theirs, ours = both()
    if left_to_keras == "xla":
        ours.one_kernel = False
        said = tf.function(lambda: ours(sequences, mask=mask, training=True), jit_compile=True)()
        np.testing.assert_allclose(said, theirs(sequences, mask=mask, training=True), atol=1e-6)
    else:
        layers = [kind(UNITS, dtype="mixed_bfloat16") for kind in (keras.layers.LSTM, KernelLSTM)]
        for layer in layers:
            layer.build((None, T, C))
            layer.set_weights(theirs.get_weights())
        expected, found = (layer(sequences, mask=mask, training=True) for layer in layers)
        np.testing.assert_array_equal(found, expected)


def test_it_is_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((T, C)), KernelLSTM(UNITS, return_sequences=True)])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.layers[-1], KernelLSTM)
    sequences, _ = rows([T, T])
    np.testing.assert_array_equal(again(sequences), model(sequences))


def test_a_non_standard_lstm_is_refused():
    with pytest.raises(ValueError, match="KernelLSTM must have the standard activation, dropout"):
        KernelLSTM(UNITS, activation="relu", dropout=0.5)
