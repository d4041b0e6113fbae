"""The variables and the loss of one step of each paradigm."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowloom.schemas.corpus.tasks import Task
from flowloom.trainers.models.lmmoe import LMMoE
from flowloom.trainers.training.gradient_surgery import PCGrad
from flowloom.trainers.training.optimizer import CoupledAdam
from flowloom.trainers.training.paradigms import Aurora, Rainbow, row_losses
from flowloom.trainers.training.weighting import GradNorm, Uncertainty

K, C, B = 4, 3, 6
TASKS = (Task(name="app", kind="multiclass", vocabulary=("a", "b", "c")), Task(name="attack", kind="binary"))
SIGNATURE = (
    {"sequence": tf.TensorSpec((None, K, C)), "length": tf.TensorSpec((None,), tf.int32)},
    {task.name: tf.TensorSpec((None,), tf.int32) for task in TASKS},
    {task.name: tf.TensorSpec((None,)) for task in TASKS},
)


class SharedBottom:
    """The smallest model for a paradigm: one shared layer and one head per task."""

    losses = ()

    def __init__(self):
        self.bottom = keras.layers.Dense(4, activation="tanh")
        self.heads = {"app": keras.layers.Dense(3, "softmax"), "attack": keras.layers.Dense(1, "sigmoid")}
        self(batch_of({})[0])
        self.shared_variables = self.bottom.trainable_variables

    def __call__(self, inputs, training=False):
        hidden = self.bottom(tf.reshape(inputs["sequence"], (-1, K * C)))
        return {task: head(hidden) for task, head in self.heads.items()}

    def task_variables(self, task):
        return self.heads[task].trainable_variables

    @property
    def trainable_variables(self):
        return [*self.shared_variables, *self.task_variables("app"), *self.task_variables("attack")]


def lmmoe():
    return LMMoE(K, C, {"app": 3, "attack": 2}, experts=2, units=4, tower=(3,))


def model_of(kind=SharedBottom):
    keras.utils.set_random_seed(1)
    return kind()


def batch_of(weights, seed=0):
    generator = np.random.default_rng(seed)
    inputs = {
        "sequence": tf.constant(generator.normal(size=(B, K, C)), tf.float32),
        "length": tf.constant(generator.integers(1, K + 1, B), tf.int32),
    }
    labels = {
        "app": tf.constant(generator.integers(0, 3, B), tf.int32),
        "attack": tf.constant(generator.integers(0, 2, B), tf.int32),
    }
    return inputs, labels, {task: tf.constant(row, tf.float32) for task, row in weights.items()}


def paradigm_of(kind, model, optimizer=None, loss_weights=()):
    return kind(model, optimizer or keras.optimizers.Adam(0.05), TASKS, dict(loss_weights), SIGNATURE)


def values(variables):
    return [variable.numpy() for variable in variables]


def unchanged(before, variables):
    return all(np.array_equal(old, variable.numpy()) for old, variable in zip(before, variables, strict=True))


@pytest.mark.parametrize("kind", [SharedBottom, lmmoe])
def test_rainbow_leaves_idle_tasks_bit_identical_despite_momentum(kind):
    """These are head, tower and gate."""
    model = model_of(kind)
    rainbow = paradigm_of(Rainbow, model)
    for seed in range(3):  # both tasks gather momentum
        for task in TASKS:
            own = {name: [float(name == task.name)] * B for name in ("app", "attack")}
            rainbow.step(task.name, batch_of(own, seed))
    idle, trained = values(model.task_variables("app")), values(model.task_variables("attack"))
    shared = values(model.shared_variables)
    rainbow.step("attack", batch_of({"app": [0] * B, "attack": [1] * B}))
    assert unchanged(idle, model.task_variables("app"))
    assert not unchanged(trained, model.task_variables("attack"))
    assert not any(np.array_equal(old, new.numpy()) for old, new in zip(shared, model.shared_variables, strict=True))


def test_a_joint_step_moves_idle_tasks():
    """The reason for separate updates: a zero gradient still moves a variable with momentum."""
    model = model_of()
    aurora = paradigm_of(Aurora, model)
    aurora.step(None, batch_of({"app": [1] * B, "attack": [1] * B}))
    before = values(model.task_variables("app"))
    aurora.step(None, batch_of({"app": [0] * B, "attack": [1] * B}))
    assert not unchanged(before, model.task_variables("app"))


def test_masked_rows_change_nothing():
    known = {"app": [1, 1, 0, 0, 1, 0], "attack": [0, 1, 1, 1, 0, 0]}
    inputs, labels, weights = batch_of(known)
    results = []
    for filler in (0, 1):  # whatever stands where a label is unknown
        filled = {task: tf.where(weights[task] > 0, labels[task], filler) for task in labels}
        model = model_of()
        paradigm_of(Aurora, model).step(None, (inputs, filled, weights))
        results.append(values(model.trainable_variables))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_aurora_minimises_the_sum_of_means_over_labelled_rows():
    """One step of plain gradient descent equals the gradient of each task's loss over its own rows."""
    known = {"app": [1, 1, 0, 0, 1, 0], "attack": [0, 1, 1, 1, 1, 0]}
    inputs, labels, weights = batch_of(known)
    model, other = model_of(), model_of()
    sums = paradigm_of(Aurora, model, keras.optimizers.SGD(1.0), {"attack": 3.0}.items()).step(
        None, (inputs, labels, weights)
    )
    with tf.GradientTape() as tape:
        means = {}
        for task, rows in known.items():
            chosen = np.flatnonzero(rows)
            said = other({name: tf.gather(tensor, chosen) for name, tensor in inputs.items()})[task]
            means[task] = tf.reduce_mean(row_losses(tf.gather(labels[task], chosen), said))
        loss = means["app"] + 3 * means["attack"]
    for new, variable, gradient in zip(
        model.trainable_variables,
        other.trainable_variables,
        tape.gradient(loss, other.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(new.numpy(), variable.numpy() - gradient.numpy(), atol=1e-6)
    np.testing.assert_allclose(sums, [[3 * means["app"], 3], [4 * means["attack"], 4]], rtol=1e-5)


def test_a_batch_without_labels_is_harmless():
    model = model_of()
    sums = paradigm_of(Aurora, model).step(None, batch_of({"app": [0] * B, "attack": [0] * B}))
    assert not sums.numpy().any()
    assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)


@pytest.mark.parametrize("kind", [Aurora, Rainbow])
def test_losses_fall(kind):
    model = model_of()
    paradigm = paradigm_of(kind, model)
    stripes = [None] if kind is Aurora else ["app", "attack"]
    batch = batch_of({"app": [1] * B, "attack": [1] * B})
    losses = [sum(paradigm.step(stripe, batch).numpy()[:, 0].sum() for stripe in stripes) for _ in range(40)]
    assert losses[-1] < losses[0] / 2


def test_losses_over_all_rows_are_those_over_labelled_rows_less_their_share():
    """The paper's first weight, all rows over the labelled ones, makes both the same."""
    known = {"app": [1, 1, 0, 0, 1, 0], "attack": [1] * B}
    results = []
    for reduction, loss_weights in (("labelled", {"app": 1.0}), ("batch", {"app": B / 3}), ("batch", {"app": 1.0})):
        model = model_of()
        optimizer = keras.optimizers.SGD(0.1)
        Aurora(model, optimizer, TASKS, loss_weights, SIGNATURE, reduction=reduction).step(None, batch_of(known))
        results.append(np.concatenate([each.ravel() for each in values(model.trainable_variables)]))
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    assert np.abs(results[2] - results[0]).max() > 1e-4


UNKNOWN = {"app": [1, 0, 1, 1, 0, 0], "attack": [1, 1, 0, 1, 1, 1]}


class Penalised(SharedBottom):
    """A model with a penalty."""

    @property
    def losses(self):
        return [0.3 * tf.reduce_sum(self.bottom.kernel**2)]


class Idling(SharedBottom):
    """A model with a shared variable that no loss depends on."""

    def __init__(self):
        super().__init__()
        self.idle = keras.Variable(np.ones(2, np.float32))
        self.shared_variables = [*self.shared_variables, self.idle]


def stepped(seeds=(0,), **settings):
    """Returns the totals of some steps and the variables after them."""
    model = model_of(Penalised)
    paradigm = Aurora(model, keras.optimizers.SGD(1.0), TASKS, {"app": 3.0}, SIGNATURE, **settings)
    reported = [paradigm.step(None, batch_of(UNKNOWN, seed)).numpy() for seed in seeds]
    return reported, [variable.numpy() for variable in model.trainable_variables]


@pytest.mark.parametrize("reduction", ["labelled", "batch"])
@pytest.mark.parametrize("rows", [1, 4, 6, 100])
def test_microbatches_make_the_step_of_the_whole_batch(rows, reduction):
    """They agree to 1e-5, with unknown labels and penalties of the model."""
    whole, expected = stepped(reduction=reduction)
    parts, found = stepped(reduction=reduction, microbatch=rows)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_microbatches_do_not_change_unused_variables():
    """Without a gradient a variable does not decay; with a gradient of 0 it would."""
    model = model_of(Idling)
    Aurora(model, CoupledAdam(0.1, coupled_decay=0.5), TASKS, {}, SIGNATURE, microbatch=4).step(None, batch_of(UNKNOWN))
    np.testing.assert_array_equal(model.idle, [1, 1])


def test_clipping_limits_the_gradients_of_a_step_together():
    """Of the whole step, before Adam: after surgery, over all parts of a batch, and over the trained stripe alone."""

    def moved(kind=Aurora, stripe=None, surgery=False, **settings):
        model = model_of()
        weighting = PCGrad(model, [task.name for task in TASKS], 0) if surgery else None
        before = values(model.trainable_variables)
        optimizer = keras.optimizers.SGD(1.0, global_clipnorm=0.01)
        kind(model, optimizer, TASKS, {}, SIGNATURE, weighting, **settings).step(stripe, batch_of(UNKNOWN))
        return [new - old for new, old in zip(values(model.trainable_variables), before, strict=True)]

    for steps in (moved(), moved(microbatch=4), moved(surgery=True), moved(Rainbow, "app")):
        assert np.sqrt(sum(np.sum(step**2) for step in steps)) == pytest.approx(0.01, rel=1e-4)
    for one, other in zip(moved(), moved(microbatch=4), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [Uncertainty, GradNorm, PCGrad])
def test_microbatches_need_gradients_that_are_sums(kind):
    weighting = kind(model_of(), [task.name for task in TASKS], 0)
    with pytest.raises(ValueError, match=f"gradients are sums over rows, got .* {kind.__name__}"):
        stepped(weighting=weighting, microbatch=2)


def test_steps_compiled_by_xla_are_the_same():
    plain, expected = stepped((0, 1))
    compiled, found = stepped((0, 1), xla=True)
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_step_in_bfloat16_comes_close():
    plain, expected = stepped()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        rounded, found = stepped()
    finally:
        keras.config.set_dtype_policy("float32")
    assert not np.array_equal(rounded, plain)
    np.testing.assert_allclose(rounded, plain, rtol=0.05)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=0.05)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_labels_are_shares_of_all_classes(smoothing):
    labels = tf.constant([0, 2, 1])
    outputs = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]], np.float32)
    wanted = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    expected = -(wanted * np.log(outputs)).sum(1)
    np.testing.assert_allclose(row_losses(labels, tf.constant(outputs), smoothing), expected, rtol=1e-5)
    second = outputs[:, 1:2]
    binary = np.array([0, 1, 1]) * (1 - smoothing) + smoothing / 2
    expected = -(binary * np.log(second[:, 0]) + (1 - binary) * np.log(1 - second[:, 0]))
    np.testing.assert_allclose(row_losses(tf.constant([0, 1, 1]), tf.constant(second), smoothing), expected, rtol=1e-5)
