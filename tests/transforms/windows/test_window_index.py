"""Window index: joins equal those of a slow and obvious loop, for any windows, flows and directions."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows
from window_tables import KEY, flow_rows, flows_of, named, oracle, times, turned, window_rows, windows_of

from flowloom.schemas.arrow.label_windows import UNKNOWN_LABEL, WINDOW_KEY
from flowloom.transforms.arrays.columns import column, view
from flowloom.transforms.windows.window_index import index_windows, window_batch
from flowloom.transforms.windows.window_match import NO_WINDOW, match_windows


def with_confidence(windows: pa.RecordBatch, levels: list[int]) -> pa.RecordBatch:
    at = windows.schema.get_field_index("confidence")
    return windows.set_column(at, windows.schema.field(at), column(np.array(levels, np.uint8), pa.uint8()))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(window_rows, max_size=25), st.lists(flow_rows, max_size=12), st.integers(0, 4), named | st.just(WINDOW_KEY)
)
def test_joins_equal_those_of_a_loop(windows, flows, tolerance, names):
    match = match_windows(flows_of(flows), index_windows(windows_of(windows, names)), tolerance)
    expected = [oracle(windows, flow, tolerance, names) for flow in flows]
    assert list(zip(match.codes.tolist(), match.several.tolist(), strict=True)) == expected


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(times, st.integers(UNKNOWN_LABEL, 1), st.integers(0, 9)), max_size=12),
    st.lists(times, max_size=9),
    st.integers(0, 4),
)
def test_a_label_has_the_maximum_confidence_of_the_windows_that_the_flow_touches(drawn, flows, tolerance):
    apart = [{end: at * 60 + time[end] for end in time} for at, (time, *_) in enumerate(drawn)]
    windows = windows_of([KEY | time | {"code": code} for time, (_, code, _) in zip(apart, drawn, strict=True)])
    windows = with_confidence(windows, [level for *_, level in drawn])
    placed = [time | {"last": time["last"] + 60 * at} for at, time in enumerate(flows)]
    match = match_windows(flows_of([KEY | time for time in placed]), index_windows(windows), tolerance)
    for flow, code, found in zip(placed, match.codes.tolist(), match.confidence.tolist(), strict=bool(drawn)):
        far = [max(each["first"] - flow["last"], flow["first"] - each["last"], 0) for each in apart]
        own = [(away, level) for away, (_, label, level) in zip(far, drawn, strict=True) if label == code]
        touching = [level for away, level in own if away == 0]
        nearest = [level for away, level in own if (away, code) == (min(own)[0], code)]
        assert found in ([max(touching)] if touching else nearest or [0])


def test_merged_windows_have_the_maximum_confidence():
    windows = windows_of([KEY | {"first": 0, "last": 9, "code": 1}, KEY | {"first": 9, "last": 12, "code": 1}])
    flow = flows_of([KEY | {"first": 1, "last": 2}])
    assert match_windows(flow, index_windows(with_confidence(windows, [2, 6]))).confidence.tolist() == [6]
    assert match_windows(flow, index_windows(windows)).confidence.tolist() == [], "windows without confidence"


@settings(deadline=None, max_examples=30)
@given(st.lists(window_rows, max_size=25), st.lists(flow_rows, max_size=12), st.randoms())
def test_direction_and_order_change_nothing(windows, flows, draws):
    one = match_windows(flows_of(flows), index_windows(windows_of(windows)), 1)
    shuffled = [turned(window) if draws.random() < 0.5 else window for window in draws.sample(windows, len(windows))]
    other = match_windows(
        flows_of([turned(flow) if draws.random() < 0.5 else flow for flow in flows]),
        index_windows(windows_of(shuffled)),
        1,
    )
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.several, other.several)
    np.testing.assert_array_equal(one.shared, other.shared)


@pytest.mark.parametrize(
    ("window", "tolerance", "code"),
    [
        ((0, 9), 0, NO_WINDOW), ((0, 9), 1, 0), ((0, 10), 0, 0), ((20, 30), 0, 0), ((21, 30), 0, NO_WINDOW),
        ((21, 30), 1, 0), ((12, 13), 0, 0), ((0, 99), 0, 0),
    ],
)  # fmt: skip
def test_both_ends_of_a_window_belong_to_it(window, tolerance, code):
    windows = windows_of([KEY | {"first": window[0], "last": window[1], "code": 0}])
    match = match_windows(flows_of([KEY | {"first": 10, "last": 20}]), index_windows(windows), tolerance)
    assert match.codes.tolist() == [code]


def test_a_flow_gets_the_label_with_the_larger_share():
    rows = [KEY | {"first": a, "last": b, "code": c} for a, b, c in ((0, 15, 1), (16, 18, 0), (17, 19, 0), (19, 20, 0))]
    match = match_windows(flows_of([KEY | {"first": 10, "last": 20}]), index_windows(windows_of(rows)))
    assert (match.codes.tolist(), match.shared.tolist(), match.several.tolist()) == ([1], [5], [True])


def test_counted_windows_are_not_merged():
    rows = [KEY | {"first": at, "last": at, "code": code} for at, code in ((10, 0), (10, 0), (15, 1), (20, 0), (21, 1))]
    index = index_windows(windows_of(rows), "windows")
    flow = flows_of([KEY | {"first": 10, "last": 20}])
    votes, unless_others = match_windows(flow, index), match_windows(flow, index, last_resort=0)
    assert (votes.codes[0], votes.shared[0]) == (0, 3)
    assert (unless_others.codes[0], unless_others.shared[0]) == (1, 1)


def test_random_flows_match_their_own_windows():
    flows = synthetic_flows(5000)
    codes = np.arange(5000, dtype=np.int32) % 7
    start, duration = view(flows["start"]), view(flows["duration_ns"])
    windows = window_batch({name: view(flows[name]) for name in WINDOW_KEY}, start, start + duration, codes)
    match = match_windows(flows.slice(100, 4000), index_windows(windows.slice(100, 4900)))
    np.testing.assert_array_equal(match.codes, codes[100:4100])
