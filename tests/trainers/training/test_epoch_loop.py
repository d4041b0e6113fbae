"""The epoch loop: order of steps and measurements, totals, and partial epochs."""

import numpy as np
import tensorflow as tf

from flowloom.trainers.training.epoch_loop import Epoch, PartialEpoch, mean_losses, train_epochs


def test_epochs_are_made_trained_and_measured_in_turn():
    events = []

    def epochs():
        for number in (1, 2):
            events.append(f"epoch {number}")
            batches = ((stripe, f"{number}{stripe}") for stripe in ("a", "b"))
            yield Epoch(number, batches, np.zeros((2, 2)), steps=2)

    def step(stripe, batch):
        events.append(f"step {batch}")
        return tf.constant([[1.0, 2.0], [0.5, 0.0]])

    def measure(epoch, totals):
        events.append(f"measure {epoch.number}")
        assert totals.dtype == np.float64
        return {"totals": totals.tolist()}

    def stepped(epoch, part):
        events.append(f"{part.steps} of {epoch.steps}")

    for record in train_epochs(step, epochs(), measure, stepped):
        events.append("record")
        assert record == {"totals": [[2.0, 4.0], [1.0, 0.0]]}
    assert events == [
        event
        for n in (1, 2)
        for event in (f"epoch {n}", f"step {n}a", "1 of 2", f"step {n}b", "2 of 2", f"measure {n}", "record")
    ]


def test_a_partial_epoch_goes_on_and_an_epoch_may_have_no_record():
    parts = []
    epochs = [Epoch(3, [(None, None)], np.array([[4.0, 2.0]]), done=5), Epoch(4, [], np.zeros((1, 2)))]
    records = train_epochs(
        lambda stripe, batch: tf.constant([[1.0, 1.0]]),
        epochs,
        lambda epoch, totals: {"totals": totals.tolist()} if epoch.number == 3 else None,
        lambda epoch, part: parts.append(part),
    )
    assert list(records) == [{"totals": [[5.0, 3.0]]}]
    (part,) = parts
    assert isinstance(part, PartialEpoch)
    assert (part.epoch, part.steps, part.totals.tolist()) == (3, 6, [[5.0, 3.0]])


def test_mean_losses_are_per_labelled_row():
    assert mean_losses(["a", "b"], np.array([[6.0, 4.0], [0.0, 0.0]])) == {"a": 1.5, "b": None}
