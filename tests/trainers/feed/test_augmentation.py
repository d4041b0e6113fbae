"""Augmented rows against plain Python, what every augmentation keeps, and that only its seed and place decide."""

import re

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.augmentation import Augmentation, Draws
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.feed import Feed
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.recipes.recipe import Recipe

K = 8
SPEC = FeatureSpec(k=K, channels=("gap", "direction", "size"), scaling="none")
GAP, DIRECTION, SIZE = range(3)
EVERYTHING = Augmentation(start=3, packet_loss=0.3, gap_scale=(0.5, 1.5), mirror=0.5)

augmentations = st.builds(
    Augmentation,
    start=st.integers(0, 6),
    packet_loss=st.sampled_from([0.0, 0.05, 0.4, 0.9]),
    gap_scale=st.sampled_from([(1.0, 1.0), (0.5, 1.5), (2.0, 2.0)]),
    mirror=st.sampled_from([0.0, 0.5, 1.0]),
)
seeds = st.integers(0, 2**32)


def some_flows(seed, rows=40, longest=30):
    """Returns flows of whole microseconds: the features of their packets in a row, and the bounds of each."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, rows)
    ends = np.cumsum(lengths)
    packets = np.stack(
        [
            generator.integers(0, 10_000, ends[-1]),
            generator.choice([-1, 1], ends[-1]),
            generator.integers(40, 1501, ends[-1]),
        ],
        axis=1,
    ).astype(np.float32)
    return packets, (ends - lengths, ends)


def augmented(flows, augmentation, seed):
    """Returns all flows in their order, augmented, with the draws."""
    packets, bounds = flows
    draws = augmentation.draws((seed, 0, 0), len(bounds[0]))
    return *SPEC.augmented(packets.reshape(-1), bounds, np.arange(len(bounds[0])), draws, augmentation), draws


def uniform(seed, draw):
    """Returns a number in [0, 1), by SplitMix64 in Python's integers."""
    mixed = (int(seed) + (draw + 1) * 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return ((mixed ^ mixed >> 31) >> 11) / 2**53


def oracle(flow, augmentation, start, seed):
    """Augments one flow, [packets, 3], packet by packet."""
    low, high = augmentation.gap_scale
    factor = low + (high - low) * uniform(seed, 0)
    turned = -1 if uniform(seed, 1) < augmentation.mirror else 1
    start = min(start, len(flow) - 1)
    most, times, shown = augmentation.most_lost(K), np.cumsum(flow[:, GAP], dtype=float), []
    for at in range(start, len(flow)):
        lost = (at - start - len(shown)) < most and uniform(seed, 2 + at) < augmentation.packet_loss
        if len(shown) < K and (not lost or (not shown and at + 1 == len(flow))):
            shown.append(at)
        elif len(shown) == K:
            break
    before = [0.0 if shown[0] == 0 else times[shown[0]], *times[shown[:-1]]]
    rows = np.zeros((K, 3), np.float32)
    for place, at in enumerate(shown):
        rows[place] = (times[at] - before[place]) * factor, flow[at, DIRECTION] * turned, flow[at, SIZE]
    return rows, len(shown)


@settings(max_examples=40, deadline=None)
@given(augmentations, seeds)
def test_rows_equal_the_plain_rendering(augmentation, seed):
    flows = packets, (begins, ends) = some_flows(seed)
    sequences, lengths, draws = augmented(flows, augmentation, seed)
    for row, bounds in enumerate(zip(begins, ends, strict=True)):
        expected, length = oracle(packets[slice(*bounds)], augmentation, draws.starts[row], draws.seeds[row])
        assert lengths[row] == length
        np.testing.assert_allclose(sequences[row], expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([0.05, 0.3, 0.8]))
def test_a_lost_packet_keeps_the_time_of_the_others(seed, loss):
    flows = packets, (begins, ends) = some_flows(seed, longest=K)
    sequences, lengths, _ = augmented(flows, Augmentation(packet_loss=loss), seed)
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        whole = packets[begin:end]
        times = np.cumsum(whole[:, GAP]) - whole[0, GAP]
        shown = sequences[row, : lengths[row]]
        found = np.cumsum(shown[:, GAP]) - shown[0, GAP]
        possible = [times[at:] - times[at] for at in range(len(whole))]
        assert any(set(found) <= set(each) for each in possible)
        assert 1 <= lengths[row] <= len(whole)


def test_gaps_of_a_flow_have_one_factor_each_within_the_bounds():
    flows = some_flows(1, rows=400)
    plain, lengths, _ = augmented(flows, Augmentation(), 1)
    scaled, same, _ = augmented(flows, Augmentation(gap_scale=(0.5, 1.5)), 1)
    np.testing.assert_array_equal(lengths, same)
    np.testing.assert_array_equal(scaled[:, :, DIRECTION:], plain[:, :, DIRECTION:])
    times = plain[:, :, GAP].sum(axis=1) > 0
    factors = scaled[times, :, GAP].sum(axis=1) / plain[times, :, GAP].sum(axis=1)
    np.testing.assert_allclose(scaled[times, :, GAP], factors[:, None] * plain[times, :, GAP], rtol=1e-5)
    assert 0.5 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.5
    assert factors.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mirrored_flows_exchange_all_their_directions(share):
    flows = some_flows(2, rows=400)
    plain, _, _ = augmented(flows, Augmentation(), 3)
    mirrored, _, _ = augmented(flows, Augmentation(mirror=share), 3)
    np.testing.assert_array_equal(mirrored[:, :, [GAP, SIZE]], plain[:, :, [GAP, SIZE]])
    turned = (mirrored[:, 0, DIRECTION] != plain[:, 0, DIRECTION])[:, None]
    np.testing.assert_array_equal(mirrored[:, :, DIRECTION], np.where(turned, -1, 1) * plain[:, :, DIRECTION])
    assert turned.mean() == pytest.approx(share, abs=0.07)


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0, 0.97))
def test_a_long_flow_fills_k_packets_from_those_that_are_prepared(seed, loss):
    augmentation = Augmentation(start=4, packet_loss=loss)
    prepared = K + augmentation.further_packets(K)
    packets = np.tile(np.float32([1, 1, 100]), (20 * prepared, 1))
    bounds = np.arange(20) * prepared, (np.arange(20) + 1) * prepared
    _, lengths, _ = augmented((packets, bounds), augmentation, seed)
    assert set(lengths) == {K}


