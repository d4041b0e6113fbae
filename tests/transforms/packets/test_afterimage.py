"""AfterImage against weighted sums over all packets of a stream, for any packets and batches, and with few rows."""

import itertools
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_rows import SECOND, START, A, B, answered, packet

from flowloom.schemas.arrow.rows import PACKETS
from flowloom.schemas.errors import FlowloomError
from flowloom.transforms.packets.afterimage import DECAYS, AfterImage, afterimage_features
from flowloom.transforms.published.kitsune import read_kitsune_packets
from flowloom.transforms.published.published_rejects import Rejects

C = bytes(10) + b"\xff\xff" + bytes([192, 168, 0, 7])


class Stream:
    """All values of one stream with their times; none counts as earlier than the one before it."""

    def __init__(self):
        self.values: list[float] = []
        self.clocks: list[int] = []

    def add(self, value: float, now: int) -> None:
        self.values.append(value)
        self.clocks.append(max([now, *self.clocks[-1:]]))

    def residual(self, decay: float) -> float:
        """Returns the latest value minus the mean, without a difference of nearly equal numbers."""
        weights = 2.0 ** (-decay * (self.clocks[-1] - np.array(self.clocks)) * 1e-9)
        return np.average(self.values[-1] - np.array(self.values), weights=weights)

    def moments(self, decay: float) -> tuple[float, float, float]:
        if not self.values:
            return 0.0, 0.0, 0.0
        values, clocks = np.array(self.values), np.array(self.clocks)
        weights = 2.0 ** (-decay * (clocks[-1] - clocks) * 1e-9)
        mean = values[-1] - self.residual(decay)
        return weights.sum(), mean, np.average((values - mean) ** 2, weights=weights)


def reference(packets: list[dict]) -> np.ndarray:
    """Returns the features of packets in captured order, each from all packets before it."""
    streams: dict = defaultdict(Stream)
    products: dict = defaultdict(Stream)
    residuals: dict = defaultdict(float)
    rows = []
    for row in packets:
        now, size = row["time_ns"], float(row["wire_bytes"])
        ends = (row["src_ip"], row["src_port"]), (row["dst_ip"], row["dst_port"])
        features = []
        for kind in ("MI_dir", "H", "HH", "HH_jit", "HpHp"):
            key, back = {
                "MI_dir": ((ends[0][0],), None),
                "H": ((ends[0][0],), None),
                "HH": ((ends[0][0], ends[1][0]), (ends[1][0], ends[0][0])),
                "HH_jit": ((ends[0][0], ends[1][0]), None),
                "HpHp": ((*ends, row["protocol"]), (ends[1], ends[0], row["protocol"])),
            }[kind]
            stream = streams[kind, key]
            value = size
            if kind == "HH_jit":
                value = max(now - stream.clocks[-1], 0) * 1e-9 if stream.clocks else 0.0
            stream.add(value, now)
            for decay in DECAYS:
                weight, mean, variance = stream.moments(decay)
                features += [weight, mean, np.sqrt(variance)]
                if back is None:
                    continue
                alone = back == key  # a host that talks to itself has no other direction
                _, mean_back, variance_back = (0, 0, 0) if alone else streams[kind, back].moments(decay)
                both = products[kind, frozenset([key, back]), decay]
                both.add(stream.residual(decay) * (0 if alone else residuals[kind, back, decay]), now)
                residuals[kind, key, decay] = stream.residual(decay)
                covariance = both.moments(decay)[1]
                deviations = np.sqrt(variance) * np.sqrt(variance_back)
                features += [
                    np.hypot(mean, mean_back),
                    np.hypot(variance, variance_back),
                    covariance,
                    np.clip(covariance / deviations, -1, 1) if deviations > 1e-9 else 0.0,
                ]
        rows.append(features)
    return np.array(rows)


