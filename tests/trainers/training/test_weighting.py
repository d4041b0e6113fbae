"""Loss weightings against the same formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from training_progress import epoch_and_step

from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.recipes.run_directory import Run
from flowloom.trainers.training.gradient_surgery import project_conflicts
from flowloom.trainers.training.paradigms import WEIGHTINGS, Aurora, row_losses
from flowloom.trainers.training.train import TrainOptions, train
from flowloom.trainers.training.weighting import dynamic_weights

B, F = 8, 5
ZERO = tf.UnconnectedGradients.ZERO
TASKS = (
    Task(name="app", kind="multiclass", vocabulary=("a", "b", "c")),
    Task(name="attack", kind="binary"),
    Task(name="bulk", kind="binary"),
)
NAMES = tuple(task.name for task in TASKS)
SIGNATURE = (
    {"sequence": tf.TensorSpec((None, F))},
    {task: tf.TensorSpec((None,), tf.int32) for task in NAMES},
    {task: tf.TensorSpec((None,)) for task in NAMES},
)


class PowerCutError(Exception):
    """Interrupts a training between two steps."""


class SharedBottom:
    """One shared layer and one head per task."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.bottom = keras.layers.Dense(4, activation="tanh")
        self.losses = []
        self.heads = {
            task.name: keras.layers.Dense(len(task.vocabulary), "softmax")
            if len(task.vocabulary) > 2
            else keras.layers.Dense(1, "sigmoid")
            for task in TASKS
        }
        self({"sequence": tf.zeros((1, F))})
        self.shared_variables = self.bottom.trainable_variables
        self.last_shared_variables = [self.bottom.kernel]

    def __call__(self, inputs, training=False):
        hidden = self.bottom(inputs["sequence"])
        return {task: head(hidden) for task, head in self.heads.items()}

    def task_variables(self, task):
        return self.heads[task].trainable_variables

    @property
    def trainable_variables(self):
        return [*self.shared_variables, *(each for task in NAMES for each in self.task_variables(task))]


class Step:
    """A model with a weighting, trained by gradient descent of rate 1, whose step equals the gradient."""

    def __init__(self, weighting, loss_weights=()):
        self.model = SharedBottom()
        self.weighting = WEIGHTINGS[weighting](self.model, NAMES, seed=3)
        self.paradigm = Aurora(
            self.model, keras.optimizers.SGD(1.0), TASKS, dict(loss_weights), SIGNATURE, self.weighting
        )

    def take(self, batch):
        """Returns the decrease of every variable of the model."""
        before = [variable.numpy() for variable in self.model.trainable_variables]
        self.paradigm.step(None, batch)
        after = [variable.numpy() for variable in self.model.trainable_variables]
        return [old - new for old, new in zip(before, after, strict=True)]


def batch_of(seed=0, unlabelled=()):
    generator = np.random.default_rng(seed)
    labels = {task.name: generator.integers(0, len(task.vocabulary), B) for task in TASKS}
    known = {task: np.zeros(B) if task in unlabelled else np.arange(B) % 4 != n for n, task in enumerate(NAMES)}
    return (
        {"sequence": tf.constant(generator.normal(size=(B, F)), tf.float32)},
        {task: tf.constant(rows, tf.int32) for task, rows in labels.items()},
        {task: tf.constant(rows, tf.float32) for task, rows in known.items()},
    )


def task_losses(model, batch):
    """Returns the loss of every task and its gradients by each variable, 0 where it has none."""
    inputs, labels, weights = batch
    losses, gradients = [], []
    for task in NAMES:
        with tf.GradientTape() as tape:
            rows = row_losses(labels[task], model(inputs)[task])
            loss = tf.reduce_sum(rows * weights[task]) / max(float(tf.reduce_sum(weights[task])), 1.0)
        found = tape.gradient(loss, [each.value for each in model.trainable_variables], unconnected_gradients=ZERO)
        losses.append(float(loss))
        gradients.append([gradient.numpy() for gradient in found])
    return np.array(losses), gradients


def weighted(weights, gradients):
    return [sum(w * each for w, each in zip(weights, column, strict=True)) for column in zip(*gradients, strict=True)]


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_fixed_sums_losses_by_loss_weights():
    step, batch = Step("fixed", {"attack": 3.0}.items()), batch_of()
    _, gradients = task_losses(step.model, batch)
    assert_close(step.take(batch), weighted([1, 3, 1], gradients))


def test_uncertainty_descends_its_own_loss():
    step = Step("uncertainty")
    log_variances = np.zeros(3)
    for seed in range(3):
        batch = batch_of(seed)
        losses, gradients = task_losses(step.model, batch)
        assert_close(step.take(batch), weighted(np.exp(-log_variances), gradients))
        log_variances = log_variances - (0.5 - np.exp(-log_variances) * losses)
        np.testing.assert_allclose(step.weighting.weights, np.exp(-log_variances), rtol=1e-5)


def test_a_task_without_labels_moves_no_weight():
    for name in ("uncertainty", "gradnorm"):
        step = Step(name)
        step.take(batch_of())
        own = step.weighting.trained[0]
        before = own.numpy()
        step.take(batch_of(1, unlabelled=("attack",)))
        ratios = own.numpy() / before if name == "gradnorm" else own.numpy() - before
        assert not np.isclose(ratios[0], ratios[1])
        if name == "uncertainty":
            assert own.numpy()[1] == before[1]
        assert np.isfinite(own.numpy()).all()


