"""Checkpoints after epochs and inside epochs."""

import keras
import numpy as np
import pytest

from flowloom.schemas.errors import FlowloomError
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


def test_every_flipped_bit_is_named_or_harmless(checkpoints, part, tmp_path):
    history = [{"epoch": 1, "loss": 0.5}]
    put(part, 7)
    checkpoints.save(1, {1}, history)
    path = tmp_path / "checkpoints" / "epoch-0001.npz"
    content = path.read_bytes()
    named = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        put(part, -1)
        try:
            checkpoints.check_history(1, history)
            checkpoints.restore(1)
            np.testing.assert_array_equal(part.variables[0], [7, 7])
        except FlowloomError as error:
            assert path.name in str(error)  # noqa: PT017 - either is right
            np.testing.assert_array_equal(part.variables[0], [-1, -1])
            named += 1
    assert named > len(content) / 2  # the others are times and attributes of members


def test_another_history_than_that_of_the_checkpoint_is_named(checkpoints):
    checkpoints.save(1, {1}, [{"epoch": 1, "loss": 0.5}])
    checkpoints.check_history(1, [{"epoch": 1, "loss": 0.5}])
    with pytest.raises(FlowloomError, match=r"history must be that of checkpoint epoch-0001\.npz, got another one"):
        checkpoints.check_history(1, [{"epoch": 1, "loss": 0.25}])


def test_a_checkpoint_of_another_model_is_named(checkpoints, tmp_path):
    checkpoints.save(1, {1})
    wider = Part()
    wider.variables = [keras.Variable(np.zeros(3, np.float32))]
    with pytest.raises(FlowloomError, match=r"must have part_0 of shape \(3,\), got shape \(2,\)"):
        Checkpoints(tmp_path / "checkpoints", {"part": wider}).restore(1)
