"""Datasets on disk from labelled rows in memory, as `flowloom build` would write them, without a pipeline."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from synthetic import synthetic_flows

from flowloom.schemas.arrow.accounting import CAPTURES, CLOCK_COLUMNS, DROPPED_COLUMNS, REJECTS
from flowloom.schemas.arrow.rows import FLOW_COLUMNS, label_column
from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.corpus.manifest import Output
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Accounting, SplitRule
from flowloom.schemas.dataset.dataset_card import DatasetCard
from flowloom.schemas.dataset.views import StoredViews
from flowloom.transforms.arrays.columns import batch
from flowloom.transforms.dataset.capture_tables import corpus_digest, count_captures, timelines
from flowloom.transforms.dataset.card_counts import count_splits, normalisation
from flowloom.transforms.dataset.layouts import lay_out
from flowloom.transforms.dataset.shards import shards_hash, split_rows, write_shard
from flowloom.transforms.dataset.write_card import store_card
from flowloom.transforms.labels.label_flows import count_unlabelled
from flowloom.transforms.splits.splits import SplitPlan, assign_splits

BY_FLOW = SplitRule(by="flow", reason="asked for", seed=7, shares=(0.5, 0.25, 0.25))

Labels = dict[str, Sequence[int | None]]


def labelled_flows(rows: int, labels: Labels, seed: int = 0, rule: SplitRule = BY_FLOW) -> pa.RecordBatch:
    """Returns synthetic flows with label columns and splits by flow."""
    flows = synthetic_flows(rows, seed)
    for task, codes in labels.items():
        flows = flows.append_column(pa.field(label_column(task), pa.int32()), pa.array(codes, pa.int32()))
    return assign_splits(flows, SplitPlan(rule, {}))


def store_dataset(
    folder: Path,
    flows: pa.RecordBatch,
    tasks: Sequence[Task],
    layout: str = "aurora",
    *,
    shards: int = 2,
    captures: Sequence[str] = ("a",),
    rejects: Sequence[str] = (),
    **card: Any,
) -> Path:
    """Writes a dataset of labelled and divided flows and returns its folder.

    Args:
      captures: names of what was read; one of the same name is the same capture in every dataset.
      rejects: uris of rejected files.
    """
    tasks, output = tuple(tasks), Output(shards=shards, row_group_rows=16)
    pieces = [
        piece
        for stripe, rows in lay_out(flows, tasks, layout, StoredViews(card.get("identity", "keep")))
        for piece in split_rows(stripe, rows, shards)
    ]
    written = sorted(
        (write_shard(key, [rows], str(folder), tasks, output) for key, rows in pieces), key=lambda each: each.shard.path
    )
    table = pa.Table.from_batches([batch([_capture(name) for name in sorted(captures)], CAPTURES)])
    reasons = [{"uri": uri, "offset": 0, "reason": "no-match", "detail": "none"} for uri in sorted(rejects)]
    set_aside = pa.Table.from_batches([batch(reasons, REJECTS)])
    document = DatasetCard(
        **{
            "tool_version": "0", "name": "small", "content_hash": shards_hash(written, tasks),
            "flow_columns": FLOW_COLUMNS,
            "corpus_digest": corpus_digest(table), "definition": FlowDefinition(), "views": ("flows",), "tasks": tasks,
            "layout": layout, "missing": "unknown", "identity": "keep", "split_rule": BY_FLOW,
            "splits": count_splits(written, tasks, "flows"), "coverage": (), "timelines": timelines(table),
            "accounting": Accounting(
                **count_captures(table, set_aside), flows=flows.num_rows, flows_short=0,
                flows_unlabelled=count_unlabelled(flows, tasks),
            ),
            "normalisation": normalisation(written), "shards": tuple(each.shard for each in written),
        } | card
    )  # fmt: skip
    store_card(document, table, set_aside, str(folder))
    return folder


def random_labels(rows: int, words: int, unknown: float, seed: int) -> list[int | None]:
    """Returns label numbers, a share of them unknown."""
    rng = np.random.default_rng(seed)
    return [None if rng.random() < unknown else int(rng.integers(words)) for _ in range(rows)]


def select_rows(flows: pa.RecordBatch, positions: Sequence[int]) -> pa.RecordBatch:
    """Returns some rows of a batch."""
    return flows.take(pa.array(positions, pa.int64()))


def relabel(flows: pa.RecordBatch, task: str, codes: Sequence[int | None]) -> pa.RecordBatch:
    """Returns flows with other labels of a task, which may be a new one."""
    field, values = pa.field(label_column(task), pa.int32()), pa.array(codes, pa.int32())
    at = flows.schema.get_field_index(field.name)
    if at >= 0:
        return flows.set_column(at, field, values)
    split = flows.schema.get_field_index(SPLIT_COLUMN)
    return flows.add_column(split, field, values)


def _capture(name: str) -> dict[str, Any]:
    return {
        "uri": f"{name}.pcap", "digest": hashlib.sha256(name.encode()).hexdigest(), "sha256": None,
        "group": name, "bytes": 100,
        "format": "pcap", "compression": "none", "link_types": [1], "records": 10, "metered": 10,

        **dict.fromkeys(("metered_cut", *DROPPED_COLUMNS, *CLOCK_COLUMNS), 0),
        "rejects": 0, "first_ns": 1, "last_ns": 2,
    }  # fmt: skip
