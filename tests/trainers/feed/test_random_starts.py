"""Random starts are a pure function of seed, epoch and row, and stay inside their flow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.trainers.feed.augmentation import Augmentation, window_starts
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import FeatureSpec

K, FURTHEST = 12, 5


def feed(path, furthest_start=FURTHEST, **fields):
    dataset = Dataset.open(path)
    features = FeatureSpec.of(dataset.card, K, ("size", "gap", "direction"), "standard")
    fields = {"split": "train", "batch_size": 32, "seed": 3, "window_rows": 200, **fields}
    return Feed(dataset, features=features, augment=Augmentation(start=furthest_start), **fields)


def begun_at(spec, whole, start):
    """Returns a flow [K, C] from one of its packets on, as if that were the first."""
    seen = np.zeros_like(whole)
    seen[: K - start] = whole[start:]
    mean, deviation = spec.moments["gap"]
    seen[0, spec.features.index("gap")] = (0 - mean) / deviation
    return seen


@pytest.mark.parametrize("worker", [0, 1])
def test_rows_are_the_rest_of_their_flow(synthetic, worker):
    drawn, plain = (feed(synthetic(), furthest, worker=worker, workers=2) for furthest in (FURTHEST, 0))
    begun = []
    for epoch in range(2):
        for number in range(len(drawn.windows(epoch))):
            sequences, lengths, labels = drawn.tensors(epoch, number)
            whole, packets, same_labels = plain.tensors(epoch, number)
            np.testing.assert_array_equal(labels, same_labels)
            generator = np.random.default_rng((3, epoch, 2, 2 * number + worker))
            starts = window_starts(generator, len(packets), FURTHEST)
            for row, drawn_start in enumerate(starts):
                start = min(drawn_start, packets[row] - 1)
                assert lengths[row] == packets[row] - start
                np.testing.assert_allclose(
                    sequences[row], begun_at(drawn.features, whole[row], start), rtol=0, atol=1e-6
                )
            begun += list(starts)
    assert set(begun) == set(range(FURTHEST + 1))


@pytest.mark.parametrize("start", [1, 7, 25])
def test_a_resumed_stream_begins_rows_where_it_would_have(synthetic, start):
    of = feed(synthetic())
    whole = [batch[0]["sequence"].numpy() for batch in of.batches().take(start + 5)]
    resumed = [batch[0]["sequence"].numpy() for batch in of.batches(start).take(5)]
    assert all(np.array_equal(*pair) for pair in zip(whole[start:], resumed, strict=True))


def test_every_epoch_draws_other_starts(synthetic):
    of = feed(synthetic(), window_rows=10_000)
    (first, *_), (second, *_) = of.tensors(0, 0), of.tensors(1, 0)
    assert sorted(row.tobytes() for row in first) != sorted(row.tobytes() for row in second)


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_half_of_the_rows_begin_at_the_first_packet(seed, furthest):
    starts = window_starts(np.random.default_rng(seed), 2_000, furthest)
    assert starts.min() >= 0
    assert starts.max() <= furthest
    assert (starts == 0).mean() == pytest.approx(0.5 + 0.5 / (furthest + 1), abs=0.07)


@pytest.mark.parametrize("fields", [{"split": "validation"}, {"seed": None}])
def test_only_training_has_random_starts(synthetic, fields):
    with pytest.raises(ValueError, match="augment must change nothing unless flows of the train split"):
        feed(synthetic(), **fields)
