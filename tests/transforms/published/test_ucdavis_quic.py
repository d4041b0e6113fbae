"""Flows of the UC Davis QUIC set: against a plain reading, with rows rejected, and the published counts."""

import collections
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloom.schemas.arrow.rows import PUBLISHED_FLOWS, with_published_labels
from flowloom.transforms.arrays.digests import row_digests
from flowloom.transforms.arrays.moments import sequence_moments
from flowloom.transforms.published.published_rejects import Rejects
from flowloom.transforms.published.ucdavis_quic import ARRAY_CLASSES, read_quic_arrays, read_quic_texts

START = 1_522_917_394_974_941_000
packets = st.tuples(st.integers(-(10**9), 10**10), st.integers(0, 70_000), st.integers(0, 1))
bad = st.sampled_from(
    ["x\t0\t1\t0", "1.5\t0\t9", "1.5\t0\t-4\t1", "1.5\t0\t4\t2", "", "1.0000000001\t0\t4\t1", "\x00\xff"]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(packets, bad), max_size=30), st.integers(1, 5))
def test_a_text_file_is_one_flow(tmp_path_factory, lines, k):
    now, good, text = START, [], []
    for line in lines:
        if isinstance(line, tuple):
            now += line[0]
            good.append((now, *line[1:]))
            line = f"{now // 10**9}.{now % 10**9:09d}\t0\t{line[1]}\t{line[2]}"
        text.append(line)
    path = tmp_path_factory.mktemp("quic") / "GoogleDoc-7.txt"
    path.write_bytes("".join(f"{line}\n" for line in text).encode("latin1"))
    rejects = Rejects()
    flows = [row for batch in read_quic_texts(str(path), rejects, k=k) for row in batch.to_pylist()]
    rejected = rejects.rows().to_pylist()
    assert sorted(row["offset"] for row in rejected if row["reason"] == "bad-row") == [
        at for at, line in enumerate(lines) if isinstance(line, str)
    ]
    if not good:
        assert flows == []
        assert any(row["reason"] in ("other-format", "empty") for row in rejected)
        return
    (flow,) = flows
    times, sizes, sides = zip(*good, strict=True)
    forward = [side == sides[0] for side in sides]
    gaps = [0, *(b - a for a, b in itertools.pairwise(times))]
    assert flow["duration_ns"] == max(times) - times[0]
    assert flow["pkt_size"] == [min(size, 65_535) for size in sizes[:k]]
    assert flow["pkt_dir"] == [1 if ahead else -1 for ahead in forward[:k]]
    assert flow["pkt_gap_ns"] == [max(gap, 0) for gap in gaps[:k]]
    assert (flow["packets_fwd"], flow["packets_bwd"]) == (sum(forward), len(good) - sum(forward))
    assert flow["bytes_fwd"] == sum(size for size, ahead in zip(sizes, forward, strict=True) if ahead)
    assert flow["bytes_bwd"] == sum(sizes) - flow["bytes_fwd"]
    assert flow["out_of_order"] == sum(gap < 0 for gap in gaps)
    assert (flow["word_service"], flow["protocol"], flow["src_ip"], flow["pkt_ttl"]) == ("googledoc", 17, None, None)


def test_the_published_text_flows(real_data):
    rejects = Rejects()
    batches = list(read_quic_texts(str(real_data / "quic-ucdavis/flows-150.tar.xz"), rejects))
    flows = pa.Table.from_batches(batches, with_published_labels(PUBLISHED_FLOWS, ["service"]))
    assert rejects.counts() == {}
    assert collections.Counter(flows["word_service"].to_pylist()) == dict.fromkeys(ARRAY_CLASSES.values(), 30)
    assert np.sum([flows["packets_fwd"], flows["packets_bwd"]]) == 1_069_596
    assert len(set(flows["flow_id"].to_pylist())) == 150
    # what a dataset does with rows: digests and moments see nulls as nothing
    whole = flows.combine_chunks().to_batches()[0]
    assert len(np.unique(row_digests(whole, "train"), axis=0)) == 150
    moments = sequence_moments(whole)
    assert (moments["pkt_ttl"].count, moments["pkt_size"].count) == (0, sum(map(len, flows["pkt_size"].to_pylist())))


def test_the_published_arrays(real_data):
    folder, rejects, batches = real_data / "quic-ucdavis", Rejects(), []
    for split in ("val", "test"):
        data, labels = (str(folder / f"{split}{kind}.npy") for kind in ("Data", "Label"))
        batches += read_quic_arrays(data, labels, rejects, k=120)
    flows = pa.Table.from_batches(batches)
    assert rejects.counts() == {}
    assert collections.Counter(flows["word_service"].to_pylist()) == dict.fromkeys(ARRAY_CLASSES.values(), 60)
    data = np.concatenate([np.load(folder / f"{split}Data.npy") for split in ("val", "test")]).reshape(300, 120, 2)
    labels = np.concatenate([np.load(folder / f"{split}Label.npy") for split in ("val", "test")])
    sizes, gaps = (np.array(flows[name].to_pylist()) for name in ("pkt_size", "pkt_gap_ns"))
    assert np.abs(sizes / 1434 - data[:, :, 1]).max() < 1e-9
    assert np.abs(gaps[:, 1:] / 1e9 - np.maximum((data[:, 1:, 0] + 1) / 2, 0)).max() < 1e-8
    seconds = np.array(flows["duration_ns"].to_pylist()) / 1e9
    assert np.allclose(seconds, labels[:, 1])
    assert np.allclose(np.array(flows["bytes_fwd"].to_pylist()) / seconds, labels[:, 0], rtol=1e-3, atol=1)
    assert flows["packets_fwd"].null_count == flows["start"].null_count == 300


@pytest.mark.parametrize(
    ("values", "labels", "counts"),
    [
        (np.zeros((2, 239)), np.ones((2, 3)), {"other-format": 1}),
        (np.full((2, 240), 0.5), np.ones((3, 3)), {"other-format": 1}),
        (np.full((3, 240), 0.5), np.array([[1, 1, 1], [1, 1, 6], [np.nan, 1, 1]]), {"bad-row": 2}),
        (np.stack([np.full(240, x) for x in (0.5, np.inf, 0.0)]), np.ones((3, 3)), {"bad-row": 2}),
    ],
)
def test_bad_arrays_are_rejects(tmp_path, values, labels, counts):
    np.save(tmp_path / "d.npy", values)
    np.save(tmp_path / "l.npy", labels.astype(float))
    rejects = Rejects()
    rows = sum(b.num_rows for b in read_quic_arrays(str(tmp_path / "d.npy"), str(tmp_path / "l.npy"), rejects))
    assert rejects.counts() == counts
    assert rows == (1 if "bad-row" in counts else 0)