def test_a_tenth_of_the_packets_is_lost():
    packets = np.tile(np.float32([1, 1, 100]), (40_000, 1))
    bounds = np.arange(2_000) * 20, (np.arange(2_000) + 1) * 20
    sequences, lengths, _ = augmented((packets, bounds), Augmentation(packet_loss=0.1), 5)
    gaps = sequences[:, 1:, GAP]
    assert set(lengths) == {K}
    assert (gaps - 1).sum() / gaps.sum() == pytest.approx(0.1, abs=0.01)


def feed(path, augment=EVERYTHING, **fields):
    dataset = Dataset.open(path)
    features = FeatureSpec.of(dataset.card, K, tuple(CHANNELS), "none")
    fields = {"split": "train", "batch_size": 32, "seed": 3, "window_rows": 200, **fields}
    return Feed(dataset, features=features, augment=augment, **fields)


def shown(batches):
    return [{name: np.asarray(value).tobytes() for name, value in inputs.items()} for inputs, _, _ in batches]


def test_a_factor_of_one_and_no_loss_is_the_identity_to_the_bit(synthetic):
    """Every row goes through the kernel that augments; a direction that is never mirrored cannot tell."""
    plain, drawn = feed(synthetic(), Augmentation()), feed(synthetic(), Augmentation(mirror=1e-300))
    assert drawn.augment.changes_packets
    assert shown(plain.arrays(epochs=2)) == shown(drawn.arrays(epochs=2))


def test_flows_of_a_dataset_are_augmented_by_the_draws_of_their_window(synthetic):
    of = feed(synthetic(), window_rows=10_000)
    plain = feed(synthetic(), Augmentation(), window_rows=10_000)
    for epoch in range(2):
        sequences, lengths, labels = of.tensors(epoch, 0)
        *_, same_labels = plain.tensors(epoch, 0)
        np.testing.assert_array_equal(labels, same_labels)
        loaded = plain._load(epoch, 0)
        whole = of.features.renderer(of._row_groups.read(of.windows(epoch)[0].groups))
        draws = EVERYTHING.draws((3, epoch, 0), len(lengths))
        expected = whole(loaded.order, *draws, augmentation=EVERYTHING)
        np.testing.assert_array_equal(sequences, expected[0])
        np.testing.assert_array_equal(lengths, expected[1])
        assert sequences.tobytes() != plain.tensors(epoch, 0)[0].tobytes()


