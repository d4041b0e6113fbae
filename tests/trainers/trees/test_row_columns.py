"""Columns of flows against a plain computation in NumPy."""

import numpy as np
import pytest

from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.feed.byte_spec import ByteSpec
from flowloom.trainers.feed.flow_spec import CHANNELS, FeatureSpec
from flowloom.trainers.trees.flow_histograms import GAP_EDGES_US, flow_histograms, histogram_names
from flowloom.trainers.trees.row_columns import in_units, row_columns

K = 7
CHECKED = ("sum", "minimum", "mean", "deviation", "maximum", "p50")
ALL = FeatureSpec(k=K, channels=tuple(CHANNELS), scaling="none")


def flows(rows=60, features=ALL.features, seed=0):
    """Returns made-up flows in units, of every length."""
    generator = np.random.default_rng(seed)
    made = {
        "size": generator.integers(0, 1600, (rows, K)),
        "gap": 10 ** generator.uniform(-1, 8, (rows, K)),
        "direction": generator.choice([-1, 1], (rows, K)),
        "ttl": generator.integers(0, 256, (rows, K)),
        "window": generator.integers(0, 65536, (rows, K)),
        "payload": generator.integers(0, 1460, (rows, K)),
    }
    protocol = np.eye(4)[generator.integers(0, 4, rows)]
    made |= {name: np.repeat(protocol[:, [n]], K, 1) for n, name in enumerate(("tcp", "udp", "icmp", "other"))}
    flags = {name: generator.integers(0, 2, (rows, K)) for name in features if name not in made}
    length = (np.arange(rows) % K + 1).astype(np.int32)
    sequence = np.stack([{**made, **flags}[name] for name in features], axis=-1).astype(np.float32)
    sequence[:, 0, features.index("gap")] = 0
    sequence[np.arange(K) >= length[:, None]] = 0
    return sequence, length


def test_histograms_are_those_of_the_packets_of_each_side():
    sequence, length = flows()
    names = histogram_names(ALL.features)
    found = dict(zip(names, flow_histograms(sequence, length, ALL.features).T, strict=True))
    for row in range(len(sequence)):
        packets = dict(zip(ALL.features, sequence[row, : length[row]].T, strict=True))
        for side, sign in (("forward", 1), ("backward", -1)):
            chosen = packets["direction"] == sign
            assert found[f"{side} packets"][row] == chosen.sum()
            sizes = packets["size"][chosen]
            edges = np.append(np.arange(31) * 50.0, np.inf)
            shares = np.histogram(sizes, edges)[0] / length[row]
            own = [found[f"{side} size {place * 50} bytes"][row] for place in range(31)]
            np.testing.assert_allclose(own, shares, atol=1e-6)
            gaps = packets["gap"][1:][chosen[1:]]
            bins = np.digitize(gaps.astype(np.float64), GAP_EDGES_US)
            own = [found[f"{side} gap bin {place}"][row] for place in range(16)]
            np.testing.assert_allclose(own, np.bincount(bins, minlength=16) / length[row], atol=1e-6)
            ttl = packets["ttl"][chosen]
            for name, values, logarithmic in (("size", sizes, False), ("gap", gaps, True), ("ttl", ttl, False)):
                own = {key: found[f"{side} {name} {key}"][row] for key in CHECKED}
                check_statistics(own, values, logarithmic)
            assert found[f"{side} psh"][row] == pytest.approx((packets["psh"][chosen] > 0).sum() / length[row])
        assert [found[name][row] for name in ("tcp", "udp", "icmp", "other")] == list(sequence[row, 0, -7:-3])


def check_statistics(found, values, logarithmic):
    if not len(values):
        assert not any(found.values())
        return
    values = values.astype(np.float64)
    expected = {
        "minimum": values.min(), "mean": values.mean(), "deviation": values.std(), "maximum": values.max(),
        "p50": np.sort(values)[len(values) // 2],
    }  # fmt: skip
    if logarithmic:
        expected = {name: np.log1p(value) for name, value in expected.items()}
    expected["sum"] = np.log1p(values.sum())
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_positions_are_the_values_of_each_packet():
    sequence, length = flows()
    columns = row_columns(ALL, "positions")
    found = dict(zip(columns.names, columns.matrix(sequence, length).T, strict=True))
    packets = {name: sequence[:, :, n] for n, name in enumerate(ALL.features)}
    byte = sum(packets[name] * (1 << bit) for bit, name in enumerate(CHANNELS["tcp_flags"].features))
    for packet in range(K):
        at = packet + 1
        signed = packets["size"][:, packet] * np.where(packets["direction"][:, packet] < 0, -1, 1)
        np.testing.assert_array_equal(found[f"size of packet {at}"], signed)
        np.testing.assert_allclose(found[f"gap of packet {at}"], np.log1p(packets["gap"][:, packet]), rtol=1e-6)
        np.testing.assert_array_equal(found[f"flags of packet {at}"], byte[:, packet])
        for name in ("window", "ttl", "payload"):
            np.testing.assert_array_equal(found[f"{name} of packet {at}"], packets[name][:, packet])
    np.testing.assert_array_equal(found["packets"], length)
    assert set(found["protocol"]) == {1, 2, 3, 4}


@pytest.mark.parametrize("channels", [("size",), ("gap", "direction"), ("tcp_flags", "ttl"), ("protocol", "payload")])
@pytest.mark.parametrize("kind", ["positions", "histograms", "both"])
def test_any_channels_have_columns_of_distinct_names(channels, kind):
    spec = FeatureSpec(k=K, channels=channels, scaling="none")
    columns = row_columns(spec, kind)
    whole, length = flows()
    places = [ALL.features.index(name) for name in spec.features]
    found = columns.matrix(whole[:, :, places], length)
    assert found.dtype == np.float32
    assert found.shape == (len(whole), len(columns.names))
    assert len(set(columns.names)) == len(columns.names)
    assert np.isfinite(found).all()


def test_other_rows_are_read_as_they_are():
    columns = row_columns(ByteSpec(length=3))
    assert columns.names == ("bytes 0", "bytes 1", "bytes 2")
    np.testing.assert_array_equal(columns.matrix(np.array([[1, 255, 0]], np.uint8)), [[1, 255, 0]])


def test_scaled_packets_are_refused_and_units_keep_what_a_scaling_knew():
    linear = FeatureSpec(k=K, channels=("gap", "size"), scaling="linear")
    with pytest.raises(FlowloomError, match=r"set feed\.scaling=none"):
        row_columns(linear)
    assert in_units(linear).channels == ("gap", "size", "direction")
    unsigned = FeatureSpec(k=K, channels=("gap", "size"), scaling="linear", signed=False)
    assert in_units(unsigned).channels == ("gap", "size")
    assert in_units(ByteSpec(length=3)) == ByteSpec(length=3)