def test_dynamic_weight_average_needs_two_epochs():
    step, batch = Step("dwa"), batch_of()
    history = [{"app": 2.0, "attack": 1.0, "bulk": 0.5}, {"app": 1.0, "attack": 0.9, "bulk": None}]
    for seen in ([], history[:1]):
        step.weighting.begin_epoch(seen)
        np.testing.assert_array_equal(step.weighting.weights, 1)
    step.weighting.begin_epoch(history)
    powers = np.exp(np.array([1.0 / 2.0, 0.9 / 1.0, 1.0]) / 2)
    np.testing.assert_allclose(step.weighting.weights, 3 * powers / powers.sum(), rtol=1e-6)
    _, gradients = task_losses(step.model, batch)
    assert_close(step.take(batch), weighted(3 * powers / powers.sum(), gradients))


@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(0, 1e3)), min_size=1, max_size=6))
def test_dynamic_weights_add_up_and_favour_what_falls_least(losses):
    earlier, last = np.array(losses).T
    rates = np.minimum(last / earlier, 50)
    weights = dynamic_weights(earlier, earlier * rates)
    assert weights.sum() == pytest.approx(len(losses))
    order = np.argsort(rates)
    assert (np.diff(weights[order]) >= -1e-9 * weights.max()).all()


def test_gradnorm_descends_the_gap_of_gradient_norms():
    step = Step("gradnorm")
    weights, first = np.ones(3), None
    for seed in range(4):
        batch = batch_of(seed)
        losses, gradients = task_losses(step.model, batch)
        first = losses if first is None else first
        norms = np.array([np.linalg.norm(each[0]) for each in gradients])  # of the kernel of the shared layer
        rates = (losses / first) / np.mean(losses / first)
        assert_close(step.take(batch), weighted(weights, gradients))
        gap = weights * norms - np.mean(weights * norms) * rates**1.5
        weights = np.maximum(weights - np.sign(gap) * norms, 1e-3)
        weights *= 3 / weights.sum()
        np.testing.assert_allclose(step.weighting.weights, weights, rtol=1e-4)


def projected(gradients, order):
    """Returns the rows after PCGrad, as in its paper."""
    found = [each.copy() for each in gradients]
    for i, row in enumerate(found):
        for j in order[i]:
            if j != i and row @ gradients[j] < 0:
                row -= row @ gradients[j] / (gradients[j] @ gradients[j]) * gradients[j]
    return np.array(found)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_projection_equals_that_of_the_paper(tasks, width, seed):
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(tasks, width))
    order = np.stack([generator.permutation(tasks) for _ in range(tasks)])
    found = project_conflicts(tf.constant(gradients), tf.constant(order)).numpy()
    np.testing.assert_allclose(found, projected(gradients, order), atol=1e-9)
    if tasks == 2:  # neither works against the other any longer
        assert (np.einsum("tp,tp->t", found, gradients[::-1]) >= -1e-9).all()


def test_pcgrad_projects_shared_variables_only():
    """Two tasks have only one order, so that the step is known."""
    step, batch = Step("pcgrad"), batch_of(unlabelled=("bulk",))
    inputs, labels, weights = batch
    batch = inputs, {**labels, "attack": 1 - labels["attack"]}, weights
    _, gradients = task_losses(step.model, batch)
    shared = np.array([np.concatenate([each[n].ravel() for n in range(2)]) for each in gradients])
    opposed = shared[0] @ shared[1] < 0
    for flipped in range(8):  # until the tasks are at odds
        if opposed:
            break
        batch = batch_of(flipped, unlabelled=("bulk",))
        _, gradients = task_losses(step.model, batch)
        shared = np.array([np.concatenate([each[n].ravel() for n in range(2)]) for each in gradients])
        opposed = shared[0] @ shared[1] < 0
    assert opposed
    taken = step.take(batch)
    wanted = projected(shared[:2], [[1], [0]]).sum(axis=0)
    np.testing.assert_allclose(np.concatenate([each.ravel() for each in taken[:2]]), wanted, atol=2e-6)
    assert_close(taken[2:], weighted([1, 1, 1], gradients)[2:])


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_losses_fall(name):
    step = Step(name)
    first, _ = task_losses(step.model, batch_of())
    for _ in range(10):
        step.take(batch_of())
    last, _ = task_losses(step.model, batch_of())
    assert last.sum() < first.sum()


def test_a_seed_fixes_the_order_of_projections():
    steps = [Step("pcgrad"), Step("pcgrad")]
    for seed in range(5):
        taken = [step.take(batch_of(seed)) for step in steps]
        for one, other in zip(*taken, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["gradnorm", pytest.param("dwa", marks=pytest.mark.slow)])
def test_an_interrupted_training_ends_with_the_same_weights(synthetic, tmp_path, name):
    words = ("k=6", "batch_size=64", f"weighting={name}", "epochs=4", "tasks=[app, attack]")
    path = synthetic(layout="rainbow", rows=(200, 60, 20))
    options = [TrainOptions(path, tmp_path / run, "multitask-cnn", (*words, "paradigm=rainbow_mixed")) for run in "ab"]

    def cut(progress):
        if epoch_and_step(progress) == (4, 1):
            raise PowerCutError

    train(options[0])
    with pytest.raises(PowerCutError):
        train(options[1], cut)
    train(options[1])
    whole, resumed = (Run.open(each.run).history for each in options)
    assert whole == resumed
    for record in whole:
        assert sum(record["weights"].values()) == pytest.approx(2)
    assert len({record["weights"]["app"] for record in whole}) > 1


def test_weighting_needs_joint_steps(synthetic, tmp_path):
    path = synthetic(layout="rainbow", rows=(200, 60, 20))
    with pytest.raises(
        FlowloomError, match=r"with paradigm rainbow of dataset .*; set schedule.paradigm=rainbow_mixed"
    ):
        train(TrainOptions(path, tmp_path / "run", "multa", ("k=6", "weighting=dwa")))
    assert not (tmp_path / "run").exists()
