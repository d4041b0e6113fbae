"""Verification: the files of a dataset held against its card; the first thing that differs is an error."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowloom.schemas.accounting import CAPTURES, REJECTS, DropReason
from flowloom.schemas.card import (
    CAPTURES_TABLE,
    CARD,
    REJECTS_TABLE,
    TF_SCHEMA,
    DatasetCard,
    Shard,
    SplitRule,
    shard_path,
)
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.manifest import SPLIT_COLUMN, SPLITS
from flowloom.schemas.rows import SEQUENCES, label_column
from flowloom.schemas.tasks import Task
from flowloom.schemas.tensorflow_metadata import tensorflow_schema
from flowloom.transforms.cards import count_splits, normalisation, timelines
from flowloom.transforms.columns import view
from flowloom.transforms.digests import row_digests, sort_digests
from flowloom.transforms.host_pairs import pair_hashes
from flowloom.transforms.labels import count_unlabelled
from flowloom.transforms.layouts import stored_schema
from flowloom.transforms.shards import WrittenShard, count_labels, shards_hash
from flowloom.transforms.splits import Division, assign_splits
from flowloom.transforms.staging import file_sha256
from flowloom.transforms.statistics import merge_moments, sequence_moments

BATCH_ROWS = 16_384
"""Rows of a shard in memory at a time; their ids and digests, 32 bytes a row, are kept for the checks over all rows."""


@dataclasses.dataclass(frozen=True)
class CheckedShard:
    """A shard that is what the card says of it, and what the checks over all shards need of its rows."""

    written: WrittenShard
    ids: np.ndarray
    """Flow ids, uint64 [rows, 2]."""
    groups: frozenset[str]
    pairs: np.ndarray
    """Hashes of its host pairs, uint64, each once; empty unless the split is by host pair."""
    unlabelled: int


def check_files(root: Path, card: DatasetCard) -> None:
    """Check that every file of a dataset is there, and no other.

    Raises:
      FlowloomError: naming the file that is missing, listed twice, listed out of its place, or not listed.
    """
    listed = [CARD, CAPTURES_TABLE, REJECTS_TABLE, TF_SCHEMA, *(shard.path for shard in card.shards)]
    for shard in card.shards:
        folder = os.path.dirname(shard_path(shard.view, shard.task, shard.split, 0, 1))
        if os.path.dirname(shard.path) != folder:
            raise _broken(f"shard {shard.path} of split {shard.split!r} should lie in {folder}")
    for at, path in enumerate(listed):
        if path in listed[:at]:
            raise _broken(f"the card lists {path} twice")
        if not (root / path).is_file():
            raise _broken(f"{path} is missing")
    stray = sorted({str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()} - set(listed))
    if stray:
        more = f" and {len(stray) - 1} more" if len(stray) > 1 else ""
        raise FlowloomError(f"the card does not list {stray[0]}{more}; remove what does not belong to the dataset")


def check_schema(root: Path, card: DatasetCard) -> None:
    """Check that `schema.pbtxt` describes the card's tasks and sequences.

    Raises:
      FlowloomError: if it does not.
    """
    expected = tensorflow_schema(stored_schema(card.tasks, card.identity), card.tasks, card.definition.k)
    if (root / TF_SCHEMA).read_bytes() != expected.encode():
        raise _broken(f"{TF_SCHEMA} is not the schema of the card's tasks")


def check_accounting(root: Path, card: DatasetCard) -> None:
    """Check that captures and rejects add up, each for itself, with each other and to the card's account.

    Raises:
      FlowloomError: naming the capture or the count that differs.
    """
    captures, rejects = _table(root, CAPTURES_TABLE, CAPTURES), _table(root, REJECTS_TABLE, REJECTS)
    rejected: dict[str, int] = {}
    for uri in rejects["uri"].to_pylist():
        rejected[uri] = rejected.get(uri, 0) + 1
    for row in captures.to_pylist():
        dropped = sum(row[reason.column] for reason in DropReason)
        if row["records"] != row["metered"] + dropped:
            raise _broken(
                f"accounting of {row['uri']} does not close: {row['records']} records, but {row['metered']} metered "
                f"and {dropped} dropped"
            )
        if row["rejects"] != rejected.get(row["uri"], 0):
            raise _differs(f"rejects of {row['uri']}", rejected.get(row["uri"], 0), row["rejects"], CAPTURES_TABLE)
    totals = {reason.label: pc.sum(captures[reason.column]).as_py() or 0 for reason in DropReason}
    found = {
        "captures": captures.num_rows,
        "records": pc.sum(captures["records"]).as_py() or 0,
        "metered": pc.sum(captures["metered"]).as_py() or 0,
        "dropped": {reason: count for reason, count in totals.items() if count},
        "rejects": rejects.num_rows,
    }
    for name, count in found.items():
        if count != getattr(card.accounting, name):
            raise _differs(f"accounting: {name}", count, getattr(card.accounting, name))
    digest = hashlib.sha256("".join(sorted(captures["sha256"].to_pylist())).encode()).hexdigest()
    if digest != card.corpus_digest:
        raise _differs("corpus digest", digest, card.corpus_digest)
    if timelines(captures) != card.timelines:
        raise _broken(f"the timelines of capture groups are other ones in {CAPTURES_TABLE} than in the card")
    for entry in card.coverage:
        if not 0 <= entry.conflicts <= entry.labelled <= card.accounting.flows:
            raise _broken(f"source {entry.source!r} cannot have labelled {entry.labelled} flows of task {entry.task!r}")


def check_shard(root: Path, shard: Shard, card: DatasetCard) -> CheckedShard:
    """Check a shard's bytes, schema, rows, labels and sequences, reading it in batches.

    Raises:
      FlowloomError: naming the shard and what in it differs.
    """
    path = root / shard.path
    digest = file_sha256(str(path))
    if digest != shard.sha256:
        raise _differs(f"shard {shard.path}: SHA-256", digest, shard.sha256)
    tasks = [task for task in card.tasks if shard.task in (None, task.name)]
    labels = {task.name: np.zeros(len(task.vocabulary) + 1, np.int64) for task in tasks}
    ids, digests, moments, pairs = [], [], [], []
    groups: set[str] = set()
    unlabelled = 0
    latest = np.int64(np.iinfo(np.int64).min)
    with pq.ParquetFile(path) as file:
        schema = stored_schema(tasks, card.identity)
        _check_footer(file, shard, schema)
        for read in file.iter_batches(BATCH_ROWS):
            rows = read.cast(schema)  # Parquet gives the items of a list another name, which a digest would see
            starts = np.append(latest, view(rows["start"]))
            if (starts[1:] < starts[:-1]).any():
                raise _broken(f"shard {shard.path}: rows are not in the order of their starts")
            latest = starts[-1]
            _check_labels(rows, tasks, shard)
            _check_sequences(rows, card.definition.k, shard)
            for name, counts in count_labels(rows, tasks).items():
                labels[name] += counts
            ids.append(view(rows["flow_id"]))
            # as `write_shard` does
            digests.append(row_digests(rows, json.dumps([shard.view, shard.task or "", shard.split])))
            moments.append(sequence_moments(rows) if shard.split == SPLITS[0] else {})
            groups.update(pc.unique(rows["group"]).to_pylist())
            if card.split_rule.by in ("flow", "time"):
                _check_splits(rows, card.split_rule, shard)
            if card.split_rule.by == "host_pair" and card.identity != "drop":
                pairs.append(np.unique(pair_hashes(rows, card.split_rule.seed)))
            unlabelled += count_unlabelled(rows, tasks)
    written = WrittenShard(
        shard,
        {name: tuple(counts.tolist()) for name, counts in labels.items()},
        merge_moments(moments),
        sort_digests(digests).tobytes(),
    )
    return CheckedShard(
        written,
        ids=np.concatenate([np.empty((0, 2), np.uint64), *ids]),
        groups=frozenset(groups),
        pairs=np.unique(np.concatenate([np.empty(0, np.uint64), *pairs])),
        unlabelled=unlabelled,
    )


def check_rows(shards: Sequence[CheckedShard], card: DatasetCard) -> None:
    """Check what the card says of all rows together: counts, identities, splits, statistics and the content hash.

    Raises:
      FlowloomError: naming the count, flow, group, channel or hash that differs.
    """
    written = [shard.written for shard in shards]
    for split, counts in count_splits(written, card.tasks).items():
        if card.splits.get(split) != counts:
            raise _differs(f"rows and classes of split {split!r}", counts, card.splits.get(split))
    flows = _check_ids(shards)
    account = card.accounting
    unlabelled = account.flows_unlabelled if card.layout == "rainbow" else 0
    most = account.flows - account.flows_short - unlabelled
    # in stripes a flow is gone only when it is left out of all of them
    least = most - account.rows_duplicate
    if not least <= flows <= (least if card.layout == "aurora" else most):
        raise _differs(
            "flows in shards",
            flows,
            f"{account.flows}, {account.flows_short} too short, {unlabelled} without a label, "
            f"{account.rows_duplicate} rows left out as duplicates",
        )
    found = sum(shard.unlabelled for shard in shards)
    if card.layout == "aurora" and not 0 <= account.flows_unlabelled - found <= account.rows_duplicate:
        raise _differs("flows without a label", found, account.flows_unlabelled)
    if card.split_rule.by == "capture":
        _check_groups(shards)
    if card.split_rule.by == "host_pair" and card.identity != "drop":
        _check_pairs(shards)
    statistics = normalisation(written)
    for channel in {**statistics, **card.normalisation}:
        if statistics.get(channel) != card.normalisation.get(channel):
            raise _differs(f"normalisation of {channel}", statistics.get(channel), card.normalisation.get(channel))
    digest = shards_hash(written, card.tasks)
    if digest != card.content_hash:
        raise _differs("content hash", digest, card.content_hash)


def _check_footer(file: pq.ParquetFile, shard: Shard, schema: pa.Schema) -> None:
    if not file.schema_arrow.equals(schema):
        for expected in schema:
            at = file.schema_arrow.get_field_index(expected.name)
            if at < 0 or not file.schema_arrow.field(at).equals(expected):
                found = "missing" if at < 0 else file.schema_arrow.field(at)
                raise _differs(f"shard {shard.path}: column {expected.name!r}", found, expected, "the schema")
        names = file.schema_arrow.names
        raise _differs(f"shard {shard.path}: columns", ", ".join(names), ", ".join(schema.names), "the schema")
    groups = tuple(file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups))
    if groups != shard.row_groups:
        raise _differs(f"shard {shard.path}: rows of its row groups", list(groups), list(shard.row_groups))
    if sum(groups) != shard.rows:
        raise _differs(f"shard {shard.path}: rows", sum(groups), shard.rows)


def _check_labels(rows: pa.RecordBatch, tasks: Iterable[Task], shard: Shard) -> None:
    for task in tasks:
        codes = view(pc.drop_null(rows[label_column(task.name)]))
        strange = codes[(codes < 0) | (codes >= len(task.vocabulary))]
        if len(strange):
            raise _broken(
                f"shard {shard.path}: label {strange[0]} of task {task.name!r} is outside its vocabulary of "
                f"{len(task.vocabulary)} words"
            )


def _check_sequences(rows: pa.RecordBatch, k: int, shard: Shard) -> None:
    first, *others = SEQUENCES
    lengths = view(pc.list_value_length(rows[first]))
    if lengths.max(initial=0) > k:
        raise _differs(f"shard {shard.path}: longest sequence", lengths.max(), f"at most k = {k}")
    for name in others:
        if not np.array_equal(view(pc.list_value_length(rows[name])), lengths):
            raise _broken(f"shard {shard.path}: sequences {first} and {name} of a flow differ in length")


def _check_splits(rows: pa.RecordBatch, rule: SplitRule, shard: Shard) -> None:
    split = view(assign_splits(rows, Division(rule, {}))[SPLIT_COLUMN])
    elsewhere = np.flatnonzero(split != SPLITS.index(shard.split))
    if len(elsewhere):
        flow = rows["flow_id"][elsewhere[0]].as_py().hex()
        raise _broken(f"shard {shard.path}: flow {flow} belongs to split {SPLITS[split[elsewhere[0]]]} by {rule.by}")


def _check_ids(shards: Sequence[CheckedShard]) -> int:
    """Check that each id is once in a stripe and in one split only, and return how many there are."""
    stripes = sorted({shard.written.shard.task or "" for shard in shards})
    ids = np.concatenate([np.empty((0, 2), np.uint64), *(shard.ids for shard in shards)])
    rows = [len(shard.ids) for shard in shards]
    stripe = np.repeat([stripes.index(shard.written.shard.task or "") for shard in shards], rows).astype(np.int64)
    split = np.repeat([SPLITS.index(shard.written.shard.split) for shard in shards], rows).astype(np.int64)
    order = np.lexsort((stripe, ids[:, 1], ids[:, 0]))
    ids, stripe, split = ids[order], stripe[order], split[order]
    same = (ids[1:] == ids[:-1]).all(axis=1)
    for at in np.flatnonzero(same & (split[1:] != split[:-1]))[:1]:
        between = " and ".join(SPLITS[each] for each in sorted((split[at], split[at + 1])))
        raise _broken(f"flow {ids[at].tobytes().hex()} is in the splits {between}")
    for at in np.flatnonzero(same & (stripe[1:] == stripe[:-1]))[:1]:
        of = f" of stripe {stripes[stripe[at]]!r}" if stripes[stripe[at]] else ""
        raise _broken(f"flow {ids[at].tobytes().hex()} is in two rows{of}")
    return len(ids) - int(same.sum())


def _check_groups(shards: Sequence[CheckedShard]) -> None:
    of_group: dict[str, str] = {}
    for shard in shards:
        for group in sorted(shard.groups):
            split = of_group.setdefault(group, shard.written.shard.split)
            if split != shard.written.shard.split:
                raise _broken(f"capture group {group} is in the splits {split} and {shard.written.shard.split}")


def _check_pairs(shards: Sequence[CheckedShard]) -> None:
    none = np.empty(0, np.uint64)
    by_split = {
        split: np.concatenate([none, *(shard.pairs for shard in shards if shard.written.shard.split == split)])
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        shared = np.intersect1d(by_split[one], by_split[other])
        if len(shared):
            raise _broken(f"{len(shared)} host pairs are in the splits {one} and {other}")


def _table(root: Path, name: str, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.ParquetFile(root / name).read()
    except pa.ArrowInvalid as error:
        raise _broken(f"{name} is no Parquet file ({error})") from None
    if not table.schema.equals(schema):
        raise _differs(f"{name}: columns", ", ".join(table.schema.names), ", ".join(schema.names), "the contract")
    return table


def _differs(what: str, found: Any, claimed: Any, says: str = "the card") -> FlowloomError:
    return _broken(f"{what}: found {found}, {says} says {claimed}")


def _broken(sentence: str) -> FlowloomError:
    return FlowloomError(f"{sentence}; copy the dataset again from where it was whole, or build it again")