def test_tensors_and_arrays_are_the_same(synthetic):
    assert shown(feed(synthetic()).arrays(epochs=2)) == shown(feed(synthetic()).stream(epochs=2))


@pytest.mark.parametrize("start", [1, 7, 25])
def test_a_resumed_stream_is_the_undisturbed_one(synthetic, start):
    of = feed(synthetic())
    whole = shown(of.batches().take(start + 5))
    assert whole[start:] == shown(feed(synthetic()).batches(start).take(5))


def test_workers_share_the_rows_of_one(synthetic):
    alone = feed(synthetic())
    for worker in range(2):
        of = feed(synthetic(), worker=worker, workers=2)
        for number in range(len(of.windows(1))):
            for found, expected in zip(of.tensors(1, number), alone.tensors(1, 2 * number + worker), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_a_row_that_balancing_repeats_is_changed_anew(synthetic):
    from flowloom.trainers.feed.balancing import Balance

    of = feed(synthetic(), window_rows=10_000, balance=Balance(task="app", how="oversample"))
    loaded = of._load(0, 0)
    (sequences, *_), order = of.tensors(0, 0), loaded.order
    repeated = [row for row in np.unique(order) if (order == row).sum() > 1]
    assert any(len({sequences[at].tobytes() for at in np.flatnonzero(order == row)}) > 1 for row in repeated)


def test_epochs_and_seeds_draw_anew():
    draws = [EVERYTHING.draws(place, 50) for place in [(1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]]
    assert len({each.seeds.tobytes() for each in draws}) == len({each.starts.tobytes() for each in draws}) == 4
    assert isinstance(draws[0], Draws)


@pytest.mark.parametrize("fields", [{"split": "validation"}, {"seed": None}])
def test_only_training_is_augmented(synthetic, fields):
    with pytest.raises(ValueError, match="augment must change nothing unless flows of the train split"):
        feed(synthetic(), **fields)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("augment={packet_loss: 0.1}", r"augment\.packet_loss needs scaling=none, .*, got standard; set scaling=none"),
        (
            "augment={gap_scale: [0.5, 2]} scaling=none input=bins channels=[size]",
            "gap_scale needs channel gap, got size; remove",
        ),
        (
            "augment={mirror: 0.5} scaling=none input=bins channels=[size]",
            "mirror needs channel direction, got size; remove",
        ),
        ("augment={packet_loss: 1}", r"feed\.augment\.packet_loss must be .*1.*; change feed\.augment or remove it"),
        ("augment={gap_scale: [2, 1]}", r"gap_scale must be the smallest and the largest factor, got \[2, 1\]"),
        ("augment={start: -1}", r"feed\.augment\.start must be .*0"),
        ("augment={start: 2} furthest_start=3", r"are one setting, got 3 and 2; set feed\.furthest_start=0"),
    ],
)
def test_augmentations_that_do_not_fit_are_refused(settings, message):
    parts = re.sub(r"(\}|none|bins) ", r"\1|", settings).split("|")
    with pytest.raises(FlowloomError, match=message):
        Recipe.named("multa", parts)


def test_only_flows_are_augmented():
    with pytest.raises(FlowloomError, match=r"feed\.augment changes flows and needs a model of flows"):
        Recipe.named("mtc", ["augment={start: 2}"])


def test_both_keys_of_the_start_are_one_setting():
    changes = ["scaling=none", "input=bins", "augment={start: 4, packet_loss: 0.05}"]
    named = Recipe.named("multa", changes).feed.augmentation
    assert named == Augmentation(start=4, packet_loss=0.05)
    assert Recipe.named("multa", ["furthest_start=4"]).feed.augmentation == Augmentation(start=4)


def test_a_loss_of_everything_does_not_exist():
    with pytest.raises(pydantic.ValidationError):
        Augmentation(packet_loss=1.0)
