"""The optimizer against Keras' Adam with the penalty in the loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowloom.trainers.training.optimizer import CoupledAdam

DECAY = 0.1


def trained(optimizer: keras.optimizers.Optimizer, penalty: float) -> list[np.ndarray]:
    """Returns two variables after steps on a quadratic loss with a penalty."""
    start = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    variables = [keras.Variable(each) for each in start]
    optimizer.build(variables)
    for step in range(20):
        optimizer.learning_rate = 0.05 / (1 + step)
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum((each - target) ** 4) for target, each in enumerate(variables)])
            loss += penalty / 2 * tf.add_n([tf.reduce_sum(each.value**2) for each in variables])
        optimizer.apply(tape.gradient(loss, [each.value for each in variables]), variables)
    return [np.asarray(each) for each in variables]


@pytest.mark.parametrize(
    "settings", [{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"beta_1": 0.5, "epsilon": 1e-3}]
)
def test_steps_equal_those_of_keras(settings):
    expected = trained(keras.optimizers.Adam(0.05, **settings), 0.0)
    np.testing.assert_allclose(trained(CoupledAdam(0.05, **settings), 0.0), expected, rtol=1e-5, atol=1e-6)


def test_a_variable_that_waits_steps_as_with_an_optimizer_of_its_own():
    """The first update is one learning rate long, whatever the other variables have done before."""
    start = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    together = [keras.Variable(each) for each in start]
    alone = [keras.Variable(each) for each in start]
    optimizer, owners = CoupledAdam(0.05), [keras.optimizers.Adam(0.05) for _ in alone]
    optimizer.build(together)
    assert optimizer.stand_ins.keys() == {6, 7}
    assert optimizer.variables[0] is optimizer.iterations
    for step, turn in enumerate([0] * 30 + [1, 0, 1, 1, 0]):
        for variables, owner in ((together, optimizer), (alone, owners[turn])):
            owner.apply([4 * variables[turn].value ** 3], [variables[turn]])
        if step == 30:
            np.testing.assert_allclose(np.abs(together[1] - start[1]), 0.05, rtol=1e-3)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert [int(optimizer.variables[place]) for place in optimizer.stand_ins] == [32, 3]


def test_decay_is_a_penalty_on_the_loss():
    expected = trained(keras.optimizers.Adam(0.05), DECAY)
    np.testing.assert_allclose(trained(CoupledAdam(0.05, DECAY), 0.0), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(np.subtract(trained(CoupledAdam(0.05), 0.0), expected)).max() > 1e-3


def test_decoupled_decay_is_that_of_keras():
    expected = trained(keras.optimizers.AdamW(0.05, weight_decay=DECAY), 0.0)
    found = trained(CoupledAdam(0.05, decoupled_decay=DECAY), 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(np.subtract(trained(CoupledAdam(0.05, DECAY), 0.0), expected)).max() > 1e-3


def test_unsupported_settings_are_refused():
    with pytest.raises(ValueError, match="coupled_decay must be >= 0, got -1"):
        CoupledAdam(0.1, -1)
    with pytest.raises(ValueError, match="decoupled_decay must be >= 0, got -1"):
        CoupledAdam(0.1, decoupled_decay=-1)
    with pytest.raises(ValueError, match="amsgrad must be false"):
        CoupledAdam(0.1, amsgrad=True)
