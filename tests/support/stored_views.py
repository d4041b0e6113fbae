"""Datasets of other views than flows, from tables in memory, as `flowloom build` would write them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowloom.schemas.arrow.rows import label_column
from flowloom.schemas.corpus.tasks import Task
from flowloom.schemas.dataset.card_parts import Shard, SplitCounts
from flowloom.schemas.dataset.dataset_card import CARD, DatasetCard, shard_path

ROW_GROUP_ROWS = 64


def store_views(root: Path, card: DatasetCard, tables: Mapping[tuple[str, str], pa.Table], **changes: Any) -> Path:
    """Writes a dataset of one shard per view and split, with the changed card of another dataset."""
    shards = []
    for (view, split), table in tables.items():
        path = shard_path(view, None, split, 0, 1)
        (root / path).parent.mkdir(parents=True)
        pq.write_table(table, root / path, row_group_size=ROW_GROUP_ROWS)
        rows = table.num_rows
        groups = tuple(min(ROW_GROUP_ROWS, rows - start) for start in range(0, rows, ROW_GROUP_ROWS))
        shards.append(Shard(path=path, view=view, split=split, task=None, rows=rows, row_groups=groups, sha256=""))
    views = tuple(dict.fromkeys(view for view, _ in tables))
    changed = card.model_copy(update={"views": views, "shards": tuple(shards), **changes})
    splits = {split: _counted(table, changed.tasks) for (view, split), table in tables.items() if view == views[0]}
    changed = changed.model_copy(update={"splits": splits})
    (root / CARD).write_text(changed.model_dump_json())
    return root


def _counted(table: pa.Table, tasks: tuple[Task, ...]) -> SplitCounts:
    classes, unknown = {}, {}
    for task in tasks:
        labels = table[label_column(task.name)]
        counts = {word: pc.sum(pc.equal(labels, code)).as_py() or 0 for code, word in enumerate(task.vocabulary)}
        classes[task.name], unknown[task.name] = counts, labels.null_count
    return SplitCounts(rows=table.num_rows, classes=classes, unknown=unknown)
