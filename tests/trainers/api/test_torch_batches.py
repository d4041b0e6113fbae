"""Batches for PyTorch: those of TensorFlow, in a fixed order for any number of workers, and from any step on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowloom as fl

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine of few cores


@pytest.fixture
def torch(extra_library):
    return extra_library("torch")


@pytest.fixture
def batches_of(synthetic, torch):
    """A function from a layout and arguments to the batches of a dataset of several windows."""

    def make(layout="aurora", **arguments):
        ds = fl.open_dataset(synthetic(layout=layout, rows=(400, 40, 40)))
        return ds.torch("train", **{"batch_size": 24, "seed": 3, "k": 5, "window_rows": 60, **arguments})

    return make


def loaded(torch, batches, workers: int, **options):
    return list(torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers, **options))


@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
@pytest.mark.parametrize("settings", [{}, {"balance": {"task": "app", "how": "undersample"}}, {"furthest_start": 2}])
def test_batches_are_those_of_tensorflow(synthetic, torch, as_arrays, assert_same, layout, settings):
    ds = fl.open_dataset(synthetic(layout=layout))
    arguments = {"batch_size": 24, "seed": 3, "epochs": 2, "k": 5, **settings}
    expected = as_arrays(ds.tf("train", **arguments))
    assert_same(as_arrays(ds.torch("train", **arguments)), expected)
    assert_same(as_arrays(loaded(torch, ds.torch("train", **arguments), 0)), expected)
    assert_same(as_arrays(ds.torch("train", start_step=4, **arguments)), expected[4:])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("layout", ["aurora", "rainbow"])
def test_workers_give_every_row_once_in_an_epoch(torch, batches_of, as_arrays, layout):
    def rows(batches):
        return sorted(row.tobytes() for batch in as_arrays(batches) for row in batch["i/sequence"])

    alone = rows(batches_of(layout))
    assert rows(loaded(torch, batches_of(layout), 2)) == alone
    assert rows(loaded(torch, batches_of(layout), 3)) == alone


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_loader_continues_a_stopped_one(torch, batches_of, as_arrays, assert_same, workers):
    whole = as_arrays(loaded(torch, batches_of(epochs=2), workers))
    assert len(whole) > 20
    for step in (1, 7, len(whole) - 1, len(whole)):
        rest = loaded(torch, batches_of(epochs=2, start_step=step), workers)
        assert_same(as_arrays(rest), whole[step:])


@pytest.mark.timeout(300)
def test_workers_may_be_spawned_and_may_be_more_than_windows(torch, batches_of, as_arrays, assert_same):
    one_window = as_arrays(batches_of(window_rows=65_536))
    options = {"multiprocessing_context": "spawn"}
    assert_same(as_arrays(loaded(torch, batches_of(window_rows=65_536), 2, **options)), one_window)


def in_turns(workers: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Returns the batches of a loader, each as (worker, number).

    Args:
      workers: each worker with its first number and its end, in order; its turn is skipped after its last batch.
    """
    numbers = [[(at, number) for number in range(first, end)] for at, first, end in workers]
    return [batch for turn in itertools.zip_longest(*numbers) for batch in turn if batch is not None]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 60))
def test_a_resumed_loader_takes_the_turns_that_are_left(extra_library, lengths, total):
    extra_library("torch")
    from flowloom.trainers.api.torch_batches import next_turns

    whole = in_turns([(at, 0, length) for at, length in enumerate(lengths)])
    turns = next_turns(total, len(lengths), lengths)
    assert in_turns([(at, done, lengths[at]) for at, done in turns]) == whole[total:]
    endless = next_turns(total, len(lengths), None)
    assert endless == next_turns(total, len(lengths), [total + 1] * len(lengths))
