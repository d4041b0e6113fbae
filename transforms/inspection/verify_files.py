"""Verification of the files of a dataset against its card; the first difference is an error."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.accounting import CAPTURES, REJECTS, DropReason
from flowloom.schemas.arrow.rows import SEQUENCES, label_column
from flowloom.schemas.corpus.split_options import SPLIT_COLUMN, SPLITS
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Leakage, Shard, SplitRule
from flowloom.schemas.dataset.dataset_card import CAPTURES_TABLE, REJECTS_TABLE, DatasetCard, shard_path
from flowloom.schemas.dataset.dataset_statistics import REPORT, STATISTICS, read_statistics
from flowloom.schemas.dataset.tensorflow_metadata import tensorflow_schema
from flowloom.schemas.dataset.views import StoredViews, dataset_files, schema_file
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import SHOWN_DIGITS, file_sha256
from flowloom.schemas.parquet_files import read_footer, read_rows, read_table
from flowloom.transforms.arrays.columns import view, view_or
from flowloom.transforms.arrays.digests import row_digests, sort_digests
from flowloom.transforms.arrays.moments import sequence_moments
from flowloom.transforms.arrays.sums import sum_by_key
from flowloom.transforms.dataset.capture_tables import corpus_digest, count_captures, current_captures, timelines
from flowloom.transforms.dataset.shards import NO_START, WrittenShard, count_labels
from flowloom.transforms.labels.label_flows import count_unlabelled
from flowloom.transforms.splits.byte_rules import count_bytes
from flowloom.transforms.splits.host_pairs import pair_hashes
from flowloom.transforms.splits.leakage import SEQUENCE, measure_leakage
from flowloom.transforms.splits.splits import SplitPlan, assign_splits
from flowloom.transforms.splits.task_overlap import count_pairs

BATCH_ROWS = 16_384
"""Number of rows of a shard in memory at a time; ids and digests, 32 bytes a row, stay for checks of all rows."""


@dataclasses.dataclass(frozen=True)
class CheckedShard:
    """A shard that agrees with the card, and the data of its rows for checks over all shards."""

    written: WrittenShard
    ids: np.ndarray
    """Flow ids, uint64 [rows, 2]."""
    groups: frozenset[str]
    pairs: np.ndarray
    """Distinct hashes of host pairs, uint64; empty unless the split is by host pair."""
    sequences: np.ndarray
    """Digests of sizes and directions, uint64 [rows, 2]; empty unless duplicates are dropped."""
    unlabelled: int


def check_files(root: Path, card: DatasetCard) -> None:
    """Checks that a dataset has all files of its card, and no others except those of `flowloom describe`.

    Raises:
      FlowloomError: if a file is missing, listed twice, in a wrong folder, damaged or not listed; the message names it.
    """
    listed = dataset_files(card)
    for shard in card.shards:
        folder = os.path.dirname(shard_path(shard.view, shard.task, shard.split, 0, 1))
        if os.path.dirname(shard.path) != folder:
            raise broken(f"shard {shard.path}: a shard of split {shard.split!r} must be in {folder}")
    for at, path in enumerate(listed):
        if path in listed[:at]:
            raise broken(f"the card lists {path} twice")
        if not (root / path).is_file():
            raise broken(f"{path} is missing")
    for name, sha256 in card.files.items():
        if name not in listed:
            raise broken(f"the card has the SHA-256 of {name}, which is no file of the dataset")
        if (digest := file_sha256(root / name)) != sha256:
            raise differs(f"{name}: SHA-256", digest[:SHOWN_DIGITS], sha256[:SHOWN_DIGITS])
    known = {*listed, STATISTICS, REPORT}
    stray = sorted({str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()} - known)
    if stray:
        more = f" and {len(stray) - 1} more" if len(stray) > 1 else ""
        raise FlowloomError(f"the card does not list {stray[0]}{more}; remove files that do not belong to the dataset")


def check_schema(root: Path, card: DatasetCard) -> None:
    """Checks that `schema.pbtxt`, and the file of each other view, describes the card's tasks and columns.

    Raises:
      FlowloomError: if a file differs.
    """
    for name in card.views:
        expected = tensorflow_schema(StoredViews.of(card).schema(name, card.tasks), card.tasks, card.definition.k)
        if (root / schema_file(name)).read_bytes() != expected.encode():
            raise broken(f"{schema_file(name)}: schema must be that of the card's tasks and columns, got another one")


def check_accounting(root: Path, card: DatasetCard) -> None:
    """Checks that captures and rejects add up, and agree with each other and with the card.

    Raises:
      FlowloomError: if a count differs; the message names it.
    """
    captures = _checked(current_captures(read_table(root / CAPTURES_TABLE)), CAPTURES_TABLE, CAPTURES)
    rejects = _checked(read_table(root / REJECTS_TABLE), REJECTS_TABLE, REJECTS)
    rejected: dict[str, int] = {}
    for uri in rejects["uri"].to_pylist():
        rejected[uri] = rejected.get(uri, 0) + 1
    for row in captures.to_pylist():
        dropped = sum(row[reason.column] for reason in DropReason)
        if row["records"] != row["metered"] + dropped:
            raise broken(
                f"{row['uri']}: records must be metered or dropped, got {row['records']:,} records, "
                f"{row['metered']:,} metered and {dropped:,} dropped"
            )
        if row["rejects"] != rejected.get(row["uri"], 0):
            raise differs(f"rejects of {row['uri']}", rejected.get(row["uri"], 0), row["rejects"], CAPTURES_TABLE)
    for name, count in count_captures(captures, rejects).items():
        if count != getattr(card.accounting, name):
            raise differs(f"accounting: {name}", count, getattr(card.accounting, name))
    rejected_rows = sum(sum(entry.set_aside.values()) for entry in card.published)
    if rejected_rows > rejects.num_rows:
        raise differs("rejected rows of published files", f"at most {rejects.num_rows}", rejected_rows)
    digest = corpus_digest(captures, card.published)
    if digest != card.corpus_digest:
        raise differs("corpus digest", digest, card.corpus_digest)
    if timelines(captures) != card.timelines:
        raise broken(f"{CAPTURES_TABLE}: timelines of capture groups must be those on the card, got others")
    rows = card.accounting.flows + sum(entry.rows for entry in card.published if entry.view != "flows")
    for entry in card.coverage:
        if not 0 <= entry.conflicts <= entry.labelled <= rows:
            raise broken(
                f"source {entry.source!r}: labelled rows of task {entry.task!r} must be at most {rows:,}, conflicts "
                f"at most the labelled rows, got {entry.labelled:,} and {entry.conflicts:,}"
            )
        if entry.confidence and sum(entry.confidence.values()) != entry.labelled:
            raise differs(f"source {entry.source!r}: confidence", entry.confidence, f"{entry.labelled} labelled flows")
    for table in card.label_tables:
        counted = table.unreadable + table.matched + table.several + table.unmatched + table.outside
        if counted != table.rows:
            raise differs(f"label table {table.source!r}: rows", counted, table.rows)


def check_shard(root: Path, shard: Shard, card: DatasetCard) -> CheckedShard:
    """Checks the bytes, schema, rows, labels and sequences of a shard, in batches.

    Raises:
      FlowloomError: if anything differs; the message names the shard and the difference.
    """
    path = root / shard.path
    digest = file_sha256(path)
    if digest != shard.sha256:
        raise differs(f"shard {shard.path}: SHA-256", digest[:SHOWN_DIGITS], shard.sha256[:SHOWN_DIGITS])
    tasks = [task for task in card.tasks if shard.task in (None, task.name)]
    labels = {task.name: np.zeros(len(task.vocabulary) + 1, np.int64) for task in tasks}
    ids, digests, moments, pairs, sequences, overlaps, leaks = [], [], [], [], [], [], []
    groups: set[str] = set()
    unlabelled = 0
    latest = np.int64(np.iinfo(np.int64).min)
    schema = StoredViews.of(card).schema(shard.view, tasks)
    _check_footer(path, shard, schema)
    for read in read_rows(path, BATCH_ROWS):
        rows = read.cast(schema)  # Parquet renames the items of a list, which would change the digest
        _check_labels(rows, tasks, shard)
        if shard.view == "flows":
            starts = np.append(latest, view_or(rows["start"], NO_START))
            if (starts[1:] < starts[:-1]).any():
                raise broken(f"shard {shard.path}: rows must be in the order of their starts, got another order")
            latest = starts[-1]
            _check_sequences(rows, card.definition.k, shard)
        for name, counts in count_labels(rows, tasks).items():
            labels[name] += counts
        ids.append(view(rows["flow_id"]))
        # as `write_shard` does
        digests.append(row_digests(rows, json.dumps([shard.view, shard.task or "", shard.split])))
        moments.append(sequence_moments(rows) if (shard.view, shard.split) == ("flows", SPLITS[0]) else {})
        overlaps.append(count_pairs(rows, tasks))
        leaks.append(count_bytes(rows, tasks) if (shard.view, shard.split) == ("packets", SPLITS[0]) else {})
        groups.update(pc.unique(rows["group"]).to_pylist())
        if card.split_rule.by in ("flow", "packet") or (card.split_rule.by == "time" and shard.view == "flows"):
            _check_splits(rows, card.split_rule, shard)
        if card.split_rule.by == "host_pair" and card.identity != "drop" and shard.view == "flows":
            pairs.append(np.unique(pair_hashes(rows, card.split_rule.seed)))
        if card.deduplicate != "none":
            sequences.append(row_digests(rows.select(SEQUENCE), ""))
        unlabelled += count_unlabelled(rows, tasks)
    written = WrittenShard(
        shard,
        {name: tuple(counts.tolist()) for name, counts in labels.items()},
        sum_by_key(moments),
        sort_digests(digests).tobytes(),
        sum_by_key(overlaps),
        sum_by_key(leaks),
    )
    return CheckedShard(
        written,
        ids=np.concatenate([np.empty((0, 2), np.uint64), *ids]),
        groups=frozenset(groups),
        pairs=np.unique(np.concatenate([np.empty(0, np.uint64), *pairs])),
        sequences=np.concatenate([np.empty((0, 2), np.uint64), *sequences]),
        unlabelled=unlabelled,
    )


def check_leakage(root: Path, card: DatasetCard) -> None:
    """Measures leakage again if the card has it.

    Raises:
      FlowloomError: if a count differs; the message names it.
    """
    if card.leakage is None:
        return
    found = measure_leakage(root)
    for name in Leakage.model_fields:
        if getattr(found, name) != getattr(card.leakage, name):
            raise differs(f"leakage: {name}", getattr(found, name), getattr(card.leakage, name))


def check_statistics(root: Path, card: DatasetCard) -> None:
    """Checks that statistics, if there are any, belong to this dataset; quantiles are not computed again.

    Raises:
      FlowloomError: if they differ; the message names the difference.
    """
    statistics = read_statistics(root)
    if statistics is None:
        return
    found = {
        "content hash": (statistics.content_hash, card.content_hash),
        "rows": (statistics.rows, {name: split.rows for name, split in card.splits.items()}),
        "classes": (statistics.classes, {name: split.classes for name, split in card.splits.items()}),
        "unknown": (statistics.unknown, {name: split.unknown for name, split in card.splits.items()}),
    }
    for name, (actual, claimed) in found.items():
        if actual != claimed:
            raise FlowloomError(
                f"{STATISTICS}: {name}: found {actual}, the card says {claimed}; remove {STATISTICS} and {REPORT}, or "
                "make them again with `flowloom describe --statistics`"
            )


def _check_footer(path: Path, shard: Shard, schema: pa.Schema) -> None:
    stored, groups = read_footer(path)
    if not stored.equals(schema):
        for expected in schema:
            at = stored.get_field_index(expected.name)
            if at < 0 or not stored.field(at).equals(expected):
                found = "missing" if at < 0 else stored.field(at)
                raise differs(f"shard {shard.path}: column {expected.name!r}", found, expected, "the schema")
        names = stored.names
        raise differs(f"shard {shard.path}: columns", ", ".join(names), ", ".join(schema.names), "the schema")
    if groups != shard.row_groups:
        raise differs(f"shard {shard.path}: rows of its row groups", list(groups), list(shard.row_groups))
    if sum(groups) != shard.rows:
        raise differs(f"shard {shard.path}: rows", sum(groups), shard.rows)


def _check_labels(rows: pa.RecordBatch, tasks: Iterable[Task], shard: Shard) -> None:
    for task in tasks:
        codes = view(pc.drop_null(rows[label_column(task.name)]))
        invalid = codes[(codes < 0) | (codes >= len(task.vocabulary))]
        if len(invalid):
            raise broken(
                f"shard {shard.path}: label number of task {task.name!r} must be from 0 to {len(task.vocabulary) - 1}, "
                f"got {invalid[0]}"
            )


def _check_sequences(rows: pa.RecordBatch, k: int, shard: Shard) -> None:
    first, *others = SEQUENCES
    lengths = view(pc.list_value_length(rows[first]))
    if lengths.max(initial=0) > k:
        raise differs(f"shard {shard.path}: longest sequence", lengths.max(), f"at most k = {k}")
    if len(lengths) and not lengths.min():
        raise differs(f"shard {shard.path}: shortest sequence", 0, "at least 1", schema_file("flows"))
    for name in others:
        known = rows[name].is_valid().to_numpy(zero_copy_only=False)
        if not np.array_equal(view_or(pc.list_value_length(rows[name]), 0), np.where(known, lengths, 0)):
            raise broken(
                f"shard {shard.path}: sequences {first} and {name} of a flow must have the same length, got others"
            )
    directions = view(rows["pkt_dir"].flatten())
    invalid = directions[(directions != 1) & (directions != -1)]
    if len(invalid):
        raise differs(f"shard {shard.path}: pkt_dir", invalid[0], "-1 or 1", "the contract")


def _check_splits(rows: pa.RecordBatch, rule: SplitRule, shard: Shard) -> None:
    split = view(assign_splits(rows, SplitPlan(rule, {}), shard.view)[SPLIT_COLUMN])
    elsewhere = np.flatnonzero(split != SPLITS.index(shard.split))
    if len(elsewhere):
        flow = rows["flow_id"][elsewhere[0]].as_py().hex()
        right = SPLITS[split[elsewhere[0]]]
        raise broken(
            f"shard {shard.path}: flow {flow} must be in split {right} with splits by {rule.by}, got {shard.split}"
        )


def _checked(table: pa.Table, name: str, schema: pa.Schema) -> pa.Table:
    if not table.schema.equals(schema):
        raise differs(f"{name}: columns", ", ".join(table.schema.names), ", ".join(schema.names), "the contract")
    return table


def differs(what: str, found: Any, claimed: Any, says: str = "the card") -> FlowloomError:
    """Returns the error of a value that differs from the claim of the card or another document."""
    return broken(f"{what}: found {found}, {says} says {claimed}")


def broken(sentence: str) -> FlowloomError:
    """Returns the error of a dataset that was changed after its build."""
    return FlowloomError(f"{sentence}; copy the dataset again from an intact copy, or build it again")
