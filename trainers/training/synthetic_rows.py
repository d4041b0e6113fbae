"""Synthetic rows of tables by SMOTE: a train split that is stored beside the run, never in the dataset."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowloom.schemas.arrow.feature_tables import feature_schema
from flowloom.schemas.arrow.rows import FLOWS, label_column, labelled
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Shard
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.file_digests import file_sha256
from flowloom.schemas.parquet_files import read_footer, read_table, write_table
from flowloom.trainers.feed.balancing import UNKNOWN, Balance, TrainLabels, smote
from flowloom.trainers.feed.dataset import Dataset
from flowloom.trainers.feed.table_spec import TableSpec

MADE = "made"
"""Capture group of the synthetic rows."""
ROW_GROUP_ROWS = 16_384


def with_synthetic_rows(dataset: Dataset, features: TableSpec, balance: Balance, seed: int, path: Path) -> Dataset:
    """Returns a dataset whose train split is balanced by SMOTE; other splits are unchanged.

    A class with more rows than its total is undersampled. A class with fewer rows gets synthetic rows between
    neighbours, in the scaled features that the model reads. A synthetic row has the labels of other tasks that all rows
    of its class share. The split is one file of scaled features (`features.scaled`); the same arguments give the same
    bytes.

    Args:
      dataset: a dataset with tables under Aurora ("fused"); its train split is in memory at once.
      features: the row spec, fitted on the dataset.
      balance: a balance with `how` = `smote`.
      seed: seed of the random numbers.
      path: the file to write, in an existing folder.

    Raises:
      FlowloomError: if the layout is not Aurora, or a class has too few rows for SMOTE.
    """
    if dataset.card.layout != "aurora":
        raise FlowloomError(
            f"dataset {dataset.root} must have the layout aurora for balance how=smote, which needs rows with all "
            f"labels, got {dataset.card.layout}; convert it with `flowloom weave`"
        )
    groups = dataset.row_groups("train", view="tables")
    columns = [*features.columns, *(label_column(task.name) for task in dataset.tasks), "flow_id", "group"]
    parts = [read_table(file, columns) for file in dict.fromkeys(g.path for g in groups)]
    rows = pa.concat_tables(parts).combine_chunks().to_batches()[0]
    codes = {task.name: pc.fill_null(rows[label_column(task.name)], UNKNOWN).to_numpy() for task in dataset.tasks}

    drawn = balance.draw(TrainLabels("train", codes), dataset.tasks, seed)
    (values,) = features.renderer(rows)(drawn)
    known = TrainLabels("train", {task: each[drawn] for task, each in codes.items()})
    (task,) = (task for task in dataset.tasks if task.name == balance.task)
    made, of = smote(values, known, task, balance.totals, seed, balance.neighbours)

    labels = {name: np.concatenate([each, _implied(known, task, name, of)]) for name, each in known.codes.items()}
    table = _table(
        np.concatenate([values, made]),
        labels,
        pa.concat_arrays([rows["flow_id"].take(pa.array(drawn)), _numbered(len(made))]),
        [*rows["group"].take(pa.array(drawn)).to_pylist(), *[MADE] * len(made)],
        features.columns,
        dataset.tasks,
    )
    return _with_train(dataset, table, path)


def _implied(known: TrainLabels, task: Task, other: str, of: np.ndarray) -> np.ndarray:
    """Returns the label of another task for synthetic rows: the one that their class shares, or unknown."""
    shared = np.full(len(task.vocabulary), UNKNOWN, np.int32)
    for code in range(len(task.vocabulary)):
        found = np.unique(known.codes[other][known.codes[task.name] == code])
        if len(found) == 1:
            shared[code] = found[0]
    return shared[of]


def _numbered(count: int) -> pa.Array:
    """Returns ids of synthetic rows, which are their numbers."""
    halves = np.stack([np.zeros(count, ">u8"), np.arange(count, dtype=">u8")], axis=1)
    ids = FLOWS.field("flow_id").type
    return pa.FixedSizeBinaryArray.from_buffers(ids, count, [None, pa.py_buffer(halves.tobytes())])


def _table(
    values: np.ndarray,
    labels: Mapping[str, np.ndarray],
    flow_ids: pa.Array,
    groups: Sequence[str],
    features: Sequence[str],
    tasks: Sequence[Task],
) -> pa.Table:
    schema = labelled(feature_schema(features), [task.name for task in tasks])
    columns = {
        "flow_id": flow_ids,
        "group": pa.array(groups, pa.string()),
        **{name: pa.array(column, pa.float64()) for name, column in zip(features, values.T, strict=True)},
        **{label_column(name): pa.array(each, pa.int32(), mask=each == UNKNOWN) for name, each in labels.items()},
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _with_train(dataset: Dataset, table: pa.Table, path: Path) -> Dataset:
    """Writes the rows, and returns the dataset with them as its train split."""
    write_table(path, table, ROW_GROUP_ROWS)
    _, row_groups = read_footer(path)
    shard = Shard.model_construct(  # outside of the dataset, where no shard of a card may be
        path=str(path.resolve()),
        view="tables",
        split="train",
        task=None,
        rows=table.num_rows,
        row_groups=row_groups,
        sha256=file_sha256(path),
    )
    kept = tuple(each for each in dataset.card.shards if (each.view, each.split) != ("tables", "train"))
    return dataclasses.replace(dataset, card=dataset.card.model_copy(update={"shards": (*kept, shard)}))