def batch(packets: list[dict]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(packets, schema=PACKETS)


def timed(gaps_and_rows: list) -> list[dict]:
    times = itertools.accumulate((gap for gap, _ in gaps_and_rows), initial=START)
    return [row | {"time_ns": time} for time, (_, row) in zip(times, gaps_and_rows, strict=False)]


def packet_lists(*gaps: int):
    row = st.builds(
        lambda swap, src, dst, port, protocol, size: (answered if swap else dict)(
            packet(src_ip=src, dst_ip=dst, src_port=port, protocol=protocol, wire_bytes=size)
        ),
        st.booleans(), st.sampled_from([A, A, C]), st.sampled_from([B, B, C]), st.sampled_from([80, 1000, 1001]),
        st.sampled_from([6, 17]), st.sampled_from([60, 60, 61, 590, 1514]),
    )  # fmt: skip
    return st.lists(st.tuples(st.sampled_from(gaps), row), max_size=18).map(timed)


@settings(max_examples=20, deadline=None)
@given(packet_lists(0, 1_000, SECOND // 7, 2 * SECOND, -2 * SECOND), st.lists(st.integers(0, 18), max_size=3))
def test_equals_sums_over_all_packets_however_they_are_cut(packets, cuts):
    afterimage = AfterImage()
    edges = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    found = np.concatenate([afterimage.update(batch(packets[a:b])) for a, b in itertools.pairwise(edges)])
    assert found.shape == (len(packets), 115)
    if packets:
        np.testing.assert_allclose(found, reference(packets), rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(packet_lists(0, SECOND // 7, 40 * SECOND, 4_000 * SECOND, -40 * SECOND))
def test_after_a_long_silence_only_correlations_lose_digits(packets):
    pcc = np.array([name.endswith("pcc") for name in afterimage_features()])
    if packets:
        found, wanted = AfterImage().update(batch(packets)), reference(packets)
        np.testing.assert_allclose(found[:, ~pcc], wanted[:, ~pcc], rtol=1e-9, atol=1e-9)
        assert (np.abs(found[:, pcc]) <= 1).all()


def test_the_features_of_a_request_and_its_answer_by_hand():
    request = packet(wire_bytes=100)
    answer = answered(packet(wire_bytes=300, time_ns=START + SECOND))
    first, last = (
        dict(zip(afterimage_features(), row, strict=True)) for row in AfterImage().update(batch([request, answer]))
    )
    assert (first["H_L5_weight"], first["HH_L5_mean"], first["HH_jit_L5_mean"], first["HpHp_L1_pcc"]) == (1, 100, 0, 0)
    assert (last["HH_L1_weight"], last["HH_L1_mean"], last["HH_L1_std"]) == (1, 300, 0)
    assert last["HH_L1_magnitude"] == pytest.approx(np.hypot(100, 300))
    assert (last["HH_L1_radius"], last["HH_L1_covariance"]) == (0, 0)
    again = packet(wire_bytes=200, time_ns=START + 2 * SECOND)
    third = AfterImage().update(batch([request, answer, again]))[-1]
    third = dict(zip(afterimage_features(), third, strict=True))
    assert third["HH_L1_weight"] == pytest.approx(1.25)
    assert third["HH_L1_mean"] == pytest.approx((0.25 * 100 + 200) / 1.25)
    assert third["HH_jit_L1_mean"] == pytest.approx(2 / 1.25)


def test_the_names_are_those_of_the_published_tables():
    names = afterimage_features()
    assert len(set(names)) == len(names) == 115
    assert (names[0], names[15], names[-1]) == ("MI_dir_L5_weight", "H_L5_weight", "HpHp_L0.01_pcc")


def scan(count: int) -> list[dict]:
    """Returns packets that open a socket each; every third host repeats."""
    hosts = [bytes(10) + b"\xff\xff" + bytes([10, 1, i // 256, i % 256]) for i in range(count)]
    return [
        packet(src_ip=hosts[i if i % 3 else i // 2], src_port=i, wire_bytes=60 + i % 7, time_ns=START + i * SECOND)
        for i in range(count)
    ]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=4), st.sampled_from([4, 5, 30, 101]))
def test_what_is_forgotten_does_not_depend_on_batches(cuts, max_rows):
    packets = scan(200)
    afterimage = AfterImage(max_rows=max_rows)
    edges = [0, *sorted(cuts), 200]
    found = np.concatenate([afterimage.update(batch(packets[a:b])) for a, b in itertools.pairwise(edges)])
    np.testing.assert_array_equal(found, AfterImage(max_rows=max_rows).update(batch(packets)))


def test_rows_that_are_silent_are_forgotten_and_others_kept():
    packets = scan(3_000)  # more rows than a table begins with
    everything = AfterImage().update(batch(packets))
    np.testing.assert_array_equal(AfterImage(max_rows=9_000).update(batch(packets)), everything)
    np.testing.assert_allclose(everything[:80], reference(packets[:80]), rtol=1e-9, atol=1e-9)
    few = AfterImage(max_rows=300).update(batch(packets))
    at = afterimage_features().index("H_L0.01_weight")
    assert (few[:, at] <= everything[:, at]).all()
    assert (few[:, at] < everything[:, at]).any()


def test_published_packets_have_finite_features(real_data):
    afterimage = AfterImage()
    path = str(real_data / "kitsune-mirai" / "mirai_head.pcap.tsv.xz")
    packets = [part for part, _ in zip(read_kitsune_packets(path, Rejects()), range(4), strict=False)]
    found = np.concatenate([afterimage.update(part) for part in packets])
    assert np.isfinite(found).all()
    pcc = found[:, [name.endswith("pcc") for name in afterimage.features]]
    assert np.mean(pcc != 0) > 0.01
    few = [row for part in packets for row in part.slice(0, 80).to_pylist()][:80]
    np.testing.assert_allclose(found[:80], reference(few), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decays": ()}, r"finite numbers > 0, at least one, got \[\]"),
        ({"decays": (1.0, 0.0)}, r"got \[1.0, 0.0\]"),
        ({"max_rows": 3}, "max_rows must be at least 4, got 3"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(FlowloomError, match=message):
        AfterImage(**arguments)
