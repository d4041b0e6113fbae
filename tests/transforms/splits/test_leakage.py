"""Leakage: counts equal those of dictionaries in memory, for any batches, partitions and layouts."""

import collections
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_flows

from flowloom.schemas.arrow.rows import FLOWS
from flowloom.schemas.corpus.split_options import SPLITS
from flowloom.schemas.dataset.dataset_card import CARD, shard_path
from flowloom.schemas.parquet_files import write_table
from flowloom.transforms.splits import leakage
from flowloom.transforms.splits.leakage import count_overlap, measure_leakage, sight

TASKS = ("app", "attack")

flow = st.fixed_dictionaries(
    {
        "pkt_size": st.sampled_from([(40,), (40, 1500), (1500, 40)]),
        "pkt_gap_ns": st.sampled_from([0, 7]),
        "src_ip": st.sampled_from([b"a" * 16, b"b" * 16, b"a" * 15 + b"b"]),
        "dst_ip": st.sampled_from([b"a" * 16, b"b" * 16]),
        "split": st.sampled_from(SPLITS),
        "app": st.none() | st.integers(0, 2),
        "attack": st.none() | st.integers(0, 1),
    }
)


def batch_of(flows: list[dict], labels: tuple[str, ...] = TASKS) -> pa.RecordBatch:
    rows = synthetic_flows(len(flows))
    cells = {
        "flow_id": [each["id"].to_bytes(16, "big") for each in flows],
        "pkt_size": [each["pkt_size"] for each in flows],
        "pkt_dir": [[1] * len(each["pkt_size"]) for each in flows],
        "pkt_gap_ns": [[each["pkt_gap_ns"]] * len(each["pkt_size"]) for each in flows],
        "src_ip": [each["src_ip"] for each in flows],
        "dst_ip": [each["dst_ip"] for each in flows],
    }
    for name, values in cells.items():
        at = FLOWS.get_field_index(name)
        rows = rows.set_column(at, FLOWS.field(at), pa.array(values, FLOWS.field(at).type))
    for task in labels:
        codes = pa.array([each[task] for each in flows], pa.int32())
        rows = rows.append_column(pa.field(f"label_{task}", pa.int32()), codes)
    return rows


def counted(things: list[tuple[int, object, str]]) -> dict[str, dict[str, int]]:
    """Counts (flow, thing, split) with dictionaries."""
    flows = collections.defaultdict(lambda: {split: set() for split in SPLITS})
    for number, thing, split in things:
        flows[thing][split].add(number)
    trained = [of for of in flows.values() if of["train"]]
    return {
        "distinct": {split: sum(bool(of[split]) for of in flows.values()) for split in SPLITS},
        "distinct_in_train": {split: sum(bool(of[split]) for of in trained) for split in SPLITS[1:]},
        "flows": {split: sum(len(of[split]) for of in flows.values()) for split in SPLITS},
        "flows_repeated": {split: sum(max(len(of[split]) - 1, 0) for of in flows.values()) for split in SPLITS},
        "flows_in_train": {split: sum(len(of[split]) for of in trained) for split in SPLITS[1:]},
    }


def oracle(flows: list[dict]) -> dict:
    def of(thing) -> dict:
        return counted([(each["id"], thing(each), each["split"]) for each in flows])

    labels = {task: collections.defaultdict(set) for task in TASKS}
    for each in flows:
        for task in TASKS:
            labels[task][each["pkt_size"]] |= {each[task]} - {None}
    ends = [(each["id"], each[name], each["split"]) for each in flows for name in ("src_ip", "dst_ip")]
    return {
        "sequences": of(lambda each: each["pkt_size"]),
        "timed_sequences": of(lambda each: (each["pkt_size"], each["pkt_gap_ns"])),
        "conflicts": {
            task: sum(each[task] is not None and len(labels[task][each["pkt_size"]]) > 1 for each in flows)
            for task in TASKS
        },
        "host_pairs": of(lambda each: frozenset((each["src_ip"], each["dst_ip"]))),
        "hosts": counted(ends),
    }


