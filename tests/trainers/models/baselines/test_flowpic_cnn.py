"""FlowPic: the picture against NumPy's histogram, to the packet; the CNN against its published layers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.trainers.models.baselines.flow_picture import FlowPicture
from flowloom.trainers.models.baselines.flowpic_cnn import FlowPicCNN

K = 12
packet = st.tuples(
    st.one_of(st.sampled_from([0, 46, 47, 1499, 1500, 1501, 65_535]), st.integers(0, 2_000)),
    st.one_of(st.sampled_from([0, 468_749, 468_750, 468_751, 14_999_999, 15_000_000]), st.integers(0, 20_000_000)),
    st.sampled_from([-1, 1]),
)


def picture(flow, pixels, window_us):
    """Returns the picture of NumPy's histogram in two dimensions, in exact whole numbers."""
    sizes = np.array([min(size, 1500) for size, _, _ in flow], np.int64)
    times = np.cumsum([gap for _, gap, _ in flow])
    within = times < window_us
    edges = np.arange(pixels + 1)
    scaled = sizes[within] * pixels / 1500, (times[within] * pixels) // window_us
    return np.minimum(np.histogram2d(*scaled, bins=(edges, edges))[0], 255)


def padded(flows):
    sequence = np.zeros((len(flows), K, 3), np.float32)
    for row, flow in zip(sequence, flows, strict=True):
        row[: len(flow)] = flow
    return sequence, np.array([len(flow) for flow in flows], np.int32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(packet, min_size=1, max_size=K), min_size=1, max_size=4),
    st.sampled_from([(32, 15.0), (64, 15.0), (32, 60.0), (20, 0.5), (1, 1.0)]),
)
def test_the_picture_is_numpys_histogram(flows, shape):
    pixels, window_s = shape
    found = np.asarray(FlowPicture(pixels, window_s)(*padded(flows)))
    assert found.shape == (len(flows), pixels, pixels, 1)
    for row, flow in zip(found[..., 0], flows, strict=True):
        np.testing.assert_array_equal(row, picture(flow, pixels, int(window_s * 1e6)).astype(np.float32))


def test_a_packet_of_the_largest_size_and_one_at_the_windows_end():
    flow = [(1500, 0, 1), (0, 14_999_999, 1), (700, 1, -1)]
    (found,) = np.asarray(FlowPicture(32, 15.0)(*padded([flow])))[..., 0]
    assert {tuple(place) for place in np.argwhere(found)} == {(31, 0), (0, 31)}
    assert found.sum() == 2, "the third packet arrives 15 s after the first"


def test_a_pixel_holds_at_most_255_packets():
    sequence = np.zeros((1, 300, 3), np.float32)
    found = np.asarray(FlowPicture(8, 1.0)(sequence, np.array([300], np.int32)))
    assert found.max() == found[0, 0, 0, 0] == 255


def test_published_size():
    """61,281 parameters with five classes and 32 pixels (tcbench, docs/modeling/runs)."""
    model = FlowPicCNN(60, 3, {"app": 5})
    assert model.count_params() == 61_281
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    assert shapes["convolution_0"] == (28, 28, 6)
    assert shapes["convolution_1"] == (10, 10, 16)
    assert [shapes[name] for name in ("dense_0", "dense_1")] == [(120,), (84,)]
    assert model.macs == 28 * 28 * 150 + 10 * 10 * 2400 + 400 * 120 + 120 * 84 + 84 * 5


def test_larger_pictures_and_two_tasks():
    model = FlowPicCNN(K, 3, {"app": 5, "attack": 2}, pixels=64, window_s=60.0)
    assert model.get_layer("dense_0").kernel.shape == (13 * 13 * 16, 120)
    sequence, length = padded([[(100, 0, 1)], [(1500, 0, 1), (40, 10, -1)]])
    said = model({"sequence": sequence, "length": length})
    assert (said["app"].shape, said["attack"].shape) == ((2, 5), (2, 1))
    assert model.last_shared_variables[0].shape == (120, 84)
    parts = [model.shared_variables, *(model.task_variables(task) for task in model.tasks)]
    assert sum(math.prod(v.shape) for part in parts for v in part) == model.count_params()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"channels": 1}, "channels must be 3"),
        ({"pixels": 15}, "pixels must be >= 16 for the convolutions, got 15"),
        ({"window_s": 61}, "window_s must be from 0.001 to 60 s, got 61"),
        ({"k": 144}, "k times window_s must be below 2,147 s, got k=144 and window_s=15"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FlowPicCNN(**{"k": 10, "channels": 3, "tasks": {"app": 3}, **change})
