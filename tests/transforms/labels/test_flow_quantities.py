"""Flow quantities: equal to those of a loop over packets in plain Python, and unknown where undefined."""

import itertools
import statistics

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.tasks import QUANTITIES
from flowloom.transforms.arrays.columns import column
from flowloom.transforms.labels.flow_quantities import quantity


def flows_with(**changes: list) -> pa.RecordBatch:
    flows = synthetic_flows(len(next(iter(changes.values()))))
    for name, values in changes.items():
        at = FLOWS.get_field_index(name)
        flows = flows.set_column(at, FLOWS.field(at), pa.array(values, FLOWS.field(at).type))
    return flows


def reference(flow: dict, name: str) -> float:
    """Measures one flow in plain Python."""
    size, packets = flow["bytes_fwd"] + flow["bytes_bwd"], flow["packets_fwd"] + flow["packets_bwd"]
    gaps = [gap / 1e9 for gap in flow["pkt_gap_ns"][1:]]
    seconds = flow["duration_ns"] / 1e9
    return {
        "bandwidth": lambda: 8 * size / seconds if seconds else float("nan"),
        "duration": lambda: seconds,
        "mean_size": lambda: size / packets if packets else float("nan"),
        "gap_deviation": lambda: statistics.pstdev(gaps) if gaps else float("nan"),
        "bursts": lambda: len(list(itertools.groupby(flow["pkt_dir"]))),
    }[name]()


@pytest.mark.parametrize("name", QUANTITIES)
def test_quantities_equal_those_of_a_loop_over_packets(name):
    flows = synthetic_flows(300)
    rows = flows.set_column(3, FLOWS.field(3), column(np.arange(300, dtype=np.int64) * 10**8, pa.int64()))
    expected = [reference(flow, name) for flow in rows.to_pylist()]
    np.testing.assert_allclose(quantity(rows, name), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(quantity(rows.slice(100, 50), name), quantity(rows, name)[100:150])


def test_undefined_quantities_are_unknown():
    flows = flows_with(duration_ns=[0, 10**9], pkt_gap_ns=[[0], [0, 5]], pkt_dir=[[1], []], bytes_fwd=[100, 125])
    np.testing.assert_array_equal(np.isnan(quantity(flows, "bandwidth")), [True, False])
    assert quantity(flows, "bandwidth")[1] == 1000
    np.testing.assert_array_equal(quantity(flows, "gap_deviation"), [np.nan, 0])
    np.testing.assert_array_equal(quantity(flows, "bursts"), [1, 0])
    np.testing.assert_array_equal(quantity(flows, "duration"), [0, 1])
    nothing = flows_with(packets_fwd=[0], packets_bwd=[0])
    assert np.isnan(quantity(nothing, "mean_size")).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from([1, -1]), max_size=9), min_size=1, max_size=9))
def test_bursts_are_runs_of_one_direction(directions):
    found = quantity(flows_with(pkt_dir=directions), "bursts")
    assert found.tolist() == [len(list(itertools.groupby(packets))) for packets in directions]
