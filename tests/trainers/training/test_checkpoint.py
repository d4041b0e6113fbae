"""Checkpoints after epochs and inside epochs."""

import keras
import numpy as np
import pytest

from flowloom.trainers.training.checkpoint import Checkpoints
from flowloom.trainers.training.epoch_loop import PartialEpoch


class Part:
    """A part with state."""

    def __init__(self):
        self.variables = [keras.Variable(np.zeros(2, np.float32))]


@pytest.fixture
def part():
    return Part()


@pytest.fixture
def checkpoints(tmp_path, part):
    return Checkpoints(tmp_path / "checkpoints", {"part": part})


def put(part, value):
    part.variables[0].assign([value, value])


def test_state_inside_an_epoch_is_restored(checkpoints, part):
    assert checkpoints.restore_inside(1) is None
    for steps in (3, 7):
        put(part, steps)
        checkpoints.save_inside(PartialEpoch(1, steps, np.full((2, 2), 0.1 * steps)))
    put(part, -1)
    begun = checkpoints.restore_inside(1)
    assert (begun.epoch, begun.steps) == (1, 7)
    np.testing.assert_array_equal(begun.totals, np.full((2, 2), 0.1 * 7))
    np.testing.assert_array_equal(part.variables[0], [7, 7])
    assert checkpoints.epochs() == []


def test_the_state_after_an_epoch_replaces_that_inside(checkpoints, part, tmp_path):
    checkpoints.save_inside(PartialEpoch(1, 3, np.zeros((1, 2))))
    checkpoints.save(1, keep={1})
    assert checkpoints.restore_inside(1) is None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-0001.npz"]


def test_state_inside_another_epoch_is_ignored(checkpoints, part):
    """A power failure between the two writes leaves it."""
    checkpoints.save_inside(PartialEpoch(1, 3, np.zeros((1, 2))))
    put(part, 5)
    assert checkpoints.restore_inside(2) is None
    np.testing.assert_array_equal(part.variables[0], [5, 5])