def write_dataset(root, flows: list[dict], *, stripes: bool = False, identity: str = "keep", batches: int = 2):
    """Writes the input of `measure_leakage`; with stripes, a flow is in the stripe of each task that labels it."""
    shards = []
    for task in TASKS if stripes else (None,):
        for split in SPLITS:
            rows = [each for each in flows if each["split"] == split and (task is None or each[task] is not None)]
            for number in range(batches):
                path = shard_path("flows", task, split, number, batches)
                table = batch_of(rows[number::batches], TASKS if task is None else (task,))
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                write_table(root / path, table if identity != "drop" else table.drop_columns(["src_ip", "dst_ip"]))
                shards.append({"path": path, "view": "flows", "split": split, "task": task, "rows": table.num_rows,
                               "row_groups": [table.num_rows], "sha256": ""})  # fmt: skip
    empty = {"rows": 0, "classes": {}, "unknown": {}}
    card = {
        "tool_version": "", "name": "leaky", "content_hash": "", "corpus_digest": "", "definition": {},
        "format_version": 1, "views": ["flows"], "layout": "rainbow" if stripes else "aurora", "missing": "unknown",
        "tasks": [
            {"name": "app", "kind": "multiclass", "vocabulary": ["a", "b", "c"]},
            {"name": "attack", "kind": "binary"},
        ],
        "identity": identity, "splits": dict.fromkeys(SPLITS, empty), "coverage": [], "normalisation": {},
        "split_rule": {"by": "flow", "reason": "", "seed": 7, "shares": [0.6, 0.2, 0.2]}, "shards": shards,
        "accounting": dict.fromkeys(("captures", "records", "metered", "rejects", "flows", "flows_short"), 0)
        | {"flows_unlabelled": 0, "dropped": {}},
    }  # fmt: skip
    (root / CARD).write_text(json.dumps(card))
    return root


def some_flows(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "id": number,
            "pkt_size": (40, 1500, 60)[: 1 + rng.integers(3)],
            "pkt_gap_ns": int(rng.integers(3)),
            "src_ip": bytes([rng.integers(4)]) * 16,
            "dst_ip": bytes([rng.integers(4)]) * 16,
            "split": SPLITS[rng.integers(3)],
            "app": None if rng.random() < 0.3 else int(rng.integers(3)),
            "attack": None if rng.random() < 0.3 else 1,
        }
        for number in range(count)
    ]


@settings(deadline=None, max_examples=15)
@given(st.lists(flow, min_size=1, max_size=25))
def test_counts_of_batches_equal_those_of_dictionaries(cells):
    flows = [{**each, "id": number} for number, each in enumerate(cells)]
    found = collections.defaultdict(list)
    for split in SPLITS:
        rows = batch_of([each for each in flows if each["split"] == split])
        for kind, records in sight(rows, split, TASKS):
            found[kind].append(records)
    counts = {kind: count_overlap(np.concatenate(parts)) for kind, parts in found.items()}
    expected = oracle(flows)
    assert {kind: count.overlap().model_dump() for kind, count in counts.items()} == {
        kind: expected[kind] for kind in ("sequences", "timed_sequences", "host_pairs", "hosts")
    }
    assert dict(zip(TASKS, counts["sequences"].conflicts.tolist(), strict=True)) == expected["conflicts"]


@pytest.mark.parametrize("rows_at_once", [1 << 22, 30])
def test_counts_of_a_dataset_do_not_depend_on_partitions(tmp_path, monkeypatch, rows_at_once):
    flows = some_flows(200)
    monkeypatch.setattr(leakage, "PARTITION_ROWS", rows_at_once)
    assert measure_leakage(write_dataset(tmp_path, flows)).model_dump() == oracle(flows)


def test_a_flow_in_two_stripes_is_one_flow(tmp_path):
    flows = [each for each in some_flows(200) if (each["app"], each["attack"]) != (None, None)]
    assert measure_leakage(write_dataset(tmp_path, flows, stripes=True)).model_dump() == oracle(flows)


def test_without_addresses_there_are_no_hosts(tmp_path):
    flows = some_flows(50)
    found = measure_leakage(write_dataset(tmp_path, flows, identity="drop"))
    assert (found.host_pairs, found.hosts) == (None, None)
    assert found.sequences.model_dump() == oracle(flows)["sequences"]


def test_splits_without_rows_have_no_leakage(tmp_path):
    found = measure_leakage(write_dataset(tmp_path, []))
    assert found.sequences.flows == dict.fromkeys(SPLITS, 0)
    assert found.conflicts == {"app": 0, "attack": 0}
