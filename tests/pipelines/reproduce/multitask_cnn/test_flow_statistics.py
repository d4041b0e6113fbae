"""Statistics of whole flows against NumPy and SciPy on the same lists."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.pipelines.reproduce.multitask_cnn.flow_statistics import SIDES, flow_statistics, statistic_names

packet = st.tuples(st.integers(0, 65_535), st.sampled_from([1, -1]), st.integers(0, 10**10))


def described(values):
    if not len(values):
        return [0.0] * 18
    equal = np.ptp(values) == 0
    return [
        len(values), np.min(values), np.max(values), np.mean(values), np.std(values), np.var(values),
        scipy.stats.median_abs_deviation(values), 0.0 if equal else scipy.stats.skew(values),
        0.0 if equal else scipy.stats.kurtosis(values), *np.percentile(values, range(10, 100, 10)),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(packet, max_size=12), min_size=1, max_size=4))
def test_every_statistic_of_every_side(flows):
    columns = {"pkt_size": pa.uint16(), "pkt_dir": pa.int8(), "pkt_gap_ns": pa.int64()}
    batch = pa.RecordBatch.from_arrays(
        [pa.array([[p[n] for p in flow] for flow in flows], pa.list_(t)) for n, t in enumerate(columns.values())],
        names=list(columns),
    )
    found = flow_statistics(batch)
    assert found.shape == (len(flows), len(statistic_names())) == (len(flows), 108)
    for flow, row in zip(flows, found, strict=True):
        sizes, sides, gaps = (np.array([p[n] for p in flow], np.int64) for n in range(3))
        times = np.cumsum(np.where(np.arange(len(gaps)) == 0, 0, gaps))
        wanted = []
        for side in (sides == 1, sides == -1, sides != 0):
            wanted += described(sizes[side].astype(float)) + described(np.diff(times[side]) / 1e9)
        np.testing.assert_allclose(row, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(flow_statistics(batch, SIDES[2:]), found[:, 72:])


def test_an_unknown_side_is_refused():
    names = ["pkt_size", "pkt_dir", "pkt_gap_ns"]
    empty = pa.RecordBatch.from_arrays([pa.array([], pa.list_(pa.int64()))] * 3, names)
    with pytest.raises(ValueError, match="sides must be among forward, backward, both, got up"):
        flow_statistics(empty, ("up",))
