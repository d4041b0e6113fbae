"""Flows of CertTA's JSON: against a plain reading of the same records, with records rejected."""

import collections
import json

import pyarrow as pa

from flowloom.transforms.published.certta import read_certta_flows
from flowloom.transforms.published.published_rejects import Rejects

SOURCE = "./SET/pcap/Brute_http/x/UDP_1-1-1-1_5_2-2-2-2_6/7.pcap"


def record(**fields):
    return {
        "timestamp": [0.0, 0.5],
        "direction_length": [-60, 70],
        "packet_num": 2,
        "label": 3,
        "source_file": SOURCE,
    } | fields


def read(path, **how):
    rejects = Rejects()
    rows = [row for batch in read_certta_flows(str(path), rejects, **how) for row in batch.to_pylist()]
    return rows, rejects


def test_the_published_flows(real_data):
    seen, total = collections.Counter(), 0
    for path in sorted((real_data / "certta").glob("*/[tv]*.json")):
        rows, rejects = read(path, k=20)
        assert rejects.counts() == {}
        records = json.loads(path.read_text())
        for row, published in zip(rows, records, strict=True):
            signs = [
                1 if length * published["direction_length"][0] > 0 else -1 for length in published["direction_length"]
            ]
            assert row["pkt_dir"] == signs[:20]
            assert row["pkt_size"] == [abs(length) for length in published["direction_length"]][:20]
            assert abs(row["duration_ns"] / 1e9 - published["timestamp"][-1]) < 1e-9
            assert row["packets_fwd"] + row["packets_bwd"] == published["packet_num"]
        seen.update(row["word_class"] for row in rows)
        total += len(rows)
    assert total == 2160
    assert seen == {
        "benign": 600, "dns2tcp": 200, "dnscat2": 200, "iodine": 200, "audio": 240, "video": 240,
        "bruteforce-http": 160, "bruteforce-telnet": 160, "mirai": 160,
    }  # fmt: skip


def test_records_that_contradict_themselves_are_rejects(tmp_path):
    records = [
        record(),
        record(direction_length=[1]),
        record(direction_length=[1, 0]),
        record(timestamp=[0.0, None]),
        record(timestamp=[], direction_length=[]),
        record(label=None, source_file=None),
        record(timestamp=None),
        record(timestamp=[0.0, 1e300]),
        record(source_file=None),
    ]
    (tmp_path / "r.json").write_text(json.dumps(records))
    rows, rejects = read(tmp_path / "r.json")
    assert rejects.rows()["offset"].to_pylist() == [1, 2, 3, 4, 5, 6, 7]
    assert rejects.counts() == {"bad-row": 7}
    assert [(row["word_class"], row["protocol"]) for row in rows] == [("brute-http", 17), ("3", None)]
    assert (rows[0]["pkt_dir"], rows[0]["pkt_gap_ns"], rows[0]["bytes_bwd"]) == ([1, -1], [0, 500_000_000], 70)


def test_what_is_no_such_json_is_a_reject(tmp_path):
    for content in (b"", b"{", b'[{"a": 1}]', b"\xff\xfe", b'[{"timestamp": "x"}]'):
        (tmp_path / "r.json").write_bytes(content)
        rows, rejects = read(tmp_path / "r.json")
        assert rows == []
        assert pa.compute.sum(pa.array(rejects.counts().values())).as_py() == 1
